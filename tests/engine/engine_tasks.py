"""Functions that worker processes can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from mpr_dist.errors import SeriesError


def square(x: int) -> int:
    return x * x


def square_or_fail(x: int) -> int:
    if x % 5 == 3:
        raise SeriesError(f"item {x} is bad")
    return x * x


def mistake(x: int) -> int:
    return {}[x]


def die_at_first(item: tuple[int, str]) -> int:
    """Kills its own process the first time it meets number 3."""
    number, directory = item
    marker = Path(directory) / f"met-{number}"
    if number == 3 and not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def poison(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return number


def threads(_: int) -> tuple[str, int]:
    import numba

    return os.environ["OMP_NUM_THREADS"], int(numba.config.NUMBA_NUM_THREADS)


def place(_: int) -> tuple[int, str, str]:
    """Process, cards it sees, job it belongs to."""
    time.sleep(0.3)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ.get("SLURM_JOB_ID", "")


def steps(item: tuple[int, str]) -> tuple[int, bool]:
    """A task of three seconds that says when it began and whether it was asked to leave by its end."""
    from mpr_dist.engine.leaving import is_leaving

    number, directory = item
    (Path(directory) / f"begun-{number}-{os.getpid()}").touch()
    time.sleep(3.0)
    return os.getpid(), is_leaving()
