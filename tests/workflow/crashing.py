"""A process that dies between two operations on the file system: any two, counted by the interpreter itself.

Python tells an audit hook of every file it opens and everything it renames, links or removes, before it does so; writes
of whole files go through ``Disk``, which can die halfway through one. Together they are all the points at which a crash
can leave something different behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpr_dist.storage.publish import Disk, using_disk

CHANGING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.utime"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """The process is gone: nothing catches this, and nothing works any more."""


class Crash:
    """Counts operations below ``folder``; from operation ``last`` on, none takes place any more."""

    def __init__(self, folder: Path, last: int | None = None) -> None:
        self.folder = str(folder)
        self.last = last
        self.count = 0
        self.seen: list[str] = []

    def point(self, what: str) -> bool:
        """One more operation. Returns whether it is the first that fails; raises for those after it."""
        self.count += 1
        if self.last is None:
            self.seen.append(what)
            return False
        if self.count > self.last:
            raise Killed(what)
        return self.count == self.last

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITING:
                return
        elif event in CHANGING:
            path = arguments[0]
        else:
            return
        if isinstance(path, int):  # a descriptor: of whatever was opened before
            return
        name = os.fsdecode(path)
        is_below = name.startswith(self.folder) or (not os.path.isabs(name) and event in ("os.remove", "os.rmdir"))
        if is_below and self.point(f"{event} {name}"):
            raise Killed(name)


class DyingDisk(Disk):
    """Halfway through a write is a point, too."""

    def __init__(self, crash: Crash) -> None:
        self.crash = crash

    def write(self, path: Path, data: bytes) -> None:
        self._half(path, data)
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self._half(path, data)
        super().append(path, data)

    def sync(self, path: Path) -> None:
        if self.crash.point(f"sync {path}"):
            raise Killed(path)
        super().sync(path)

    def _half(self, path: Path, data: bytes) -> None:
        if self.crash.point(f"half of {path}"):
            self.crash.last = self.crash.count + 1  # this one open is allowed
            with path.open("ab") as stream:
                stream.write(data[: len(data) // 2])
            self.crash.last = self.crash.count
            raise Killed(path)


_current: list[Crash] = []


def _dispatch(event: str, arguments: tuple[Any, ...]) -> None:
    if _current:
        _current[-1].hook(event, arguments)


_installed: list[bool] = []


@contextmanager
def crashing(folder: Path, last: int | None = None) -> Iterator[Crash]:
    """While the body runs, operation number ``last`` below ``folder`` is the first that does not take place."""
    if not _installed:  # a hook stays for good; without a crash it does nothing
        sys.addaudithook(_dispatch)
        _installed.append(True)
    crash = Crash(folder, last)
    _current.append(crash)
    try:
        with using_disk(DyingDisk(crash)):
            yield crash
    finally:
        _current.remove(crash)
