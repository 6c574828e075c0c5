"""Local alignments of IMOD as image warps, a start of refinement.

tilt of IMOD finds a point X of the tomogram in an aligned image, from the middles of both, at the mean of what the four
areas around it say, with bilinear weights in X: each turns X by its own tilts and applies its own transform. Outside of
the grid the areas at its edge count. What depends on the depth of X is no image warp: the middle plane is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.relion_deformation import FittedWarp, fit_image_warp
from mpr_dist.maths.rotations import rotation_x, rotation_y, rotation_z
from mpr_dist.model.local_areas import LocalAreas
from mpr_dist.units import F64

STEEPEST = 0.05  # cosine of a tilt below which a point is not followed back into the tomogram any further
NODES = (3, 3)  # of the warp to begin with; up to four times as many cells are tried


@dataclass(frozen=True, eq=False)
class Stage:
    """(tilts,) angles of the alignment of the whole, and ``offset_px`` (tilts, 2) from image to tomogram middle."""

    tilt_deg: F64
    x_tilt_deg: F64
    axis_deg: F64
    offset_px: F64


def local_displacement_px(areas: LocalAreas, stage: Stage, point_px: F64) -> F64:
    """(tilts, points, 2) by which areas move points (tilts, points, 3) of the tomogram in the aligned images.

    Points are x, y, z from its middle with z along the beam, as in ``storage.alignments``.
    """
    weights = _weights(areas, point_px[..., :2])
    out = -_seen(stage.tilt_deg, stage.x_tilt_deg, point_px)
    for area in range(len(areas.transform)):
        tilt, x_tilt = stage.tilt_deg + areas.tilt_deg[area], stage.x_tilt_deg + areas.x_tilt_deg[area]
        matrix, shift = areas.transform[area, :, :, :2], areas.transform[area, :, :, 2]
        moved = np.einsum("tij,tpj->tpi", matrix, _seen(tilt, x_tilt, point_px)) + shift[:, None]
        out += weights[..., area, None] * moved
    return out


def _seen(tilt_deg: F64, x_tilt_deg: F64, point_px: F64) -> F64:
    turned = rotation_y(tilt_deg) @ rotation_x(x_tilt_deg)
    return np.asarray(np.einsum("tij,tpj->tpi", turned[:, :2], point_px))


def _weights(areas: LocalAreas, xy_px: F64) -> F64:
    """(..., areas) bilinear weights at x, y from the middle of the tomogram."""
    nx, ny = areas.grid
    place = (xy_px + areas.full_px / 2 + 0.5 - areas.start_px) / areas.step_px
    tents = [
        np.maximum(0.0, 1 - np.abs(np.clip(place[..., i, None], 0, n - 1) - np.arange(n)))
        for i, n in ((0, nx), (1, ny))
    ]
    both = tents[1][..., :, None] * tents[0][..., None, :]
    return np.asarray(both.reshape(*both.shape[:-2], nx * ny))


def warp_of_areas(areas: LocalAreas, stage: Stage, image_px: F64, pixel_A: float) -> FittedWarp:
    """The image warp that moves the middle plane of the tomogram as the areas do; pixel_A: of the aligned images."""
    back = rotation_z(stage.axis_deg)[:, :2, :2]  # from the aligned image to the image

    def wanted_A(uv: F64) -> F64:
        from_middle = (uv - 0.5) * image_px - stage.offset_px[:, None]
        aligned = np.einsum("tji,tpj->tpi", back, from_middle)
        moved = local_displacement_px(areas, stage, _in_middle_plane(areas, stage, aligned))
        return np.asarray(-pixel_A * np.einsum("tij,tpj->tpi", back, moved))

    return fit_image_warp(wanted_A, NODES)


def _in_middle_plane(areas: LocalAreas, stage: Stage, aligned_px: F64) -> F64:
    """(tilts, points, 3) points of the plane z = 0 that are seen at these places; none is outside of the tomogram."""
    b, a = np.deg2rad(stage.tilt_deg)[:, None], np.deg2rad(stage.x_tilt_deg)[:, None]
    y = aligned_px[..., 1] / np.maximum(np.cos(a), STEEPEST)
    x = (aligned_px[..., 0] - y * np.sin(a) * np.sin(b)) / np.maximum(np.cos(b), STEEPEST)
    half = areas.full_px / 2
    return np.stack([np.clip(x, -half[0], half[0]), np.clip(y, -half[1], half[1]), np.zeros_like(x)], -1)


def off_plane_A(areas: LocalAreas, stage: Stage, depth_px: float, pixel_A: float) -> float:
    """Root mean square of what points half ``depth_px`` from the middle plane move otherwise than those in it."""
    x, y = (np.linspace(-0.4, 0.4, 9) * n for n in areas.full_px)
    plane = np.stack([*(grid.ravel() for grid in np.meshgrid(x, y)), np.zeros(81)], -1)
    high = plane + np.array([0.0, 0.0, depth_px / 2])
    both = (np.broadcast_to(points, (len(stage.tilt_deg), *points.shape)) for points in (plane, high))
    one, other = (local_displacement_px(areas, stage, points) for points in both)
    return float(pixel_A * np.sqrt(((one - other) ** 2).sum(-1).mean()))
