"""How a pose changes along the dose: monotone cubics through a few samples, positions in space, turns on the group.

Samples stand at equal distances on 0..1. One sample is a constant, two a straight line, more a piecewise cubic that
never overshoots its samples (Fritsch and Carlson 1980, with the harmonic mean of Fritsch and Butland 1984; what M calls
Cubic1D and Matlab pchip). Everything has exact derivatives with respect to the samples, but where neighbouring
differences change sign: there the slope has a kink, and its derivative is taken as zero. A constant trajectory of three
or more samples is such a place; the first step leaves it.

Samples and places are on the host, there are few; what they become in every tilt is an array of ``device``.
"""

from __future__ import annotations

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.maths.rotations import exp_rotation, left_jacobian, log_rotation
from mpr_dist.units import F64, I64


def pchip(values: F64, x: F64, device: Device = HOST) -> F64:
    """Values (..., samples) at x (points,) in 0..1 -> (..., points)."""
    lower, upper, basis = _hermite(values.shape[-1], x, device)
    there, slopes = device.put(values), device.put(_slopes(values)[0])
    ends = basis[0] * there[..., lower] + basis[1] * there[..., upper]
    out: F64 = ends + basis[2] * slopes[..., lower] + basis[3] * slopes[..., upper]
    return out


def pchip_derivative(values: F64, x: F64, device: Device = HOST) -> F64:
    """(..., points, samples) derivative of ``pchip`` with respect to the values."""
    n, xp = values.shape[-1], device.xp
    lower, upper, basis = _hermite(n, x, device)
    slope = device.put(_slopes(values)[1])
    ends, rows = xp.zeros((len(x), n)), xp.arange(len(x))
    ends[rows, lower] += basis[0]
    ends[rows, upper] += basis[1]
    out: F64 = ends + basis[2][:, None] * slope[..., lower, :] + basis[3][:, None] * slope[..., upper, :]
    return out


def _hermite(n: int, x: F64, device: Device) -> tuple[I64, I64, F64]:
    """Samples before and behind every point, and (4, points) Hermite polynomials there; slopes are per sample."""
    cell, basis = np.zeros(len(x), np.int64), np.zeros((4, len(x)))
    if n == 1:
        basis[0] = 1.0
    else:
        place = np.clip(x, 0.0, 1.0) * (n - 1)
        cell = np.minimum(place.astype(np.int64), n - 2)
        t = place - cell
        t2, t3 = t * t, t * t * t
        basis[:] = 2 * t3 - 3 * t2 + 1, 3 * t2 - 2 * t3, t3 - 2 * t2 + t, t3 - t2
    return device.put(cell), device.put(cell + (n > 1)), device.put(basis)


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


def position_along(samples_A: F64, x: F64, device: Device = HOST) -> F64:
    """Positions (particles, samples, 3) at x (tilts,) -> (particles, tilts, 3)."""
    out: F64 = device.xp.moveaxis(pchip(np.moveaxis(samples_A, 1, 2), x, device), 2, 1)
    return out


def position_derivative(samples_A: F64, x: F64, device: Device = HOST) -> F64:
    """(particles, tilts, 3, samples): component i of the position per component i of a sample; others do not matter."""
    out: F64 = device.xp.moveaxis(pchip_derivative(np.moveaxis(samples_A, 1, 2), x, device), 1, 2)
    return out


def rotation_along(samples: F64, x: F64, device: Device = HOST) -> F64:
    """Rotations (particles, samples, 3, 3) at x (tilts,) -> (particles, tilts, 3, 3).

    Rotation vectors from the first sample, in the outer frame, follow a monotone cubic: with two samples that is the
    shortest turn between them at constant speed.
    """
    first = device.put(samples[:, :1])
    if samples.shape[1] == 1:
        same: F64 = device.xp.broadcast_to(first, (len(samples), len(x), 3, 3))
        return same
    turned: F64 = exp_rotation(position_along(_from_first(samples), x, device), device) @ first
    return turned


def rotation_derivative(samples: F64, x: F64, device: Device = HOST) -> F64:
    """(particles, tilts, 3, samples, 3): left rotation vector of the result per left rotation vector of each sample."""
    (n_p, n), xp = samples.shape[:2], device.xp
    out: F64
    if n == 1:
        out = xp.broadcast_to(xp.eye(3)[None, None, :, None], (n_p, len(x), 3, 1, 3))
        return out
    vectors = _from_first(samples)
    along = position_along(vectors, x, device)
    weight = position_derivative(vectors, x, device)
    forward = left_jacobian(along, device)
    out = xp.zeros((n_p, len(x), 3, n, 3))
    out[:, :, :, 0] = exp_rotation(along, device)
    for k in range(1, n):
        # turning sample k moves its vector by the inverse left Jacobian, turning the first one by minus the right one
        left, right = (device.put(np.linalg.inv(left_jacobian(sign * vectors[:, k]))) for sign in (1, -1))
        out[:, :, :, k] += forward @ (weight[..., k][..., None] * left[:, None])
        out[:, :, :, 0] -= forward @ (weight[..., k][..., None] * right[:, None])
    return out


def _from_first(samples: F64) -> F64:
    """(particles, samples, 3) rotation vectors that turn the first sample into each."""
    return log_rotation(samples @ np.swapaxes(samples[:, :1], -1, -2))
