"""The geometry of one species in one series at one state, with everything its derivatives are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mpr_dist.arrays import HOST, Device
from mpr_dist.imaging.geometry import (
    Projection,
    project,
    stage_matrices,
    tilt_matrices,
    volume_points,
    warped_positions,
)
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.maths.splines import linear_grid4_slope
from mpr_dist.maths.trajectories import position_derivative, rotation_derivative
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import F64

# local parameters that every image has, in the order of the kernel; extra ones follow, the log of the scale is last
SHIFT, TURN, DEFOCUS, BFACTOR = slice(0, 2), slice(2, 5), 5, 6


@dataclass(frozen=True, eq=False)
class Linearisation:
    """Attributes:
    series, particles: the state; projection: where it puts every particle.
    species: place among the species.
    device: that has all arrays but those of series and particles.
    """

    series: TiltSeries
    particles: Particles
    projection: Projection
    species: int = 0
    device: Device = HOST

    @staticmethod
    def of(series: TiltSeries, particles: Particles, species: int = 0, device: Device = HOST) -> Linearisation:
        return Linearisation(series, particles, project(series, particles, device), species, device)

    def on(self, device: Device) -> Linearisation:
        """The same on a device."""
        if device is self.device:
            return self
        return Linearisation.of(self.series, self.particles, self.species, device)

    @cached_property
    def position_A(self) -> F64:
        """(particles, tilts, 3) in the tomogram."""
        return self.particles.positions_at(self.series.dose_position, self.device)

    @cached_property
    def volume_points(self) -> F64:
        """(particles, tilts, 4) normalised x, y, z and dose at which the volume warp is looked up."""
        return volume_points(self.series, self.position_A, self.device)

    @cached_property
    def stage(self) -> F64:
        """(particles, tilts, 3, 3) corrections by the stage angles."""
        return stage_matrices(self.series, self.position_A, self.device)

    @cached_property
    def _tilt(self) -> F64:
        there: F64 = self.device.put(tilt_matrices(self.series))
        return there

    @cached_property
    def to_image(self) -> F64:
        """(particles, tilts, 3, 3) from the tomogram to the image, for orientations."""
        return self.stage @ self._tilt

    @cached_property
    def views(self) -> F64:
        """(particles, tilts, 3, 3) rotation from the reference to the image frame."""
        return self.to_image @ self.particles.rotations_at(self.series.dose_position, self.device)

    @cached_property
    def carried_A(self) -> F64:
        """(particles, tilts, 3) positions from the volume centre, in the image frame, as the stage carries them."""
        centred = warped_positions(self.series, self.position_A, self.device)
        out: F64 = self.device.xp.einsum("ptij,ptj->pti", self._carry, centred)
        return out

    @cached_property
    def _carry(self) -> F64:
        """(particles, tilts, 3, 3) from the tomogram to the image, for positions."""
        if self.series.is_stage_rigid:
            return self.to_image
        out: F64 = self.device.xp.broadcast_to(self._tilt, self.stage.shape)
        return out

    @cached_property
    def _through_warp(self) -> F64:
        """(particles, tilts, 3, 3): image x, y and defocus (A) per step of the carried position (A)."""
        s, device = self.series, self.device
        out: F64 = device.xp.zeros((*self.projection.depth_A.shape, 3, 3))
        out[..., 2, 2] = -1.0 if s.are_angles_inverted else 1.0
        for j, order in enumerate(((1, 0, 0), (0, 1, 0))):
            for i, slope in enumerate(self.projection.image_places.values((s.image_warp.x, s.image_warp.y), order)):
                out[..., i, j] = (i == j) - slope / s.image_size_A[j]
        return out

    def by_carried(self, tilts: slice) -> F64:
        """(particles, tilts, 3, 3): image x, y and defocus of some tilts, per step of the carried position; all A."""
        return self._through_warp[:, tilts]

    def by_displacement(self, tilts: slice) -> F64:
        """(particles, tilts, 3, 3): image x, y and defocus of some tilts, per step in the volume; all A."""
        return self._through_warp[:, tilts] @ self._carry[:, tilts]

    def by_position(self, tilts: slice) -> F64:
        """(particles, tilts, 3, 3): per step of the particle, which takes it to other places of the volume warp."""
        moved = self.by_displacement(tilts)
        if self._warp_slopes is None:
            return moved
        out: F64 = moved @ (self.device.xp.eye(3) + self._warp_slopes[:, tilts])
        return out

    @cached_property
    def _warp_slopes(self) -> F64 | None:
        """(particles, tilts, 3, 3) slopes of the volume warp, A per A; None: it is the same everywhere."""
        s, device = self.series, self.device
        grids = (s.volume_warp.x, s.volume_warp.y, s.volume_warp.z)
        if all(grid.is_trivial for grid in grids):
            return None
        xp, points = device.xp, self.volume_points
        slopes = []
        for grid in grids:
            values = device.put(grid.values)
            along = [linear_grid4_slope(values, points, j, device) / s.volume_size_A[j] for j in range(3)]
            slopes.append(xp.stack(along))
        out: F64 = xp.moveaxis(xp.stack(slopes), (0, 1), (2, 3))
        return out

    @cached_property
    def position_weights(self) -> F64:
        """(particles, tilts, 3, samples) of the positions of the temporal samples."""
        return position_derivative(self.particles.position_A, self.series.dose_position, self.device)

    @cached_property
    def turn_weights(self) -> F64:
        """(particles, tilts, 3, samples, 3) of the rotation vectors of the temporal samples."""
        samples = euler_to_matrix(self.particles.angles_deg)
        return rotation_derivative(samples, self.series.dose_position, self.device)
