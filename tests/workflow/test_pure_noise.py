"""Nothing in, nothing out: images that hold only noise must not make a map."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.running.launch import EngineChoice, Outcome, refine_population
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.state.fsc_table import read_fsc

ITERATIONS = 3


@pytest.fixture(scope="module")
def refined(tmp_path_factory) -> tuple[SimulatedProject, Outcome]:
    """Good-looking half-maps of a particle, and a project in whose images there is none."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("noise")
    settings = replace(SimulateSettings.fixture(), n_series=2, particles_per_series=12, noise_only=True)
    made = simulate_project(folder / "project", settings)
    path = folder / "population"
    import_simulated(path, made, "noise")
    everything = RefineSettings(ITERATIONS, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)
    return made, refine_population(path, everything, EngineChoice("inline"))


def test_no_gain_in_resolution(refined):
    """After three iterations the half-maps agree no better than the references they started from."""
    population = refined[1].population
    start, *later = (read_fsc(population.files(i).species("phantom").fsc).resolution_A for i in range(ITERATIONS + 1))
    assert all(resolution >= start for resolution in later)


def test_cross_half_score_is_zero(refined):
    """The cross-half score of every series and iteration is within 3 standard deviations of zero."""
    population = refined[1].population
    scores = []
    for iteration in range(1, ITERATIONS + 1):
        for _, entry in population.series:
            summary = json.loads(population.files(iteration).series(entry.name).summary.read_text("utf-8"))
            scores += summary["numbers"]["details"].get("cross_half", [0.0])
    assert len(scores) >= 2
    assert np.abs(scores).max() < 3


def test_the_report_says_so(refined):
    """The last report states that nothing was found."""
    population = refined[1].population
    page = (population.files(population.iteration).root / "report.html").read_text("utf-8")
    assert "othing was found" in page


@pytest.fixture(scope="module")
def against_particle(refined) -> list[float]:
    """Scores against the reference of a real particle, cross-half, of each series before anything could be refined."""
    population = refined[1].population
    paths = [population.files(1).series(entry.name).summary for _, entry in population.series]
    return [json.loads(path.read_text("utf-8"))["numbers"]["details"]["cross_half"][0] for path in paths]


def test_noise_is_compared_and_found_wanting(refined, against_particle):
    """In the first iteration there is a reference: every series is scored against it, and none is refined."""
    population = refined[1].population
    assert len(against_particle) == len(population.series)
    assert all(score != 0.0 for score in against_particle)
    for _, entry in population.series:
        summary = json.loads(population.files(1).series(entry.name).summary.read_text("utf-8"))
        assert summary["numbers"]["details"]["found"] is False
