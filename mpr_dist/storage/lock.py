"""One writer per population: a lock file that says who holds it, since when, and whether that process still lives."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mpr_dist.errors import PopulationError
from mpr_dist.storage.publish import disk, temporary_beside


@dataclass(frozen=True)
class Holder:
    """``birth`` is the kernel's start time of the process ("" where unknown): process numbers are used again."""

    host: str
    pid: int
    birth: str
    since: str

    @property
    def is_dead(self) -> bool:
        """Certainly gone. Of another host nothing can be known, so its lock is taken for alive."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return bool(self.birth) and _birth(self.pid) not in ("", self.birth)


def _birth(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # the command's name, in brackets, may contain blanks


def _myself() -> Holder:
    pid = os.getpid()
    return Holder(socket.gethostname(), pid, _birth(pid), time.strftime("%Y-%m-%d %H:%M:%S"))


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock; None if nobody."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise PopulationError(
            f"{path}: not a lock of this program ({error}); delete it if nothing runs here"
        ) from error


@contextmanager
def locked(population: Path, say: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """Hold the population's lock; a dead process's lock is taken over and ``say`` is told.

    Raises:
        PopulationError: a living process, or one of another host, holds it.
    """
    path = population / "LOCK"
    mine = _myself()
    _take(path, mine, say)
    try:
        yield
    finally:
        if read_holder(path) == mine:
            disk().unlink(path)


def _take(path: Path, mine: Holder, say: Callable[[str], None]) -> None:
    temporary = temporary_beside(path)
    disk().write(temporary, json.dumps(asdict(mine)).encode())
    try:
        for _ in range(3):
            try:
                disk().link(temporary, path)  # atomic, with its content: nobody ever reads an empty lock
                return
            except FileExistsError:
                _remove_stale(path, say)
    finally:
        disk().unlink(temporary)
    raise PopulationError(f"{path}: other processes keep taking this lock; start one run at a time")


def _remove_stale(path: Path, say: Callable[[str], None]) -> None:
    holder = read_holder(path)
    if holder is None:
        return
    if not holder.is_dead:
        raise PopulationError(
            f"{path.parent} is in use by process {holder.pid} on {holder.host} since {holder.since}; "
            f"wait for it or stop it. If that machine is gone for good, delete {path}"
        )
    aside = temporary_beside(path)
    try:
        disk().replace(path, aside)
    except FileNotFoundError:
        return
    if read_holder(aside) != holder:  # somebody else took over between reading and renaming: give it back
        disk().link(aside, path)
        disk().unlink(aside)
        return
    disk().unlink(aside)
    say(f"taking over the lock of process {holder.pid}, which no longer runs (since {holder.since})")
