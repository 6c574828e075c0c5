"""Protocols and priors from the data through whole iterations, on series of five particles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpr_dist.model.population import Population
from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.refinement.release import ENOUGH
from mpr_dist.storage.population import create_population, load_population, read_table, write_table
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.reporting.show import status_lines
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running.launch import EngineChoice, plan_population, refine_population
from mpr_dist.workflow.running.run_options import refine_settings
from mpr_dist.workflow.series.in_force import in_force
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.series.widths import widths_found
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import map_quality
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.state.run_settings import RunSettings

AUTO = RefineSettings(2, protocol="auto")
FIVE = replace(SimulateSettings.fixture(), n_series=3, particles_per_series=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimulatedProject:
    return simulate_project(tmp_path_factory.mktemp("five") / "project", FIVE)


@pytest.fixture(scope="module")
def population(made, tmp_path_factory) -> Population:
    """Two iterations of the protocol auto, by two workers."""
    path = tmp_path_factory.mktemp("auto") / "population"
    import_simulated(path, made, "five")
    return refine_population(path, AUTO, EngineChoice("local", workers=2)).population


def details(population: Population, iteration: int) -> dict[str, dict]:
    files = population.files(iteration)
    return {entry.name: read_details(files, entry.name) for _, entry in population.series}


def test_five_particles_keep_to_few_parameters(population):
    """An image warp with fewer nodes than particles, no volume warp, nothing whose expected sigma is near its prior."""
    for iteration in (1, 2):
        for name, one in details(population, iteration).items():
            released = {each["name"]: each for each in one["release"] if each["released"]}
            assert "particles" in released
            assert not {"volume_warp", "cs"} & set(released)
            series = read_tilt_series(population.files(iteration).series(name).xml, volume_size_A=None)
            assert series.image_warp.x.values[0].size <= 4
            for each in released.values():
                assert each["ratio"] <= np.sqrt(1 - ENOUGH) or each["why"] == "released before"
            assert any(not each["released"] for each in one["release"])


def test_agreement_with_the_other_half_never_falls(population, made):
    """In no series and iteration; and the map ends far better than it began."""
    for iteration in (1, 2):
        for one in details(population, iteration).values():
            before, after = one["cross_half"]
            assert after >= before
    start, end = (map_quality(population, i, made.truth / "density.mrc", "phantom") for i in (0, 2))
    assert end.mean_truth_fsc > start.mean_truth_fsc + 0.1


def test_widths_of_the_next_iteration_come_from_the_last(population):
    """settings.toml says which, from where, and how many independent numbers stand behind them."""
    table = read_table(population.files(2).settings)
    found = widths_found(details(population, 1).values(), Priors())
    assert {"position_A", "orientation_deg"} <= set(found)
    for field, width in found.items():
        assert table["refine"]["priors"][field] == width.found
        assert width.used == getattr(Priors(), field)
        assert table["widths"]["numbers"][field] == round(width.numbers)
    assert table["widths"]["iteration"] == 1
    assert "widths" not in read_table(population.files(1).settings)
    again = in_force(RunSettings(AUTO), population, 2)
    assert again.table(table["science"], is_first=False) == {
        name: value for name, value in table.items() if name not in ("versions", "format_version")
    }


def test_a_prior_given_by_hand_wins(population, tmp_path):
    asked = refine_settings(None, {"protocol": "auto", "iterations": 2}, {"position_A": 1.25})
    settings = in_force(RunSettings(asked), population, 3).refine
    assert settings.priors.position_A == 1.25
    assert settings.priors.orientation_deg != Priors().orientation_deg
    fixed = refine_settings(None, {"protocol": "auto", "priors_from": "fixed"}, {})
    assert in_force(RunSettings(fixed), population, 3).refine.priors == Priors()
    # settings of an iteration used again: what was found there is not taken for what was given
    reused = refine_settings(population.files(2).settings, {}, {})
    assert (reused.protocol, reused.priors, reused.priors_by_hand) == ("auto", Priors(), ())


def test_report_and_status_say_what_was_decided(population):
    page = population.files(2).report.read_text("utf-8")
    for text in ("What was released, and why", "known well enough", "the prior would hold it", "Widths of the priors"):
        assert text in page
    value = status(population)
    assert {row["name"] for row in value["iterations"][-1]["release"]} >= {"particles", "defocus", "cs", "weights"}
    assert value["iterations"][-1]["widths"]["position_A"]["found"] > 0
    lines = "\n".join(status_lines(value))
    assert "released: " in lines
    assert "widths of priors found: " in lines


def test_workers_change_no_bit(population, made, tmp_path):
    """What is released, and all that follows, is the same without workers."""
    path = tmp_path / "population"
    import_simulated(path, made, "five")
    alone = refine_population(path, replace(AUTO, iterations=1), EngineChoice("inline")).population
    for name in ("half1.mrc", "half2.mrc", "particles.star"):
        a, b = (each.files(1).species("phantom").directory / name for each in (population, alone))
        assert a.read_bytes() == b.read_bytes(), name
    for name, one in details(alone, 1).items():
        assert one["release"] == details(population, 1)[name]["release"]
        assert one["spreads"] == details(population, 1)[name]["spreads"]


def test_the_plan_says_what_may_be_released_and_by_which_rule(population):
    text = str(plan_population(population.path, AUTO, EngineChoice("inline")))
    assert "expected sigma" in text
    assert "with 5 particles, may get in the end: image warp 2x2" in text
    assert "weights by tilt" in " ".join(text.split())
    assert "released in iteration 002:" in text
    assert max(len(line) for line in text.splitlines()) < 160
    text = str(plan_population(population.path, RefineSettings(3, protocol="m"), EngineChoice("inline")))
    lines = [line.strip() for line in text.splitlines()]
    assert "iteration 003: image warp 6x4, particles" in lines
    assert "iteration 004: + defocus, astigmatism" in lines
    assert "not reached: 2 temporal samples" in lines


def test_the_order_of_m_goes_on_where_it_stood(tmp_path):
    """Steps are counted by the iterations that went by it, whatever lies between."""
    population, asked = create_population(tmp_path / "population", "p"), RunSettings(RefineSettings(protocol="m"))
    seen = []
    for number, kind in enumerate(("m", "m", "manual", "m"), start=1):
        settings = in_force(asked, population, number) if kind == "m" else RunSettings(RefineSettings(defocus=True))
        population.files(number).root.mkdir(parents=True)
        write_table(population.files(number).settings, settings.table("science", is_first=False))
        seen.append(settings.refine)
    assert [one.defocus for one in seen] == [False, True, True, True]
    assert [one.stage_angles for one in seen] == [False, False, False, True]
    assert load_population(population.path).iteration == 0
