"""Aberrations in the optics groups of a RELION particle table, in Warp's order and signs, by tilt series."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.storage.particle_columns import Columns, find_particles, series_key
from mpr_dist.storage.star import read_blocks

ODD, EVEN = "rlnOddZernike", "rlnEvenZernike"
NOT_TAKEN = ("rlnBeamTiltX", "rlnBeamTiltY", "rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
_NOTHING = {"rlnMagMat00": 1.0, "rlnMagMat11": 1.0}


@dataclass(frozen=True)
class Aberrations:
    """Zernike coefficients of a series as Warp keeps them: odd ones of opposite sign, even ones without the first."""

    odd: tuple[float, ...] = ()
    even: tuple[float, ...] = ()


def read_aberrations(path: Path) -> tuple[dict[str, Aberrations], list[str]]:
    """Aberrations by series of the particles that an optimisation set names, and sentences about what is not taken.

    Nothing for files that name no particles.

    Raises:
        InputError: the particles cannot be read, or a list of coefficients is not one.
    """
    if not any("rlnTomoParticlesFile" in block for block in read_blocks(path).values()):
        return {}, []
    columns, _ = find_particles(path)
    if not columns.has("rlnTomoName"):
        return {}, []
    found: dict[str, Aberrations] = {}
    mixed = set()
    odd, even = (_texts(columns, name) for name in (ODD, EVEN))
    for name, one, other in zip(columns.text("rlnTomoName"), odd, even, strict=True):
        key = series_key(name)
        each = Aberrations(tuple(-c for c in _numbers(columns, ODD, one)), _numbers(columns, EVEN, other)[1:])
        if found.setdefault(key, each) != each:
            mixed.add(key)
    sentences = []
    if any(any(each.odd + each.even) for each in found.values()):
        sentences.append("Aberrations: rlnOddZernike and rlnEvenZernike of the particles, per series.")
    if mixed:
        sentences.append(f"Particles of {min(mixed)} are in groups with different aberrations: the first is taken.")
    ignored = [
        n for n in NOT_TAKEN if columns.has(n) and np.abs(columns.numbers(n) - _NOTHING.get(n, 0.0)).max() > 1e-6
    ]
    if ignored:
        sentences.append(f"NOT TAKEN OVER: {', '.join(ignored)}; refine --aberrations 3 and --magnification find them.")
    return found, sentences


def has_aberrations(columns: Columns) -> bool:
    """Whether any particle has odd or even coefficients that mean something."""
    lists = [(name, text) for name in (ODD, EVEN) for text in set(_texts(columns, name))]
    return any(any(_numbers(columns, name, text)[name == EVEN :]) for name, text in lists)


def _texts(columns: Columns, name: str) -> list[str]:
    return [str(text) for text in columns.frame[name]] if columns.has(name) else [""] * len(columns)


def _numbers(columns: Columns, name: str, text: str) -> tuple[float, ...]:
    parts = [part for part in text.strip().strip("[]").split(",") if part.strip()]
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = (float("nan"),)
    if not np.isfinite(numbers).all():
        raise InputError(f"{columns.path}: column {name}: expected a list of numbers, got '{text[:40]}'")
    return numbers
