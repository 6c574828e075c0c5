"""Normal equations with poses, and what they are after a step whose slopes bend more, or less, than they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpr_dist.maths.solve import NormalEquations


def random_equations(seed: int = 0, n: int = 5, points: int = 4, k: int = 12) -> NormalEquations:
    """A positive definite system of a series with poses of two temporal samples."""
    rng = np.random.default_rng(seed)
    size = n + points * k
    root = rng.standard_normal((size, 3 * size))
    whole = root @ root.T
    b = whole[:n, n:].reshape(n, points, k)
    p = np.stack([whole[n + i * k : n + (i + 1) * k, n + i * k : n + (i + 1) * k] for i in range(points)])
    s = whole[:n, :n] + n * size * np.eye(n)
    return NormalEquations(0.1 * s, 0.01 * b, p, rng.standard_normal(n), rng.standard_normal((points, k)))


def after_step(e: NormalEquations, step: np.ndarray, poses: np.ndarray, bend: np.ndarray) -> NormalEquations:
    """Equations after a step where the slopes of points bend ``bend`` times as much as their matrices say."""
    bent = bend[:, None] * np.einsum("pkl,pl->pk", e.p, poses)
    return replace(e, h=e.h - bent - np.einsum("npk,n->pk", e.b, step))
