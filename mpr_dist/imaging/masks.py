"""Masks: binary on disk, soft only where they are used."""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from mpr_dist.errors import InputError
from mpr_dist.maths.filters import soft_mask, soft_sphere
from mpr_dist.units import F32

# M's reference mask (SP 1930-2150): grown by 3 px, raised cosine over 6 px
REFERENCE_EXTEND_PX = 3.0
REFERENCE_EDGE_PX = 6.0
MOST_OF_BOX = 0.5
THRESHOLD_ADVICE = (
    "Choose as --threshold of mask create the level at which the map in a viewer shows the particle and no noise"
)


def threshold_mask(
    density: F32, pixel_size_A: float, threshold: float, extend_px: float, sphere_diameter_A: float | None = None
) -> F32:
    """Binary mask of a map: where it is at least ``threshold``, grown by ``extend_px``, inside a sphere if given.

    Args:
        density: (n, n, n) float32.
        extend_px: euclidean distance; voxels up to so far from one above the threshold belong to the mask.
        sphere_diameter_A: what lies outside this sphere around the centre is left out, before and after growing.

    Returns (n, n, n) float32 of 0 and 1. Raises InputError when nothing is above the threshold or the map is no cube.
    """
    n = _edge_of(density)
    sphere = np.ones(density.shape, bool)
    if sphere_diameter_A is not None:
        if sphere_diameter_A <= 0:
            raise InputError(f"the mask's sphere needs a diameter above 0 A, got {sphere_diameter_A:g} A")
        sphere = soft_sphere(n, sphere_diameter_A / (2.0 * pixel_size_A), 0.0) > 0
    inside = (density >= threshold) & sphere
    if not inside.any():
        raise InputError(
            f"mask: no voxel reaches {threshold:g}; the map goes from {density[sphere].min():g} to "
            f"{density[sphere].max():g}. Choose a lower threshold"
        )
    if extend_px > 0:
        inside = scipy.ndimage.distance_transform_edt(~inside) <= extend_px
    return (inside & sphere).astype(np.float32)


def check_mask(mask: F32, box_px: int) -> F32:
    """The mask as (box_px, box_px, box_px) float32 of exactly 0 and 1. Raises InputError if it is anything else."""
    if mask.shape != (box_px,) * 3:
        raise InputError(f"mask: expected a cube of {box_px} px like the half-maps, got {mask.shape}")
    if not np.isin(mask, (0, 1)).all():
        raise InputError(
            f"mask: expected only 0 and 1, got values from {mask.min():g} to {mask.max():g}. Masks are "
            "softened when they are used; make a binary one with 'mpr-dist mask create'"
        )
    if not mask.any():
        raise InputError("mask: it is empty (all voxels are 0)")
    return np.asarray(mask, np.float32)


def useless_mask(mask: F32, pixel_size_A: float, diameter_A: float | None = None) -> str | None:
    """A sentence where a binary mask (n, n, n) hardly leaves anything out, with advice; None if it looks as it should.

    Args:
        diameter_A: of the particle, where it is known.
    """
    n, reasons = len(mask), []
    if mask.mean() > MOST_OF_BOX:
        reasons.append(f"covers {100 * float(mask.mean()):.0f} % of the box")
    if any(np.take(mask, side, axis).any() for axis in range(3) for side in (0, -1)):
        reasons.append("reaches the edge of the box")
    if diameter_A is not None and mask.any():
        width = 2.0 * pixel_size_A * float(np.linalg.norm(np.argwhere(mask > 0) - n // 2, axis=1).max())
        if width > 2.0 * diameter_A:
            reasons.append(f"is {width:.0f} A wide where the particle measures {diameter_A:g} A")
    return f"the mask {', '.join(reasons)}: does it hold noise? {THRESHOLD_ADVICE}" if reasons else None


def reference_mask(mask: F32) -> F32:
    """Soft mask (0 to 1, float32) for the reference that particles are compared with: M's 3 px and 6 px."""
    return np.asarray(soft_mask(mask, REFERENCE_EXTEND_PX, REFERENCE_EDGE_PX))


def fsc_mask(mask: F32, pixel_size_A: float, resolution_A: float) -> F32:
    """Soft mask (0 to 1, float32) for the FSC: grown by h and smoothed over h = 3 max(1, R / (2 pixel)), rounded.

    ``resolution_A`` is the previous resolution R: an edge sharper than what the maps resolve would make them agree by
    itself. Source: M's ``CalculateResolutionAndFilter``. h is at most an eighth of the box, so that a poor or infinite
    resolution does not turn the mask into the box.
    """
    h = np.floor(3.0 * max(1.0, min(resolution_A / (2.0 * pixel_size_A), len(mask))) + 0.5)
    h = min(float(h), len(mask) / 8.0)
    return np.asarray(soft_mask(mask, h, h))


def _edge_of(density: F32) -> int:
    if density.ndim != 3 or len(set(density.shape)) != 1:
        raise InputError(f"mask: expected a cubic map, got {density.shape}")
    return len(density)
