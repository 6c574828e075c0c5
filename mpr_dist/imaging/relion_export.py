"""Our geometry within RELION's model: what fits into tilts and deformations, the rest as trajectories of particles.

RELION knows a rotation and a shift per tilt, a deformation of every image, and a displacement of every particle in
every tilt, but one orientation per particle and one depth. Displacements are taken within the plane of the image, so
that they put every particle exactly where we see it and leave its depth alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.geometry import grid_at, project, views, warped_positions
from mpr_dist.imaging.relion_deformation import displacement_px, spline_of
from mpr_dist.imaging.relion_geometry import StageForRelion, stage_for
from mpr_dist.maths.rotations import matrix_to_euler
from mpr_dist.model.pose import Particles
from mpr_dist.model.relion import RelionDeformation
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import A_PER_UM, F64

LEAST_MOTION_A = 1e-3  # displacements below are rounding


@dataclass(frozen=True, eq=False)
class SeriesForRelion:
    """A series in RELION's terms, all tilts in file order; ``deformation`` is None when images are not bent."""

    stage: StageForRelion
    deformation: RelionDeformation | None


@dataclass(frozen=True, eq=False)
class ParticlesForRelion:
    """Particles of one series in RELION's terms, and what is lost on the way, over the active tilts.

    Attributes:
        centred_A: (particles, 3) from the centre of the tomogram; angles_deg: (particles, 3) rot, tilt, psi.
        motion_A: (particles, tilts, 3) to be added in every tilt, or None when nothing moves.
        error_A: (particles, tilts) distance in the image from where we see them; without_motion_A: if displacements are
            left out.
        view_deg: (particles, tilts) angle between RELION's view and ours; defocus_A: (particles, tilts) difference.
    """

    centred_A: F64
    angles_deg: F64
    motion_A: F64 | None
    error_A: F64
    without_motion_A: F64
    view_deg: F64
    defocus_A: F64


def series_for(series: TiltSeries, pixel_A: float) -> SeriesForRelion:
    """Angles, shifts and deformations of all tilts."""
    warp = series.image_warp
    bent = bool(warp.x.values.any() or warp.y.values.any())
    return SeriesForRelion(stage_for(series, pixel_A), spline_of(warp, series.n_tilts, pixel_A) if bent else None)


def particles_for(series: TiltSeries, particles: Particles, pixel_A: float, of: SeriesForRelion) -> ParticlesForRelion:
    """Positions, orientations and displacements that show particles where, and how, we see them."""
    rotation, active = of.stage.rotations(), np.flatnonzero(series.active)
    dose = series.dose_position
    moved = warped_positions(series, particles.positions_at(dose))
    warp = series.volume_warp
    is_still = particles.n_samples == 1 and not any(g.values.any() for g in (warp.x, warp.y, warp.z))
    half = series.volume_size_A / 2
    centred = particles.position_A[:, 0] - half if is_still else moved[:, active].mean(axis=1)
    seen = project(series, particles)
    origin = series.axis_offset_A + series.image_size_A / 2
    static = np.einsum("tij,pj->pti", rotation[:, :2], centred) + origin
    shift = seen.unwarped_xy_A - static
    motion = np.einsum("tij,pti->ptj", rotation[:, :2], shift)
    needs_motion = bool(np.abs(motion[:, active]).max(initial=0.0) > LEAST_MOTION_A)
    with_motion = _bent(static + shift if needs_motion else static, of.deformation, series, pixel_A)
    without = _bent(static, of.deformation, series, pixel_A)
    view = views(series, particles)
    matrix = rotation.transpose(0, 2, 1) @ view
    angles = _one_orientation(particles, matrix[:, active])
    turned = np.einsum("tij,pjk->ptik", rotation, angles[1])
    depth = np.einsum("tj,pj->pt", rotation[:, 2], centred) * (-1 if series.are_angles_inverted else 1)
    centre = grid_at(series.optics.defocus_um, 0.5, 0.5, series.tilt_position)  # type: ignore[arg-type]
    return ParticlesForRelion(
        centred_A=centred,
        angles_deg=angles[0],
        motion_A=motion if needs_motion else None,
        error_A=np.linalg.norm(with_motion - seen.xy_A, axis=-1)[:, active],
        without_motion_A=np.linalg.norm(without - seen.xy_A, axis=-1)[:, active],
        view_deg=_angle_deg(turned, view)[:, active],
        defocus_A=(A_PER_UM * (centre - seen.defocus_um) + depth)[:, active],
    )


def _bent(xy_A: F64, deformation: RelionDeformation | None, series: TiltSeries, pixel_A: float) -> F64:
    """Where RELION's deformations move positions (particles, tilts, 2)."""
    if deformation is None:
        return xy_A
    out = xy_A.copy()
    size = series.image_size_A
    image_px = (round(float(size[0] / pixel_A)), round(float(size[1] / pixel_A)))
    for t in range(series.n_tilts):
        one = RelionDeformation(deformation.kind, deformation.grid, deformation.coefficients[t : t + 1])
        out[:, t] += pixel_A * displacement_px(one, xy_A[:, t] / size, image_px)[0]
    return out


def _one_orientation(particles: Particles, matrices: F64) -> tuple[F64, F64]:
    """Angles (particles, 3) and matrices nearest to those of all tilts (particles, tilts, 3, 3).

    Where all are the same, the particle's own angles: nothing is rounded.
    """
    u, _, vt = np.linalg.svd(matrices.mean(axis=1))
    sign = np.ones((len(u), 3))
    sign[:, 2] = np.linalg.det(u @ vt)
    mean = (u * sign[:, None]) @ vt
    if particles.n_samples == 1 and np.abs(matrices - mean[:, None]).max(initial=0.0) < 1e-9:
        return particles.angles_deg[:, 0], mean
    return matrix_to_euler(mean), np.asarray(mean)


def _angle_deg(a: F64, b: F64) -> F64:
    """(...) angle between rotations (..., 3, 3); from the distance, which is exact for small ones."""
    distance = np.linalg.norm(a - b, axis=(-2, -1))
    return np.asarray(np.rad2deg(2 * np.arcsin(np.clip(distance / np.sqrt(8), 0.0, 1.0))))
