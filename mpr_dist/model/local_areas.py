"""Local alignments of IMOD: how areas of the specimen tilt and move beside the alignment of the whole."""

from __future__ import annotations

from dataclasses import dataclass

from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class LocalAreas:
    """Areas on a grid over the tomogram, x fastest, in pixels of the aligned images.

    Attributes:
        grid: areas along x and y.
        start_px, step_px: (2,) x, y of the first area, counted from the corner with pixel 1 at 1, and from one to the
            next.
        full_px: (2,) size of the aligned images.
        tilt_deg, x_tilt_deg: (areas, tilts) to be added to tilt and x tilt.
        transform: (areas, tilts, 2, 3) of aligned positions from the middle: a matrix and a shift.
    """

    grid: tuple[int, int]
    start_px: F64
    step_px: F64
    full_px: F64
    tilt_deg: F64
    x_tilt_deg: F64
    transform: F64
