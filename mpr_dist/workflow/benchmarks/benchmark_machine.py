"""What a benchmark ran on, and how much of it others used meanwhile."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import mpr_dist
from mpr_dist.workflow.state.run_settings import versions

_TICKS = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, str]:
    """Processor, usable cores, and versions of this program and the libraries that matter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    about = {"machine": f"{cores} cores, {_processor()}", "mpr_dist": mpr_dist.__version__}
    return about | {name: value for name, value in versions().items() if name != "scipy"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory_MB() -> float:
    """Of this process since it began, resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True)
class Usage:
    """Over a stretch of time: wall seconds, CPU seconds of this process, of its children, and of everybody else."""

    wall_s: float
    own_s: float
    children_s: float
    others_s: float


class Meter:
    """Counts CPU time while it is open; children have to live from start to end (those of an engine do)."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._all, self._own, self._children = _busy(), time.process_time(), _children()

    def read(self) -> Usage:
        own = time.process_time() - self._own
        children = _children() - self._children
        return Usage(
            time.monotonic() - self._wall, own, children, max(0.0, _busy() - self._all - own - max(0.0, children))
        )


def _busy() -> float:
    """CPU seconds that all processes of the machine have used; 0 where the kernel does not say."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, irq, soft = (int(field) for field in fields[:7])
    return (user + nice + system + irq + soft) / _TICKS


def _children() -> float:
    """CPU seconds of all living descendants."""
    import psutil

    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
