"""Files that RELION's tables name: relative to the project, "3@stack.mrc" for one image of a stack, "x.st:mrc"."""

from __future__ import annotations

import re
from pathlib import Path

_FORMAT = re.compile(r":mrcs?$", re.IGNORECASE)


def find_file(name: str, table: Path) -> Path | None:
    """The file that a table names, looked for from the table's folder upwards and from the current folder.

    RELION's paths are relative to the folder of the project, some of Warp's exports to the table itself.
    """
    name = _FORMAT.sub("", name.strip().replace("\\", "/"))
    if not name:
        return None
    folder = table.absolute().parent
    candidates = [base / name for base in (folder, *folder.parents, Path.cwd())]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def file_of(name: str) -> Path:
    """ "3@folder/stack.st:mrc" -> folder/stack.st, as it stands."""
    return Path(_FORMAT.sub("", split_name(name)[0].replace("\\", "/")))


def split_name(name: str) -> tuple[str, int | None]:
    """ "3@stack.mrc" -> ("stack.mrc", 3): images of a stack are counted from 1."""
    number, at, rest = name.strip().partition("@")
    return (rest, int(number)) if at and number.isdigit() and rest else (name.strip(), None)
