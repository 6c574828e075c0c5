"""Asking the system to read files before they are needed, while something else computes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mpr_dist.storage.image_file import file_and_slice


def read_ahead(paths: Iterable[Path]) -> int:
    """Have files brought into the page cache in the background; returns how many there were to ask for.

    Files that cannot be opened are left alone: whoever reads them will say what is wrong. Does nothing where the system
    has no such call.
    """
    if not hasattr(os, "posix_fadvise"):
        return 0
    asked = 0
    for path in dict.fromkeys(file_and_slice(path)[0] for path in paths):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            asked += 1
        except OSError:  # a file system that does not know it
            pass
        finally:
            os.close(descriptor)
    return asked
