"""Particle tables of RELION 3.0 to 5, of Warp's exports and of M, all understood as positions in A and angles.

The generations differ in the unit and the origin of coordinates, and in which of their many pixel sizes counts; angles
and signs are the same in all. Every choice made here is told in ``notes``, for the user to check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import euler_to_matrix, matrix_to_euler
from mpr_dist.model.reading import Reading
from mpr_dist.storage.particle_columns import Columns, describe, find_particles, list_of, series_key
from mpr_dist.storage.poses import angle_names, coordinate_names
from mpr_dist.units import F64, I8, Bool

if TYPE_CHECKING:
    import pandas as pd

CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
CORNER = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
ORIGIN_A = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
ORIGIN_PX = tuple(f"rlnOrigin{axis}" for axis in "XYZ")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SUBTOMOGRAM = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
_ANGLES_SAID = "Angles: rlnAngleRot/Tilt/Psi."
TILT_SERIES_PIXEL, IMAGE_PIXEL = "rlnTomoTiltSeriesPixelSize", "rlnImagePixelSize"


@dataclass(frozen=True, eq=False)
class ParticleTable:
    """Particles of one species in any number of tilt series, in the order of their file.

    Attributes:
        path: the file with the particles (not the optimisation set that led to it).
        series: (particles,) normalised name of the series of each particle, see ``series_key``.
        position_A: (particles, 3) float64 x, y, z; from the corner (centre of voxel 0, 0, 0) or from the volume centre;
            (particles, samples, 3) for trajectories, whose samples stand at equal distances along the dose.
        centred: which of the two; ``corner_positions`` gives corner positions either way.
        angles_deg: of the same shape, float64 rot, tilt, psi that turn the reference into the tomogram.
        half: (particles,) int8, 1 or 2.
        columns: the whole table joined with its optics, row by row as in the file.
        reading: how the table was understood.
    """

    path: Path
    series: tuple[str, ...]
    position_A: F64
    centred: bool
    angles_deg: F64
    half: I8
    columns: pd.DataFrame
    reading: Reading = field(default_factory=Reading)

    def __len__(self) -> int:
        return len(self.series)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that tell how the table was understood."""
        return self.reading.sentences

    def select(self, keep: Bool) -> ParticleTable:
        """The particles where ``keep`` (particles,) is true."""
        rows = np.flatnonzero(keep)
        return replace(
            self,
            series=tuple(self.series[row] for row in rows),
            position_A=self.position_A[rows],
            angles_deg=self.angles_deg[rows],
            half=self.half[rows],
            columns=self.columns.iloc[rows].reset_index(drop=True),
        )

    def corner_positions(self, volume_size_A: Mapping[str, Sequence[float]]) -> F64:
        """In A from the corner of each particle's tomogram, of the shape of ``position_A``.

        Args:
            volume_size_A: x, y, z in A by name of the series; names are compared by ``series_key``.

        Raises:
            InputError: positions are centred and the size of a series is not among the sizes.
        """
        return self.position_A + self._sizes(volume_size_A) / 2 if self.centred else self.position_A.copy()

    def outside(self, volume_size_A: Mapping[str, Sequence[float]], margin_A: float = 0.0) -> Bool:
        """(particles,) true where a particle lies outside its tomogram: many of them mean a wrong pixel size.

        Args:
            margin_A: by how much at least.
        """
        positions = self.corner_positions(volume_size_A)
        beyond = (positions < -margin_A) | (positions > self._sizes(volume_size_A) + margin_A)
        return np.asarray(beyond.any(axis=tuple(range(1, beyond.ndim))))

    def _sizes(self, volume_size_A: Mapping[str, Sequence[float]]) -> F64:
        sizes = {series_key(name): np.asarray(size, np.float64) for name, size in volume_size_A.items()}
        missing = sorted(set(self.series) - set(sizes))
        if missing:
            raise InputError(
                f"{self.path}: particles lie in series whose tomogram size is unknown: {list_of(missing)}; "
                "add these series or leave their particles out"
            )
        of_each = np.array([sizes[name] for name in self.series]).reshape(-1, 3)
        return of_each[:, None] if self.position_A.ndim == 3 else of_each


def read_particles(
    path: Path, *, coordinate_pixel_A: float | None = None, shift_pixel_A: float | None = None
) -> ParticleTable:
    """Read a particle table of RELION, Warp or M, or follow an optimisation set to it.

    Args:
        coordinate_pixel_A: pixel of rlnCoordinateX/Y/Z instead of what the table says.
        shift_pixel_A: pixel of rlnOriginX/Y/Z instead of what the table says.

    Raises:
        InputError: not a table of particles in tomograms, no angles, no particles, values that are not finite numbers,
            unknown half-sets, no pixel size, or a pixel size given for coordinates that are in A.
    """
    for what, pixel in (("coordinates", coordinate_pixel_A), ("shifts", shift_pixel_A)):
        if pixel is not None and not (np.isfinite(pixel) and pixel > 0):
            raise InputError(f"the pixel size of the {what} must be positive, got {pixel}")
    columns, followed = find_particles(Path(path))
    notes = [followed] if followed else []
    if columns.has("wrpCoordinateX1"):
        _refuse_pixels(columns, "M's coordinates are in A", coordinate_pixel_A, shift_pixel_A)
        return _read_m(columns, notes)
    _refuse_strangers(columns)
    names, name_note = _series(columns)
    is_warp = is_warp_export(columns)
    position, centred, position_note = _coordinates(columns, coordinate_pixel_A, is_warp)
    origin, origin_note = _origins(columns, shift_pixel_A)
    angles, angle_note = _angles(columns)
    if columns.has_any(*SUBTOMOGRAM):
        origin = np.einsum("nij,nj->ni", euler_to_matrix(columns.numbers(*SUBTOMOGRAM)), origin)
    half, half_note = _half_sets(columns, "rlnRandomSubset")
    return ParticleTable(
        path=columns.path,
        series=names,
        position_A=position - origin,
        centred=centred,
        angles_deg=angles,
        half=half,
        columns=columns.frame,
        reading=Reading(
            positions=position_note,
            origins=origin_note,
            angles=angle_note,
            units="Units: kept in A and degrees, whatever the table has.",
            names=name_note,
            halves=half_note,
            notes=tuple(notes),
        ),
    )


def _refuse_pixels(columns: Columns, why: str, *pixels: float | None) -> None:
    if any(pixel is not None for pixel in pixels):
        raise InputError(f"{columns.path}: a pixel size was given, but {why}; leave the option out")


def _refuse_strangers(columns: Columns) -> None:
    """Tables of images instead of particles in a tomogram."""
    if not columns.has_any(CORNER[2], CENTRED[2]):
        hint = "it looks like single-particle data"
        if columns.has("rlnGroupName", "rlnCtfScalefactor"):
            hint = "it looks like an image-series export of Warp 1 (one row per tilt): export the particles in 3D"
        raise InputError(f"{columns.path}: no positions in a tomogram ({CORNER[2]} or {CENTRED[2]}); {hint}")
    if not columns.has_any("rlnTomoName", "rlnMicrographName"):
        raise InputError(f"{columns.path}: no column says the tilt series (rlnTomoName or rlnMicrographName)")
    if not columns.has_any(*ANGLES, *SUBTOMOGRAM):
        raise InputError(f"{columns.path}: no angles ({', '.join(ANGLES)}); particles must have been aligned first")


def _series(columns: Columns, *first: str) -> tuple[tuple[str, ...], str]:
    """``first``: columns that count before RELION's."""
    wanted = (*first, "rlnTomoName", "rlnMicrographName", "wrpSourceName")
    column = next((name for name in wanted if columns.has(name)), None)
    if column is None:
        raise InputError(f"{columns.path}: no column says the tilt series ({', '.join(dict.fromkeys(wanted))})")
    raw = columns.text(column)
    names = tuple(series_key(name) for name in raw)
    example = f"'{raw[0]}' read as '{names[0]}'" if raw[0] != names[0] else f"such as '{names[0]}'"
    return names, f"Series: {len(set(names))}, names from {column}, {example}."


def is_warp_export(columns: Columns) -> bool:
    """Whether Warp wrote the table: its coordinates are in pixels of its images, its stacks weighed as Warp does."""
    column = "rlnTomoName" if columns.has("rlnTomoName") else "rlnMicrographName"
    if any(name.endswith(".tomostar") for name in columns.text(column)):
        return True
    has_images = columns.has("rlnTomoParticleId", "rlnImageName")
    return has_images and any("particleseries/" in str(name) for name in columns.frame["rlnImageName"])


def _coordinates(columns: Columns, pixel_A: float | None, is_warp: bool) -> tuple[F64, bool, str]:
    """Positions in A before origins, whether they are centred, and the sentence about them."""
    if columns.has_any(*CENTRED):
        _refuse_pixels(columns, "rlnCenteredCoordinateX/Y/ZAngst are in A", pixel_A)
        note = "Coordinates: rlnCenteredCoordinateX/Y/ZAngst, in A from the centre of the tomogram."
        if is_warp:
            note += (
                " NOTE: the names come from Warp: if RELION made them from a binned export of before July 2026, they"
                " may be wrong by the binning."
            )
        return columns.numbers(*CENTRED), True, note
    coordinates = columns.numbers(*CORNER)
    pixels, origin = _coordinate_pixel(columns, pixel_A, is_warp)
    note = f"Coordinates: rlnCoordinateX/Y/Z from the corner, in pixels of {describe(pixels, 'A')} ({origin})."
    if is_warp and pixel_A is None and columns.has(TILT_SERIES_PIXEL):
        other = columns.numbers(TILT_SERIES_PIXEL)
        if not np.allclose(other[:, 0], pixels, rtol=1e-3):
            note += f" As a Warp export it does not use {TILT_SERIES_PIXEL} ({describe(other, 'A')})."
    return coordinates * pixels[:, None], False, note


def _coordinate_pixel(columns: Columns, pixel_A: float | None, is_warp: bool) -> tuple[F64, str]:
    """(particles,) pixel size in A of rlnCoordinateX/Y/Z and where it came from."""
    if pixel_A is not None:
        return np.full(len(columns), pixel_A), "as given"
    if columns.has(TILT_SERIES_PIXEL) and not is_warp:
        return _positive(columns, columns.numbers(TILT_SERIES_PIXEL)[:, 0], TILT_SERIES_PIXEL), TILT_SERIES_PIXEL
    found = _image_pixel(columns)
    if found is None:
        raise InputError(
            f"{columns.path}: no pixel size for the coordinates ({IMAGE_PIXEL}, {TILT_SERIES_PIXEL}, "
            "rlnDetectorPixelSize with rlnMagnification, or rlnPixelSize); give it (--coordinate-pixel)"
        )
    return found


def _image_pixel(columns: Columns) -> tuple[F64, str] | None:
    """(particles,) pixel size in A of the particle images and where it came from."""
    if columns.has(IMAGE_PIXEL):
        return _positive(columns, columns.numbers(IMAGE_PIXEL)[:, 0], IMAGE_PIXEL), IMAGE_PIXEL
    if columns.has("rlnDetectorPixelSize", "rlnMagnification"):
        detector, magnification = columns.numbers("rlnDetectorPixelSize", "rlnMagnification").T
        _positive(columns, magnification, "rlnMagnification")
        pixels = _positive(columns, detector, "rlnDetectorPixelSize") * 1e4 / magnification
        return pixels, "rlnDetectorPixelSize and rlnMagnification"
    if columns.has("rlnPixelSize"):
        return _positive(columns, columns.numbers("rlnPixelSize")[:, 0], "rlnPixelSize"), "rlnPixelSize"
    return None


def _positive(columns: Columns, values: F64, name: str) -> F64:
    if values.min() <= 0:
        row = int(np.argmin(values)) + 1
        raise InputError(f"{columns.path}: column {name}, row {row}: expected a positive value, got {values.min():g}")
    return values


def _origins(columns: Columns, pixel_A: float | None) -> tuple[F64, str]:
    """(particles, 3) shifts in A, to be subtracted."""
    if columns.has_any(*ORIGIN_A):
        _refuse_pixels(columns, "rlnOriginX/Y/ZAngst are in A", pixel_A)
        return columns.numbers(*ORIGIN_A), "Shifts: rlnOriginX/Y/ZAngst in A, subtracted."
    if not columns.has_any(*ORIGIN_PX):
        _refuse_pixels(columns, "the table has no shifts", pixel_A)
        return np.zeros((len(columns), 3)), "Shifts: none in the table."
    origins = columns.numbers(*ORIGIN_PX)
    found = (np.full(len(columns), pixel_A), "as given") if pixel_A is not None else _image_pixel(columns)
    if found is None:
        if origins.any():
            raise InputError(f"{columns.path}: no pixel size for rlnOriginX/Y/Z; give it (--shift-pixel)")
        return origins, "Shifts: rlnOriginX/Y/Z are all zero."
    pixels, source = found
    note = f"Shifts: rlnOriginX/Y/Z in pixels of {describe(pixels, 'A')} ({source}), subtracted."
    return origins * pixels[:, None], note


def _angles(columns: Columns) -> tuple[F64, str]:
    """(particles, 3) rot, tilt, psi from the reference to the tomogram."""
    if not columns.has_any(*ANGLES):
        return columns.numbers(*SUBTOMOGRAM), "Angles: rlnTomoSubtomogramRot/Tilt/Psi alone."
    angles, note = _in_degrees(columns.numbers(*ANGLES))
    if columns.has_any(*SUBTOMOGRAM):
        outer = euler_to_matrix(columns.numbers(*SUBTOMOGRAM))
        angles = matrix_to_euler(outer @ euler_to_matrix(angles))
        note = note.replace(_ANGLES_SAID, f"{_ANGLES_SAID} rlnTomoSubtomogramRot/Tilt/Psi turn them and the shifts.")
    return angles, note


def _in_degrees(angles: F64) -> tuple[F64, str]:
    """Some versions of Warp multiplied angles by 57.3 once too often; a tilt, which is an arc cosine, gives it away."""
    note, largest = _ANGLES_SAID, float(np.abs(angles).max(initial=0.0))
    if largest <= 720:
        return angles, note
    note += f" NOTE: some are as large as {largest:.0f} degrees: some versions of Warp wrote angles multiplied by 57.3"
    tilt = np.abs(angles[:, 1])
    if tilt.max() > 720 and tilt.max() <= np.rad2deg(180.0) * 1.001:
        return angles / np.rad2deg(1.0), f"{note}, so all were DIVIDED by 57.2958."
    return angles, f"{note}; these tilts do not look so, and they were taken as they are."


def _half_sets(columns: Columns, name: str) -> tuple[I8, str]:
    if not columns.has(name):
        half = (np.arange(len(columns)) % 2 + 1).astype(np.int8)
        note = f"Half-sets: no {name}; rows alternate between 1 and 2."
        return half, f"{note} NOTE: half-maps made from other half-sets are not independent of these."
    values = columns.numbers(name)[:, 0]
    known = np.isin(values, (1, 2))
    if not known.all():
        row = int(np.argmin(known))
        raise InputError(f"{columns.path}: column {name}, row {row + 1}: half-sets are 1 and 2, got {values[row]:g}")
    first, second = int((values == 1).sum()), int((values == 2).sum())
    note = f"Half-sets: {name}, {first} and {second}."
    return values.astype(
        np.int8
    ), note if first and second else note + " NOTE: one half-set is empty, no FSC can be computed."


def _read_m(columns: Columns, notes: list[str]) -> ParticleTable:
    """M's table: A from the corner, one triple of columns per temporal sample, no shifts."""
    samples = 1
    while columns.has(f"wrpCoordinateX{samples + 1}"):
        samples += 1
    numbers = range(1, samples + 1)
    turns = 1
    while turns < samples and columns.has_any(*angle_names(turns + 1)):
        turns += 1
    positions = np.stack([columns.numbers(*coordinate_names(k)) for k in numbers], 1)
    angles = np.stack([columns.numbers(*angle_names(min(k, turns))) for k in numbers], 1)
    names, name_note = _series(columns, "wrpSourceName")
    half, half_note = _half_sets(columns, "wrpRandomSubset")
    note, turned = "Coordinates: wrpCoordinateX1/Y1/Z1, in A from the corner (M).", "Angles: wrpAngleRot/Tilt/Psi"
    if samples > 1:
        note = f"Coordinates: trajectories of M, {samples} samples along the dose, in A from the corner."
        turned += f", {turns} samples along the dose" + (", the last repeated" if turns < samples else "")
        turned += "; between samples ours turn evenly, M interpolates each angle"
    return ParticleTable(
        path=columns.path,
        series=names,
        position_A=positions if samples > 1 else positions[:, 0],
        centred=False,
        angles_deg=angles if samples > 1 else angles[:, 0],
        half=half,
        columns=columns.frame,
        reading=Reading(
            positions=note,
            origins="Shifts: M has none.",
            angles=f"{turned}.",
            units="Units: A and degrees.",
            names=name_note,
            halves=half_note,
            notes=tuple(notes),
        ),
    )
