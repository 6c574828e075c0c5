"""Smooth edges: raised cosines in real space (masks) and in Fourier space (low and high pass)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt

from mpr_dist.arrays import HOST, Device
from mpr_dist.units import F32, F64, Bool

# px of a distance, beyond which steps along every axis take longer than a transform of the whole (measured: about 20)
LONG_REACH = 20


def raised_cosine(distance: ArrayLike, edge: float) -> F64:
    """1 where ``distance`` <= 0, falling as (1 + cos(pi distance / edge)) / 2 to 0 at ``edge``; a step if edge is 0."""
    return np.asarray(_raised_cosine(np.asarray(distance, np.float64), edge, HOST))


def _raised_cosine(distance: Any, edge: float, device: Device) -> Any:
    xp = device.xp
    if edge <= 0:
        return xp.where(distance <= 0, 1.0, 0.0)
    return 0.5 * (1.0 + xp.cos(np.pi * xp.clip(distance / edge, 0.0, 1.0)))


def soft_sphere(n: int, radius_px: float, edge_px: float, ndim: int = 3) -> F32:
    """Cube (or square, ``ndim`` = 2) of n px: 1 within ``radius_px`` of pixel n//2, then a raised cosine to 0."""
    squared = np.zeros(())
    for axis in range(ndim):
        along = np.square(np.arange(n) - n // 2.0)
        squared = squared + along.reshape([-1 if a == axis else 1 for a in range(ndim)])
    return raised_cosine(np.sqrt(squared) - radius_px, edge_px).astype(np.float32)


def soft_mask(binary: Any, extend_px: float, edge_px: float, device: Device = HOST) -> Any:
    """A binary map grown by ``extend_px`` and smoothed outwards over ``edge_px`` by a raised cosine, on a device.

    Distances are euclidean, between voxel centres. An empty mask stays empty. float32, 0 to 1, same shape.
    """
    inside = device.put(binary) > 0
    out = device.xp.zeros(inside.shape, np.float32)
    filled = [np.flatnonzero(line) for line in occupied(inside, device)]
    if not filled[0].size:
        return out
    # farther away it is zero, and a box is mostly empty
    reach = max(int(np.ceil(extend_px + edge_px)), 0) + 1
    near = tuple(slice(max(int(line[0]) - reach, 0), int(line[-1]) + reach + 1) for line in filled)
    distance = device.xp.sqrt(_squared_distance(inside[near], reach, device).astype(np.float64))
    out[near] = _raised_cosine(distance - extend_px, edge_px, device)
    return out


def occupied(volume: Any, device: Device = HOST) -> list[Bool]:
    """Of every axis of an array of a device, which of its places hold anything but 0; on the host."""
    axes = range(volume.ndim)
    return list(device.fetched([volume.any(axis=tuple(other for other in axes if other != axis)) for axis in axes]))


def _squared_distance(inside: Any, reach: int, device: Device) -> Any:
    """Of every voxel, int32, to the nearest one inside; beyond ``reach`` any number that is larger than its square.

    Axis by axis: the square of the distance is the least sum of that in the axes before and of a step along this one.
    Whole numbers, so every device has the same; on the host scipy finds them in less time where the reach is long.
    """
    if reach > LONG_REACH and not device.is_card:
        return np.rint(distance_transform_edt(~inside) ** 2).astype(np.int32)
    squared = device.xp.where(inside, 0, reach * reach + 1).astype(np.int32)
    for axis in range(inside.ndim):
        before = squared
        squared = before.copy()
        ahead, behind = [slice(None)] * inside.ndim, [slice(None)] * inside.ndim
        for step in range(1, min(reach, inside.shape[axis] - 1) + 1):
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            for here, there in ((tuple(ahead), tuple(behind)), (tuple(behind), tuple(ahead))):
                squared[here] = device.xp.minimum(squared[here], before[there] + step * step)
    return squared


def low_pass(frequency: ArrayLike, cutoff: float, edge: float) -> F64:
    """Gain at each frequency: 1 below cutoff - edge/2, 1/2 at the cutoff, 0 above cutoff + edge/2 (same units)."""
    if edge <= 0:
        return np.where(np.asarray(frequency, np.float64) <= cutoff, 1.0, 0.0)
    return raised_cosine(np.asarray(frequency, np.float64) - (cutoff - edge / 2.0), edge)


def high_pass(frequency: ArrayLike, cutoff: float, edge: float) -> F64:
    """Gain at each frequency: what ``low_pass`` takes away."""
    return np.asarray(1.0 - low_pass(frequency, cutoff, edge))
