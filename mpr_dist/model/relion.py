"""A tilt series in RELION's own words and units, and what its particles may do from tilt to tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.units import F64

DEFORMATIONS = ("spline", "Fourier", "linear")


def coefficient_count(kind: str, grid: tuple[int, int]) -> int:
    """How many numbers RELION keeps per tilt. Raises InputError for a kind that does not exist."""
    if kind not in DEFORMATIONS:
        raise InputError(f"deformations of type {kind!r} are not known; there are {', '.join(DEFORMATIONS)}")
    if kind == "linear":
        return 3
    return 8 * grid[0] * grid[1] if kind == "spline" else 4 * len(frequencies(grid))


def frequencies(grid: tuple[int, int]) -> F64:
    """(frequencies, 2) half turns over the image along x and y, in RELION's order."""
    width, height = grid
    found = []
    for y in range(height):
        is_low = y < height // 2
        first = 0 if is_low and y > 0 else 1
        found += [(x, y if is_low else y - height) for x in range(first, width // 2 + 1)]
    return np.array(found, np.float64).reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class RelionDeformation:
    """How RELION's tomo_align bends the images of a series: pixels are added to every projected position.

    Attributes:
        kind: one of ``DEFORMATIONS``.
        grid: nodes along x and y (spline), or the size of the box of frequencies (Fourier).
        coefficients: (tilts, coefficients) in RELION's order; their unit is the pixel of the tilt series.
    """

    kind: str
    grid: tuple[int, int]
    coefficients: F64


@dataclass(frozen=True, eq=False)
class RelionTilts:
    """One tilt series of a RELION-5 (or 4) project; the order of tilts is that of its table.

    Attributes:
        name: rlnTomoName.
        pixel_A: rlnTomoTiltSeriesPixelSize, of the images and of "bin 1".
        volume_px: x, y, z of the tomogram at bin 1.
        angles_deg: (tilts, 3) rlnTomoXTilt, YTilt, ZRot; shift_A: (tilts, 2) rlnTomoX/YShiftAngst; or else
        projection: (tilts, 4, 4) RELION-4's matrices from pixels of the tomogram to pixels of the image.
        hand: rlnTomoHand, sign of the depth in the defocus.
        dose: (tilts,) e/A^2 before the tilt.
        defocus_u_A, defocus_v_A, defocus_angle_deg, phase_deg: (tilts,) at the centre of the tomogram.
        scale: (tilts,) rlnCtfScalefactor, or None; bfactor_A2: (tilts,) positive damps, or None.
        images: one name per tilt as it was written, "stack.mrc" or "3@stack.mrc"; empty when the table has none.
    """

    name: str
    pixel_A: float
    volume_px: tuple[int, int, int]
    hand: float
    voltage_kV: float
    cs_mm: float
    amplitude: float
    dose: F64
    defocus_u_A: F64
    defocus_v_A: F64
    defocus_angle_deg: F64
    phase_deg: F64
    angles_deg: F64 | None = None
    shift_A: F64 | None = None
    projection: F64 | None = None
    defocus_slope: float = 1.0
    scale: F64 | None = None
    bfactor_A2: F64 | None = None
    bfactor_per_dose: float | None = None
    deformation: RelionDeformation | None = None
    images: tuple[str, ...] = ()

    @property
    def n_tilts(self) -> int:
        return len(self.dose)
