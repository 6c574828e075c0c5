"""Poses: where each particle sits in the tomogram and how it is turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.units import F64, I8, I64


@dataclass(frozen=True, eq=False)
class Particles:
    """Poses of the particles of one species in one tilt series, in one order that never changes.

    Attributes:
        position_A: (particles, 3) float64 x, y, z from the tomogram corner (centre of voxel 0, 0, 0).
        angles_deg: (particles, 3) float64 rot, tilt, psi (RELION's and Warp's convention).
        half: (particles,) int8, 1 or 2: the half-set, for ever.
        row: (particles,) int64, row in the species' particle table.
    """

    position_A: F64
    angles_deg: F64
    half: I8
    row: I64

    def __post_init__(self) -> None:
        n = len(self.row)
        if self.position_A.shape != (n, 3) or self.angles_deg.shape != (n, 3) or self.half.shape != (n,):
            raise InputError(
                f"particles: {n} rows need positions and angles of shape ({n}, 3), "
                f"got {self.position_A.shape} and {self.angles_deg.shape}"
            )
        if n and not np.isin(self.half, (1, 2)).all():
            raise InputError("particles: half-sets must be 1 or 2")

    def __len__(self) -> int:
        return len(self.row)
