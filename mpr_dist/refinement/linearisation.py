"""The geometry of one species in one series at one state, with everything its derivatives are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpr_dist.imaging.geometry import (
    Projection,
    image_points,
    project,
    stage_matrices,
    tilt_matrices,
    volume_points,
    warped_positions,
)
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.maths.splines import cubic_grid, linear_grid4_slope
from mpr_dist.maths.trajectories import position_derivative, rotation_derivative
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import F64

# local parameters that every image has, in the order of the kernel; extra ones follow, the log of the scale is last
SHIFT, TURN, DEFOCUS, BFACTOR = slice(0, 2), slice(2, 5), 5, 6


@dataclass(frozen=True, eq=False)
class Linearisation:
    """Attributes:
    series, particles, projection: the state, and where it puts every particle.
    species: place among the species.
    """

    series: TiltSeries
    particles: Particles
    projection: Projection
    species: int = 0

    @staticmethod
    def of(series: TiltSeries, particles: Particles, species: int = 0) -> Linearisation:
        return Linearisation(series, particles, project(series, particles), species)

    @cached_property
    def position_A(self) -> F64:
        """(particles, tilts, 3) in the tomogram."""
        return self.particles.positions_at(self.series.dose_position)

    @cached_property
    def image_points(self) -> F64:
        """(particles, tilts, 3) normalised x, y and tilt at which the image warp is looked up."""
        return np.stack(np.broadcast_arrays(*image_points(self.series, self.projection.unwarped_xy_A)), -1)

    @cached_property
    def volume_points(self) -> F64:
        """(particles, tilts, 4) normalised x, y, z and dose at which the volume warp is looked up."""
        return volume_points(self.series, self.position_A)

    @cached_property
    def stage(self) -> F64:
        """(particles, tilts, 3, 3) corrections by the stage angles."""
        return stage_matrices(self.series, self.position_A)

    @cached_property
    def to_image(self) -> F64:
        """(particles, tilts, 3, 3) from the tomogram to the image, for orientations."""
        return np.asarray(self.stage @ tilt_matrices(self.series))

    @cached_property
    def views(self) -> F64:
        """(particles, tilts, 3, 3) rotation from the reference to the image frame."""
        return np.asarray(self.to_image @ self.particles.rotations_at(self.series.dose_position))

    @cached_property
    def carried_A(self) -> F64:
        """(particles, tilts, 3) positions from the volume centre, in the image frame, as the stage carries them."""
        centred = warped_positions(self.series, self.position_A)
        return np.asarray(np.einsum("ptij,ptj->pti", self._carry, centred))

    @cached_property
    def _carry(self) -> F64:
        """(particles, tilts, 3, 3) from the tomogram to the image, for positions."""
        if self.series.is_stage_rigid:
            return self.to_image
        return np.broadcast_to(tilt_matrices(self.series), self.stage.shape)

    @cached_property
    def _through_warp(self) -> F64:
        """(particles, tilts, 3, 3): image x, y and defocus (A) per step of the carried position (A)."""
        s = self.series
        out = np.zeros((*self.projection.depth_A.shape, 3, 3))
        points = self.image_points
        out[..., 2, 2] = -1.0 if s.are_angles_inverted else 1.0
        for i, grid in enumerate((s.image_warp.x, s.image_warp.y)):
            for j, order in enumerate(((1, 0, 0), (0, 1, 0))):
                slope = cubic_grid(grid.values, points, grid.margins, order)
                out[..., i, j] = (i == j) - slope / s.image_size_A[j]
        return out

    def by_carried(self, t: int) -> F64:
        """(particles, 3, 3): image x, y and defocus of tilt t, per step of the carried position; all A."""
        return np.asarray(self._through_warp[:, t])

    def by_displacement(self, t: int) -> F64:
        """(particles, 3, 3): image x, y and defocus of tilt t, per step in the volume; all A."""
        return np.asarray(self._through_warp[:, t] @ self._carry[:, t])

    def by_position(self, t: int) -> F64:
        """(particles, 3, 3): the same per step of the particle, which takes it to other places of the volume warp."""
        return np.asarray(self.by_displacement(t) @ (np.eye(3) + self._warp_slopes[:, t]))

    @cached_property
    def _warp_slopes(self) -> F64:
        """(particles, tilts, 3, 3) slopes of the volume warp, A per A."""
        s = self.series
        points = self.volume_points
        grids = (s.volume_warp.x, s.volume_warp.y, s.volume_warp.z)
        slopes = [[linear_grid4_slope(g.values, points, j) / s.volume_size_A[j] for j in range(3)] for g in grids]
        return np.moveaxis(np.array(slopes), (0, 1), (2, 3))

    @cached_property
    def position_weights(self) -> F64:
        """(particles, tilts, 3, samples) of the positions of the temporal samples."""
        return position_derivative(self.particles.position_A, self.series.dose_position)

    @cached_property
    def turn_weights(self) -> F64:
        """(particles, tilts, 3, samples, 3) of the rotation vectors of the temporal samples."""
        return rotation_derivative(euler_to_matrix(self.particles.angles_deg), self.series.dose_position)
