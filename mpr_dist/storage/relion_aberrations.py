"""Aberrations in the optics groups of a RELION particle table, in Warp's order and signs, by tilt series.

RELION turns a beam tilt into odd Zernike coefficients and adds it to those of the table, and takes all that optics do
(CTF, even and odd aberrations) at M q, the frequency in the specimen, where M is rlnMagMat; so does the slice through
the reference. Warp takes the slice at M q and the optics at q. Coefficients are converted; defocus is elsewhere
(``imaging.relion_optics``). Sources: RELION's ObservationModel and TiltHelper; with a beam tilt t in rad the image
has the phase -2 pi Cs lambda^2 q^2 (q . t).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.maths.zernike import of_mapped_frequencies
from mpr_dist.model.optics import Optics
from mpr_dist.storage.particle_columns import Columns, find_particles, list_of, series_key
from mpr_dist.storage.star import read_blocks
from mpr_dist.units import F64, wavelength_A

ODD, EVEN = "rlnOddZernike", "rlnEvenZernike"
BEAM_TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
CS, VOLTAGE = "rlnSphericalAberration", "rlnVoltage"
FLOAT32 = 1e-6  # relative; what an XML keeps
_LARGEST_STRETCH = 1.5  # beyond, a matrix is a mistake, such as a column of zeros


@dataclass(frozen=True)
class Aberrations:
    """Zernike coefficients of a series as Warp keeps them: odd ones of opposite sign, even ones without the first.

    ``magnification``: M, row by row. Beam tilt is part of the odd ones.
    """

    odd: tuple[float, ...] = ()
    even: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)

    @staticmethod
    def of(optics: Optics) -> Aberrations:
        """Those of a tilt series."""
        (a, b), (c, d) = np.asarray(optics.magnification).tolist()
        return Aberrations(optics.zernike_odd, optics.zernike_even, (a, b, c, d))

    @property
    def matrix(self) -> F64:
        """(2, 2)."""
        return np.array(self.magnification).reshape(2, 2)

    @property
    def is_any(self) -> bool:
        """Whether there are any."""
        return any(self.odd + self.even) or not np.array_equal(self.matrix, np.eye(2))

    def agrees_with(self, other: Aberrations) -> bool:
        """Whether both are the same to the digits of a float32, which is what an XML keeps."""
        pairs = ((self.odd, other.odd), (self.even, other.even), (self.magnification, other.magnification))
        return all(same_numbers(one, two) for one, two in pairs)


def same_numbers(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """To the digits of a float32; what a shorter list lacks is 0."""
    a, b = (np.pad(each, (0, max(len(one), len(other)) - len(each))) for each in (one, other))
    return bool(np.allclose(a, b, rtol=FLOAT32, atol=FLOAT32 * float(np.abs(b).max(initial=0.0))))


def read_aberrations(path: Path) -> tuple[dict[str, Aberrations], list[str]]:
    """Aberrations by series of the particles that an optimisation set names, and sentences about what was understood.

    Nothing for files that name no particles.

    Raises:
        InputError: the particles cannot be read, a list of coefficients is not one, or a matrix is no magnification.
    """
    if not any("rlnTomoParticlesFile" in block for block in read_blocks(path).values()):
        return {}, []
    columns, _ = find_particles(path)
    if not columns.has("rlnTomoName"):
        return {}, []
    found: dict[str, Aberrations] = {}
    mixed = set()
    for name, each in zip(columns.text("rlnTomoName"), aberrations_of(columns), strict=True):
        key = series_key(name)
        if found.setdefault(key, each) != each:
            mixed.add(key)
    return found, _sentences(columns, list(found.values()), sorted(mixed))


def _sentences(columns: Columns, found: list[Aberrations], mixed: list[str]) -> list[str]:
    sentences = []
    if any(any(each.odd + each.even) for each in found):
        tilted = _values(columns, BEAM_TILT, 0.0).any() and _has_cs(columns)
        with_tilt = f", the beam tilt ({' and '.join(BEAM_TILT)}, mrad) added to the odd ones" if tilted else ""
        sentences.append(f"Aberrations: {ODD} and {EVEN} of the particles, per series{with_tilt}.")
    stretched = [each.matrix for each in found if not np.array_equal(each.matrix, np.eye(2))]
    if stretched:
        most = max(float(np.abs(matrix - np.eye(2)).max()) for matrix in stretched)
        sentences.append(
            f"Magnification: {MAGNIFICATION[0]} to {MAGNIFICATION[-1][-2:]} of the particles, per series, up to "
            f"{100 * most:.2f} %; it maps frequencies of the image to those of the reference. RELION takes CTFs at the "
            "mapped frequencies: defocus, astigmatism and aberrations were converted."
        )
    if mixed:
        sentences.append(
            f"NOTE: particles of {list_of(mixed)} are in groups with different aberrations, beam tilt or "
            "magnification: those of the first particle are taken for the whole series."
        )
    if _values(columns, BEAM_TILT, 0.0).any() and not _has_cs(columns):
        sentences.append(
            f"NOT TAKEN OVER: {' and '.join(BEAM_TILT)}, which mean nothing without {CS} and {VOLTAGE} of the optics "
            "groups; refine --aberrations 3 finds it."
        )
    return sentences


def aberrations_of(columns: Columns) -> list[Aberrations]:
    """Of every particle; columns that are missing stand for none.

    Raises:
        InputError: a list of coefficients is not one, or a matrix is no magnification.
    """
    odd, even = (_texts(columns, name) for name in (ODD, EVEN))
    matrix = np.stack([_values(columns, (name,), float(i in (0, 3)))[:, 0] for i, name in enumerate(MAGNIFICATION)], 1)
    _check(columns, matrix)
    coma = _coma(columns)
    known: dict[tuple[str, str, bytes], Aberrations] = {}
    out = []
    for one, other, numbers in zip(odd, even, np.concatenate([coma, matrix], axis=1), strict=True):
        key = one, other, numbers.tobytes()
        if key not in known:
            known[key] = _aberrations(columns, one, other, numbers[:2].tolist(), numbers[2:])
        out.append(known[key])
    return out


def _coma(columns: Columns) -> F64:
    """(rows, 2) what multiplies q^2 q in RELION's phase for the beam tilt of every row."""
    tilt = _values(columns, BEAM_TILT, 0.0)
    if not tilt.any() or not _has_cs(columns):
        return np.zeros_like(tilt)
    cs, voltage = columns.numbers(CS, VOLTAGE).T
    if voltage.min() <= 0:
        raise InputError(f"{columns.path}: column {VOLTAGE}: expected a positive value, got {voltage.min():g}")
    wavelength = np.array([wavelength_A(each) for each in voltage])
    return np.asarray(-2 * np.pi * 1e4 * (cs * wavelength**2)[:, None] * tilt)


def _aberrations(columns: Columns, odd: str, even: str, coma: list[float], elements: F64) -> Aberrations:
    """``coma``: x and y of what multiplies q^2 q in RELION's phase."""
    phases, (x, y) = _numbers(columns, ODD, odd), coma
    if x or y:
        # q^2 x = (Z31 + 2 Z11) / 3, and y alike
        tilted = (2 * y / 3, 2 * x / 3, 0.0, y / 3, x / 3, 0.0)
        length = max(len(phases), len(tilted))
        phases = tuple(one + more for one, more in zip(_filled(phases, length), _filled(tilted, length), strict=True))
    m = elements.reshape(2, 2)
    (a, b), (c, d) = m.tolist()
    return Aberrations(
        of_mapped_frequencies(tuple(-c for c in phases), 1, m),
        of_mapped_frequencies(_numbers(columns, EVEN, even)[1:], 0, m),
        (a, b, c, d),
    )


def _filled(values: tuple[float, ...], length: int) -> tuple[float, ...]:
    return (*values, *([0.0] * (length - len(values))))


def _has_cs(columns: Columns) -> bool:
    return columns.has(CS, VOLTAGE)


def _check(columns: Columns, matrices: F64) -> None:
    stretch = np.linalg.svd(matrices.reshape(-1, 2, 2), compute_uv=False)
    bad = (stretch.max(1) > _LARGEST_STRETCH) | (stretch.min(1) < 1 / _LARGEST_STRETCH)
    bad |= np.linalg.det(matrices.reshape(-1, 2, 2)) <= 0
    if bad.any():
        row = int(np.argmax(bad))
        found = ", ".join(f"{value:g}" for value in matrices[row])
        raise InputError(
            f"{columns.path}: columns {', '.join(MAGNIFICATION)}, row {row + 1} of the particles: [{found}] "
            "is no magnification; expected a matrix near 1, 0, 0, 1: correct these columns, or remove them"
        )


def _texts(columns: Columns, name: str) -> list[str]:
    return [str(text) for text in columns.frame[name]] if columns.has(name) else [""] * len(columns)


def _values(columns: Columns, names: tuple[str, ...], default: float) -> F64:
    """(rows, names); columns that are missing have the default."""
    return np.stack([columns.numbers(n)[:, 0] if columns.has(n) else np.full(len(columns), default) for n in names], 1)


def _numbers(columns: Columns, name: str, text: str) -> tuple[float, ...]:
    parts = [part for part in text.strip().strip("[]").split(",") if part.strip()]
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = (float("nan"),)
    if not np.isfinite(numbers).all():
        raise InputError(f"{columns.path}: column {name}: expected a list of numbers, got '{text[:40]}'")
    return numbers
