"""Atomic publication: a file or directory is there complete and on the disk, or it is not there.

Readers on other machines may look at any moment and any process may be killed at any moment, so everything is written
under a temporary name, synchronised, and renamed. All operations on the file system go through ``disk()``, one small
object that a test can replace to count the operations and to let any one of them fail.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

TEMPORARY = ".tmp-"


class Disk:
    """The few operations by which this package changes files. Each is one that can fail on its own."""

    def write(self, path: Path, data: bytes) -> None:
        """A new file with ``data``, on the disk when this returns."""
        with path.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def append(self, path: Path, data: bytes) -> None:
        with path.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    def store(self, array: Any, key: Any, values: np.ndarray[Any, Any]) -> None:
        """Write whole chunks of a zarr array (of a directory not published yet)."""
        array[key] = values

    def sync(self, path: Path) -> None:
        """fsync of a file, or of a directory's list of names."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over ``target`` if that is a file; an occupied directory raises OSError."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """A second name; raises FileExistsError when somebody has it already."""
        os.link(source, target)

    def mkdir(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)


_disks: list[Disk] = [Disk()]


def disk() -> Disk:
    return _disks[-1]


@contextmanager
def using_disk(replacement: Disk) -> Iterator[Disk]:
    """Let every operation of this process go through ``replacement`` for a while."""
    _disks.append(replacement)
    try:
        yield replacement
    finally:
        _disks.remove(replacement)


def temporary_beside(path: Path) -> Path:
    """A name in the same directory (rename needs the same file system) that nobody else uses."""
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{path.name}")


def is_temporary(path: Path) -> bool:
    return path.name.startswith(TEMPORARY) or (path.name.startswith(".") and path.name.endswith(".tmp"))


def publish_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path``; readers see the old content or the new one, never a part."""
    temporary = temporary_beside(path)
    try:
        disk().write(temporary, data)
        disk().replace(temporary, path)
    finally:  # nothing is left to remove after the rename; after a failure or Ctrl-C there may be
        disk().unlink(temporary)
    disk().sync(path.parent)


def publish_text(path: Path, text: str) -> None:
    publish_bytes(path, text.encode("utf-8"))


def publish_json(path: Path, value: Any) -> None:
    """JSON with sorted keys: equal values give equal bytes."""
    publish_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def publish_directory(temporary: Path, final: Path) -> bool:
    """Rename a complete directory into place, all its files on the disk before.

    Returns False when ``final`` exists: somebody was first, and ``temporary`` is dropped.
    """
    for folder, _, names in os.walk(temporary, topdown=False):
        for name in names:
            disk().sync(Path(folder) / name)
        disk().sync(Path(folder))
    try:
        if final.exists():
            raise FileExistsError(final)
        disk().replace(temporary, final)
    except OSError:
        if not final.is_dir():
            raise
        disk().remove_tree(temporary)
        return False
    disk().sync(final.parent)
    return True


def clean_litter(directory: Path, spare: str = "") -> int:
    """Remove what killed writers left under temporary names; call only where nobody writes. Returns their number.

    Temporaries of the file named ``spare`` stay: others may be about to publish that one.
    """
    if not directory.is_dir():
        return 0
    litter = [p for p in directory.iterdir() if is_temporary(p) and not (spare and p.name.endswith(f"-{spare}"))]
    for path in litter:
        if path.is_dir():
            disk().remove_tree(path)
        else:
            disk().unlink(path)
    return len(litter)
