"""Damped normal equations of a bundle adjustment: many small blocks (points) coupled to one dense system (cameras).

    [ S   B ] [x]   [g]        S (n, n) dense, B (n, points, k), P (points, k, k) block diagonal
    [ B^T P ] [y] = [h]

The points are eliminated block by block (Schur complement), the dense rest is solved by Cholesky.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Attributes:
    s: (n, n) symmetric; b: (n, points, k); p: (points, k, k); g: (n,); h: (points, k). On the host.
    device: what they are solved with.
    """

    s: F64
    b: F64
    p: F64
    g: F64
    h: F64
    device: Device = HOST


def solve(equations: NormalEquations, damping: float = 0.0) -> tuple[F64, F64]:
    """Solution (n,), (points, k) with the diagonal multiplied by 1 + damping. LinAlgError if not positive definite."""
    return there_or_here(equations.device, lambda device: _solved(equations, damping, device))


def _there(equations: NormalEquations, device: Device) -> tuple[Any, ...]:
    return tuple(device.put(each) for each in (equations.s, equations.b, equations.p, equations.g, equations.h))


def _solved(equations: NormalEquations, damping: float, device: Device) -> tuple[F64, F64]:
    xp = device.xp
    s, b, p, g, h = _there(equations, device)
    s = s + xp.diag(damping * xp.diag(s))
    if not equations.p.size:
        return device.take(device.factorised(s)(g)), device.take(xp.zeros_like(h))
    p = p + damping * xp.eye(p.shape[-1]) * p
    p_inverse = device.inverse(p)
    n, points, k = b.shape
    coupled = xp.einsum("npk,pkl->npl", b, p_inverse).reshape(n, points * k)
    reduced = s - coupled @ b.reshape(n, points * k).T
    x = device.factorised(reduced)(g - coupled @ h.ravel())
    y = xp.einsum("pkl,pl->pk", p_inverse, h - xp.einsum("npk,n->pk", b, x))
    return device.take(x), device.take(y)


@dataclass(frozen=True, eq=False)
class Covariance:
    """Inverse of the undamped normal matrix, by blocks: s (n, n), sp (n, points, k), p (points, k, k)."""

    s: F64
    sp: F64
    p: F64


def covariance(equations: NormalEquations) -> Covariance:
    """Diagonal blocks of the inverse of the whole matrix."""
    return there_or_here(equations.device, lambda device: _inverted(equations, device))


def _inverted(equations: NormalEquations, device: Device) -> Covariance:
    xp = device.xp
    s, b, p, _, _ = _there(equations, device)
    if not equations.p.size:
        return Covariance(device.take(device.inverse(s)), device.take(xp.zeros_like(b)), device.take(p))
    p_inverse = device.inverse(p)
    n, points, k = b.shape
    coupled = xp.einsum("npk,pkl->npl", b, p_inverse)
    flat = coupled.reshape(n, points * k)
    reduced = s - flat @ b.reshape(n, points * k).T
    dense = device.factorised(reduced)(xp.eye(n))
    spread = (dense @ flat).reshape(n, points, k)
    of_points = p_inverse + xp.einsum("npk,npl->pkl", coupled, spread)
    return Covariance(device.take(dense), device.take(-spread), device.take(of_points))
