"""Smooth edges: raised cosines in real space (masks) and in Fourier space (low and high pass)."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray

from mpr_dist.units import F32, F64, Bool


def raised_cosine(distance: ArrayLike, edge: float) -> F64:
    """1 where ``distance`` <= 0, falling as (1 + cos(pi distance / edge)) / 2 to 0 at ``edge``; a step if edge is 0."""
    d = np.asarray(distance, np.float64)
    if edge <= 0:
        return np.where(d <= 0, 1.0, 0.0)
    return np.asarray(0.5 * (1.0 + np.cos(np.pi * np.clip(d / edge, 0.0, 1.0))))


def soft_sphere(n: int, radius_px: float, edge_px: float, ndim: int = 3) -> F32:
    """Cube (or square, ``ndim`` = 2) of n px: 1 within ``radius_px`` of pixel n//2, then a raised cosine to 0."""
    squared = np.zeros(())
    for axis in range(ndim):
        along = np.square(np.arange(n) - n // 2.0)
        squared = squared + along.reshape([-1 if a == axis else 1 for a in range(ndim)])
    return raised_cosine(np.sqrt(squared) - radius_px, edge_px).astype(np.float32)


def soft_mask(binary: NDArray[np.generic], extend_px: float, edge_px: float) -> F32:
    """A binary map grown by ``extend_px`` and smoothed outwards over ``edge_px`` by a raised cosine.

    Distances are euclidean, between voxel centres. An empty mask stays empty. float32, 0 to 1, same shape.
    """
    inside = np.asarray(binary) > 0
    if not inside.any():
        return np.zeros(inside.shape, np.float32)
    # farther away it is zero, and a box is mostly empty
    reach = max(int(np.ceil(extend_px + edge_px)), 0) + 1
    near = tuple(_span(inside, axis, reach) for axis in range(inside.ndim))
    out = np.zeros(inside.shape, np.float32)
    distance = scipy.ndimage.distance_transform_edt(~inside[near])
    out[near] = raised_cosine(distance - extend_px, edge_px)
    return out


def _span(inside: Bool, axis: int, reach: int) -> slice:
    """Where along an axis anything is inside, and so many voxels beyond."""
    found = np.flatnonzero(inside.any(axis=tuple(a for a in range(inside.ndim) if a != axis)))
    return slice(max(int(found[0]) - reach, 0), int(found[-1]) + reach + 1)


def low_pass(frequency: ArrayLike, cutoff: float, edge: float) -> F64:
    """Gain at each frequency: 1 below cutoff - edge/2, 1/2 at the cutoff, 0 above cutoff + edge/2 (same units)."""
    if edge <= 0:
        return np.where(np.asarray(frequency, np.float64) <= cutoff, 1.0, 0.0)
    return raised_cosine(np.asarray(frequency, np.float64) - (cutoff - edge / 2.0), edge)


def high_pass(frequency: ArrayLike, cutoff: float, edge: float) -> F64:
    """Gain at each frequency: what ``low_pass`` takes away."""
    return np.asarray(1.0 - low_pass(frequency, cutoff, edge))
