"""Poses: where each particle sits in the tomogram, how it is turned, and how both change with the dose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import euler_to_matrix, matrix_to_euler
from mpr_dist.maths.trajectories import position_along, rotation_along
from mpr_dist.units import F64, I8, I64


@dataclass(frozen=True, eq=False)
class Particles:
    """Poses of the particles of one species in one tilt series, in one order that never changes.

    Samples stand at equal distances along the dose, from the first exposure to the last; one sample is a particle that
    does not move. Arrays without the axis of the samples are understood as one sample.

    Attributes:
        position_A: (particles, samples, 3) float64 x, y, z from the tomogram corner (centre of voxel 0, 0, 0).
        angles_deg: (particles, samples, 3) float64 rot, tilt, psi (RELION's and Warp's convention).
        half: (particles,) int8, 1 or 2: the half-set, for ever.
        row: (particles,) int64, row in the species' particle table.
    """

    position_A: F64
    angles_deg: F64
    half: I8
    row: I64

    def __post_init__(self) -> None:
        n = len(self.row)
        for name in ("position_A", "angles_deg"):
            values = getattr(self, name)
            if values.shape == (n, 3):
                object.__setattr__(self, name, values[:, None])
        shape = self.position_A.shape
        if (
            len(shape) != 3
            or shape[::2] != (n, 3)
            or shape[1] < 1
            or self.angles_deg.shape != shape
            or self.half.shape != (n,)
        ):
            raise InputError(
                f"particles: {n} rows need positions and angles of shape ({n}, 3) or ({n}, samples, 3), "
                f"got {shape} and {self.angles_deg.shape}"
            )
        if n and not np.isin(self.half, (1, 2)).all():
            raise InputError("particles: half-sets must be 1 or 2")

    def __len__(self) -> int:
        return len(self.row)

    @property
    def n_samples(self) -> int:
        """Temporal samples of every trajectory."""
        return int(self.position_A.shape[1])

    def positions_at(self, dose_position: F64, device: Device = HOST) -> F64:
        """(particles, tilts, 3) A at places (tilts,) along the dose, 0..1; on a device."""
        return position_along(self.position_A, dose_position, device)

    def rotations_at(self, dose_position: F64, device: Device = HOST) -> F64:
        """(particles, tilts, 3, 3) from the particle to the tomogram at places (tilts,) along the dose, on a device."""
        return rotation_along(euler_to_matrix(self.angles_deg), dose_position, device)

    def resampled(self, samples: int) -> Particles:
        """The same trajectories read at another number of samples; a trajectory of one sample reads its middle."""
        if samples == self.n_samples:
            return self
        places = np.linspace(0.0, 1.0, samples) if samples > 1 else np.array([0.5])
        angles = matrix_to_euler(self.rotations_at(places)) if self.n_samples > 1 else None
        return replace(
            self,
            position_A=np.ascontiguousarray(self.positions_at(places)),
            angles_deg=np.repeat(self.angles_deg, samples, axis=1) if angles is None else angles,
        )
