"""Interpolation on the grids of Warp: natural cubic splines (tensor products) and quadrilinear grids.

Both are linear in their node values, so everything is expressed by weights: value = sum_i w_i(x) node_i. The weights
are also the derivatives with respect to the nodes, which refinement needs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from mpr_dist.units import F64

# from so many on, points at the same place are worth looking for
MANY_NODES = 16


@lru_cache(maxsize=256)
def _cardinal(n: int, margin: float) -> CubicSpline:
    nodes = np.linspace(margin, 1.0 - margin, n)
    return CubicSpline(nodes, np.eye(n), bc_type="natural", extrapolate=True)


def natural_weights(n: int, x: ArrayLike, margin: float = 0.0, derivative: int = 0) -> F64:
    """Weights (points, n) of n equally spaced nodes on margin..1-margin at x (points,).

    Natural boundary; outside the nodes the last cubic piece continues, as in Warp. One node is a constant, two are a
    straight line. ``derivative`` = 1 gives the weights of d/dx.
    """
    x = np.asarray(x, np.float64).ravel()
    if n == 1:
        return np.ones((x.size, 1)) if derivative == 0 else np.zeros((x.size, 1))
    if n == 2:
        span = 1.0 - 2.0 * margin
        t = (x - margin) / span
        if derivative:
            return np.tile([-1.0 / span, 1.0 / span], (x.size, 1))
        return np.stack([1.0 - t, t], 1)
    if n < MANY_NODES:
        return np.asarray(_cardinal(n, margin)(x, nu=derivative))
    # a node per tilt: all particles of a tilt are at the same place
    places, which = np.unique(x, return_inverse=True)
    return np.asarray(_cardinal(n, margin)(places, nu=derivative)[which])


def cubic_grid(
    values: F64,
    points: ArrayLike,
    margins: tuple[float, float, float] = (0.0, 0.0, 0.0),
    derivative: tuple[int, int, int] = (0, 0, 0),
) -> F64:
    """Values of a (depth, height, width) grid at points (..., 3) = x, y, z in 0..1; shape (...)."""
    p = np.asarray(points, np.float64)
    flat = p.reshape(-1, 3)
    depth, height, width = values.shape
    wx = natural_weights(width, flat[:, 0], margins[0], derivative[0])
    wy = natural_weights(height, flat[:, 1], margins[1], derivative[1])
    wz = natural_weights(depth, flat[:, 2], margins[2], derivative[2])
    return np.asarray(np.einsum("pz,py,px,zyx->p", wz, wy, wx, values, optimize=True).reshape(p.shape[:-1]))


def linear_weights(n: int, x: ArrayLike) -> F64:
    """Weights (points, n) of linear interpolation on nodes i/(n-1), as Warp's LinearGrid4D does it.

    The cell index is clamped, its fraction is not: below 0 the first cell extrapolates, above 1 the last node stays.
    """
    x = np.asarray(x, np.float64).ravel()
    weights = np.zeros((x.size, n))
    if n == 1:
        weights[:] = 1.0
        return weights
    p = x * (n - 1)
    i = np.clip(np.trunc(p).astype(int), 0, n - 1)
    j = np.minimum(i + 1, n - 1)
    rows = np.arange(x.size)
    np.add.at(weights, (rows, i), 1.0 - (p - i))
    np.add.at(weights, (rows, j), p - i)
    return weights


def linear_grid4(values: F64, points: ArrayLike) -> F64:
    """Values of a (duration, depth, height, width) grid at points (..., 4) = x, y, z, w in 0..1; shape (...)."""
    p = np.asarray(points, np.float64)
    flat = p.reshape(-1, 4)
    w = [linear_weights(n, flat[:, axis]) for axis, n in enumerate(values.shape[::-1])]
    out = np.einsum("pw,pz,py,px,wzyx->p", w[3], w[2], w[1], w[0], values, optimize=True)
    return np.asarray(out.reshape(p.shape[:-1]))


def resample_cubic(values: F64, shape: tuple[int, int, int], margins: tuple[float, float, float]) -> F64:
    """The same spline sampled at the nodes (no margins) of a grid of another (depth, height, width) shape."""
    out = values
    for axis, n in enumerate(shape):
        nodes = np.linspace(0.0, 1.0, n) if n > 1 else np.array([0.5])
        weights = natural_weights(values.shape[axis], nodes, margins[2 - axis])
        out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out)


def linear_grid4_slope(values: F64, points: ArrayLike, axis: int) -> F64:
    """Derivative of ``linear_grid4`` along normalised x, y or z (axis 0, 1, 2) at points (..., 4); shape (...).

    That of the cell on the upper side where two cells meet.
    """
    p = np.asarray(points, np.float64)
    flat = p.reshape(-1, 4)
    counts = values.shape[::-1]
    w = [linear_weights(n, flat[:, i]) for i, n in enumerate(counts)]
    n = counts[axis]
    w[axis] = np.zeros_like(w[axis])
    if n > 1:
        cell = np.clip(np.trunc(flat[:, axis] * (n - 1)).astype(int), 0, n - 1)
        inside = cell < n - 1
        rows = np.flatnonzero(inside)
        w[axis][rows, cell[rows]], w[axis][rows, cell[rows] + 1] = -(n - 1.0), n - 1.0
    out = np.einsum("pw,pz,py,px,wzyx->p", w[3], w[2], w[1], w[0], values, optimize=True)
    return np.asarray(out.reshape(p.shape[:-1]))
