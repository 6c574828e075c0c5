"""The state of a refinement: a series, its particles, the amplitude scales of its tilts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mpr_dist.maths.rotations import euler_to_matrix, exp_rotation, left_jacobian, log_rotation, matrix_to_euler
from mpr_dist.maths.splines import resample_cubic
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.units import F64

POSE_SIZE = 6

# of the images of a species beyond what their tilt has: log of the scale, B-factor in A^2
Strength = tuple[float, float]
AS_ITS_TILT: Strength = (0.0, 0.0)


def _none() -> F64:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class State:
    """Attributes:
    series: with grids of the layout's shape.
    particles: one table per species.
    log_scale: (tilts,) log of the amplitude scale.
    species_log_scale, species_bfactor_A2: (species,) what the images of each have beyond scale and B-factor of their
        tilt, because their references came from different programs; empty: nothing.
    """

    series: TiltSeries
    particles: tuple[Particles, ...]
    log_scale: F64
    species_log_scale: F64 = field(default_factory=_none)
    species_bfactor_A2: F64 = field(default_factory=_none)

    def strength(self, species: int) -> Strength:
        """Of one of the species."""
        if not len(self.species_log_scale):
            return AS_ITS_TILT
        return float(self.species_log_scale[species]), float(self.species_bfactor_A2[species])

    def with_series(self, **changes: Any) -> State:
        """The state with fields of its series replaced."""
        return replace(self, series=replace(self.series, **changes))

    def with_optics(self, **changes: Any) -> State:
        """The state with fields of the optics of its series replaced."""
        optics: Optics = replace(self.series.optics, **changes)
        return self.with_series(optics=optics)


def resample(grid: CubicGrid, shape: tuple[int, int, int]) -> CubicGrid:
    """The spline of a grid at the nodes of another (depth, height, width)."""
    if grid.values.shape == shape and grid.margins == (0.0, 0.0, 0.0):
        return grid
    return CubicGrid(resample_cubic(grid.values, shape, grid.margins))


def move(particles: Particles, step: F64) -> Particles:
    """Particles after a step (particles, 6 x samples or more): A in the tomogram, a rotation vector in its frame."""
    if not len(particles):
        return particles
    each = step[:, : POSE_SIZE * particles.n_samples].reshape(len(particles), particles.n_samples, POSE_SIZE)
    matrices = exp_rotation(each[..., 3:]) @ euler_to_matrix(particles.angles_deg)
    return replace(particles, position_A=particles.position_A + each[..., :3], angles_deg=matrix_to_euler(matrices))


def pose_offsets(particles: Particles, origin: Particles, samples: int | None = None) -> F64:
    """(particles, 6 samples) step that leads from ``origin`` to ``particles``; zero beyond their own samples."""
    own = particles.n_samples
    origin = origin.resampled(own)
    out = np.zeros((len(particles), samples or own, POSE_SIZE))
    out[:, :own, :3] = particles.position_A - origin.position_A
    if len(particles):
        turned = euler_to_matrix(particles.angles_deg) @ np.swapaxes(euler_to_matrix(origin.angles_deg), -1, -2)
        out[:, :own, 3:] = log_rotation(turned)
    return out.reshape(len(particles), out.shape[1] * POSE_SIZE)


def offset_derivative(offset: F64) -> F64:
    """(particles, size, size) how the offsets of ``pose_offsets`` change with a further step of the poses."""
    count, size = offset.shape
    out = np.zeros((count, size, size))
    out[:] = np.eye(size)
    for first in range(3, size, POSE_SIZE):
        turn = slice(first, first + 3)
        out[:, turn, turn] = np.linalg.inv(left_jacobian(offset[:, turn]))
    return out
