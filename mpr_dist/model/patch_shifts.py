"""Local alignments of AreTomo: how patches of every tilt lie beside where the alignment of whole images puts them."""

from __future__ import annotations

from dataclasses import dataclass

from mpr_dist.units import F64, Bool


@dataclass(frozen=True, eq=False)
class PatchShifts:
    """Patches of all tilts, in pixels of the images that were aligned.

    Attributes:
        at_px: (tilts, patches, 2) x, y from where the middle of the tomogram lies in the tilt.
        shift_px: (tilts, patches, 2) to be added to positions there.
        good: (tilts, patches) the others are not used.
        image_px: (2,) size of the images.
    """

    at_px: F64
    shift_px: F64
    good: Bool
    image_px: F64
