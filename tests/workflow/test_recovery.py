"""Errors against a known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_population import build_population

from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import euler_to_matrix, exp_rotation
from mpr_dist.maths.symmetry import rotations
from mpr_dist.workflow.recovery import angle_between, map_quality, parameter_errors
from mpr_dist.workflow.simulate import Plant, SimulateSettings, simulate_project


def test_no_errors_planted_none_found(tmp_path):
    settings = replace(SimulateSettings.fixture(), plant=Plant.nothing(), n_tilts=3)
    made = simulate_project(tmp_path / "project", settings)
    population = build_population(tmp_path / "pop", made)
    errors = parameter_errors(population, 0, made.truth, made.species.name)
    assert max(errors.position_A) < 1e-3
    assert max(errors.view_deg) < 0.05  # the arc cosine of float32 matrices near one
    assert max(errors.defocus_A) < 0.01


def test_planted_errors_are_found(project, tmp_path):
    population = build_population(tmp_path / "pop", project)
    errors = parameter_errors(population, 0, project.truth, project.species.name)
    assert 100 < errors.defocus_A[3] < 600
    assert 2 < errors.view_deg[3] < 7
    assert 0.5 < errors.position_A[3] < 5
    quality = map_quality(population, 0, project.truth / "density.mrc", project.species.name)
    assert 0 < quality.mean_truth_fsc < 1
    with pytest.raises(InputError, match="cannot be read"):
        parameter_errors(population, 0, tmp_path, project.species.name)


def test_angles_know_symmetry():
    """Symmetric copies are the same view; a turn about any axis is found with its size."""
    rng = np.random.default_rng(0)
    view = euler_to_matrix(rng.uniform(-180, 180, (5, 3)))
    turn = exp_rotation(np.deg2rad(4.0) * np.array([0.6, 0.0, 0.8]))
    for operator in rotations("O"):
        np.testing.assert_allclose(angle_between(view @ operator, view, "O"), 0.0, atol=1e-5)
        np.testing.assert_allclose(angle_between(turn @ view @ operator, view, "O"), 4.0, atol=1e-6)
    assert angle_between(view @ rotations("C4")[1], view, "C1") == pytest.approx(90.0)
