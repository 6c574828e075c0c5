"""Where a particle lands in every tilt, how it is turned there, and at which defocus.

The formulas are Warp's: volume warp, tilt matrix, axis offset, image warp; the depth enters the defocus. Stage-angle
grids turn the view but do not move particles, unless the stage is taken as a rigid body: then it turns the specimen
about the centre of the volume, as the stage of a microscope does.

What takes a ``device`` takes and gives its arrays; series and particles are always on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.maths.rotations import rotation_x, rotation_y, rotation_z
from mpr_dist.maths.splines import cubic_grid, linear_grid4, place_weights, spread, weighted_grid
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.units import A_PER_UM, F64


@dataclass(frozen=True, eq=False)
class Places:
    """Where cubic grids are looked up: x, y, z in 0..1, broadcast together, the few of z on the host.

    What belongs to a place is made once, for all grids.
    """

    at: tuple[F64, F64, F64]
    device: Device = HOST

    @cached_property
    def _known(self) -> dict[tuple[int, int, float, int], F64]:
        return {}

    def nodes(self, axis: int, n: int, margin: float = 0.0, derivative: int = 0) -> F64:
        """Weights (..., n) of n nodes along an axis at the places on it."""
        kind = axis, n, margin, derivative
        if kind not in self._known:
            self._known[kind] = place_weights(n, self.at[axis], margin, derivative, self.device)
        return self._known[kind]

    def values(self, grids: Sequence[CubicGrid], derivative: tuple[int, int, int] = (0, 0, 0)) -> list[F64]:
        """Of each grid at all places."""
        shape = np.broadcast_shapes(*(u.shape for u in self.at))
        of_kind: dict[object, tuple[F64, ...]] = {}
        found = []
        for grid in grids:
            kind = grid.values.shape, grid.margins
            if grid.is_trivial:
                found.append(self.device.xp.full(shape, 0.0 if any(derivative) else float(grid.values[0, 0, 0])))
                continue
            if kind not in of_kind:
                axes = zip(range(3), grid.values.shape[::-1], grid.margins, derivative, strict=True)
                of_kind[kind] = spread([self.nodes(*axis) for axis in axes], self.device)
            values = weighted_grid(self.device.put(grid.values), of_kind[kind], self.device)
            found.append(values.reshape(shape))
        return found


@dataclass(frozen=True, eq=False)
class Projection:
    """Particles seen by every tilt, in arrays of one device.

    Attributes:
        xy_A: (particles, tilts, 2) from the centre of image pixel (0, 0).
        depth_A: (particles, tilts) height along the beam, sign as it enters the defocus.
        defocus_um: (particles, tilts) mean of both axes, positive = underfocus.
        unwarped_xy_A: (particles, tilts, 2) position before the image warp.
        image_places: where the image warp is looked up.
    """

    xy_A: F64
    depth_A: F64
    defocus_um: F64
    unwarped_xy_A: F64
    image_places: Places


def tilt_matrices(series: TiltSeries) -> F64:
    """(tilts, 3, 3) rotation from the tomogram to the image frame, without stage-angle grids."""
    level_x, level_y = series.level_angle_deg
    axis, tilt = rotation_z(series.axis_angle_deg), rotation_y(-(series.angle_deg + level_y))
    return np.asarray(axis @ tilt @ rotation_x(level_x))


def grid_at(grid: CubicGrid, x: F64, y: F64, z: F64) -> F64:
    """Grid values at broadcast x, y, z in 0..1."""
    return cubic_grid(grid.values, np.stack(np.broadcast_arrays(x, y, z), -1), grid.margins)


def project(series: TiltSeries, particles: Particles, device: Device = HOST) -> Projection:
    """Project particles into every tilt of a series, each from where it is when that tilt is exposed."""
    return project_points(series, particles.positions_at(series.dose_position, device), device)


def project_points(series: TiltSeries, position_A: F64, device: Device = HOST) -> Projection:
    """Project points of the tomogram, (points, 3) or one place for every tilt (points, tilts, 3)."""
    xp = device.xp
    points = xp.asarray(position_A, np.float64)
    if points.ndim == 2:
        points = xp.broadcast_to(points[:, None], (len(points), series.n_tilts, 3))
    centred = warped_positions(series, points, device)
    q = xp.einsum("tij,ptj->pti", device.put(tilt_matrices(series)), centred)
    if series.is_stage_rigid:
        q = xp.einsum("ptij,ptj->pti", stage_matrices(series, points, device), q)
    unwarped = q[..., :2] + device.kept(series.axis_offset_A) + device.kept(series.image_size_A) / 2
    u = unwarped / device.kept(series.image_size_A)
    places = Places((u[..., 0], u[..., 1], series.tilt_position[None]), device)
    shift = xp.stack(places.values((series.image_warp.x, series.image_warp.y)), -1)
    depth = -q[..., 2] if series.are_angles_inverted else q[..., 2]
    (at_centre,) = _over_volume(series, (series.optics.defocus_um,), points, device)
    return Projection(unwarped - shift, depth, at_centre + depth / A_PER_UM, unwarped, places)


def volume_points(series: TiltSeries, position_A: F64, device: Device = HOST) -> F64:
    """(points, tilts, 4) normalised x, y, z and dose at which a volume warp is looked up."""
    points: F64 = device.xp.empty((*position_A.shape[:2], 4))
    points[..., :3] = position_A / device.kept(series.volume_size_A)
    points[..., 3] = device.put(series.dose_position)
    return points


def warped_positions(series: TiltSeries, position_A: F64, device: Device = HOST) -> F64:
    """Positions (points, tilts, 3) from the volume centre, volume warp added."""
    centred = position_A - device.kept(series.volume_size_A) / 2
    grids = (series.volume_warp.x, series.volume_warp.y, series.volume_warp.z)
    if all(grid.is_trivial for grid in grids):
        warp = device.put([float(grid.values[0, 0, 0, 0]) for grid in grids])
    else:
        points = volume_points(series, position_A, device)
        warp = device.xp.stack([linear_grid4(device.put(g.values), points, device) for g in grids], -1)
    out: F64 = centred + warp
    return out


def _over_volume(series: TiltSeries, grids: Sequence[CubicGrid], position_A: F64, device: Device) -> list[F64]:
    u = position_A / device.kept(series.volume_size_A)
    return Places((u[..., 0], u[..., 1], series.tilt_position[None]), device).values(grids)


def stage_matrices(series: TiltSeries, position_A: F64, device: Device = HOST) -> F64:
    """(points, tilts, 3, 3) corrections by the stage-angle grids, Rz Ry Rx, at positions (points, tilts, 3)."""
    x, y, z = _over_volume(series, stage_grids(series), position_A, device)
    return rotation_z(z, device) @ rotation_y(y, device) @ rotation_x(x, device)


def stage_grids(series: TiltSeries) -> tuple[CubicGrid, CubicGrid, CubicGrid]:
    """The three stage-angle grids in x, y, z order."""
    return series.stage_angles.x, series.stage_angles.y, series.stage_angles.z


def views(series: TiltSeries, particles: Particles, device: Device = HOST) -> F64:
    """(particles, tilts, 3, 3) rotation from the reference to the image frame."""
    dose = series.dose_position
    stage = stage_matrices(series, particles.positions_at(dose, device), device)
    out: F64 = stage @ device.put(tilt_matrices(series)) @ particles.rotations_at(dose, device)
    return out


def contained(series: TiltSeries, xy_A: F64, diameter_A: float) -> np.ndarray:
    """(particles, tilts) bool: centre at least half a diameter inside every image edge, and the tilt is active."""
    r = diameter_A / 2
    inside = ((xy_A >= r) & (xy_A <= series.image_size_A - r)).all(-1)
    return np.asarray(inside & series.active)
