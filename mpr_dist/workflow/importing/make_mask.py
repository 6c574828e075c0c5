"""The command that makes a mask from a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.masks import threshold_mask
from mpr_dist.storage.mrc import read_volume, write_volume


@dataclass(frozen=True)
class MaskSummary:
    """``fraction`` of the box is inside; ``extent_A`` is the diameter of the smallest centred sphere around it."""

    path: Path
    fraction: float
    extent_A: float

    @property
    def lines(self) -> list[str]:
        return [f"{self.path}: {100 * self.fraction:.1f} % of the box, within {self.extent_A:.0f} A across"]


def make_mask(
    source: Path, target: Path, threshold: float, extend_px: float = 0.0, sphere_diameter_A: float | None = None
) -> MaskSummary:
    """Write a binary mask of the map ``source``, see ``imaging.masks.threshold_mask``.

    Raises:
        InputError: the map cannot be read, nothing is above the threshold, or the target exists and is not a mask.
    """
    if target.resolve() == source.resolve():
        raise InputError(f"{target}: is the map itself, which is never changed; give another name for the mask")
    if target.exists() and not np.isin(read_volume(target)[0], (0, 1)).all():
        raise InputError(f"{target}: exists already and is no mask; give another name")
    volume, pixel_A = read_volume(source)
    if pixel_A <= 0:
        raise InputError(f"{source}: its header has no pixel size; set it first")
    mask = threshold_mask(volume, pixel_A, threshold, extend_px, sphere_diameter_A)
    write_volume(target, mask, pixel_A)
    away = np.argwhere(mask > 0) - np.array(mask.shape) // 2
    return MaskSummary(target, float(mask.mean()), float(2.0 * pixel_A * np.linalg.norm(away, axis=1).max()))
