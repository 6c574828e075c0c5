"""M's published order from end to end: five iterations on a small project, each with the classes of its step."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.protocol_m import steps
from mpr_dist.storage.population import read_table
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.running.launch import EngineChoice, refine_population
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import map_quality
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project

ORDER = RefineSettings(5, protocol="m", image_warp=(2, 2))
# what an iteration may have changed in a series, and the step (counted from 1) that does so first
FIRST_MOVED = {"image_warp": 1, "defocus": 2, "astigmatism": 2, "stage_angles": 3, "magnification": 4, "cs": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimulatedProject:
    return simulate_project(tmp_path_factory.mktemp("m") / "project", SimulateSettings.fixture())


@pytest.fixture(scope="module")
def population(made, tmp_path_factory) -> Population:
    path = tmp_path_factory.mktemp("order") / "population"
    import_simulated(path, made, "order")
    return refine_population(path, ORDER, EngineChoice("inline")).population


def values(population: Population, iteration: int) -> dict[str, np.ndarray]:
    entry = population.series[0][1]
    series = read_tilt_series(population.files(iteration).series(entry.name).xml, volume_size_A=None)
    optics = series.optics
    return {
        "image_warp": series.image_warp.x.values.std(axis=(1, 2)),
        "defocus": optics.defocus_um.values.ravel(),
        "astigmatism": optics.defocus_delta_um.values.ravel(),
        "stage_angles": np.concatenate([getattr(series.stage_angles, axis).values.ravel() for axis in "xyz"]),
        "magnification": np.asarray(optics.magnification).ravel(),
        "cs": np.array([optics.cs_mm]),
    }


def test_every_iteration_refines_what_its_step_says(population, made):
    """Also in the files: what comes later is still as it was imported, to the last bit; what has come has moved."""
    assert population.iteration == 5
    for number, step in enumerate(steps(ORDER), start=1):
        table = read_table(population.files(number).settings)["refine"]
        assert (table["defocus"], table["stage_angles"], table["cs"]) == (step.defocus, step.stage_angles, step.cs)
        assert table["temporal_samples"] == step.temporal_samples
    by_iteration = {number: values(population, number) for number in range(1, 6)}
    for name, step in FIRST_MOVED.items():
        for number in range(2, 6):
            moved = not np.array_equal(by_iteration[number][name], by_iteration[number - 1][name])
            assert moved == (number >= step), (name, number)
    samples = [
        read_poses(population.files(number).series(population.series[0][1].name).poses)["phantom"].n_samples
        for number in range(1, 6)
    ]
    assert samples == [1, 1, 1, 1, 2]


def test_it_ends_better_than_it_began(population, made):
    """The true density agrees more after every step that adds what was planted, and the other half-map never less."""
    scores = [map_quality(population, i, made.truth / "density.mrc", "phantom").mean_truth_fsc for i in range(6)]
    print("mean truth FSC", scores)
    assert scores[0] < scores[1] < scores[2] < scores[3]
    # optics and trajectories were not planted: what their noise may cost is a fraction of what any step before brought
    assert min(scores[4:]) > scores[3] - 0.5 * min(np.diff(scores[:4]))
    for number in range(1, 6):
        before, after = read_details(population.files(number), population.series[0][1].name)["cross_half"]
        assert after > before * 0.999
