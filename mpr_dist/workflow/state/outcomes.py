"""What may go wrong, by name: the same few words in the ledger, the status and the report."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from mpr_dist.engine.executor import WorkerDied
from mpr_dist.errors import DiskFull, MprError, TooManyFailed
from mpr_dist.workflow.state.at_hand import Poisonous

BAD_SERIES = "bad series"
FILE_MISSING = "file missing"
OUT_OF_MEMORY = "out of memory"
WORKER_DIED = "worker died"
PARTIAL_LOST = "partial lost"
# these end a run, not a series
DISK_FULL = "disk full"
TOO_MANY_FAILED = "too many failed"
STOPPED = "stopped"
FAILED = "failed"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MISSING = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


@dataclass(frozen=True)
class Failure:
    """A tilt series that was left out: one of the outcomes above, and its reason in a line."""

    series: str
    outcome: str
    reason: str


def failure(series: str, error: Exception) -> Failure:
    """What ``error`` means for a series."""
    if isinstance(error, WorkerDied | Poisonous):
        return Failure(series, WORKER_DIED, reason(error))
    if isinstance(error, MemoryError):
        return Failure(series, OUT_OF_MEMORY, reason(error))
    missing = any(isinstance(each, OSError) and each.errno in _MISSING for each in _causes(error))
    return Failure(series, FILE_MISSING if missing else BAD_SERIES, reason(error))


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk, or a used-up quota, is behind ``error``, whatever it was turned into on its way."""
    return any(
        isinstance(each, DiskFull) or (isinstance(each, OSError) and each.errno in _FULL) for each in _causes(error)
    )


def disk_full(error: BaseException) -> DiskFull:
    """The one line about a full disk; names the file where that is known."""
    if isinstance(error, DiskFull):
        return error
    names = [str(each.filename) for each in _causes(error) if isinstance(each, OSError) and each.filename]
    where = f" at {names[0]}" if names else ""
    return DiskFull(f"the disk is full{where}: what is done is kept; make space, then the same command continues")


def end_of_run(error: BaseException) -> str:
    """The outcome of a run that ended with ``error``."""
    if is_disk_full(error):
        return DISK_FULL
    return TOO_MANY_FAILED if isinstance(error, TooManyFailed) else FAILED


def reason(error: BaseException) -> str:
    """One line for people: our own errors speak for themselves, others say what they are."""
    text = " ".join(str(error).split()) or "no further words"
    return text if isinstance(error, MprError) else f"{type(error).__name__}: {text}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
