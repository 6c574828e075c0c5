"""Local alignments of AreTomo as image warps, a start of refinement.

AreTomo puts a point of the aligned tomogram at p + d(p) + shift from the middle of a tilt, where p is the projected
point in the frame of the tilt. d(p) is the mean of the shifts of good patches, with weights that fall with the distance
as parts x, y of the image: exp(-100 (x^2 + y^2)). Source: its kernel that corrects images, of AreTomo 2 and 3 alike.
"""

from __future__ import annotations

import numpy as np

from mpr_dist.imaging.relion_deformation import FittedWarp, fit_image_warp
from mpr_dist.model.patch_shifts import PatchShifts
from mpr_dist.units import F64

FALL = 100.0
NODES = (3, 3)  # to begin with; up to four times as many cells are tried


def patch_displacement_px(patches: PatchShifts, xy_px: F64) -> F64:
    """(tilts, points, 2) what AreTomo adds at xy_px (tilts, points, 2), counted as ``PatchShifts.at_px``."""
    apart = (xy_px[:, :, None] - patches.at_px[:, None]) / patches.image_px
    fall = np.where(patches.good[:, None], FALL * (apart**2).sum(-1), np.inf)
    nearest = fall.min(axis=-1, keepdims=True, initial=np.inf)
    # far from all patches, the nearest one counts: nothing underflows
    weight = np.exp(np.where(np.isfinite(nearest), nearest, 0.0) - fall)
    total = np.maximum(weight.sum(axis=-1, keepdims=True), 1e-300)
    return np.asarray(np.einsum("tpk,tki->tpi", weight / total, patches.shift_px))


def warp_of_patches(patches: PatchShifts, shift_px: F64, pixel_A: float) -> FittedWarp:
    """The image warp that moves positions as the patches do.

    Args:
        shift_px: (tilts, 2) from the middle of every image to where the middle of the tomogram lies.
        pixel_A: of the images that were aligned.
    """

    def wanted_A(uv: F64) -> F64:
        at = (uv - 0.5) * patches.image_px - shift_px[:, None]
        return -pixel_A * patch_displacement_px(patches, at)

    return fit_image_warp(wanted_A, NODES)
