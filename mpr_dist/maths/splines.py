"""Interpolation on the grids of Warp: natural cubic splines (tensor products) and quadrilinear grids.

Both are linear in their node values, so everything is expressed by weights: value = sum_i w_i(x) node_i. The weights
are also the derivatives with respect to the nodes, which refinement needs. Points and values are arrays of ``device``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from mpr_dist.arrays import HOST, Device
from mpr_dist.units import F64, I64

# from so many on, points at the same place are worth looking for
MANY_NODES = 16
# at most so many are the places of tilts
FEW_PLACES = 256


@lru_cache(maxsize=256)
def _cardinal(n: int, margin: float) -> tuple[F64, F64]:
    """Nodes (n,); coefficients (4, n - 1, n): power, falling; piece; node that is 1 while all others are 0."""
    nodes = np.linspace(margin, 1.0 - margin, n)
    return nodes, np.ascontiguousarray(CubicSpline(nodes, np.eye(n), bc_type="natural").c)


def natural_weights(n: int, x: ArrayLike, margin: float = 0.0, derivative: int = 0, device: Device = HOST) -> F64:
    """Weights (points, n) of n equally spaced nodes on margin..1-margin at x (points,).

    Natural boundary; outside the nodes the last cubic piece continues, as in Warp. One node is a constant, two are a
    straight line. ``derivative`` = 1 gives the weights of d/dx.
    """
    xp = device.xp
    at = xp.asarray(x, np.float64).ravel()
    out: F64
    if n == 1:
        out = xp.ones((at.size, 1)) if derivative == 0 else xp.zeros((at.size, 1))
    elif n == 2:
        span = 1.0 - 2.0 * margin
        t = (at - margin) / span
        rising = xp.zeros_like(t) + 1.0 / span
        out = xp.stack([-rising, rising] if derivative else [1.0 - t, t], 1)
    elif n < MANY_NODES or device.is_card:
        out = _piecewise(n, at, margin, derivative, device)
    else:
        # a node per tilt: all particles of a tilt are at the same place
        places, which = np.unique(at, return_inverse=True)
        out = _piecewise(n, places, margin, derivative, device)[which]
    return out


def _piecewise(n: int, x: F64, margin: float, derivative: int, device: Device) -> F64:
    """The cubic of its piece at every x, in the order of operations of scipy's ``PPoly``."""
    xp, (nodes, coefficients) = device.xp, _cardinal(n, margin)
    nodes, coefficients = device.kept(nodes), device.kept(coefficients)
    piece = xp.clip(xp.searchsorted(nodes, x, side="right") - 1, 0, n - 2)
    t = (x - nodes[piece])[:, None]

    def times(power: int, factor: Any) -> Any:
        term = xp.take(coefficients[3 - power], piece, axis=0)
        term *= factor
        return term

    out: F64
    if derivative:
        out = times(1, 1.0) + times(2, t) * 2.0
        out += times(3, t * t) * 3.0
    else:
        out = times(0, 1.0) + times(1, t)
        out += times(2, t * t)
        out += times(3, t * t * t)
    return out


@lru_cache(maxsize=64)
def _remembered(n: int, places: bytes, margin: float, derivative: int) -> F64:
    """Weights of a few places, the same array every time."""
    weights = natural_weights(n, np.frombuffer(places), margin, derivative)
    weights.flags.writeable = False
    return weights


def place_weights(n: int, u: F64, margin: float, derivative: int, device: Device = HOST) -> F64:
    """Weights (..., n) of ``natural_weights`` at u (...) in 0..1.

    A few places on the host, such as those of tilts, may be given to any device: what belongs to them is made once and
    stays there.
    """
    if type(u) is np.ndarray and u.size <= FEW_PLACES:
        own = device.kept(_remembered(n, u.astype(np.float64).tobytes(), margin, derivative))
    else:
        own = natural_weights(n, u, margin, derivative, device)
    out: F64 = own.reshape(*u.shape, n)
    return out


def spread(weights: Sequence[F64], device: Device = HOST) -> tuple[F64, ...]:
    """Weights (points, nodes) of all points that places along each axis make together, from weights (..., nodes)."""
    whole = np.broadcast_shapes(*(each.shape[:-1] for each in weights))
    return tuple(device.xp.broadcast_to(w, (*whole, w.shape[-1])).reshape(-1, w.shape[-1]) for w in weights)


def weighted_grid(values: F64, weights: Sequence[F64], device: Device = HOST) -> F64:
    """Values (points,) of a (depth, height, width) grid by weights along x, y, z (points, nodes)."""
    wx, wy, wz = weights
    out: F64 = device.xp.einsum("pz,py,px,zyx->p", wz, wy, wx, values, optimize=True)
    return out


def cubic_grid(
    values: F64,
    points: ArrayLike,
    margins: tuple[float, float, float] = (0.0, 0.0, 0.0),
    derivative: tuple[int, int, int] = (0, 0, 0),
) -> F64:
    """Values of a (depth, height, width) grid at points (..., 3) = x, y, z in 0..1; shape (...)."""
    p = np.asarray(points, np.float64)
    flat = p.reshape(-1, 3)
    axes = zip(values.shape[::-1], flat.T, margins, derivative, strict=True)
    return weighted_grid(values, [natural_weights(*axis) for axis in axes]).reshape(p.shape[:-1])


def linear_weights(n: int, x: ArrayLike, device: Device = HOST) -> F64:
    """Weights (points, n) of linear interpolation on nodes i/(n-1), as Warp's LinearGrid4D does it.

    The cell index is clamped, its fraction is not: below 0 the first cell extrapolates, above 1 the last node stays.
    """
    xp = device.xp
    at = xp.asarray(x, np.float64).ravel()
    weights: F64 = xp.zeros((at.size, n))
    if n == 1:
        weights[:] = 1.0
        return weights
    p, rows = at * (n - 1), xp.arange(at.size)
    lower, upper = _cell(p, n, device)
    weights[rows, lower] = 1.0 - (p - lower)
    weights[rows, upper] += p - lower
    return weights


def _cell(p: F64, n: int, device: Device) -> tuple[I64, I64]:
    """Nodes below and above every place p (points,), counted in nodes; the last one twice beyond it."""
    xp = device.xp
    lower = xp.clip(xp.trunc(p).astype(np.int64), 0, n - 1)
    return lower, xp.minimum(lower + 1, n - 1)


def linear_grid4(values: F64, points: ArrayLike, device: Device = HOST) -> F64:
    """Values of a (duration, depth, height, width) grid at points (..., 4) = x, y, z, w in 0..1; shape (...)."""
    p: F64 = device.xp.asarray(points, np.float64)
    flat = p.reshape(-1, 4)
    w = [linear_weights(n, flat[:, axis], device) for axis, n in enumerate(values.shape[::-1])]
    return _weighted4(values, w, device).reshape(p.shape[:-1])


def _weighted4(values: F64, w: list[F64], device: Device) -> F64:
    out: F64 = device.xp.einsum("pw,pz,py,px,wzyx->p", w[3], w[2], w[1], w[0], values, optimize=True)
    return out


def resample_cubic(values: F64, shape: tuple[int, int, int], margins: tuple[float, float, float]) -> F64:
    """The same spline sampled at the nodes (no margins) of a grid of another (depth, height, width) shape."""
    out = values
    for axis, n in enumerate(shape):
        nodes = np.linspace(0.0, 1.0, n) if n > 1 else np.array([0.5])
        weights = natural_weights(values.shape[axis], nodes, margins[2 - axis])
        out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out)


def linear_grid4_slope(values: F64, points: ArrayLike, axis: int, device: Device = HOST) -> F64:
    """Derivative of ``linear_grid4`` along normalised x, y or z (axis 0, 1, 2) at points (..., 4); shape (...).

    That of the cell on the upper side where two cells meet.
    """
    xp = device.xp
    p: F64 = xp.asarray(points, np.float64)
    flat = p.reshape(-1, 4)
    counts = values.shape[::-1]
    w = [linear_weights(n, flat[:, i], device) for i, n in enumerate(counts)]
    n = counts[axis]
    w[axis] = xp.zeros_like(w[axis])
    if n > 1:
        lower, upper = _cell(flat[:, axis] * (n - 1), n, device)
        steep, rows = xp.where(lower < upper, n - 1.0, 0.0), xp.arange(len(flat))
        w[axis][rows, lower] -= steep
        w[axis][rows, upper] += steep
    return _weighted4(values, w, device).reshape(p.shape[:-1])
