"""Where a particle lands in every tilt, how it is turned there, and at which defocus.

The formulas are Warp's: volume warp, tilt matrix, axis offset, image warp; the depth enters the defocus. Stage-angle
grids turn the view but do not move particles, unless the stage is taken as a rigid body: then it turns the specimen
about the centre of the volume, as the stage of a microscope does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.maths.rotations import rotation_x, rotation_y, rotation_z
from mpr_dist.maths.splines import cubic_grid, linear_grid4
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.units import A_PER_UM, F64


@dataclass(frozen=True, eq=False)
class Projection:
    """Particles seen by every tilt.

    Attributes:
        xy_A: (particles, tilts, 2) from the centre of image pixel (0, 0).
        depth_A: (particles, tilts) height along the beam, sign as it enters the defocus.
        defocus_um: (particles, tilts) mean of both axes, positive = underfocus.
        unwarped_xy_A: (particles, tilts, 2) position before the image warp; where the warp is looked up.
    """

    xy_A: F64
    depth_A: F64
    defocus_um: F64
    unwarped_xy_A: F64


def tilt_matrices(series: TiltSeries) -> F64:
    """(tilts, 3, 3) rotation from the tomogram to the image frame, without stage-angle grids."""
    level_x, level_y = series.level_angle_deg
    axis, tilt = rotation_z(series.axis_angle_deg), rotation_y(-(series.angle_deg + level_y))
    return np.asarray(axis @ tilt @ rotation_x(level_x))


def grid_at(grid: CubicGrid, x: F64, y: F64, z: F64) -> F64:
    """Grid values at broadcast x, y, z in 0..1."""
    return cubic_grid(grid.values, np.stack(np.broadcast_arrays(x, y, z), -1), grid.margins)


def image_points(series: TiltSeries, xy_A: F64) -> tuple[F64, F64, F64]:
    """Normalised image x, y (particles, tilts) and tilt position (1, tilts) at which an image warp is looked up."""
    u = xy_A / series.image_size_A
    return u[..., 0], u[..., 1], series.tilt_position[None]


def project(series: TiltSeries, particles: Particles) -> Projection:
    """Project particles into every tilt of a series, each from where it is when that tilt is exposed."""
    return project_points(series, particles.positions_at(series.dose_position))


def project_points(series: TiltSeries, position_A: F64) -> Projection:
    """Project points of the tomogram, (points, 3) or one place for every tilt (points, tilts, 3)."""
    points = np.asarray(position_A, np.float64)
    if points.ndim == 2:
        points = np.broadcast_to(points[:, None], (len(points), series.n_tilts, 3))
    centred = warped_positions(series, points)
    q = np.einsum("tij,ptj->pti", tilt_matrices(series), centred)
    if series.is_stage_rigid:
        q = np.einsum("ptij,ptj->pti", stage_matrices(series, points), q)
    unwarped = q[..., :2] + series.axis_offset_A + series.image_size_A / 2
    x, y, z = image_points(series, unwarped)
    shift = np.stack([grid_at(series.image_warp.x, x, y, z), grid_at(series.image_warp.y, x, y, z)], -1)
    depth = -q[..., 2] if series.are_angles_inverted else q[..., 2]
    defocus = _over_volume(series, series.optics.defocus_um, points) + depth / A_PER_UM
    return Projection(unwarped - shift, depth, defocus, unwarped)


def volume_points(series: TiltSeries, position_A: F64) -> F64:
    """(points, tilts, 4) normalised x, y, z and dose at which a volume warp is looked up."""
    points = np.empty((*position_A.shape[:2], 4))
    points[..., :3] = position_A / series.volume_size_A
    points[..., 3] = series.dose_position
    return points


def warped_positions(series: TiltSeries, position_A: F64) -> F64:
    """Positions (points, tilts, 3) from the volume centre, volume warp added."""
    points = volume_points(series, position_A)
    grids = (series.volume_warp.x, series.volume_warp.y, series.volume_warp.z)
    warp = np.stack([linear_grid4(g.values, points) for g in grids], -1)
    return np.asarray(position_A - series.volume_size_A / 2 + warp)


def _over_volume(series: TiltSeries, grid: CubicGrid, position_A: F64) -> F64:
    u = position_A / series.volume_size_A
    return grid_at(grid, u[..., 0], u[..., 1], series.tilt_position[None])


def stage_matrices(series: TiltSeries, position_A: F64) -> F64:
    """(points, tilts, 3, 3) corrections by the stage-angle grids, Rz Ry Rx, at positions (points, tilts, 3)."""
    angles = [_over_volume(series, g, position_A) for g in stage_grids(series)]
    return np.asarray(rotation_z(angles[2]) @ rotation_y(angles[1]) @ rotation_x(angles[0]))


def stage_grids(series: TiltSeries) -> tuple[CubicGrid, CubicGrid, CubicGrid]:
    """The three stage-angle grids in x, y, z order."""
    return series.stage_angles.x, series.stage_angles.y, series.stage_angles.z


def views(series: TiltSeries, particles: Particles) -> F64:
    """(particles, tilts, 3, 3) rotation from the reference to the image frame."""
    dose = series.dose_position
    tomogram_to_image = stage_matrices(series, particles.positions_at(dose)) @ tilt_matrices(series)
    return np.asarray(tomogram_to_image @ particles.rotations_at(dose))


def contained(series: TiltSeries, xy_A: F64, diameter_A: float) -> np.ndarray:
    """(particles, tilts) bool: centre at least half a diameter inside every image edge, and the tilt is active."""
    r = diameter_A / 2
    inside = ((xy_A >= r) & (xy_A <= series.image_size_A - r)).all(-1)
    return np.asarray(inside & series.active)
