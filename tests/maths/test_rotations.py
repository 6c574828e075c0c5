"""Rotations against scipy, and the laws they obey, poles included."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mpr_dist.maths import rotations as rot


def random_angles(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-180, 180, n), rng.uniform(0, 180, n), rng.uniform(-180, 180, n)], 1)


@pytest.mark.parametrize(("axis", "function"), [("x", rot.rotation_x), ("y", rot.rotation_y), ("z", rot.rotation_z)])
def test_axis_rotations_are_scipys(axis, function):
    angles = np.array([[-170.0, -30.0], [0.0, 55.5]])
    expected = Rotation.from_euler(axis, angles.reshape(-1, 1), degrees=True).as_matrix().reshape(2, 2, 3, 3)
    assert np.allclose(function(angles), expected, atol=1e-14)


def test_euler_angles_are_the_transposed_active_zyz_of_relion():
    angles = random_angles()
    expected = Rotation.from_euler("ZYZ", -angles[:, ::-1], degrees=True).as_matrix()
    assert np.allclose(rot.euler_to_matrix(angles), expected, atol=1e-14)


def test_euler_angles_come_back():
    angles = random_angles()
    assert np.allclose(rot.matrix_to_euler(rot.euler_to_matrix(angles)), angles, atol=1e-9)


@pytest.mark.parametrize("tilt", [0.0, 180.0, 1e-7, 180 - 1e-7, 1e-3])
def test_matrices_come_back_at_the_poles(tilt):
    angles = random_angles()
    angles[:, 1] = tilt
    matrix = rot.euler_to_matrix(angles)
    back = rot.matrix_to_euler(matrix)
    assert np.all((back[:, 1] >= 0) & (back[:, 1] <= 180))
    assert np.allclose(rot.euler_to_matrix(back), matrix, atol=1e-8)
    if tilt in (0.0, 180.0):
        assert np.all(back[:, 0] == 0)


def test_exp_is_scipys_and_log_its_inverse():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((4, 25, 3))
    vectors *= rng.uniform(0, 3.1, (4, 25, 1)) / np.linalg.norm(vectors, axis=-1, keepdims=True)
    matrices = rot.exp_rotation(vectors)
    assert np.allclose(matrices.reshape(-1, 3, 3), Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix(), atol=1e-13)
    assert np.allclose(rot.log_rotation(matrices), vectors, atol=1e-9)


def test_exp_of_tiny_and_zero_vectors_is_the_identity_to_first_order():
    assert np.array_equal(rot.exp_rotation(np.zeros(3)), np.eye(3))
    tiny = np.array([1e-9, -2e-9, 3e-9])
    assert np.allclose(rot.exp_rotation(tiny), np.eye(3) + rot.skew(tiny), atol=1e-16)
    assert np.allclose(rot.log_rotation(rot.exp_rotation(tiny)), tiny, rtol=1e-5)


def test_skew_is_the_cross_product():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 5, 3))
    assert np.allclose((rot.skew(a) @ b[..., None])[..., 0], np.cross(a, b))


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 9.9e-3, 1.01e-2, 0.5, 2.5, 3.1])
def test_left_jacobian_is_that_of_finite_differences(size):
    """exp(v + dv) = exp(J dv) exp(v), across the threshold of the series and up to nearly half a turn."""
    rng = np.random.default_rng(3)
    v = rng.standard_normal((20, 3))
    v *= size / np.linalg.norm(v, axis=1, keepdims=True)
    exact, step = rot.left_jacobian(v), 1e-6
    for axis in range(3):
        dv = step * np.eye(3)[axis]
        plus, minus = (rot.exp_rotation(v + s * dv) @ np.swapaxes(rot.exp_rotation(v), -1, -2) for s in (1, -1))
        numeric = (rot.log_rotation(plus) - rot.log_rotation(minus)) / (2 * step)
        assert np.allclose(exact[..., axis], numeric, atol=1e-8)


def test_left_jacobian_is_the_mean_of_the_rotations_on_the_way():
    """J(v) is the integral of exp(s v) over s from 0 to 1 (here Gauss's rule, exact to rounding)."""
    v = np.array([0.4, -1.2, 0.9])
    s, w = np.polynomial.legendre.leggauss(20)
    mean = np.einsum("s,sij->ij", w / 2, rot.exp_rotation((s[:, None] + 1) / 2 * v))
    assert np.allclose(rot.left_jacobian(v), mean, atol=1e-14)
