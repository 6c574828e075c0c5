"""What the first element of an XML file of Warp says; the rest of the file is not read."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path


def is_tilt_series(path: Path) -> bool:
    """False for XML files with another root element; True also for files too broken to tell."""
    root = _root_of(path)
    return root is None or str(root.tag) == "TiltSeries"


def is_deselected(path: Path) -> bool:
    """Whether the user of Warp took the whole series out; False also for files too broken to tell."""
    root = _root_of(path)
    return root is not None and root.get("UnselectManual", "").strip().lower() == "true"


def _root_of(path: Path) -> ET.Element | None:
    """The root element with its attributes alone; None when reading the file will say what is wrong with it."""
    try:
        with path.open("rb") as stream:
            root: ET.Element = next(ET.iterparse(stream, events=("start",)))[1]
    except (OSError, ET.ParseError, ValueError, LookupError, StopIteration):
        return None
    return root
