"""Which series a worker has at hand, as files: one that is left behind tells of which series its process died.

An engine only knows that a batch died. With these, the same batch on the next worker knows where, so that a series that
kills whoever works on it is left out by name, after its fourth death, and the rest of its batch is not.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpr_dist.errors import MprError

DEATHS = 4  # the first and three more tries


class Poisonous(MprError):
    """The processes that worked on a series died, every time."""


def directory(partials: Path) -> Path:
    """Beside the partials of an iteration."""
    return partials.with_name("at-hand")


@contextmanager
def at_hand(partials: Path, series: str) -> Iterator[None]:
    """Tell that ``series`` is being worked on, as long as the body runs.

    Raises:
        Poisonous: so many processes died at it that no other shall.
    """
    folder = directory(partials)
    died = sum(path.name.rpartition("-")[0] == series for path in folder.iterdir()) if folder.is_dir() else 0
    if died >= DEATHS:
        raise Poisonous(f"its worker process died {died} times; the usual reason is that memory ran out")
    mark = folder / f"{series}-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()  # not synchronised: what it tells of is the death of a process, not of a disk
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)
