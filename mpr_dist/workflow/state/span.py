"""How much of their tomograms particles fill: coordinates in a wrong pixel often lie together in a small part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mpr_dist.units import F64

# fewer particles lie in a small part by chance
FEWEST = 10
# of every axis: all particles in an eighth of the tomogram
SMALL = 0.5


@dataclass(frozen=True)
class Span:
    """``share``: of x, y and z, from the first to the last of ``count`` particles of all series together."""

    share: tuple[float, ...]
    count: int

    ADVICE: ClassVar[str] = "is the pixel size of the coordinates right (--coordinate-pixel)?"

    @staticmethod
    def of(places: Sequence[F64]) -> Span:
        """places: (particles, 3) per series, as parts of the tomogram."""
        together = np.concatenate([np.zeros((0, 3)), *places])
        if not len(together):
            return Span((0.0, 0.0, 0.0), 0)
        return Span(tuple(float(each) for each in np.ptp(together, axis=0)), len(together))

    @property
    def is_odd(self) -> bool:
        """Whether they all lie in an eighth of the tomogram, or less."""
        return self.count >= FEWEST and max(self.share) <= SMALL

    @property
    def sentence(self) -> str:
        x, y, z = (100 * each for each in self.share)
        if self.is_odd:
            return (
                f"all {self.count} particles lie within {x:.0f} % of x, {y:.0f} % of y and {z:.0f} % of z of their "
                "tomograms, an eighth of the volume or less"
            )
        return f"Particles span {x:.0f} % of x, {y:.0f} % of y and {z:.0f} % of z of their tomograms"
