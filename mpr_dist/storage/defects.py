"""Which pixels of a detector cannot be trusted: a map (MRC, TIFF) as Warp has it, or a text as MotionCor2 has it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.model.movie import MovieSource
from mpr_dist.storage.movies import MRC_SUFFIXES, TIFF_SUFFIXES, read_pages, turned
from mpr_dist.storage.mrc import read_image
from mpr_dist.units import Bool


@lru_cache(maxsize=2)
def read_defects(source: MovieSource, shape: tuple[int, int]) -> Bool | None:
    """(height, width) whether a pixel of frames of this shape is bad; None where the source has no such file.

    In a map, pixels other than 0 are bad; it is turned as the gain reference is, as Warp does. A text has a rectangle a
    line, "x y width height" in px from the first pixel of the first row (in TIFF the last one), and is never turned.

    Raises:
        InputError: it cannot be read, or leaves no pixel.
        SeriesError: frames are of another size.
    """
    path = source.defects
    if path is None:
        return None
    bad = _of_map(path, source) if is_map(path) else _of_text(path, shape)
    if bad.shape != shape:
        raise SeriesError(
            f"{path}: a map of defects of {bad.shape[1]} x {bad.shape[0]} px for frames of {shape[1]} x {shape[0]} px; "
            "is it of this detector, and is GainTranspose right?"
        )
    if bad.all():
        raise InputError(f"{path}: says that every pixel is bad; pixels other than 0 are defects")
    bad.setflags(write=False)
    return bad


def is_map(path: Path) -> bool:
    """Whether a file of defects is an image; otherwise it is a text, which M and Warp do not read."""
    return path.suffix.lower() in (*MRC_SUFFIXES, *TIFF_SUFFIXES)


def _of_map(path: Path, source: MovieSource) -> Bool:
    try:
        values = read_image(path) if path.suffix.lower() in MRC_SUFFIXES else read_pages(path, (0,))[::-1]
    except SeriesError as error:
        raise InputError(f"map of defects: {error}") from error
    bad: Bool = turned(values != 0, source)
    return bad


def _of_text(path: Path, shape: tuple[int, int]) -> Bool:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: defects cannot be read ({error}); check the path") from error
    bad = np.zeros(shape, bool)
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        if len(words) != 4 or not all(word.isdigit() for word in words):
            raise InputError(
                f"{path}: line {number} is '{line.strip()}', expected four whole numbers: x, y, width and height of a "
                "rectangle of bad pixels, as MotionCor2 and RELION have it; a file of SerialEM is to be converted "
                "(IMOD: clip defect makes a map of it)"
            )
        x, y, width, height = map(int, words)
        if x + width > shape[1] or y + height > shape[0]:
            raise SeriesError(
                f"{path}: line {number}: pixels {x} to {x + width - 1} and {y} to {y + height - 1} lie outside of "
                f"frames of {shape[1]} x {shape[0]} px; are the defects those of this detector?"
            )
        bad[y : y + height, x : x + width] = True
    return bad
