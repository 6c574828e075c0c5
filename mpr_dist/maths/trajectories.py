"""How a pose changes along the dose: monotone cubics through a few samples, positions in space, turns on the group.

Samples stand at equal distances on 0..1. One sample is a constant, two a straight line, more a piecewise cubic that
never overshoots its samples (Fritsch and Carlson 1980, with the harmonic mean of Fritsch and Butland 1984; what M calls
Cubic1D and Matlab pchip). Everything has exact derivatives with respect to the samples, but where neighbouring
differences change sign: there the slope has a kink, and its derivative is taken as zero. A constant trajectory of three
or more samples is such a place; the first step leaves it.
"""

from __future__ import annotations

import numpy as np

from mpr_dist.maths.rotations import exp_rotation, left_jacobian, log_rotation
from mpr_dist.units import F64


def pchip(values: F64, x: F64) -> F64:
    """Values (..., samples) at x (points,) in 0..1 -> (..., points)."""
    cell, basis = _hermite(values.shape[-1], x)
    slopes, _ = _slopes(values)
    low, high = values[..., cell], values[..., cell + (values.shape[-1] > 1)]
    slope_low, slope_high = slopes[..., cell], slopes[..., cell + (values.shape[-1] > 1)]
    return np.asarray(basis[0] * low + basis[1] * high + basis[2] * slope_low + basis[3] * slope_high)


def pchip_derivative(values: F64, x: F64) -> F64:
    """(..., points, samples) derivative of ``pchip`` with respect to the values."""
    n = values.shape[-1]
    cell, basis = _hermite(n, x)
    _, slope = _slopes(values)
    out = np.zeros((*values.shape[:-1], len(x), n))
    rows = np.arange(len(x))
    upper = cell + (n > 1)
    out[..., rows, cell] += basis[0]
    out[..., rows, upper] += basis[1]
    return np.asarray(out + basis[2][:, None] * slope[..., cell, :] + basis[3][:, None] * slope[..., upper, :])


def _hermite(n: int, x: F64) -> tuple[np.ndarray, tuple[F64, F64, F64, F64]]:
    """Cell of every point, and the four Hermite polynomials there; slopes are per sample."""
    if n == 1:
        zero = np.zeros(len(x))
        return np.zeros(len(x), np.int64), (np.ones(len(x)), zero, zero, zero)
    place = np.clip(x, 0.0, 1.0) * (n - 1)
    cell = np.minimum(place.astype(np.int64), n - 2)
    t = place - cell
    t2, t3 = t * t, t * t * t
    return cell, (2 * t3 - 3 * t2 + 1, 3 * t2 - 2 * t3, t3 - 2 * t2 + t, t3 - t2)


def _slopes(values: F64) -> tuple[F64, F64]:
    """Slope at every sample (..., samples) and its derivative (..., samples, samples)."""
    n = values.shape[-1]
    slopes, derivative = np.zeros(values.shape), np.zeros((*values.shape, n))
    if n == 1:
        return slopes, derivative
    step = np.diff(values, axis=-1)
    if n == 2:
        slopes[:] = step
        derivative[..., :, 0], derivative[..., :, 1] = -1.0, 1.0
        return slopes, derivative
    a, b = step[..., :-1], step[..., 1:]
    same = a * b > 0
    total = np.where(same, a + b, 1.0)
    slopes[..., 1:-1] = np.where(same, 2 * a * b / total, 0.0)
    to_a, to_b = np.where(same, 2 * (b / total) ** 2, 0.0), np.where(same, 2 * (a / total) ** 2, 0.0)
    for k in range(1, n - 1):
        derivative[..., k, k - 1] = -to_a[..., k - 1]
        derivative[..., k, k] = to_a[..., k - 1] - to_b[..., k - 1]
        derivative[..., k, k + 1] = to_b[..., k - 1]
    for end, order in ((0, (0, 1, 2)), (n - 1, (n - 1, n - 2, n - 3))):
        _end_slope(values, end, order, slopes, derivative)
    return slopes, derivative


def _end_slope(values: F64, end: int, order: tuple[int, int, int], slopes: F64, derivative: F64) -> None:
    """Three-point slope at one end, kept from overshooting (in place)."""
    sign = 1.0 if end == 0 else -1.0
    first = sign * (values[..., order[1]] - values[..., order[0]])
    second = sign * (values[..., order[2]] - values[..., order[1]])
    free = 1.5 * first - 0.5 * second
    stopped = free * first <= 0
    capped = ~stopped & (first * second < 0) & (np.abs(free) > 3 * np.abs(first))
    slopes[..., end] = np.where(stopped, 0.0, np.where(capped, 3 * first, free))
    to_first = np.where(stopped, 0.0, np.where(capped, 3.0, 1.5))
    to_second = np.where(stopped | capped, 0.0, -0.5)
    derivative[..., end, order[0]] = -sign * to_first
    derivative[..., end, order[1]] = sign * (to_first - to_second)
    derivative[..., end, order[2]] = sign * to_second


def position_along(samples_A: F64, x: F64) -> F64:
    """Positions (particles, samples, 3) at x (tilts,) -> (particles, tilts, 3)."""
    return np.asarray(np.moveaxis(pchip(np.moveaxis(samples_A, 1, 2), x), 2, 1))


def position_derivative(samples_A: F64, x: F64) -> F64:
    """(particles, tilts, 3, samples): component i of the position per component i of a sample; others do not matter."""
    return np.asarray(np.moveaxis(pchip_derivative(np.moveaxis(samples_A, 1, 2), x), 1, 2))


def rotation_along(samples: F64, x: F64) -> F64:
    """Rotations (particles, samples, 3, 3) at x (tilts,) -> (particles, tilts, 3, 3).

    Rotation vectors from the first sample, in the outer frame, follow a monotone cubic: with two samples that is the
    shortest turn between them at constant speed.
    """
    if samples.shape[1] == 1:
        return np.broadcast_to(samples, (len(samples), len(x), 3, 3))
    vectors = position_along(_from_first(samples), x)
    return np.asarray(exp_rotation(vectors) @ samples[:, :1])


def rotation_derivative(samples: F64, x: F64) -> F64:
    """(particles, tilts, 3, samples, 3): left rotation vector of the result per left rotation vector of each sample."""
    n_p, n = samples.shape[:2]
    if n == 1:
        return np.broadcast_to(np.eye(3)[None, None, :, None], (n_p, len(x), 3, 1, 3))
    vectors = _from_first(samples)
    along = position_along(vectors, x)
    weight = position_derivative(vectors, x)
    forward = left_jacobian(along)
    out = np.zeros((n_p, len(x), 3, n, 3))
    out[:, :, :, 0] = exp_rotation(along)
    for k in range(1, n):
        # turning sample k moves its vector by the inverse left Jacobian, turning the first one by minus the right one
        left = np.linalg.inv(left_jacobian(vectors[:, k]))
        moved = forward @ (weight[..., k][..., None] * left[:, None])
        out[:, :, :, k] += moved
        right = np.linalg.inv(left_jacobian(-vectors[:, k]))
        out[:, :, :, 0] -= forward @ (weight[..., k][..., None] * right[:, None])
    return out


def _from_first(samples: F64) -> F64:
    """(particles, samples, 3) rotation vectors that turn the first sample into each."""
    return log_rotation(samples @ np.swapaxes(samples[:, :1], -1, -2))
