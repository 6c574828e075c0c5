"""The hash by which M knows the raw data of a tilt series, and links particles to it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from mpr_dist.errors import InputError, MprError
from mpr_dist.storage.warp_values import WarpFile

HASHED_BYTES = 1 << 19


def raw_movie(item: Path) -> Path | None:
    """The raw movie behind an entry of Warp's frame series, or None when there is none.

    The XML beside the entry may name another folder for the raw data (DataDirectory); without one, the entry is it.
    """
    folder = ""
    if item.with_suffix(".xml").is_file():
        try:
            folder = WarpFile.parse(item.with_suffix(".xml"), InputError, ("Movie",)).root.get("DataDirectory", "")
        except MprError:
            folder = ""  # an XML of something else
    path = item.parent / folder.strip().replace("\\", "/") / item.name
    return next((each for each in (path, item) if each.is_file()), None)


def data_hash(series: str, first_movie: Path) -> str:
    """SHA-1 of the name of the series (UTF-16) and the first 512 KiB of the movie of its first tilt, as M computes it.

    Args:
        series: name of its .tomostar, without extension.

    Raises:
        InputError: the movie cannot be read.
    """
    try:
        with first_movie.open("rb") as file:
            data = file.read(HASHED_BYTES)
    except OSError as error:
        raise InputError(f"{first_movie}: cannot be read ({error.strerror})") from error
    digest = hashlib.sha1(series.encode("utf-16-le") + data).digest()
    return base64.b64encode(digest).decode().rstrip("=").translate(str.maketrans("/+", "-_"))
