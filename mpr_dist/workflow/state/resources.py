"""What this machine, or the job's share of it, has to give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpr_dist.arrays import Device, open_device
from mpr_dist.imaging.image_store import ImageRoom

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Resources:
    """What one worker may use; the results are the same whatever it is, but for the device: there to float32 rounding.

    Attributes:
        memory_bytes: of one worker; images that exceed it are streamed from scratch files. None: no limit.
        scratch: directory of those files, on a local disk; None: the system's temporary directory.
        device: "cpu", or "gpu": the first card that CUDA_VISIBLE_DEVICES names in the worker.
        workers_per_card: how many workers share a card; each keeps to its part of the memory.
    """

    memory_bytes: int | None = None
    scratch: Path | None = None
    device: str = "cpu"
    workers_per_card: int = 1

    def open_device(self) -> Device:
        """In the worker, when work begins: nothing touches a card before. InputError: there is none."""
        return open_device(self.device, self.workers_per_card)

    def room(self) -> ImageRoom:
        """For the images of one series."""
        return ImageRoom(self.memory_bytes, self.scratch, self.open_device())


def available_memory() -> int:
    """Bytes that can be used now: what the kernel calls available, at most what the control group leaves."""
    found = [value for value in (_of_machine(), _of_group()) if value is not None]
    return min(found) if found else 1 << 62


def _of_machine() -> int | None:
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_group() -> int | None:
    limit, used = _text(_CGROUP / "memory.max").strip(), _text(_CGROUP / "memory.current").strip()
    if not limit.isdigit() or not used.isdigit():
        return None
    # pages of files are counted as used, but go when memory is wanted
    cache = [line.split()[1] for line in _text(_CGROUP / "memory.stat").splitlines() if line.startswith("file ")]
    return max(0, int(limit) - int(used) + sum(int(value) for value in cache))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
