"""Cholesky factor of a symmetric matrix whose blocks form a chain: each is coupled to the one before and the next only.

Its cost grows with the length of the chain, not with its cube. The inverse follows from the last block to the first.

G. Meurant, A review on the inverse of symmetric tridiagonal and block tridiagonal matrices, SIAM J. Matrix
Anal. Appl. 13 (1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from mpr_dist.units import F64, I64


@dataclass(frozen=True, eq=False)
class Chain:
    """L of A = L L^T, block by block; L is lower triangular and has blocks next to its diagonal only.

    Attributes:
        ends: (blocks + 1,) where the blocks begin, and the last ends.
        inverses: of the blocks on the diagonal of L; below: the blocks left of them, of the first one empty.
    """

    ends: I64
    inverses: tuple[F64, ...]
    below: tuple[F64, ...]

    @staticmethod
    def of(matrix: F64, blocks: Sequence[I64], damping: float = 0.0) -> Chain:
        """matrix (n, n): whose blocks are these rows and columns, its diagonal to be multiplied by 1 + damping.

        What couples blocks that are not neighbours is not looked at. LinAlgError if it is not positive definite.
        """
        inverses: list[F64] = []
        below: list[F64] = [np.zeros((len(blocks[0]), 0))]
        for i, rows in enumerate(blocks):
            own = matrix[np.ix_(rows, rows)]
            own[np.diag_indices_from(own)] *= 1 + damping
            if i:
                left = matrix[np.ix_(rows, blocks[i - 1])] @ inverses[-1].T
                below.append(left)
                own -= left @ left.T
            half = np.linalg.cholesky(own)
            inverses.append(scipy.linalg.solve_triangular(half, np.eye(len(own)), lower=True, check_finite=False))
        return Chain(np.cumsum([0, *map(len, blocks)]), tuple(inverses), tuple(below))

    def _part(self, i: int) -> slice:
        return slice(int(self.ends[i]), int(self.ends[i + 1]))

    def forward(self, right: F64) -> F64:
        """L^-1 times (n, columns), in the order of the chain."""
        out = np.empty_like(right)
        for i, inverse in enumerate(self.inverses):
            part = right[self._part(i)]
            out[self._part(i)] = inverse @ (part - self.below[i] @ out[self._part(i - 1)] if i else part)
        return out

    def backward(self, right: F64) -> F64:
        """L^-T times (n, columns), in the order of the chain."""
        out = np.empty_like(right)
        for i in reversed(range(len(self.inverses))):
            part = right[self._part(i)]
            if i + 1 < len(self.inverses):
                part = part - self.below[i + 1].T @ out[self._part(i + 1)]
            out[self._part(i)] = self.inverses[i].T @ part
        return out

    def add_inverse(self, out: F64, blocks: Sequence[I64], whole: bool) -> None:
        """Add A^-1 to the rows and columns of ``out`` that are the blocks; not whole: on the diagonal only."""
        row, order = np.zeros((0, 0)), np.concatenate(blocks)
        for i in reversed(range(len(self.inverses))):
            inverse, columns = self.inverses[i], blocks[i]
            own = inverse.T @ inverse
            if i + 1 < len(self.inverses):
                # row i of A^-1 right of its diagonal is -step times row i + 1
                step = inverse.T @ self.below[i + 1].T
                next_own = row[:, : len(blocks[i + 1])]
                own += step @ next_own @ step.T
                later = -step @ (row if whole else next_own)
            else:
                later = np.zeros((len(own), 0))
            out[np.ix_(columns, columns)] += own
            if whole and later.size:
                behind = order[self.ends[i + 1] :]
                out[np.ix_(columns, behind)] += later
                out[np.ix_(behind, columns)] += later.T
            row = np.concatenate([own, later], axis=1)
