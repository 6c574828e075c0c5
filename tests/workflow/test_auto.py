"""The protocol auto on whole projects: as good as the best order by hand, with widths that are those planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.model.population import Population
from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.refinement.state import pose_offsets
from mpr_dist.storage.mrc import read_volume
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.running.launch import EngineChoice, refine_population
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.series.widths import widths_found
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import ceiling, map_quality, truth_fsc
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, settings_from, simulate_project
from mpr_dist.workflow.state.create import create_population

pytestmark = pytest.mark.long

AUTO = RefineSettings(4, protocol="auto")
TWO = EngineChoice("local", workers=2)


def refined(made: SimulatedProject, path: Path, settings: RefineSettings, engine: EngineChoice = TWO) -> Population:
    import_simulated(path, made, "auto")
    return refine_population(path, settings, engine).population


def details(population: Population, iteration: int) -> list[dict]:
    files = population.files(iteration)
    return [read_details(files, entry.name) for _, entry in population.series]


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> tuple[SimulatedProject, Population]:
    folder = tmp_path_factory.mktemp("everything")
    made = simulate_project(folder / "project", settings_from("everything", {}))
    return made, refined(made, folder / "population", AUTO)


def test_the_combined_case_ends_as_good_as_by_hand(everything):
    """By hand all classes at once end at 0.9935 of the ceiling after 4 iterations (examples/benchmarks/auto.md)."""
    made, population = everything
    start, end = (map_quality(population, i, made.truth / "density.mrc", "phantom") for i in (0, 4))
    print(f"mean truth FSC {start.mean_truth_fsc:.4f} -> {end.mean_truth_fsc:.4f}")  # pytest -s
    assert end.mean_truth_fsc >= 0.995 * ceiling(made)


def test_agreement_never_falls(everything):
    population = everything[1]
    for iteration in range(1, 5):
        for one in details(population, iteration):
            before, after = one["cross_half"]
            assert after >= before


def test_widths_are_those_planted(everything):
    """Image warp, stage angles, defocus and poses, within 30 % of the root mean square of what was planted."""
    made, population = everything
    found = widths_found(details(population, 4), Priors())
    for field, true in planted_widths(made).items():
        print(f"{field}: planted {true:.3g}, found {found[field].found:.3g}")
        assert found[field].found == pytest.approx(true, rel=0.3), field


def planted_widths(made: SimulatedProject) -> dict[str, float]:
    """Field of ``Priors`` -> root mean square of what the project did not know; of poses at half the dose."""
    found: dict[str, list[np.ndarray]] = {}
    for name, true in made.true_series.items():
        known = made.series[name]
        found.setdefault("image_warp_A", []).extend((true.image_warp.x.values, true.image_warp.y.values))
        found.setdefault("stage_angle_deg", []).extend(getattr(true.stage_angles, axis).values for axis in "xyz")
        found.setdefault("defocus_A", []).append(1e4 * (true.optics.defocus_um.values - known.optics.defocus_um.values))
        offset = pose_offsets(made.true_particles[name].resampled(1), made.particles[name].resampled(1))
        found.setdefault("position_A", []).append(offset[:, :3])
        found.setdefault("orientation_deg", []).append(np.rad2deg(offset[:, 3:]))
    return {
        field: float(np.sqrt(np.mean(np.concatenate([each.ravel() for each in values]) ** 2)))
        for field, values in found.items()
    }


def test_the_shared_case(shared, tmp_path):
    """Mean truth FSC of at least 0.925 after 4 iterations, on data made by another program."""
    data, path = shared / "data" / "apoferritin", tmp_path / "population"
    relion = data / "relion"
    create_population(path, "apoferritin")
    add_warp_source(path, SourceRequest("grid", data / "warp_tiltseries.settings"))
    species = ("apoferritin", relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc", relion / "run_data.star")
    add_species(path, SpeciesRequest(*species, 130.0, "O"))
    population = refine_population(path, AUTO, TWO).population
    files = population.files(4).species("apoferritin")
    half1, half2, true = (read_volume(p)[0] for p in (files.half1, files.half2, data / "truth" / "density.mrc"))
    curve = truth_fsc(half1, half2, true, read_volume(relion / "mask.mrc")[0], 2.4)
    assert float(curve[1:-1].mean()) >= 0.925


def test_a_fine_warp_asked_for_by_hand_does_not_overfit(tmp_path):
    """16 x 12 nodes in every tilt for ten particles: neither the other half-map nor the truth agrees less."""
    settings = replace(SimulateSettings.fixture(), particles_per_series=10)
    made = simulate_project(tmp_path / "project", settings)
    asked = RefineSettings(2, image_warp=(16, 12), particles=True)
    population = refined(made, tmp_path / "population", asked, EngineChoice("inline"))
    scores = [map_quality(population, i, made.truth / "density.mrc", "phantom").mean_truth_fsc for i in range(3)]
    print("mean truth FSC", scores)
    assert scores[2] >= scores[1] > scores[0]
    for iteration in (1, 2):
        for one in details(population, iteration):
            before, after = one["cross_half"]
            assert after >= before
