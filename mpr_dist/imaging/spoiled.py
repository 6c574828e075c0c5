"""What goes wrong with single tilt images, and the masks that say so: gold beads, and a bar of the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class Bead:
    """A gold bead in one tilt image: next to no electron gets through the middle of its disc.

    Attributes:
        xy_A: (2,) from the centre of image pixel (0, 0); radius_A: of the disc.
    """

    tilt: int
    xy_A: F64
    radius_A: float


@dataclass(frozen=True)
class Spoiled:
    """What is wrong with some tilts of a series.

    Attributes:
        beads: gold beads, one or more per tilt image.
        blocked: tilts behind a bar of the grid: no particles, and a tenth of the electrons.
    """

    beads: tuple[Bead, ...] = ()
    blocked: tuple[int, ...] = ()


def bead_contrast(bead: Bead, shape: tuple[int, int], pixel_A: float) -> F64:
    """(height, width): 1 inside the disc of a bead, 0 outside, a smooth edge of two pixels."""
    return np.asarray(np.clip(0.5 - 0.5 * _outside_px(bead, shape, pixel_A), 0.0, 1.0))


def dirt_mask(beads: tuple[Bead, ...], shape: tuple[int, int], pixel_A: float) -> np.ndarray:
    """(height, width) uint8, 1 on every bead and two pixels around it: Warp's mask of what is not specimen."""
    dirty = np.zeros(shape, bool)
    for bead in beads:
        dirty |= _outside_px(bead, shape, pixel_A) < 2.0
    return dirty.astype(np.uint8)


def _outside_px(bead: Bead, shape: tuple[int, int], pixel_A: float) -> F64:
    """Distance of every pixel from the edge of the bead's disc, negative inside."""
    y, x = np.indices(shape)
    return np.asarray(np.hypot(x - bead.xy_A[0] / pixel_A, y - bead.xy_A[1] / pixel_A) - bead.radius_A / pixel_A)
