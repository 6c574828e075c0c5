"""Which engine and how large: plain values, checked once. Nothing is started or imported here."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from mpr_dist.arrays import DEVICES
from mpr_dist.errors import InputError

QUEUES = ("slurm", "pbs", "lsf", "sge")
ENGINES = ("local", "inline", "cuda", *QUEUES)
PROTOCOLS = ("tcp://", "tls://")
# Before the end of its walltime a worker takes no new series; the one at hand has this long, at most a fifth of all.
LEAVE_EARLY_S = 600.0


def parse_memory(text: str, what: str) -> int:
    """ "32GB" -> bytes, as Dask reads it: GB is 10^9 bytes, GiB 2^30. Raises InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT])(i?)B", text)
    if found is None:
        raise InputError(f"{what} is given with its unit, such as 32GB; got {text!r}")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** (1 + "KMGT".index(found[2].upper())))


@dataclass(frozen=True)
class TlsFiles:
    """Certificates of a site: files in PEM form. None of the three, or all."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        given = [path for path in (self.ca, self.cert, self.key) if path is not None]
        if len(given) not in (0, 3):
            raise InputError("TLS needs three files: the authority (ca), the certificate (cert) and its key")
        for path in given:
            if not path.is_file():
                raise InputError(f"{path}: no such file; TLS needs a certificate there")

    @property
    def is_given(self) -> bool:
        return self.ca is not None


@dataclass(frozen=True)
class JobOptions:
    """One job of a queueing system; every job runs ``workers`` worker processes.

    Attributes:
        queue: queue or partition; account: who pays.
        walltime: H:MM:SS; memory: of the job, such as "32GB"; cores: of the job, None = workers x threads.
        gpus: cards per job, 0 for none. Every card gets ``workers_per_gpu`` workers.
        workers: worker processes per job where there are no cards.
        directives: lines for the queueing system, without #SBATCH or #PBS; skip: lines containing one are left out.
        prologue: shell lines before the worker starts, such as "module load cuda".
        interface: of the network that driver and workers share, such as "ib0"; None = the default route.
        logs: folder of the jobs' output; None = the population's folder "logs".
        python: interpreter on the nodes; None = the one of the driver.
    """

    queue: str | None = None
    account: str | None = None
    walltime: str = "4:00:00"
    memory: str = "16GB"
    cores: int | None = None
    gpus: int = 0
    workers: int = 1
    directives: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str | None = None
    logs: Path | None = None
    python: str | None = None
    name: str = "mpr-dist"

    def __post_init__(self) -> None:
        if re.fullmatch(r"\d+(:[0-5]?\d){1,2}", self.walltime) is None:
            raise InputError(f"the walltime of a job is given as H:MM:SS, such as 4:00:00; got {self.walltime!r}")
        parse_memory(self.memory, "the memory of a job")
        if self.gpus < 0 or self.workers < 1 or (self.cores is not None and self.cores < 1):
            raise InputError("a job needs workers and cores of 1 or more, and gpus of 0 or more")

    @property
    def walltime_s(self) -> int:
        """H:MM:SS; of two numbers they are hours and minutes."""
        parts = [int(part) for part in self.walltime.split(":")]
        hours, minutes, seconds = (*parts, 0)[:3]
        return 3600 * hours + 60 * minutes + seconds

    @property
    def walltime_text(self) -> str:
        """H:MM:SS: of two numbers alone the systems think differently (SLURM: minutes and seconds)."""
        return f"{self.walltime_s // 3600}:{self.walltime_s // 60 % 60:02d}:{self.walltime_s % 60:02d}"

    @property
    def leave_after_s(self) -> float:
        """When a worker stops taking series, so that none is cut off by the end of the walltime."""
        return self.walltime_s - min(LEAVE_EARLY_S, 0.2 * self.walltime_s)

    @property
    def memory_bytes(self) -> int:
        return parse_memory(self.memory, "the memory of a job")


@dataclass(frozen=True)
class EngineChoice:
    """Where a run takes place. The maps are the same for all that compute on the same device.

    Attributes:
        kind: one of ``ENGINES``, or the address tcp://host:port or tls://host:port of a Dask scheduler.
        workers: None = as many as the engine finds sensible.
        threads: of each worker.
        scheduler_file: of a Dask scheduler; then ``kind`` does not matter.
        gpus: which cards ``cuda`` takes; () = all of them.
        device: what a worker computes with, "cpu" or "gpu"; None = gpu where the engine gives workers cards.
        workers_per_gpu: how many workers share a card.
        adaptive: (least, most) workers, as the work asks for them.
        host: where others can reach the scheduler of ``local`` and ``cuda``; None = this machine alone.
        memory_per_worker: such as "4GiB"; None = its share of the machine or of the job.
        scratch: directory on a local disk for images that exceed it; None = the system's temporary directory.
    """

    kind: str = "local"
    workers: int | None = None
    threads: int = 1
    scheduler_file: Path | None = None
    gpus: tuple[str, ...] = ()
    device: str | None = None
    workers_per_gpu: int = 1
    adaptive: tuple[int, int] | None = None
    host: str | None = None
    memory_per_worker: str | None = None
    scratch: Path | None = None
    job: JobOptions = field(default_factory=JobOptions)
    tls: TlsFiles = field(default_factory=TlsFiles)

    def __post_init__(self) -> None:
        if self.kind not in ENGINES and not self.kind.startswith(PROTOCOLS):
            known = f"{', '.join(ENGINES)}, or the address of a Dask scheduler such as tcp://host:8786"
            raise InputError(f"engine {self.kind!r} is not known; there are {known}")
        if self.threads < 1 or self.workers_per_gpu < 1 or (self.workers is not None and self.workers < 1):
            raise InputError("workers and threads must be 1 or more")
        if self.kind == "inline" and self.workers not in (None, 1):
            raise InputError(f"the engine inline is one process; leave --workers {self.workers} out, or take local")
        if self.gpus and self.kind != "cuda":
            raise InputError("--gpus belongs to --engine cuda; the cards of a job stand in [engine.job] gpus")
        if self.device not in (None, *DEVICES):
            raise InputError(f"--device is one of {', '.join(DEVICES)}; got {self.device!r}")
        if self.device == "cpu" and self.kind == "cuda" and self.scheduler_file is None:
            raise InputError("--engine cuda computes on cards; leave --device cpu out, or take --engine local")
        self._check_adaptive()
        self.memory_of_worker(0, 1)

    @property
    def computes_on(self) -> str:
        """What workers compute with: "cpu" or "gpu"."""
        gives_cards = self.scheduler_file is None and (self.kind == "cuda" or (self.is_queue and self.job.gpus > 0))
        return self.device or ("gpu" if gives_cards else "cpu")

    def workers_per_card(self, workers: int) -> int:
        """How many workers share a card; processes of ``local`` all take the first one."""
        return workers if self.kind in ("local", "inline") and not self.is_foreign else self.workers_per_gpu

    def memory_of_worker(self, available_bytes: int, workers: int) -> int | None:
        """Bytes that one of ``workers`` may use, of those this machine has; None: nobody here knows."""
        if self.memory_per_worker is not None:
            return parse_memory(self.memory_per_worker, "the memory of a worker")
        if self.is_foreign:
            return None
        return self.job.memory_bytes // self.workers_per_job if self.is_queue else available_bytes // workers

    def _check_adaptive(self) -> None:
        if self.adaptive is None:
            return
        least, most = self.adaptive
        if not 0 <= least <= most or most < 1:
            raise InputError(f"--adaptive needs MIN:MAX with MIN at most MAX, such as 1:8; got {least}:{most}")
        if self.workers is not None:
            raise InputError("--adaptive and --workers exclude each other; give one of them")
        if not self.is_queue and self.kind != "local":
            raise InputError(f"--adaptive is for local, {', '.join(QUEUES)}; {self.kind} has the workers it has")

    @property
    def is_queue(self) -> bool:
        return self.kind in QUEUES and self.scheduler_file is None

    @property
    def is_foreign(self) -> bool:
        """A scheduler that others have started and others will end."""
        return self.scheduler_file is not None or self.kind.startswith(PROTOCOLS)

    @property
    def workers_per_job(self) -> int:
        return self.job.gpus * self.workers_per_gpu or self.job.workers

    @property
    def jobs(self) -> int:
        return math.ceil((self.workers or 1) / self.workers_per_job)

    def workers_for(self, series: int) -> int:
        """How many workers a run over ``series`` tilt series is planned for."""
        if self.kind == "inline":
            return 1
        if self.adaptive is not None:
            return self.adaptive[1]
        if self.is_queue:
            return self.jobs * self.workers_per_job
        if self.kind == "cuda" and self.gpus:
            return self.workers or len(self.gpus) * self.workers_per_gpu
        if self.kind == "cuda" or self.is_foreign:
            return self.workers or 1  # known only when it is open
        return self.workers or max(1, min(default_workers() // self.threads, series))


def parse_adaptive(text: str | None) -> tuple[int, int] | None:
    """ "1:8" -> (1, 8). Raises InputError for anything else."""
    if text is None:
        return None
    least, _, most = text.partition(":")
    if not (least.strip().isdigit() and most.strip().isdigit()):
        raise InputError(f"--adaptive is given as MIN:MAX, such as 1:8; got {text!r}")
    return int(least), int(most)


def parse_gpus(text: str | None) -> tuple[str, ...]:
    """ "0,1" -> ("0", "1"); names of cards, such as GPU-5f2a, are let through."""
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--gpus is a list of different cards, such as 0,1; got {text!r}")
    return names


def default_workers() -> int:
    """Cores this process may use (a job's allocation, not the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
