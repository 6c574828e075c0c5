"""Grids of node values: how the image, the volume, the stage and the optics vary over a tilt series."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class CubicGrid:
    """Node values of a natural cubic spline over 0..1 on each axis (Warp's CubicGrid).

    Attributes:
        values: (depth, height, width) float64, that is [z, y, x]; z is usually the tilt.
        margins: distance of the first and last node from 0 and 1, in x, y, z order.
    """

    values: F64
    margins: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.size == 0:
            raise InputError(f"a cubic grid needs values [z, y, x], got an array of shape {self.values.shape}")

    @property
    def is_trivial(self) -> bool:
        """One node: a constant, which most files use for "nothing fitted"."""
        return self.values.size == 1

    @staticmethod
    def constant(value: float) -> CubicGrid:
        return CubicGrid(np.full((1, 1, 1), value, np.float64))

    @staticmethod
    def per_tilt(values: F64) -> CubicGrid:
        """A 1 x 1 x N grid whose node i is the value of tilt i."""
        return CubicGrid(np.asarray(values, np.float64).reshape(-1, 1, 1))


@dataclass(frozen=True, eq=False)
class LinearGrid4:
    """Node values (duration, depth, height, width) float64 of a quadrilinear grid over 0..1 (Warp's LinearGrid4D)."""

    values: F64

    def __post_init__(self) -> None:
        if self.values.ndim != 4 or self.values.size == 0:
            raise InputError(f"a 4D grid needs values [w, z, y, x], got an array of shape {self.values.shape}")

    @property
    def is_trivial(self) -> bool:
        return self.values.size == 1

    @staticmethod
    def constant(value: float) -> LinearGrid4:
        return LinearGrid4(np.full((1, 1, 1, 1), value, np.float64))


def _zero() -> CubicGrid:
    return CubicGrid.constant(0.0)


def _one() -> CubicGrid:
    return CubicGrid.constant(1.0)


def _zero4() -> LinearGrid4:
    return LinearGrid4.constant(0.0)


@dataclass(frozen=True, eq=False)
class ImageWarp:
    """GridMovementX/Y: A, subtracted from the projected position; axes are image x, image y, tilt."""

    x: CubicGrid = field(default_factory=_zero)
    y: CubicGrid = field(default_factory=_zero)


@dataclass(frozen=True, eq=False)
class VolumeWarp:
    """GridVolumeWarpX/Y/Z: A, added to the centred position in the volume; axes are x, y, z, dose."""

    x: LinearGrid4 = field(default_factory=_zero4)
    y: LinearGrid4 = field(default_factory=_zero4)
    z: LinearGrid4 = field(default_factory=_zero4)


@dataclass(frozen=True, eq=False)
class StageAngles:
    """GridAngleX/Y/Z: degrees; Rz Ry Rx multiplies the tilt matrix from the left. Axes are volume x, y, tilt."""

    x: CubicGrid = field(default_factory=_zero)
    y: CubicGrid = field(default_factory=_zero)
    z: CubicGrid = field(default_factory=_zero)


@dataclass(frozen=True, eq=False)
class DoseWeights:
    """What damps the images: B-factors (A^2, negative damps) and scales, per tilt and per place in the volume.

    ``bfactor`` with one node means "not fitted": B = -4 dose. ``weight`` with one node: scale = cos(tilt angle).
    """

    bfactor: CubicGrid = field(default_factory=_zero)
    bfactor_delta: CubicGrid = field(default_factory=_zero)
    bfactor_angle: CubicGrid = field(default_factory=_zero)
    weight: CubicGrid = field(default_factory=_one)
    location_bfactor: CubicGrid = field(default_factory=_zero)
    location_weight: CubicGrid = field(default_factory=_one)
    series_bfactor: float = 0.0
    series_weight: float = 1.0
