"""Priors: precisions are inverse covariances whose diagonals are the variances asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problem import FULL, N_TILTS, a_series, layout_of, some_particles

from mpr_dist.model.settings import Priors
from mpr_dist.refinement.classes.amplitude import BfactorClass, LogScaleClass
from mpr_dist.refinement.priors import pose_covariance, precision

BFACTOR, LOG_SCALE = BfactorClass(), LogScaleClass()
PRIORS = Priors(image_warp_A=4.0, stage_angle_deg=0.7, position_A=6.0, orientation_deg=2.5, defocus_A=250.0)
NODES = st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4)))
LAYOUTS = st.builds(
    layout_of, image_warp=NODES, particles=st.booleans(), stage_angles=st.booleans(), defocus=st.booleans()
)
POSES = (some_particles(samples=3), some_particles())


def is_positive_definite(matrix) -> bool:
    scale = np.sqrt(np.diag(matrix))
    return bool(np.linalg.eigvalsh(matrix / scale[:, None] / scale).min() > 0)


@settings(deadline=None)
@given(LAYOUTS)
def test_precision_is_symmetric_and_positive_definite(layout):
    """What the solver adds has a Cholesky factor, for every layout."""
    found = precision(layout, a_series(), (some_particles(),), PRIORS)
    assert found.series.shape == (layout.n_series,) * 2
    # inverses of double-precision matrices with condition numbers up to 1e4
    size = np.sqrt(np.outer(np.diag(found.series), np.diag(found.series)))
    assert (np.abs(found.series - found.series.T) <= 1e-9 * size).all()
    assert is_positive_definite(found.series)
    for pose in found.poses:
        assert pose.shape == (layout.pose_size,) * 2
        assert is_positive_definite(pose)


def test_variances_are_those_asked_for():
    """The diagonal of the inverse holds the squared standard deviations of the settings, in every tilt and node."""
    covariance = np.linalg.inv(precision(FULL, a_series(), POSES, PRIORS).series)
    variance = {name: np.diag(covariance)[part] for name, part in FULL.slices.items()}
    wanted = {"image_warp_x": 4.0, "image_warp_y": 4.0, "stage_angles": 0.7, "defocus": 250.0}
    for name, sigma in wanted.items():
        np.testing.assert_allclose(variance[name], sigma**2, rtol=1e-8)  # an inverse there and back
    np.testing.assert_allclose(variance["bfactor"], np.diag(BFACTOR.covariance(a_series(), PRIORS)), rtol=1e-6)
    np.testing.assert_allclose(variance["log_scale"], np.diag(LOG_SCALE.covariance(a_series(), PRIORS)), rtol=1e-6)
    wanted |= {"phase_shift": PRIORS.phase_shift_pi, "cs": PRIORS.cs_mm, "astigmatism": PRIORS.astigmatism_A}
    wanted |= {"magnification": PRIORS.magnification_percent}
    wanted |= {name: PRIORS.aberration_rad for name in ("aberrations_even", "aberrations_odd")}
    for name, sigma in wanted.items():
        np.testing.assert_allclose(variance[name], sigma**2, rtol=1e-6)
    # a random walk that begins at the first dose: the last layer has the whole variance, the one half way half of it
    layers = variance["volume_warp"].reshape(2, -1)
    np.testing.assert_allclose(layers[0], 0.5 * PRIORS.volume_warp_A**2, rtol=1e-6)
    np.testing.assert_allclose(layers[1], PRIORS.volume_warp_A**2, rtol=1e-6)
    assert set(variance) == {*wanted, "volume_warp", "bfactor", "log_scale"}


def test_poses_are_in_angstrom_and_radians():
    """Position and orientation have the settings' standard deviations, degrees turned into radians."""
    moving, still = precision(FULL, a_series(), POSES, PRIORS).poses
    np.testing.assert_allclose(np.diag(still)[:6], [6.0**-2] * 3 + [np.deg2rad(2.5) ** -2] * 3)
    np.testing.assert_allclose(still[6:, 6:], np.eye(12))
    np.testing.assert_allclose(np.linalg.inv(moving), pose_covariance(3, PRIORS), rtol=1e-9, atol=1e-9)
    variance = np.diag(pose_covariance(3, PRIORS)).reshape(3, 6)
    np.testing.assert_allclose(variance[0], 1 / np.diag(still)[:6])
    np.testing.assert_allclose(variance[2, 0], 6.0**2 + PRIORS.trajectory_A**2)


def test_classes_are_independent():
    """No precision links one class with another, nor x with y."""
    found = precision(FULL, a_series(), POSES, PRIORS).series.copy()
    for part in FULL.slices.values():
        found[part, part] = 0
    assert not found.any()


def test_neighbours_move_together():
    """Correlations of the image warp are positive, and fall with distance in exposure and between nodes."""
    layout = layout_of(image_warp=(4, 3))
    covariance = np.linalg.inv(precision(layout, a_series(), (), PRIORS).series)
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
    for law in (BFACTOR, LOG_SCALE):
        np.testing.assert_allclose(
            law.covariance(shuffled, PRIORS), law.covariance(series, PRIORS)[np.ix_(order, order)], rtol=1e-12
        )
    layout = layout_of(image_warp=(2, 1))
    part = layout.slices["image_warp_x"]
    one, two = (np.linalg.inv(precision(layout, s, (), PRIORS).series)[part, part] for s in (series, shuffled))
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
    assert is_positive_definite(BFACTOR.covariance(series, PRIORS))
    assert is_positive_definite(LOG_SCALE.covariance(series, PRIORS))
