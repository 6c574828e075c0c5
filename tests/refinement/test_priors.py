"""Priors: precisions are inverse covariances whose diagonals are the variances asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problem import FULL, N_TILTS, a_series

from mpr_dist.model.settings import Priors
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.priors import bfactor_covariance, log_scale_covariance, precision

PRIORS = Priors(image_warp_A=4.0, stage_angle_deg=0.7, position_A=6.0, orientation_deg=2.5, defocus_A=250.0)
NODES = st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4)))
LAYOUTS = st.builds(Layout, st.just(N_TILTS), NODES, st.booleans(), st.booleans(), st.booleans())


def is_positive_definite(matrix) -> bool:
    scale = np.sqrt(np.diag(matrix))
    return bool(np.linalg.eigvalsh(matrix / scale[:, None] / scale).min() > 0)


@settings(deadline=None)
@given(LAYOUTS)
def test_precision_is_symmetric_and_positive_definite(layout):
    """What the solver adds has a Cholesky factor, for every layout."""
    found = precision(layout, a_series(), PRIORS)
    assert found.series.shape == (layout.n_series,) * 2
    # inverses of double-precision matrices with condition numbers up to 1e4
    size = np.sqrt(np.outer(np.diag(found.series), np.diag(found.series)))
    assert (np.abs(found.series - found.series.T) <= 1e-9 * size).all()
    assert is_positive_definite(found.series)
    assert (found.pose > 0).all()


def test_variances_are_those_asked_for():
    """The diagonal of the inverse holds the squared standard deviations of the settings, in every tilt and node."""
    covariance = np.linalg.inv(precision(FULL, a_series(), PRIORS).series)
    variance = {name: np.diag(covariance)[part] for name, part in FULL.slices.items()}
    wanted = {"image_warp_x": 4.0, "image_warp_y": 4.0, "stage_angles": 0.7, "defocus": 250.0}
    for name, sigma in wanted.items():
        np.testing.assert_allclose(variance[name], sigma**2, rtol=1e-8)  # an inverse there and back
    np.testing.assert_allclose(variance["bfactor"], np.diag(bfactor_covariance(a_series())), rtol=1e-6)
    np.testing.assert_allclose(variance["log_scale"], np.diag(log_scale_covariance(a_series())), rtol=1e-6)
    assert set(variance) == {*wanted, "bfactor", "log_scale"}


def test_poses_are_in_angstrom_and_radians():
    """Position and orientation have the settings' standard deviations, degrees turned into radians."""
    pose = precision(FULL, a_series(), PRIORS).pose
    np.testing.assert_allclose(pose, [6.0**-2] * 3 + [np.deg2rad(2.5) ** -2] * 3)


def test_classes_are_independent():
    """No precision links one class with another, nor x with y."""
    found = precision(FULL, a_series(), PRIORS).series.copy()
    for part in FULL.slices.values():
        found[part, part] = 0
    assert not found.any()


def test_neighbours_move_together():
    """Correlations of the image warp are positive, and fall with distance in exposure and between nodes."""
    layout = Layout(N_TILTS, (4, 3), False, False, False)
    covariance = np.linalg.inv(precision(layout, a_series(), PRIORS).series)
    part = layout.slices["image_warp_x"]
    c = covariance[part, part].reshape(N_TILTS, 12, N_TILTS, 12) / 4.0**2
    order = np.argsort(a_series().dose)
    along_dose = [c[order[0], 0, order[i], 0] for i in range(N_TILTS)]
    along_x = [c[0, 0, 0, i] for i in range(4)]
    for correlations in (along_dose, along_x):
        np.testing.assert_allclose(correlations[0], 1, rtol=1e-8)
        assert (np.diff(correlations) < 0).all()
        assert correlations[-1] > 0


def test_tilts_that_were_listed_otherwise_have_the_same_prior():
    """Correlation follows exposure, not the order of rows: permuting rows permutes the covariance."""
    series, order = a_series(), np.array([2, 0, 3, 1])
    shuffled = replace(series, dose=series.dose[order])
    for law in (bfactor_covariance, log_scale_covariance):
        np.testing.assert_allclose(law(shuffled), law(series)[np.ix_(order, order)], rtol=1e-12)
    layout = Layout(N_TILTS, (2, 1), False, False, False)
    part = layout.slices["image_warp_x"]
    one, two = (np.linalg.inv(precision(layout, s, PRIORS).series)[part, part] for s in (series, shuffled))
    one = one.reshape(N_TILTS, 2, N_TILTS, 2)[np.ix_(order, range(2), order, range(2))].reshape(8, 8)
    np.testing.assert_allclose(two, one, rtol=1e-7, atol=1e-9)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=30))
def test_amplitude_priors_are_positive_definite_for_any_dose(doses):
    """Equal doses, single tilts and long series all give proper covariances."""
    n = len(doses)
    series = replace(
        a_series(),
        angle_deg=np.zeros(n),
        dose=np.array(doses),
        axis_angle_deg=np.zeros(n),
        axis_offset_A=np.zeros((n, 2)),
        use_tilt=np.ones(n, bool),
        active=np.ones(n, bool),
    )
    assert is_positive_definite(bfactor_covariance(series))
    assert is_positive_definite(log_scale_covariance(series))
