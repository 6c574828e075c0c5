"""Half-maps and mask of a new species: checked, resampled, brought into a box of twice the diameter, and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.imaging.masks import check_mask
from mpr_dist.imaging.reference import half_map_fsc, map_scale
from mpr_dist.maths.fourier import crop_or_pad_real, fourier_resample
from mpr_dist.storage.mrc import PIXEL_TOLERANCE, read_volume
from mpr_dist.units import F32

BINARISE_AT = 0.25  # of a mask that was resampled
SEARCH_PX = 64  # how much a map may be padded so that the new pixel divides its box


@dataclass(frozen=True, eq=False)
class ImportedMaps:
    """(box, box, box) float32 each; the mask is 0 and 1; ``curves`` are those of the half-maps under the mask."""

    half1: F32
    half2: F32
    mask: F32
    pixel_size_A: float
    curves: FscCurves
    notes: tuple[str, ...]


def import_maps(
    half1: Path,
    half2: Path,
    mask: Path,
    diameter_A: float,
    pixel_size_A: float | None = None,
    symmetry: str = "C1",
    mask_threshold: float | None = None,
) -> ImportedMaps:
    """Read, check and prepare the maps of a species; the files are only read.

    Args:
        mask_threshold: make a mask that is not binary binary there; None refuses it.

    Raises:
        InputError: boxes or pixels differ, odd or not cubic, equal half-maps, a mask not binary or beyond the box.
    """
    (first, second), pixel = _read_halves(half1, half2)
    binary, notes = _read_mask(mask, len(first), pixel, mask_threshold)
    if not 0 < diameter_A <= len(first) * pixel:
        raise InputError(
            f"the diameter must be positive and fit the half-maps of {len(first) * pixel:g} A, got {diameter_A:g} A"
        )
    if pixel_size_A is not None and not pixel / 4 <= pixel_size_A <= diameter_A / 4:
        raise InputError(
            f"the pixel size of the species must lie between a quarter of the maps' pixel ({pixel / 4:g} A) and a "
            f"quarter of the diameter ({diameter_A / 4:g} A), got {pixel_size_A:g} A"
        )
    if pixel_size_A is not None and abs(pixel_size_A / pixel - 1) > PIXEL_TOLERANCE:
        first, second = (_resample(half, pixel, pixel_size_A) for half in (first, second))
        binary = (_resample(binary, pixel, pixel_size_A) >= BINARISE_AT).astype(np.float32)
        notes.append(f"Maps: resampled from {pixel:g} to {pixel_size_A:g} A per pixel.")
        pixel = pixel_size_A
    box = 2 * round(diameter_A / pixel)
    if box != len(first):
        notes.append(f"Maps: box of {len(first)} px brought to {box} px, twice the diameter.")
    cut = crop_or_pad_real(binary, box)
    if cut.sum() < binary.sum():
        raise InputError(
            f"{mask}: reaches beyond {box * pixel:g} A, twice the diameter of {diameter_A:g} A; give a larger "
            "diameter or a smaller mask"
        )
    halves = [crop_or_pad_real(half, box) for half in (first, second)]
    factor = np.float32(map_scale(np.asarray((halves[0] + halves[1]) / 2, np.float32), cut))
    halves = [half * factor for half in halves]
    curves = half_map_fsc(halves[0], halves[1], cut, pixel, symmetry)
    return ImportedMaps(halves[0], halves[1], cut, pixel, curves, tuple(notes))


def _read_halves(half1: Path, half2: Path) -> tuple[tuple[F32, F32], float]:
    (first, pixel1), (second, pixel2) = read_volume(half1), read_volume(half2)
    if first.shape != second.shape:
        raise InputError(
            f"half-maps differ in size: {half1} has {_size(first)} px, {half2} has {_size(second)}; give two of one run"
        )
    if len(set(first.shape)) != 1 or len(first) % 2:
        raise InputError(f"{half1}: half-maps must be cubes of even size, got {_size(first)} px")
    if min(pixel1, pixel2) <= 0:
        raise InputError(f"{half1 if pixel1 <= 0 else half2}: its header has no pixel size; set it first")
    if abs(pixel1 / pixel2 - 1) > PIXEL_TOLERANCE:
        raise InputError(f"half-maps differ in pixel size: {half1} has {pixel1:g} A, {half2} has {pixel2:g} A")
    for path, half in ((half1, first), (half2, second)):
        if float(np.ptp(half)) == 0.0:
            raise InputError(f"{path}: the map is empty, all voxels are {half.flat[0]:g}")
    if np.array_equal(first, second):
        raise InputError(f"{half1} and {half2} hold the same map; give the two independent half-maps")
    return (first, second), float(f"{pixel1:.6g}")  # headers hold float32: 2.4, not 2.4000001


def _read_mask(path: Path, box: int, pixel_A: float, threshold: float | None) -> tuple[F32, list[str]]:
    mask, own = read_volume(path)
    notes = []
    if threshold is not None and not np.isin(mask, (0, 1)).all():
        mask = (mask >= threshold).astype(np.float32)
        notes.append(f"Mask: was not binary, made so at {threshold:g}.")
    if own > 0 and abs(own / pixel_A - 1) > PIXEL_TOLERANCE:
        raise InputError(f"{path}: has pixels of {own:g} A, the half-maps have {pixel_A:g} A")
    try:
        return check_mask(mask, box), notes
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _resample(volume: F32, pixel_A: float, new_A: float) -> F32:
    """Fourier resampling in a box padded until a whole even number of new pixels fills it as well as can be."""
    sizes = np.arange(len(volume), len(volume) + SEARCH_PX + 1, 2)
    exact = sizes * pixel_A / new_A
    even = 2 * np.rint(exact / 2)
    best = int(np.argmin(np.abs(even / exact - 1)))
    return fourier_resample(crop_or_pad_real(volume, int(sizes[best])), int(even[best]))


def _size(volume: F32) -> str:
    return " x ".join(str(n) for n in volume.shape[::-1])
