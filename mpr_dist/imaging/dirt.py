"""Dirt in tilt images: what a mask covers is replaced by what surrounds it, and particles under it do not count.

M puts noise of a tenth of the contrast there. Here the surroundings go on: mean and slope of a band around each masked
region. No random numbers, no steps in brightness, and no noise that a particle nearby would take for its own.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mpr_dist.errors import SeriesError
from mpr_dist.units import F32, F64, Bool

# fringes and the pixels of a mask reach beyond it; then the band from which the surroundings are taken (A)
GROW_A = 16.0
BAND_A = 48.0
# an image of a particle counts while no more than this share of its disc is masked
LARGEST_SHARE = 0.5
# a mask covers the field of its image; Warp rounds its size to even pixels, downwards
SIZE_TOLERANCE_PX = 3.0


def scaled_mask(mask: Bool, shape: tuple[int, int]) -> Bool:
    """A mask of the same field in other pixels, as (height, width) = shape; pixels (0, 0) coincide.

    Raises SeriesError when the mask's proportions are not those of the image.
    """
    check_field(mask.shape[1], mask.shape[0], shape[1], shape[0])
    if mask.shape == shape:
        return mask
    soft = mask.astype(np.float32)
    for axis, n in enumerate(shape):
        place = np.arange(n) * (mask.shape[axis] / n)
        low = np.minimum(place.astype(int), mask.shape[axis] - 1)
        high = np.minimum(low + 1, mask.shape[axis] - 1)
        share = (place - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None]
        soft = (1 - share) * soft.take(low, axis) + share * soft.take(high, axis)
    return np.asarray(soft >= 0.5)


def check_field(mask_x: int, mask_y: int, image_x: int, image_y: int) -> None:
    """Raise SeriesError unless a mask of this size can show the same field as the image."""
    off_x = abs(mask_x - mask_y * image_x / image_y)
    off_y = abs(mask_y - mask_x * image_y / image_x)
    if min(off_x, off_y) > SIZE_TOLERANCE_PX or mask_x > image_x + SIZE_TOLERANCE_PX:
        raise SeriesError(
            f"the mask has {mask_x} x {mask_y} px, but its image has {image_x} x {image_y} px: the mask must show the "
            "whole image, in pixels of the same size or larger ones; make it again from this image, or remove it"
        )


def fill_masked(image: F32, mask: Bool, pixel_A: float) -> F32:
    """The image with every masked region, and GROW_A around it, replaced by the plane through its surroundings.

    Values of the plane stay within one standard deviation of the mean of the surroundings: where these lie on one side
    only, as at the edge of an image, a slope means little. An image that is masked all over becomes its mean. The same
    image and mask give the same bits.
    """
    if not mask.any():
        return image
    grow, band = GROW_A / pixel_A, BAND_A / pixel_A
    filled = _grown(mask, grow)
    labels, _ = ndimage.label(filled)
    out = np.asarray(image, np.float32).copy()
    for i, (rows, cols) in enumerate(ndimage.find_objects(labels), 1):
        window = _padded(rows, cols, band)
        region = labels[window] == i
        around = _near(region, band) & ~filled[window]
        values = np.asarray(image[window], np.float64)
        if around.sum() < 3:
            around = ~filled[window]
        if around.sum() < 3:
            out[window][region] = image[~filled].mean() if not filled.all() else image.mean()
        else:
            out[window][region] = _plane(values, around, region)
    return out


def _padded(rows: slice, cols: slice, margin_px: float) -> tuple[slice, slice]:
    margin = int(np.ceil(margin_px)) + 1
    return (
        slice(max(rows.start - margin, 0), rows.stop + margin),
        slice(max(cols.start - margin, 0), cols.stop + margin),
    )


def _grown(mask: Bool, distance_px: float) -> Bool:
    """The same as ``_near``, region by region: distances over a whole image take seconds."""
    labels, _ = ndimage.label(mask)
    out = mask.copy()
    for rows, cols in ndimage.find_objects(labels):
        window = _padded(rows, cols, distance_px)
        out[window] |= _near(mask[window], distance_px)
    return out


def _near(mask: Bool, distance_px: float) -> Bool:
    """Pixels up to so far from one of the mask."""
    return np.asarray(ndimage.distance_transform_edt(~mask) <= distance_px)


def _plane(values: F64, around: Bool, region: Bool) -> F64:
    """Values in the region of the plane that fits those around it best, kept near their mean."""
    y, x = np.mgrid[: values.shape[0], : values.shape[1]]
    known = values[around]
    mean, spread = known.mean(), known.std()
    y0, x0 = float(y[around].mean()), float(x[around].mean())
    columns = np.stack([y[around] - y0, x[around] - x0])
    # a band that is too narrow to tell a slope along it from nothing gets none
    gram = columns @ columns.T
    slope = np.linalg.pinv(gram, rcond=1e-6, hermitian=True) @ (columns @ (known - mean))
    plane = mean + slope[0] * (y[region] - y0) + slope[1] * (x[region] - x0)
    return np.asarray(np.clip(plane, mean - spread, mean + spread))


def masked_share(mask: Bool, xy_px: F64, keep: Bool, diameter_px: float) -> F64:
    """(particles,) share of the disc around each particle that is masked; 0 for those that are not to be kept."""
    r = max(diameter_px / 2, 0.5)
    n = int(np.floor(r))
    dy, dx = np.mgrid[-n : n + 1, -n : n + 1]
    disc = dy**2 + dx**2 <= r * r
    dy, dx = dy[disc], dx[disc]
    share = np.zeros(len(xy_px))
    for p in np.flatnonzero(keep):
        x, y = np.rint(xy_px[p]).astype(int)
        inside = (x + dx >= 0) & (x + dx < mask.shape[1]) & (y + dy >= 0) & (y + dy < mask.shape[0])
        share[p] = mask[y + dy[inside], x + dx[inside]].sum() / len(dx)
    return share
