"""Pixels of a detector that cannot be trusted are replaced by the good ones around them."""

from __future__ import annotations

import numpy as np

from mpr_dist.units import F32, F64, I64, Bool

# radii (px) within which good neighbours are looked for, one after the other, until there are this many: half of the
# first disc. Single pixels and lines find them at once; in the middle of a block there may be none.
RADII, ENOUGH = (4, 8, 16), 24


def repaired(frame: F32, bad: Bool) -> F32:
    """The frame (height, width) with bad pixels replaced by the mean of the good ones within the smallest radius.

    Those that have too few good ones within the largest radius become the mean of all that are good. Nothing is drawn
    at random, so the same frame and pixels give the same bits.
    """
    if not bad.any() or bad.all():
        return frame
    out, left = np.array(frame, np.float32), np.argwhere(bad)
    for radius in RADII:
        total, count = _added(frame, bad, left, radius)
        enough = count >= ENOUGH
        out[tuple(left[enough].T)] = total[enough] / count[enough]
        left = left[~enough]
        if not len(left):
            return out
    out[tuple(left.T)] = frame[~bad].mean(dtype=np.float64)
    return out


def _added(frame: F32, bad: Bool, places: I64, radius: int) -> tuple[F64, F64]:
    """Sum and number of the good pixels within a radius of places (n, 2) in rows and columns."""
    total, count = np.zeros(len(places)), np.zeros(len(places))
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx > radius * radius:
                continue
            y, x = places[:, 0] + dy, places[:, 1] + dx
            inside = (y >= 0) & (y < frame.shape[0]) & (x >= 0) & (x < frame.shape[1])
            rows, columns = y * inside, x * inside
            good = inside & ~bad[rows, columns]
            total += np.where(good, frame[rows, columns], 0.0)
            count += good
    return total, count
