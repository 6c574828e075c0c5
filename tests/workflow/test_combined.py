"""Everything at once: a simulated project in which most of what can be wrong is wrong, refined to its ceiling."""

from __future__ import annotations

import pytest

from mpr_dist.workflow.running.launch import EngineChoice, refine_population
from mpr_dist.workflow.simulation.demo import everything_settings
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import ceiling, map_quality
from mpr_dist.workflow.simulation.simulate import settings_from, simulate_project

pytestmark = pytest.mark.slow


def test_everything_at_once_reaches_the_ceiling(tmp_path):
    """Mean FSC with the true density: at least 0.97 of that of the map from the planted geometry, in two iterations."""
    made = simulate_project(tmp_path / "project", settings_from("everything", {}))
    population = tmp_path / "population"
    import_simulated(population, made, "everything")
    outcome = refine_population(population, everything_settings(2), EngineChoice("local", workers=2))
    start, end = (map_quality(outcome.population, i, made.truth / "density.mrc", "phantom") for i in (0, 2))
    best = ceiling(made)
    print(f"mean truth FSC {start.mean_truth_fsc:.4f} -> {end.mean_truth_fsc:.4f}, ceiling {best:.4f}")  # pytest -s
    assert start.mean_truth_fsc < 0.5
    assert end.mean_truth_fsc >= 0.97 * best
