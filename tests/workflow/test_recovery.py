"""Errors against a known truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_population import build_population

from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import euler_to_matrix, exp_rotation
from mpr_dist.maths.symmetry import rotations
from mpr_dist.storage.warp_xml import read_tilt_series, write_tilt_series
from mpr_dist.workflow.simulation.recovery import (
    OpticsErrors,
    angle_between,
    map_quality,
    optics_errors,
    parameter_errors,
)
from mpr_dist.workflow.simulation.simulate import Plant, SimulateSettings, simulate_project


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


def test_errors_of_the_optics_are_those_planted(tmp_path):
    """Before any refinement: the size of what was planted, class by class."""
    plant = Plant(
        (2, 2),
        astigmatism_A=200.0,
        phase_shift_error_pi=0.1,
        cs_error_mm=0.2,
        beam_tilt_mrad=1.0,
        even4_rad=0.5,
        magnification=0.02,
        deselected_tilts=2,
    )
    made = simulate_project(tmp_path / "project", replace(SimulateSettings.fixture(), plant=plant, n_series=2))
    population = build_population(tmp_path / "pop", made)
    found = optics_errors(population, 0, made.truth)
    true, known = zip(*((made.true_series[name].optics, made.series[name].optics) for name in made.series), strict=True)
    cs_mm = [a.cs_mm - b.cs_mm for a, b in zip(true, known, strict=True)]
    assert found.cs_mm == pytest.approx(np.sqrt(np.mean(np.square(cs_mm))))
    matrices = np.array([a.magnification - np.eye(2) for a in true])
    assert found.magnification_percent == pytest.approx(100 * np.sqrt((matrices**2).mean()))
    assert 100 < found.astigmatism_A < 300
    assert 0.05 < found.phase_shift_pi < 0.2
    # coma of 1 mrad is 1 rad at 4 A; its mean square over the disc, less the best shift, is 1/72 of a^2 q^6
    assert 0.03 < found.odd_rad < 0.5
    assert 0.05 < found.even_rad < 1.0
    errors = parameter_errors(population, 0, made.truth, made.species.name)
    assert all(np.isfinite(errors.defocus_A))


def test_optics_at_the_truth_have_no_errors(project, tmp_path):
    """With the truth's optics in the population, nothing is left; a shift of the whole image is no aberration."""
    population = build_population(tmp_path / "pop", project)
    state = population.files(0).series("TS_01")
    series = read_tilt_series(state.xml, volume_size_A=[1.0, 1.0, 1.0])
    true = project.true_series["TS_01"].optics
    write_tilt_series(state.xml, state.xml, replace(series, optics=replace(true, zernike_odd=(1.0, -2.0))))
    np.testing.assert_allclose(
        list(vars(optics_errors(population, 0, project.truth)).values()),
        list(vars(OpticsErrors(*[0.0] * 6)).values()),
        atol=1e-6,
    )
