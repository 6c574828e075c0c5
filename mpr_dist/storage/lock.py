"""One writer per population: a lock file that says who holds it, since when, and whether that process still lives.

A process of this machine can be looked up. One of another machine shows that it lives by touching its lock every few
seconds: a lock that is not touched for a minute, by the clock of the one who waits for it, is nobody's any more. A
holder that was only asleep for so long finds the lock taken when it wakes up, and ends at once as if it had been
killed, which every run survives.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mpr_dist.errors import PopulationError
from mpr_dist.storage.publish import disk, temporary_beside

PULSE_S = 5.0  # the holder touches its lock so often
PATIENCE_S = 60.0  # network disks may show a touch late


@dataclass(frozen=True)
class Holder:
    """``birth`` is the kernel's start time of the process ("" where unknown): process numbers are used again."""

    host: str
    pid: int
    birth: str
    since: str

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, which can be looked up."""
        return self.host == socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Certainly gone. Of another host nothing is known at a glance, so its lock is taken for alive."""
        if not self.is_here:
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
def locked(
    population: Path,
    say: Callable[[str], None] = lambda message: None,
    pulse_s: float = PULSE_S,
    patience_s: float = PATIENCE_S,
) -> Iterator[None]:
    """Hold the population's lock; a dead process's lock is taken over and ``say`` is told.

    Raises:
        PopulationError: a living process holds it.
    """
    path = population / "LOCK"
    mine = _myself()
    _take(path, mine, say, patience_s)
    released = threading.Event()
    pulse = threading.Thread(target=_pulse, args=(path, mine, released, pulse_s), daemon=True)
    pulse.start()
    try:
        yield
    finally:
        released.set()
        pulse.join()
        if read_holder(path) == mine:
            disk().unlink(path)


def _pulse(path: Path, mine: Holder, released: threading.Event, pulse_s: float) -> None:
    while not released.wait(pulse_s):
        try:
            if read_holder(path) == mine:
                os.utime(path)
                continue
        except (OSError, PopulationError):
            continue  # the disk does not answer now
        if released.is_set():
            return
        print(f"{path} was taken over while this process did not run; it ends here", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)  # nothing it writes from here on may count


def _is_silent(path: Path, holder: Holder, say: Callable[[str], None], patience_s: float) -> bool:
    """Whether a holder on another host has not touched its lock for so long; waits to find out."""
    if holder.is_here:
        return False
    before, end, told = _touched(path), time.monotonic() + patience_s, False
    while time.monotonic() < end:
        time.sleep(min(1.0, patience_s / 10))
        if _touched(path) != before or read_holder(path) != holder:
            return False
        if not told and time.monotonic() > end - patience_s + 2 * PULSE_S:
            told = True
            say(
                f"process {holder.pid} on {holder.host} holds {path}; "
                f"waiting up to {patience_s:.0f} s for a sign of life"
            )
    return True


def _touched(path: Path) -> int:
    try:
        with path.open("rb") as file:  # opening makes a network disk look again
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def silent_s(path: Path) -> float:
    """Seconds since the holder touched its lock, by the clocks of the disk and of this machine; 0 without a lock."""
    touched = _touched(path)
    return max(0.0, time.time() - touched / 1e9) if touched else 0.0


def _take(path: Path, mine: Holder, say: Callable[[str], None], patience_s: float) -> None:
    temporary = temporary_beside(path)
    disk().write(temporary, json.dumps(asdict(mine)).encode())
    try:
        for _ in range(3):
            try:
                disk().link(temporary, path)  # atomic, with its content: nobody ever reads an empty lock
                return
            except FileExistsError:
                _remove_stale(path, say, patience_s)
    finally:
        disk().unlink(temporary)
    raise PopulationError(f"{path}: other processes keep taking this lock; start one run at a time")


def _remove_stale(path: Path, say: Callable[[str], None], patience_s: float) -> None:
    holder = read_holder(path)
    if holder is None:
        return
    if not holder.is_dead and not _is_silent(path, holder, say, patience_s):
        if read_holder(path) != holder:
            return
        raise PopulationError(
            f"{path.parent} is in use by process {holder.pid} on {holder.host} since {holder.since}; "
            "wait for it or stop it"
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
    say(f"taking over the lock of process {holder.pid} on {holder.host}, which no longer runs (since {holder.since})")
