"""Damped normal equations of a bundle adjustment: many small blocks (points) coupled to one dense system (cameras).

    [ S   B ] [x]   [g]        S (n, n), B (n, points, k), P (points, k, k) block diagonal
    [ B^T P ] [y] = [h]

Either the points are eliminated block by block (Schur complement), and the dense rest is solved by Cholesky. Or, where
most of S is a chain of blocks, the chain is eliminated: what is left are the points and the rest of S.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.maths.chain import Chain
from mpr_dist.units import F64, I64

# rows that are mirrored at once: small enough for the cache of a core
MIRRORED_ROWS = 128


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Attributes:
    s: (n, n) symmetric; b: (n, points, k); p: (points, k, k); g: (n,); h: (points, k).
    device: what they are solved with; where: the device that has the arrays, that one or the host.
    chain: rows of S, in blocks of which S couples neighbours only, and the rest of S with all; none: S is dense.
    """

    s: Any
    b: Any
    p: Any
    g: Any
    h: Any
    device: Device = HOST
    where: Device = HOST
    chain: tuple[I64, ...] = ()

    @property
    def arrays(self) -> tuple[Any, Any, Any, Any, Any]:
        return self.s, self.b, self.p, self.g, self.h

    def on_host(self) -> NormalEquations:
        """The same with the arrays on the host; still solved with the device."""
        if self.where is HOST:
            return self
        s, b, p, g, h = (self.where.take(each) for each in self.arrays)
        return NormalEquations(s, b, p, g, h, self.device, chain=self.chain)


@dataclass(frozen=True, eq=False)
class Covariance:
    """Inverse of the undamped normal matrix, by blocks: s (n, n), sp (n, points, k), p (points, k, k).

    where: the device that has them.
    """

    s: Any
    sp: Any
    p: Any
    where: Device = HOST

    def on_host(self) -> Covariance:
        """The same with the arrays on the host."""
        if self.where is HOST:
            return self
        return Covariance(*(self.where.take(each) for each in (self.s, self.sp, self.p)))


def solve(equations: NormalEquations, damping: float = 0.0) -> tuple[F64, F64]:
    """Solution (n,), (points, k) with the diagonal multiplied by 1 + damping. LinAlgError if not positive definite."""
    return there_or_here(equations.device, lambda device: _factorised(equations, damping, device).solution())


def covariance(equations: NormalEquations, *, whole: bool = True, stay: bool = False) -> Covariance:
    """Diagonal blocks of the inverse of the whole matrix; not whole: of S nothing between two blocks of the chain.

    What is left out may be there all the same, or be zero. stay: on the card that made it.
    """
    made = there_or_here(equations.device, lambda device: _factorised(equations, 0.0, device).covariance(whole))
    return made if stay else made.on_host()


def posterior(equations: NormalEquations, *, whole: bool = True) -> tuple[Covariance, tuple[F64, F64]]:
    """Covariance and undamped solution from one factorisation; whole: as in ``covariance``."""

    def both(device: Device) -> tuple[Covariance, tuple[F64, F64]]:
        factor = _factorised(equations, 0.0, device)
        return factor.covariance(whole).on_host(), factor.solution()

    return there_or_here(equations.device, both)


def _factorised(equations: NormalEquations, damping: float, device: Device) -> WithoutPoints | WithoutChain:
    if not device.is_card and equations.chain and _chain_is_cheaper(equations):
        return WithoutChain(equations.on_host(), damping)
    return WithoutPoints(equations, damping, device)


def _chain_is_cheaper(equations: NormalEquations) -> bool:
    """By multiplications; of shapes alone, so that the same problem is always solved in the same way."""
    n, m = len(equations.g), int(np.prod(equations.h.shape))
    links = sum(map(len, equations.chain))
    left = n - links + m
    without_points = n**2 * m + n**3 / 3
    without_chain = links * left**2 + left**3 / 3 + 4 * left * sum(len(block) ** 2 for block in equations.chain)
    return bool(without_chain < without_points)


class WithoutPoints:
    """The points eliminated; S, less what they explain, factorised."""

    def __init__(self, equations: NormalEquations, damping: float, device: Device) -> None:
        if equations.where is not device:
            equations = equations.on_host()
        s, self.b, p, self.g, self.h = (device.put(each) for each in equations.arrays)
        self.device, self.p = device, p + damping * device.xp.eye(p.shape[-1]) * p
        s = device.xp.array(s)
        s.reshape(-1)[:: len(s) + 1] *= 1 + damping
        if self.h.size:
            self.below = device.inverse(device.xp.linalg.cholesky(self.p))
            # (n, points k) B L^-T for P = L L^T and below = L^-1
            moved = device.xp.swapaxes(self.b, 0, 1) @ device.xp.swapaxes(self.below, 1, 2)
            self.coupled = device.xp.swapaxes(moved, 0, 1).reshape(len(s), self.h.size)
            s = _less(s, self.coupled, device)
        self.dense = _Dense(s, device)

    def solution(self) -> tuple[F64, F64]:
        xp = self.device.xp
        if not self.h.size:
            return self._fetched(self.dense.solve(self.g), xp.zeros_like(self.h))
        right = xp.einsum("pkl,pl->pk", self.below, self.h)
        x = self.dense.solve(self.g - self.coupled @ right.ravel())
        y = xp.einsum("plk,pl->pk", self.below, right - (x @ self.coupled).reshape(right.shape))
        return self._fetched(x, y)

    def _fetched(self, x: Any, y: Any) -> tuple[F64, F64]:
        of_series, of_points = self.device.fetched((x, y))
        return of_series, of_points

    def covariance(self, whole: bool) -> Covariance:
        xp, dense = self.device.xp, self.dense.inverse()
        if not self.h.size:
            return Covariance(dense, xp.zeros_like(self.b), self.p, self.device)
        by_point = xp.swapaxes((dense @ self.coupled).reshape(self.b.shape), 0, 1) @ self.below
        back = xp.swapaxes(self.coupled.reshape(self.b.shape), 0, 1) @ self.below
        own = xp.swapaxes(self.below, 1, 2)
        of_points = own @ self.below + xp.swapaxes(back, 1, 2) @ by_point
        return Covariance(dense, -xp.swapaxes(by_point, 0, 1), of_points, self.device)


def _less(s: Any, half: Any, device: Device) -> Any:
    """S - half half^T, of which the lower half is right on the host: there s is overwritten."""
    if device.is_card or not s.size:
        return s - half @ half.T
    # transposed, arrays are in the order of LAPACK
    rows_first = half.flags.c_contiguous
    a = half.T if rows_first else half
    return scipy.linalg.blas.dsyrk(-1.0, a, 1.0, s.T, trans=int(rows_first), lower=1, overwrite_c=1)


class _Dense:
    """A symmetric positive definite matrix of which the lower half is given; LinAlgError if it is none."""

    def __init__(self, lower: Any, device: Device) -> None:
        self.device, self.size = device, len(lower)
        self.on_card = device.factorised(lower) if device.is_card or not lower.size else None
        if self.on_card is None:
            # in place where it is in the order of LAPACK
            self.factor, wrong = scipy.linalg.lapack.dpotrf(lower, lower=1, clean=0, overwrite_a=1)
            if wrong:
                raise np.linalg.LinAlgError("the normal matrix is not positive definite")

    def solve(self, right: Any) -> Any:
        if self.on_card is not None:
            return self.on_card(right)
        return scipy.linalg.lapack.dpotrs(self.factor, right, lower=1)[0]

    def halved(self, rows: F64) -> F64:
        """On the host: rows (any, n) times L^-T. The result times its own transpose is rows A^-1 rows^T."""
        if not self.size:
            return rows
        return np.asarray(scipy.linalg.blas.dtrsm(1.0, self.factor, rows.T, lower=1).T)

    def inverse(self) -> Any:
        if self.on_card is not None:
            return self.on_card(self.device.xp.eye(self.size))
        half, wrong = scipy.linalg.lapack.dpotri(self.factor, lower=1)
        if wrong:
            raise np.linalg.LinAlgError("the normal matrix is not positive definite")
        return _mirrored(half.T)


def _mirrored(upper: F64) -> F64:
    """The upper half of a matrix copied to its lower half, in place."""
    for start in range(0, len(upper), MIRRORED_ROWS):
        part = slice(start, start + MIRRORED_ROWS)
        upper[part, :start] = upper[:start, part].T
        own = upper[part, part]
        own[:] = np.triu(own) + np.triu(own, 1).T
    return upper


class WithoutChain:
    """The chain eliminated; the rest of S and the points, less what it explains, factorised: border, in this order."""

    def __init__(self, equations: NormalEquations, damping: float) -> None:
        e = self.equations = equations
        self.order = np.concatenate(e.chain)
        self.rest = np.setdiff1d(np.arange(len(e.g)), self.order)
        self.chain = Chain.of(e.s, e.chain, damping)
        points = e.b.reshape(len(e.g), e.h.size)
        coupled = np.concatenate([e.s[np.ix_(self.order, self.rest)], points[self.order]], axis=1)
        self.coupled = self.chain.forward(coupled)
        border = np.zeros((coupled.shape[1],) * 2)
        ahead = len(self.rest)
        border[:ahead, :ahead] = e.s[np.ix_(self.rest, self.rest)]
        border[:ahead, ahead:] = points[self.rest]
        border[ahead:, :ahead] = points[self.rest].T
        _diagonal_blocks(border[ahead:, ahead:], e.h.shape)[:] = e.p
        border.reshape(-1)[:: len(border) + 1] *= 1 + damping
        self.border = _Dense(_less(border, self.coupled.T, HOST), HOST)

    def solution(self) -> tuple[F64, F64]:
        e = self.equations
        own = self.chain.forward(e.g[self.order, None])
        out = self.border.solve(np.concatenate([e.g[self.rest], e.h.ravel()]) - self.coupled.T @ own[:, 0])
        x = np.empty(len(e.g))
        x[self.order] = self.chain.backward(own - self.coupled @ out[:, None])[:, 0]
        x[self.rest] = out[: len(self.rest)]
        return x, out[len(self.rest) :].reshape(e.h.shape)

    def covariance(self, whole: bool) -> Covariance:
        e, ahead = self.equations, len(self.rest)
        of_border = self.border.inverse()
        pulled = self.chain.backward(self.coupled)
        mixed, half = -pulled @ of_border, self.border.halved(pulled)
        s, sp = np.zeros(e.s.shape), np.empty((len(e.g), e.h.size))
        if whole:
            s[np.ix_(self.order, self.order)] = half @ half.T
        else:
            for columns, part in zip(e.chain, np.split(half, self.chain.ends[1:-1]), strict=True):
                s[np.ix_(columns, columns)] = part @ part.T
        self.chain.add_inverse(s, e.chain, whole)
        s[np.ix_(self.order, self.rest)] = mixed[:, :ahead]
        s[np.ix_(self.rest, self.order)] = mixed[:, :ahead].T
        s[np.ix_(self.rest, self.rest)] = of_border[:ahead, :ahead]
        sp[self.order], sp[self.rest] = mixed[:, ahead:], of_border[:ahead, ahead:]
        return Covariance(s, sp.reshape(e.b.shape), _diagonal_blocks(of_border[ahead:, ahead:], e.h.shape).copy())


def _diagonal_blocks(matrix: F64, shape: tuple[int, ...]) -> F64:
    """(points, k, k) view of the blocks on the diagonal of a matrix (points k, points k)."""
    points, k = shape
    return np.asarray(np.einsum("pipj->pij", matrix.reshape(points, k, points, k)))
