"""Movies of tilts: how the image moved while it was taken, and where the frames are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.maths.splines import cubic_grid
from mpr_dist.model.warp import CubicGrid
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class Motion:
    """Motion of a movie in Warp's terms: the sum of grids over x and y of the image, 0..1, and the frame, 0..1.

    A, and **subtracted**: what stands at u in the average stands at u - motion(u, frame) in a frame.

    Attributes:
        grids: pairs (x, y).
    """

    grids: tuple[tuple[CubicGrid, CubicGrid], ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether it differs from place to place."""
        return any(max(grid.values.shape[1:]) > 1 for pair in self.grids for grid in pair)

    def at(self, places: F64, n_frames: int) -> F64:
        """(frames, points, 2) A at places (points, 2) of the image, 0..1 along x and y."""
        frame = np.arange(n_frames) / max(n_frames - 1, 1)
        points = np.empty((n_frames, len(places), 3))
        points[..., :2], points[..., 2] = places, frame[:, None]
        out = np.zeros((n_frames, len(places), 2))
        for pair in self.grids:
            for axis, grid in enumerate(pair):
                out[..., axis] += cubic_grid(grid.values, points, grid.margins)
        return out

    def plus(self, other: Motion) -> Motion:
        """The sum; a last pair of the same shape is added up with one of the other, so that grids do not pile up."""
        grids = list(self.grids)
        for x, y in other.grids:
            if grids and all(_alike(a, b) for a, b in zip(grids[-1], (x, y), strict=True)):
                before = grids.pop()
                x, y = (CubicGrid(a.values + b.values, b.margins) for a, b in zip(before, (x, y), strict=True))
            grids.append((x, y))
        return Motion(tuple(grids))


def _alike(a: CubicGrid, b: CubicGrid) -> bool:
    return a.values.shape == b.values.shape and a.margins == b.margins


@dataclass(frozen=True)
class MovieSource:
    """What the .settings of frame series say about movies.

    Attributes:
        settings: that file; folder: of the movies; suffix: of their names, such as ".tif"; is_recursive: they may lie
            in folders below.
        pixel_A: of the frames; eer_group: raw frames of an EER movie that are added up to one (negative: so many frames
            of a movie in all).
        gain: file of the gain reference, or None; flip_x, flip_y, transpose: what brings it into the order of the
            frames, in this order.
        defects: file of the pixels that cannot be trusted, or None; a map is turned as the gain is.
        dose_per_frame: e/A^2 of one frame; if negative, of all frames together; 0: not known.
    """

    settings: Path
    folder: Path
    suffix: str
    is_recursive: bool
    pixel_A: float
    eer_group: int = 1
    gain: Path | None = None
    flip_x: bool = False
    flip_y: bool = False
    transpose: bool = False
    dose_per_frame: float = 0.0
    defects: Path | None = None

    def frame_doses(self, n_frames: int) -> F64:
        """(frames,) e/A^2 before the middle of every frame, since the movie began."""
        each = self.dose_per_frame if self.dose_per_frame >= 0 else -self.dose_per_frame / n_frames
        return np.asarray(each * (np.arange(n_frames) + 0.5))
