"""The command that makes a mask from a map."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.masks import threshold_mask, useless_mask
from mpr_dist.storage.mrc import read_volume, write_volume


@dataclass(frozen=True)
class MaskSummary:
    """``fraction`` of the box is inside; ``extent_A`` is the diameter of the smallest centred sphere around it.

    ``grey``: lowest, mean and highest value of the map; ``note``: why the mask seems to be of no use.
    """

    path: Path
    fraction: float
    extent_A: float
    grey: tuple[float, float, float]
    note: str | None = None

    @property
    def lines(self) -> list[str]:
        lowest, mean, highest = self.grey
        return [
            f"{self.path}: {100 * self.fraction:.1f} % of the box, within {self.extent_A:.0f} A across",
            f"  grey values of the map: {lowest:.4g} to {highest:.4g}, mean {mean:.4g}",
            *([f"  NOTE: {self.note}."] if self.note else []),
        ]


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
    extent_A = float(2.0 * pixel_A * np.linalg.norm(away, axis=1).max())
    grey = (float(volume.min()), float(volume.mean(dtype=np.float64)), float(volume.max()))
    return MaskSummary(target, float(mask.mean()), extent_A, grey, useless_mask(mask, pixel_A))
