"""Trajectories along the dose: scipy's monotone cubics and slerp, and derivatives against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp

from mpr_dist.maths.rotations import exp_rotation, log_rotation
from mpr_dist.maths.trajectories import (
    pchip,
    pchip_derivative,
    position_along,
    position_derivative,
    rotation_along,
    rotation_derivative,
)

X = np.linspace(0, 1, 47)
STEP = 1e-6  # of central differences: their error is about 1e-12 / 1e-6 (rounding) or step^2 (curvature)


def walks(n: int, count: int = 40, seed: int = 0) -> np.ndarray:
    """Random walks, a straight climb and a zigzag: slopes of every kind."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.standard_normal((count, n)), np.sort(rng.standard_normal((count, n)), axis=1), [(-1.0) ** np.arange(n)]]
    )


def rotations(particles: int, samples: int, size_rad: float, seed: int = 1) -> np.ndarray:
    """(particles, samples, 3, 3): turns of up to a few ``size_rad`` about a random start."""
    rng = np.random.default_rng(seed)
    start = Rotation.random(particles, random_state=seed).as_matrix()
    return exp_rotation(size_rad * rng.standard_normal((particles, samples, 3))) @ start[:, None]


@pytest.mark.parametrize("n", [3, 4, 5, 9])
def test_pchip_is_scipys(n):
    values = walks(n)
    expected = PchipInterpolator(np.linspace(0, 1, n), values, axis=1)(X)
    np.testing.assert_allclose(pchip(values, X), expected, atol=1e-12)


def test_one_sample_is_constant_and_two_are_a_line():
    np.testing.assert_array_equal(pchip(np.array([[3.5]]), X), np.full((1, len(X)), 3.5))
    np.testing.assert_allclose(pchip(np.array([[2.0, -1.0]]), X), 2.0 - 3.0 * X[None], atol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_samples_are_met_exactly(n):
    values = walks(n)
    nodes = np.linspace(0, 1, n) if n > 1 else np.array([0.5])
    np.testing.assert_allclose(pchip(values, nodes), values, atol=1e-13)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_nothing_overshoots(n):
    """Between two samples the curve stays between their values."""
    values = walks(n)
    curve = pchip(values, np.linspace(0, 1, 50 * (n - 1) + 1))
    for cell in range(n - 1):
        part = curve[:, 50 * cell : 50 * (cell + 1) + 1]
        ends = values[:, cell : cell + 2]
        assert (part <= ends.max(1, keepdims=True) + 1e-12).all()
        assert (part >= ends.min(1, keepdims=True) - 1e-12).all()


def test_places_outside_stay_at_the_ends():
    values = walks(4)
    np.testing.assert_allclose(pchip(values, np.array([-0.2, 1.3])), values[:, [0, -1]], atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_derivative_is_that_of_finite_differences(n):
    """Rising, falling and turning data; no step is near zero, where the slope has a kink."""
    values = walks(n)
    steps = np.abs(np.diff(values, axis=1))
    values = values[(steps > 1e-3).all(axis=1)]
    exact = pchip_derivative(values, X)
    assert exact.shape == (len(values), len(X), n)
    for k in range(n):
        bump = STEP * np.eye(n)[k]
        numeric = (pchip(values + bump, X) - pchip(values - bump, X)) / (2 * STEP)
        np.testing.assert_allclose(exact[..., k], numeric, atol=2e-6)


def test_weights_of_a_shift_add_up_to_one():
    """Adding a constant to all samples adds it to the curve."""
    np.testing.assert_allclose(pchip_derivative(walks(6), X).sum(-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_positions_go_axis_by_axis(n):
    rng = np.random.default_rng(3)
    samples = rng.normal(0, 20, (6, n, 3))
    along, weight = position_along(samples, X), position_derivative(samples, X)
    assert (along.shape, weight.shape) == ((6, len(X), 3), (6, len(X), 3, n))
    for axis in range(3):
        np.testing.assert_array_equal(along[..., axis], pchip(samples[..., axis], X))
        np.testing.assert_array_equal(weight[:, :, axis], pchip_derivative(samples[..., axis], X))


def test_two_rotations_are_joined_as_slerp_does():
    samples = rotations(8, 2, 0.7)
    found = rotation_along(samples, X)
    for ours, ends in zip(found, samples, strict=True):
        expected = Slerp([0.0, 1.0], Rotation.from_matrix(ends))(X).as_matrix()
        np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_rotations_meet_their_samples_and_stay_rotations(n):
    samples = rotations(5, n, 0.4)
    nodes = np.linspace(0, 1, n) if n > 1 else np.array([0.0])
    np.testing.assert_allclose(rotation_along(samples, nodes), samples, atol=1e-12)
    found = rotation_along(samples, X)
    np.testing.assert_allclose(found @ np.swapaxes(found, -1, -2), np.broadcast_to(np.eye(3), found.shape), atol=1e-12)


def test_rotations_do_not_care_about_the_frame_of_the_particle():
    """A turn of the particle's own frame passes through: what moves is the particle, however its axes are named."""
    samples = rotations(4, 3, 0.3)
    turn = Rotation.random(random_state=9).as_matrix()
    np.testing.assert_allclose(rotation_along(samples @ turn, X), rotation_along(samples, X) @ turn, atol=1e-12)


@pytest.mark.parametrize(("n", "size"), [(1, 0.3), (2, 0.3), (2, 1e-4), (3, 0.2), (5, 0.05)])
def test_rotation_derivative_is_that_of_finite_differences(n, size):
    """Left turns of a sample against left turns of the result."""
    samples, x = rotations(6, n, size), np.linspace(0, 1, 11)
    exact, now = rotation_derivative(samples, x), rotation_along(samples, x)
    assert exact.shape == (6, 11, 3, n, 3)
    step = 1e-7
    for k in range(n):
        for axis in range(3):
            ends = []
            for sign in (1, -1):
                moved = samples.copy()
                moved[:, k] = exp_rotation(sign * step * np.eye(3)[axis]) @ moved[:, k]
                ends.append(log_rotation(rotation_along(moved, x) @ np.swapaxes(now, -1, -2)))
            # rounding of rotation vectors is 1e-15 / 1e-7; where samples nearly coincide slopes of the monotone cubic
            # turn within the step, which two samples (a line) cannot
            np.testing.assert_allclose(exact[:, :, :, k, axis], (ends[0] - ends[1]) / (2 * step), atol=2e-6)


def test_turning_all_samples_together_turns_the_curve():
    """A common left turn: the curve turns with it, so derivatives by all samples add up to the identity."""
    samples = rotations(5, 2, 0.5)
    total = rotation_derivative(samples, X).sum(axis=3)
    turn = exp_rotation(1e-7 * np.array([0.3, -0.8, 0.5]))
    now, moved = rotation_along(samples, X), rotation_along(turn @ samples, X)
    np.testing.assert_allclose(moved, turn @ now, atol=1e-14)
    np.testing.assert_allclose(total, np.broadcast_to(np.eye(3), total.shape), atol=1e-12)
