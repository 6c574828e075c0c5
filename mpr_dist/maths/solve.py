"""Damped normal equations of a bundle adjustment: many small blocks (points) coupled to one dense system (cameras).

    [ S   B ] [x]   [g]        S (n, n) dense, B (n, points, k), P (points, k, k) block diagonal
    [ B^T P ] [y] = [h]

The points are eliminated block by block (Schur complement), the dense rest is solved by Cholesky.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Attributes:
    s: (n, n) symmetric; b: (n, points, k); p: (points, k, k); g: (n,); h: (points, k).
    device: what they are solved with; where: the device that has the arrays, that one or the host.
    """

    s: Any
    b: Any
    p: Any
    g: Any
    h: Any
    device: Device = HOST
    where: Device = HOST

    @property
    def arrays(self) -> tuple[Any, Any, Any, Any, Any]:
        return self.s, self.b, self.p, self.g, self.h

    def on_host(self) -> NormalEquations:
        """The same with the arrays on the host; still solved with the device."""
        if self.where is HOST:
            return self
        s, b, p, g, h = (self.where.take(each) for each in self.arrays)
        return NormalEquations(s, b, p, g, h, self.device)


def solve(equations: NormalEquations, damping: float = 0.0) -> tuple[F64, F64]:
    """Solution (n,), (points, k) with the diagonal multiplied by 1 + damping. LinAlgError if not positive definite."""
    return there_or_here(equations.device, lambda device: _solved(equations, damping, device))


def _there(equations: NormalEquations, device: Device) -> tuple[Any, ...]:
    if equations.where is not device:
        equations = equations.on_host()
    return tuple(device.put(each) for each in equations.arrays)


def _solved(equations: NormalEquations, damping: float, device: Device) -> tuple[F64, F64]:
    xp = device.xp
    s, b, p, g, h = _there(equations, device)
    s = s + xp.diag(damping * xp.diag(s))
    if not equations.p.size:
        return device.take(device.factorised(s)(g)), device.take(xp.zeros_like(h))
    p = p + damping * xp.eye(p.shape[-1]) * p
    below = device.inverse(xp.linalg.cholesky(p))
    coupled = _coupled(b, below, device)
    right = xp.einsum("pkl,pl->pk", below, h)
    x = device.factorised(_reduced(s, coupled, device))(g - coupled @ right.ravel())
    y = xp.einsum("plk,pl->pk", below, right - (x @ coupled).reshape(right.shape))
    return device.take(x), device.take(y)


def _coupled(b: Any, below: Any, device: Device) -> Any:
    """(n, points k) B L^-T for P = L L^T and ``below`` = L^-1."""
    return device.xp.einsum("npk,plk->npl", b, below).reshape(len(b), b.shape[1] * b.shape[2])


def _reduced(s: Any, coupled: Any, device: Device) -> Any:
    """S - B P^-1 B^T. On the host half of the products are enough, and s is overwritten."""
    if device.is_card or not s.size:
        return s - coupled @ coupled.T
    # transposed, arrays are in the order of LAPACK
    lower = scipy.linalg.blas.dsyrk(-1.0, coupled.T, 1.0, s.T, trans=1, lower=1, overwrite_c=1)
    return np.asarray(lower)


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
    below = device.inverse(xp.linalg.cholesky(p))
    coupled = _coupled(b, below, device)
    dense = _inverse(_reduced(xp.array(s), coupled, device), device)
    spread = xp.einsum("npl,plk->npk", (dense @ coupled).reshape(b.shape), below)
    back = xp.einsum("npl,plk->npk", coupled.reshape(b.shape), below)
    of_points = xp.swapaxes(below, 1, 2) @ below + xp.einsum("npk,npl->pkl", back, spread)
    return Covariance(device.take(dense), device.take(-spread), device.take(of_points))


def _inverse(lower: Any, device: Device) -> Any:
    """Inverse of a symmetric positive definite matrix of which the lower half is given; LinAlgError if it is none."""
    if device.is_card or not lower.size:
        return device.factorised(lower)(device.xp.eye(len(lower)))
    factor, wrong = scipy.linalg.lapack.dpotrf(lower, lower=1, overwrite_a=1)
    if wrong == 0:
        factor, wrong = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if wrong:
        raise np.linalg.LinAlgError("the normal matrix is not positive definite")
    half = np.tril(factor)
    return half + np.tril(half, -1).T
