"""Images and references made of random numbers, in the shapes and units that the kernels take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.kernels.cards import Seen
from mpr_dist.maths.kernels.compare import N_TABLES, OVERLAP
from mpr_dist.maths.rotations import euler_to_matrix

PIXEL_A, BOX, GRID, WAVE_A = 3.0, 24, 28, 0.0197


@dataclass(frozen=True, eq=False)
class Problem:
    volumes: Any
    reference: Any
    images: Any
    shifts: Any
    seen: Seen
    kinds: Any
    rows: Any

    def seen_as(self, **changes: Any) -> Problem:
        return replace(self, seen=self.seen._replace(**changes))


def a_problem(n_particles=3, n_tilts=2, n_extra=0, *, is_curved=False, seed=0) -> Problem:
    """Volumes of noise, and images of noise in random views; rows of weights are not those of the tilts."""
    rng = np.random.default_rng(seed)
    s = box_samples(BOX, PIXEL_A, 0.5 / PIXEL_A)
    n, q2, theta = len(s.kx), s.qx**2 + s.qy**2, np.arctan2(s.qy, s.qx)
    grid_A = GRID * PIXEL_A
    tables = np.zeros((N_TABLES, n), np.float32)
    height = 3.0 * WAVE_A * q2 * grid_A * is_curved  # more curved than real, to be seen
    rows = (s.qx, s.qy, s.qx * grid_A, s.qy * grid_A, -0.5 * WAVE_A * q2, np.cos(2 * theta), np.sin(2 * theta), q2 / 4)
    for i, row in enumerate((*rows, rng.uniform(-0.5, 0.5, n), height)):
        tables[i] = row
    tables[OVERLAP] = rng.uniform(0, 1, n)
    images = (n_particles, n_tilts)
    seen = Seen(
        active=np.ones(images, bool),
        views=euler_to_matrix(rng.uniform(-180, 180, (*images, 3))).astype(np.float32),
        defocus=rng.uniform(1e4, 3e4, images).astype(np.float32),
        astig=rng.uniform(-500, 500, (n_tilts, 2)).astype(np.float32),
        fixed=np.tile(0.25 * 2.7e7 * WAVE_A**3 * q2**2 - 0.01, (n_tilts, 1)).astype(np.float32),
        weight=rng.uniform(0.2, 1.5, (n_tilts + 1, n)).astype(np.float32),
        weight_row=rng.integers(0, n_tilts + 1, images),
        n_samples=np.full(n_tilts, n, np.int64),
        tables=tables,
        is_curved=is_curved,
    )
    return Problem(
        rng.standard_normal((2, GRID + 3, GRID + 3, GRID // 2 + 2, 2)).astype(np.float32),
        np.arange(n_particles, dtype=np.int64) % 2,
        rng.standard_normal((*images, n, 2)).astype(np.float32),
        rng.uniform(-5, 5, (*images, 2)).astype(np.float32),
        seen,
        rng.integers(0, 4, n_extra),
        rng.uniform(-1, 1, (n_extra, n)).astype(np.float32),
    )
