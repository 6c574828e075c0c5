"""Which parameters are refined, and where each stands in the vector of series parameters.

Series parameters belong to one tilt each; classes stand one behind the other, tilts within a class in file order.
Poses form a separate array (particles, 6): position x, y, z (A), rotation vector x, y, z in the tomogram frame (rad).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpr_dist.model.settings import RefineSettings
from mpr_dist.units import I64

POSE_SIZE = 6


@dataclass(frozen=True)
class Layout:
    """Attributes:
    n_tilts: of the series.
    image_warp: nodes (width, height) per tilt, or None.
    stage_angles, defocus: classes of 3 and 1 values per tilt. B-factor and log of the amplitude scale are always there.
    poses: whether positions and orientations are refined.
    """

    n_tilts: int
    image_warp: tuple[int, int] | None
    stage_angles: bool
    defocus: bool
    poses: bool

    @staticmethod
    def of(settings: RefineSettings, n_tilts: int) -> Layout:
        return Layout(n_tilts, settings.image_warp, settings.stage_angles, settings.defocus, settings.particles)

    @cached_property
    def widths(self) -> dict[str, int]:
        """Class name -> values per tilt, in the order of the vector."""
        nodes = self.image_warp[0] * self.image_warp[1] if self.image_warp else 0
        all_classes = {
            "image_warp_x": nodes,
            "image_warp_y": nodes,
            "stage_angles": 3 if self.stage_angles else 0,
            "defocus": 1 if self.defocus else 0,
            "bfactor": 1,
            "log_scale": 1,
        }
        return {name: width for name, width in all_classes.items() if width}

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Class name -> its part of the series vector, shape (tilts, width) when reshaped."""
        out, start = {}, 0
        for name, width in self.widths.items():
            out[name] = slice(start, start + width * self.n_tilts)
            start += width * self.n_tilts
        return out

    @property
    def n_series(self) -> int:
        return sum(self.widths.values()) * self.n_tilts

    def columns(self, tilt: int) -> I64:
        """Indices of the parameters of one tilt, classes in order."""
        parts = [
            self.slices[name].start + tilt * width + np.arange(width, dtype=np.int64)
            for name, width in self.widths.items()
        ]
        return np.concatenate(parts)
