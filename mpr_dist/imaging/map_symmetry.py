"""Which point groups a map has, about RELION's axes, whatever group its species was given.

A map that has a group agrees with its turned self as well as its half-maps let it agree with another map of as many
particles: FSC 2 F / (1 + F), for half-maps that agree with F. The share of that which a rotation reaches is 1 for a
symmetry and near 0 for other rotations, unless the map is smooth: a hollow sphere is like itself from all sides at low
resolution. So a rotation only counts as a symmetry if another one about the same axis fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from mpr_dist.imaging.fsc import first_shell_below, fsc
from mpr_dist.maths.filters import soft_mask
from mpr_dist.maths.fourier import crop_or_pad_real, fourier_resample
from mpr_dist.maths.rotations import exp_rotation, log_rotation
from mpr_dist.maths.symmetry import generators, is_subset, rotations
from mpr_dist.model.species import Species
from mpr_dist.units import F32, F64

# edge of the maps that are turned, px: detail beyond it is not needed to know a group
LARGEST_BOX = 48
# of a diameter, what is kept around it so that turned maps have no edge there
MARGIN = 1.25
# half-maps agree well enough to be compared with others; fewer shells than these say nothing
USEFUL_FSC = 0.5
FEWEST_SHELLS = 4
# share of the agreement: from HELD on a group is there, below LOST it is not; in between nothing is said
HELD, LOST = 0.8, 0.5
# another rotation about the same axis, as a part of the symmetry's, must reach this much less
OTHER_TURN, CONTRAST = 0.382, 0.3
CANDIDATES = (*(f"{kind}{n}" for kind in "CD" for n in range(2, 13)), "T", "O", "I1", "I2", "I3", "I4")


@dataclass(frozen=True)
class MapSymmetry:
    """What the map says about the group it was given.

    Attributes:
        given: its name; share: of the agreement that its worst generator reaches (1 for C1); nan where the half-maps
            do not agree well enough to tell.
        higher: the largest group that contains it and that the map has, None if there is none.
    """

    given: str
    share: float
    higher: str | None = None

    @property
    def is_right(self) -> bool:
        return not self.share < LOST and self.higher is None

    @property
    def sentence(self) -> str:
        """What is odd; empty if nothing is."""
        if self.share < LOST:
            return (
                f"its map does not have the symmetry {self.given} it was given: turned by it, it agrees with itself "
                f"{max(0.0, 100 * self.share):.0f} % as well as it should"
            )
        if self.higher is not None:
            return f"its map looks like {self.higher}, the symmetry it was given is {self.given}"
        return ""

    @property
    def advice(self) -> str:
        if self.share < LOST:
            return "is the group right, and do its axes lie where RELION has them? species rotate turns a map"
        if self.higher is not None:
            return f"if it is meant to be {self.higher}, add it with --symmetry {self.higher}"
        return ""


def map_symmetry(half1: F32, half2: F32, species: Species) -> MapSymmetry:
    """Compare the average of two half-maps (box, box, box) with itself, turned by generators of groups.

    Helices are not looked at: their axis makes them like themselves at many angles.
    """
    given = species.symmetry.strip().upper()
    turns = _Turns.of(half1, half2, species)
    if turns is None or species.helix is not None:
        return MapSymmetry(given, float("nan"))
    share = min((turns.share(each) for each in generators(given)), default=1.0)
    if share < LOST:
        return MapSymmetry(given, share)
    own = rotations(given)
    higher = [name for name in CANDIDATES if len(rotations(name)) > len(own) and is_subset(own, rotations(name))]
    for name in sorted(higher, key=lambda each: -len(rotations(each))):
        if all(turns.holds(each) for each in generators(name)):
            return MapSymmetry(given, share, name)
    return MapSymmetry(given, share)


@dataclass(frozen=True, eq=False)
class _Turns:
    """A small map that can be turned.

    Attributes:
        volume: (n, n, n); knots: of its cubic spline on twice the grid; sphere: soft; inside: (3, m) voxels of it,
            from the centre; weight: (shells,) of the agreement, which is ``best`` in all shells together.
    """

    volume: F32
    knots: F32
    sphere: F32
    inside: F64
    weight: F64
    best: float
    known: dict[bytes, float]

    @staticmethod
    def of(half1: F32, half2: F32, species: Species) -> _Turns | None:
        """None where the half-maps agree in too few shells."""
        wide = int(MARGIN * species.diameter_A / species.pixel_size_A / 2) * 2
        cut = [crop_or_pad_real(half, min(len(half), max(wide, 8))) for half in (half1, half2)]
        size = min(len(cut[0]), LARGEST_BOX)
        radius = size * species.diameter_A / (len(cut[0]) * species.pixel_size_A) / 2
        first, second = (fourier_resample(half, size) for half in cut)
        grid = np.indices(first.shape, dtype=np.float64).reshape(3, -1) - size // 2
        distance = np.sqrt((grid**2).sum(0)).reshape(first.shape)
        sphere = soft_mask(distance <= min(radius, size / 2 - 4), 1.0, 3.0)
        halves = fsc(first * sphere, second * sphere)
        shells = min(first_shell_below(halves, USEFUL_FSC), size // 2)
        if shells <= FEWEST_SHELLS:
            return None
        weight = np.arange(len(halves), dtype=np.float64) ** 2
        weight[shells:] = 0.0
        useful = np.clip(halves, 0.0, 1.0)
        mean = ((first + second) / 2).astype(np.float32)
        knots = scipy.ndimage.spline_filter(fourier_resample(mean, 2 * size), 3, np.float32)
        best = float((weight * 2 * useful / (1 + useful)).sum())
        return _Turns(mean, knots, sphere, grid[:, sphere.ravel() > 0], weight, best, {})

    def share(self, rotation: F64) -> float:
        """Of the agreement of two such maps, what the map and itself turned by ``rotation`` (3, 3) reach."""
        key = np.round(rotation, 9).tobytes()
        if key not in self.known:
            at = 2 * (np.asarray(rotation).T[::-1, ::-1] @ self.inside + len(self.volume) // 2)
            turned = np.zeros_like(self.volume)
            turned[self.sphere > 0] = scipy.ndimage.map_coordinates(self.knots, at, order=3, prefilter=False)
            curve = fsc(self.volume * self.sphere, turned * self.sphere)
            self.known[key] = float((self.weight * curve).sum()) / self.best
        return self.known[key]

    def holds(self, rotation: F64) -> bool:
        """Whether it is a symmetry, which another rotation about its axis is not."""
        if self.share(rotation) < HELD:
            return False
        other = exp_rotation(OTHER_TURN * log_rotation(rotation))
        return self.share(rotation) - self.share(other) > CONTRAST
