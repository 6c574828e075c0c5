"""What one species may do to others in the same tilt series: steer them by what it knows, and otherwise nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses, write_poses
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.reporting.iteration_report import report_data
from mpr_dist.workflow.reporting.show import status_lines
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running.plan import plan
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, SpeciesPlan, simulate_project
from mpr_dist.workflow.state.fsc_table import read_fsc
from mpr_dist.workflow.state.run_settings import RunSettings

SERIES = "TS_01"
SETTINGS = RefineSettings(1, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> SimulatedProject:
    """One series with eight particles of each of two species, of 4 and 5 A per pixel."""
    species = (SpeciesPlan("big", "octahedral"), SpeciesPlan("small", "dihedral", pixel_A=5.0))
    settings = replace(SimulateSettings.fixture(), image_px=(288, 288), species=species)
    return simulate_project(tmp_path_factory.mktemp("two") / "project", settings)


def population_of(path: Path, made: SimulatedProject, *names: str) -> Population:
    import_simulated(path, made, "species", names or None)
    return load_population(path)


def refine(population: Population) -> Population:
    return run(population.path, Physics(), RunSettings(SETTINGS), InlineExecutor())


def half_map(population: Population, species: str, iteration: int = 1):
    return read_volume(population.files(iteration).species(species).half1)[0]


@pytest.fixture(scope="module")
def alone(two, tmp_path_factory) -> Population:
    return refine(population_of(tmp_path_factory.mktemp("alone") / "pop", two, "big"))


@pytest.fixture(scope="module")
def together(two, tmp_path_factory) -> Population:
    return refine(population_of(tmp_path_factory.mktemp("together") / "pop", two))


def test_shares_are_told(together):
    """Shares of the information add up to one, and stand in the table, the status and the report."""
    species = read_details(together.files(1), SERIES)["species"]
    shares = [species[name]["share"] for name in ("big", "small")]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0.05
    table = read_blocks(together.files(1).uncertainty)["species"]
    assert dict(zip(table["mprSpeciesName"], table["mprInformationShare"], strict=True)) == {
        name: one["share"] for name, one in species.items()
    }
    assert f"{round(100 * shares[0])} % of the information in 1 of 1 series" in "\n".join(
        status_lines(status(together))
    )
    data = report_data(together, together.files(1))
    assert data.information["small"]["median"] == species["small"]["share"]
    assert data.series[0].species == species


def test_scale_and_sharpness_of_half_maps_do_not_matter(two, together, tmp_path):
    """Half-maps that came ten times stronger, or sharpened, steer as before: they are known to be what they are."""
    population = population_of(tmp_path / "pop", two)
    files = population.files(0).species("small")
    for path in (files.half1, files.half2):
        volume, pixel = read_volume(path)
        write_volume(path, 10 * volume, pixel)
    end, usual = (read_details(each.files(1), SERIES)["species"] for each in (refine(population), together))
    assert end["small"]["share"] == pytest.approx(usual["small"]["share"], rel=0.05)  # the prior pulls a little
    assert end["small"]["scale"] / end["big"]["scale"] == pytest.approx(
        usual["small"]["scale"] / usual["big"]["scale"] / 10, rel=0.05
    )


def test_a_species_that_no_tilt_shows_stops_nobody(two, alone, tmp_path):
    """It used to fail the series for the others too; now they end with the bits they have without it."""
    population = population_of(tmp_path / "pop", two)
    path = population.files(0).series(SERIES).poses
    poses = read_poses(path)
    corner = np.full_like(poses["small"].position_A, 5.0)
    write_poses(path, poses | {"small": replace(poses["small"], position_A=corner)})
    population = refine(population)
    species = read_details(population.files(1), SERIES)["species"]
    assert species["small"]["state"] == "not seen"
    assert "lies inside any tilt" in species["small"]["why"]
    np.testing.assert_array_equal(half_map(population, "big"), half_map(alone, "big"))
    warnings = " ".join(report_data(population, population.files(1)).warnings)
    assert f"small was left as it was, and steered nothing, in {SERIES}" in warnings


def test_a_species_whose_reference_is_another_protein_has_no_say(two, alone, tmp_path):
    """Its images do not agree with the reference, so it moves no bit of the others, and stays where it was."""
    population = population_of(tmp_path / "pop", two)
    files = population.files(0).species("small")
    for path in (files.half1, files.half2):
        volume, pixel = read_volume(path)
        write_volume(path, -volume[::-1], pixel)  # of wrong sign and hand
    before = read_poses(population.files(0).series(SERIES).poses)["small"]
    population = refine(population)
    after = read_poses(population.files(1).series(SERIES).poses)["small"]
    assert read_details(population.files(1), SERIES)["species"]["small"]["state"] == "no agreement"
    np.testing.assert_array_equal(half_map(population, "big"), half_map(alone, "big"))
    np.testing.assert_array_equal(after.position_A, before.position_A)


def test_a_species_without_resolution_is_not_compared(two, alone, tmp_path):
    """Its half-maps share nothing yet: it is reconstructed, and the others have the bits they have without it."""
    population = population_of(tmp_path / "pop", two)
    files = population.files(0).species("small")
    volume, pixel = read_volume(files.half1)
    write_volume(files.half2, -volume, pixel)
    population = refine(population)
    assert read_details(population.files(1), SERIES)["species"]["small"]["state"] == "not compared"
    np.testing.assert_array_equal(half_map(population, "big"), half_map(alone, "big"))
    assert np.isfinite(read_fsc(population.files(1).species("small").fsc).resolution_A)


def test_species_of_different_samples_share_a_series(two, together, tmp_path):
    """One moves along the dose, the other does not: tables hold both, and the plan knows."""
    population = population_of(tmp_path / "pop", two)
    path = population.files(0).series(SERIES).poses
    poses = read_poses(path)
    write_poses(path, poses | {"small": poses["small"].resampled(3)})
    flat, moving = (plan(each, Physics(), SETTINGS, 1).solver_bytes for each in (together, population))
    assert moving > 1.5 * flat  # three samples for all, as the arrays have them
    end = refine(population)
    found = read_poses(end.files(1).series(SERIES).poses)
    assert (found["big"].n_samples, found["small"].n_samples) == (1, 3)
    sigma = read_blocks(end.files(1).series(SERIES).sigma)["poses"]
    counts = sigma.groupby("mprSpeciesName")["mprSample"].max()
    assert dict(counts) == {"big": 1, "small": 3}
    assert read_details(end.files(1), SERIES)["species"]["small"]["state"] == "used"


def test_a_species_in_some_of_the_series_only(tmp_path):
    """Each series is steered by those that it holds; each map is made of the series that hold its species."""
    species = (SpeciesPlan("big", "octahedral"), SpeciesPlan("small", "dihedral", pixel_A=5.0))
    settings = replace(SimulateSettings.fixture(), image_px=(288, 288), species=species, n_series=2)
    made = simulate_project(tmp_path / "project", settings)
    big = made.every_species[0]
    blocks = read_blocks(big.run_data)
    particles = blocks["particles"]
    write_table(big.run_data, blocks | {"particles": particles[particles["rlnMicrographName"] == f"{SERIES}.tomostar"]})
    population = refine(population_of(tmp_path / "pop", made))
    both, one = (read_details(population.files(1), name)["species"] for name in (SERIES, "TS_02"))
    assert sorted(both) == ["big", "small"]
    assert list(one) == ["small"]
    assert one["small"]["share"] == pytest.approx(1.0)
    told = status(population)["iterations"][-1]["information"]
    assert (told["big"]["series"], told["small"]["series"], told["small"]["highest"]) == (1, 2, 1.0)
    tables = [read_blocks(population.files(1).species(name).particles) for name in ("big", "small")]
    assert [len(next(iter(table.values()))) for table in tables] == [8, 16]
    report_data(population, population.files(1))


def test_weights_are_fitted_to_all_species(alone, together, tmp_path):
    """The scales of the tilts are known better from two species than from one, and nothing but weights changes."""
    asked = RefineSettings(1, weights="tilt", only_weights=True)
    sigma = {}
    for name, population in (("alone", alone), ("together", together)):
        copy = shutil.copytree(population.path, tmp_path / name)
        weighed = run(copy, Physics(), RunSettings(asked), InlineExecutor())
        before, after = (weighed.files(n).series(SERIES) for n in (1, 2))
        assert after.poses.read_bytes() == before.poses.read_bytes()
        sigma[name] = read_blocks(after.sigma)["log_scale"]["mprSigma"].to_numpy(float)
    assert (sigma["together"] > 0).all()
    assert np.mean(sigma["together"]) < np.mean(sigma["alone"])
