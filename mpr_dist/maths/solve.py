"""Damped normal equations of a bundle adjustment: many small blocks (points) coupled to one dense system (cameras).

    [ S   B ] [x]   [g]        S (n, n) dense, B (n, points, k), P (points, k, k) block diagonal
    [ B^T P ] [y] = [h]

The points are eliminated block by block (Schur complement), the dense rest is solved by Cholesky.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Attributes:
    s: (n, n) symmetric; b: (n, points, k); p: (points, k, k); g: (n,); h: (points, k).
    """

    s: F64
    b: F64
    p: F64
    g: F64
    h: F64


def solve(equations: NormalEquations, damping: float = 0.0) -> tuple[F64, F64]:
    """Solution (n,), (points, k) with the diagonal multiplied by 1 + damping. LinAlgError if not positive definite."""
    s = equations.s + np.diag(damping * np.diag(equations.s))
    if not equations.p.size:
        return np.asarray(cho_solve(cho_factor(s, lower=True), equations.g)), np.zeros_like(equations.h)
    p = equations.p + damping * np.eye(equations.p.shape[-1]) * equations.p
    p_inverse = np.linalg.inv(p)
    n, points, k = equations.b.shape
    coupled = np.einsum("npk,pkl->npl", equations.b, p_inverse).reshape(n, points * k)
    flat = equations.b.reshape(n, points * k)
    reduced = s - coupled @ flat.T
    x = cho_solve(cho_factor(reduced, lower=True), equations.g - coupled @ equations.h.ravel())
    y = np.einsum("pkl,pl->pk", p_inverse, equations.h - np.einsum("npk,n->pk", equations.b, x))
    return np.asarray(x), y


@dataclass(frozen=True, eq=False)
class Covariance:
    """Inverse of the undamped normal matrix, by blocks: s (n, n), sp (n, points, k), p (points, k, k)."""

    s: F64
    sp: F64
    p: F64


def covariance(equations: NormalEquations) -> Covariance:
    """Diagonal blocks of the inverse of the whole matrix."""
    if not equations.p.size:
        return Covariance(np.asarray(np.linalg.inv(equations.s), np.float64), np.zeros_like(equations.b), equations.p)
    p_inverse = np.linalg.inv(equations.p)
    n, points, k = equations.b.shape
    coupled = np.einsum("npk,pkl->npl", equations.b, p_inverse)
    flat = coupled.reshape(n, points * k)
    reduced = equations.s - flat @ equations.b.reshape(n, points * k).T
    dense = np.asarray(cho_solve(cho_factor(reduced, lower=True), np.eye(n)))
    spread = (dense @ flat).reshape(n, points, k)
    return Covariance(dense, -spread, p_inverse + np.einsum("npk,npl->pkl", coupled, spread))
