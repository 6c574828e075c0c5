"""RELION's geometry in Warp's terms, and back: the same point of the specimen lands on the same point of the image.

RELION projects pixels of the tomogram by P = T(shift) T(image // 2) Rz(ZRot) Ry(YTilt) Rx(XTilt) T(-(volume // 2)),
with whole numbers for both centres, but counts rlnCenteredCoordinate and the depth from n / 2. Warp knows n / 2 alone.
For odd sizes the half pixels between them go into the axis offsets here, which leaves positions and depths as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.geometry import grid_at, stage_grids, tilt_matrices
from mpr_dist.maths.rotations import rotation_x, rotation_y, rotation_z
from mpr_dist.model.relion import RelionTilts
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import F64

LEVEL_TOLERANCE_DEG = 1e-5  # files hold six decimals
TRANSPOSED_DEG = 10.0  # XTilt is a levelling: it does not change by so much from tilt to tilt


@dataclass(frozen=True, eq=False)
class StageOfRelion:
    """The rotations and offsets of a series as Warp writes them.

    Attributes:
        angle_deg, axis_angle_deg: (tilts,); level_x_deg: the XTilt of all tilts.
        stage_deg: (tilts, 3) about x, y, z, what a levelling that changes from tilt to tilt leaves: a rigid stage,
            which Warp and M do not know. None when XTilt is constant.
        offset_A: (tilts, 2) axis offsets.
        stretch: (tilts, 2, 2) that maps unstretched positions from the centre of the tomogram to RELION's; the identity
            but for matrices of its anisotropic alignment.
        is_transposed: rotations were the wrong way round, as some versions of Warp wrote them, and were turned back.
    """

    angle_deg: F64
    axis_angle_deg: F64
    level_x_deg: float
    stage_deg: F64 | None
    offset_A: F64
    stretch: F64
    is_transposed: bool


def projections(relion: RelionTilts, image_px: tuple[int, int]) -> F64:
    """(tilts, 4, 4) from pixels of the tomogram to pixels of the image: the stored matrices, or from five numbers."""
    if relion.projection is not None:
        return relion.projection
    assert relion.angles_deg is not None
    assert relion.shift_A is not None
    x, y, z = relion.angles_deg.T
    out = np.tile(np.eye(4), (relion.n_tilts, 1, 1))
    out[:, :3, :3] = rotation_z(z) @ rotation_y(y) @ rotation_x(x)
    centre = np.array(relion.volume_px) // 2
    out[:, :3, 3] = -out[:, :3, :3] @ centre
    out[:, :2, 3] += relion.shift_A / relion.pixel_A + np.array(image_px) // 2
    return out


def split_matrix(upper: F64) -> tuple[F64, F64]:
    """(tilts, 2, 3) upper rows of a projection -> rotations (tilts, 3, 3) and stretches (tilts, 2, 2) before them."""
    u, s, vt = np.linalg.svd(upper, full_matrices=False)
    rows = u @ vt
    rotation = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    stretch = u @ (s[:, :, None] * u.transpose(0, 2, 1))
    return rotation, np.asarray(stretch)


def relion_angles(rotation: F64) -> F64:
    """(..., 3, 3) -> (..., 3) XTilt, YTilt, ZRot in degrees, with YTilt in -90..90."""
    x = np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2])
    y = np.arctan2(-rotation[..., 2, 0], np.hypot(rotation[..., 2, 1], rotation[..., 2, 2]))
    z = np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])
    return np.asarray(np.rad2deg(np.stack([x, y, z], -1)))


def stage_of(relion: RelionTilts, image_px: tuple[int, int]) -> StageOfRelion:
    """Angles, offsets and stretches of a series; ``TiltSeries`` made of them project as RELION does."""
    matrices = projections(relion, image_px)
    rotation, stretch = split_matrix(matrices[:, :2, :3])
    # as they are written, where they are written: nothing is rounded, and what is 0 stays 0
    angles = relion_angles(rotation) if relion.projection is not None else np.asarray(relion.angles_deg)
    is_transposed = _looks_transposed(angles, relion_angles(rotation.transpose(0, 2, 1)))
    if is_transposed:
        rotation = np.ascontiguousarray(rotation.transpose(0, 2, 1))
        angles, stretch = relion_angles(rotation), np.tile(np.eye(2), (len(rotation), 1, 1))
        matrices = matrices.copy()
        if relion.projection is None:  # the centre was turned the wrong way as well
            turned = (matrices[:, :3, :3] - rotation) @ (np.array(relion.volume_px) // 2)
            matrices[:, :3, 3] += turned
        matrices[:, :3, :3] = rotation
    centre = np.array(relion.volume_px) / 2
    offset = np.einsum("tij,j->ti", matrices[:, :2, :3], centre) + matrices[:, :2, 3] - np.array(image_px) / 2
    level = _mean_angle(angles[:, 0])
    stage = None
    if np.abs(_wrapped(angles[:, 0] - level)).max() > LEVEL_TOLERANCE_DEG:
        # C Rz(z) Ry(y) Rx(level) = Rz(z) Ry(y) Rx(x)
        without = rotation_z(angles[:, 2]) @ rotation_y(angles[:, 1]) @ rotation_x(level)
        stage = relion_angles(rotation @ without.transpose(0, 2, 1))
    return StageOfRelion(
        angle_deg=-angles[:, 1],
        axis_angle_deg=angles[:, 2],
        level_x_deg=level,
        stage_deg=stage,
        offset_A=offset * relion.pixel_A,
        stretch=stretch,
        is_transposed=is_transposed,
    )


def _looks_transposed(angles: F64, other: F64) -> bool:
    """Whether XTilt carries the stage tilt, and would not if the rotations were turned round."""
    return bool(_spread(angles[:, 0]) > TRANSPOSED_DEG and _spread(other[:, 0]) < 0.1 * _spread(angles[:, 0]))


def _spread(angles_deg: F64) -> float:
    return float(np.ptp(_wrapped(angles_deg - _mean_angle(angles_deg))))


def _mean_angle(angles_deg: F64) -> float:
    first = float(angles_deg[0])
    return first + float(_wrapped(angles_deg - first).mean())


def _wrapped(angles_deg: F64) -> F64:
    return np.asarray((angles_deg + 180) % 360 - 180)


@dataclass(frozen=True, eq=False)
class StageForRelion:
    """angles_deg (tilts, 3): XTilt, YTilt, ZRot; shift_A (tilts, 2): rlnTomoX/YShiftAngst."""

    angles_deg: F64
    shift_A: F64

    def rotations(self) -> F64:
        """(tilts, 3, 3) from the tomogram to the image frame."""
        x, y, z = self.angles_deg.T
        return np.asarray(rotation_z(z) @ rotation_y(y) @ rotation_x(x))


def stage_for(series: TiltSeries, pixel_A: float) -> StageForRelion:
    """RELION's five numbers of every tilt: the view at the centre of the volume, stage angles included."""
    rotation = tilt_matrices(series)
    stage = np.stack([grid_at(g, 0.5, 0.5, series.tilt_position) for g in stage_grids(series)], -1)  # type: ignore[arg-type]
    if stage.any():
        rotation = rotation_z(stage[:, 2]) @ rotation_y(stage[:, 1]) @ rotation_x(stage[:, 0]) @ rotation
    volume, image = np.rint(series.volume_size_A / pixel_A), np.rint(series.image_size_A / pixel_A)
    half_px = volume / 2 - volume // 2
    shift_px = series.axis_offset_A / pixel_A + image / 2 - image // 2 - rotation[:, :2] @ half_px
    angles = relion_angles(rotation)
    if not stage.any():
        # as they are in the file, which may count beyond 180 degrees
        level_x, level_y = series.level_angle_deg
        angles = np.stack(
            [np.full(series.n_tilts, level_x), -(series.angle_deg + level_y), series.axis_angle_deg], -1
        ).astype(np.float64)
    return StageForRelion(angles, shift_px * pixel_A)
