"""A cluster whose processes are killed at random: a scheduler, workers with nannies, and a driver."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mpr_dist.storage.population import load_population

HERE = Path(__file__).parent
PATIENCE_S = 180
ITERATIONS = 2  # that chaos_drive.py asks for


@dataclass
class Cluster:
    """``workers`` nannies, each with a worker of one thread; those that die are replaced by ``mend``."""

    folder: Path
    workers: int
    scheduler: subprocess.Popen[bytes] | None = None
    nannies: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        path = f"{HERE}{os.pathsep}{HERE.parents[1]}"
        environment["PYTHONPATH"] = path
        with (self.folder / "cluster.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", *command], stdout=log, stderr=log, env=environment)

    def mend(self) -> None:
        """Start what is missing; a new scheduler gets new workers."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            self.close()
            self.file.unlink(missing_ok=True)
            self.scheduler = self._start(
                "distributed.cli.dask_scheduler", "--scheduler-file", str(self.file), "--host", "127.0.0.1",
                "--port", "0", "--no-dashboard",
            )  # fmt: skip
            _until(self.file.exists)
        self.nannies = [nanny for nanny in self.nannies if nanny.poll() is None]
        while len(self.nannies) < self.workers:
            nanny = self._start(
                "distributed.cli.dask_worker", "--scheduler-file", str(self.file), "--nthreads", "1",
                "--memory-limit", "0", "--no-dashboard", "--local-directory", str(self.folder / "dask"),
                "--host", "127.0.0.1",
            )  # fmt: skip
            self.nannies.append(nanny)

    def pids(self, kind: str) -> list[int]:
        """Of the nannies, or of the workers below them."""
        alive = [nanny.pid for nanny in self.nannies if nanny.poll() is None]
        if kind == "nanny":
            return alive
        found = []
        for pid in alive:
            try:
                below = psutil.Process(pid).children()
                found += [child.pid for child in below if "spawn_main" in " ".join(child.cmdline())]
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        victims = [*self.pids("worker"), *self.pids("nanny")]
        if self.scheduler is not None and self.scheduler.poll() is None:
            victims.append(self.scheduler.pid)
        for pid in victims:
            _kill(pid)
        for process in (*self.nannies, *([self.scheduler] if self.scheduler else [])):
            process.wait(30)
        self.nannies.clear()


@dataclass
class Chaos:
    """Runs a population to its end, however often somebody dies. ``kills``: what was killed, how often."""

    cluster: Cluster
    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    drivers: int = 0

    def run(self, directory: Path, kills: int) -> None:
        """``directory`` holds the population; about ``kills`` kills are tried until it is finished."""
        tickets = directory / "tickets"
        tickets.mkdir()
        driver, planned = self._drive(directory), kills
        deadline, next_kill = time.monotonic() + PATIENCE_S, self._moment()
        while True:
            time.sleep(0.01)
            assert time.monotonic() < deadline, f"not finished after {PATIENCE_S} s: {dict(self.kills)}"
            code = driver.poll()
            if code == 0:
                break
            if code is not None:
                assert code == -signal.SIGKILL, (directory / "driver.log").read_text()[-3000:]
                self.cluster.mend()
                if self._is_finished(directory / "pop"):
                    break
                driver = self._drive(directory)
            elif planned > 0 and time.monotonic() > next_kill:
                planned -= self._kill_somebody(driver, tickets, planned)
                next_kill = self._moment()
            self.cluster.mend()
        for used in tickets.glob("used-*"):
            _, kind, _, place = used.name.split("-", 3)
            self.kills[f"{kind}, at an operation on the disk"] += 1
            self.places[_place(place)] += 1

    def _is_finished(self, population: Path) -> bool:
        """Whether nothing but its own exit was missing when the driver died; the same command would add to the run."""
        return not (population / "run.json").exists() and load_population(population).iteration == ITERATIONS

    def _drive(self, directory: Path) -> subprocess.Popen[bytes]:
        self.drivers += 1
        command = [sys.executable, str(HERE / "chaos_drive.py"), str(directory), str(self.cluster.file)]
        with (directory / "driver.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _moment(self) -> float:
        return time.monotonic() + self.draw.uniform(0.2, 1.6)

    def _kill_somebody(self, driver: subprocess.Popen[bytes], tickets: Path, number: int) -> int:
        """1 if somebody was killed or will be at an operation on the disk, else 0."""
        kind = self.draw.choices(
            ("worker", "nanny", "driver", "ticket-worker", "ticket-driver", "scheduler"), (25, 10, 15, 30, 17, 3)
        )[0]
        if kind.startswith("ticket"):
            (tickets / f"{kind.removeprefix('ticket-')}-{number}").touch()
            return 1
        if kind == "scheduler":  # with its driver, as when a machine goes down: the two are on the same one
            _kill(driver.pid)
            assert self.cluster.scheduler is not None
            _kill(self.cluster.scheduler.pid)
            self.kills["driver and scheduler together"] += 1
            driver.wait(30)
            self.cluster.scheduler.wait(30)
            return 1
        pids = [driver.pid] if kind == "driver" else self.cluster.pids(kind)
        if not pids or not _kill(self.draw.choice(pids)):
            return 0
        self.kills[f"{kind}, at any moment"] += 1
        return 1

    @property
    def total(self) -> int:
        return sum(self.kills.values())


def _place(place: str) -> str:
    """What was being done when a process died at an operation on the disk."""
    operation, _, name = place.partition("-")
    for word, meaning in (
        ("ledger", "ledger"), ("DONE", "DONE"), ("population.toml", "population.toml"), ("run.json", "run.json"),
        ("accumulator", "merge"), ("half", "finish"), ("map", "finish"), ("fsc", "finish"), ("result", "finish"),
        ("partial", "partial"), ("manifest", "partial or merge"), ("chunk", "partial or merge"),
        ("summary", "parameters"), ("xml", "parameters"), ("star", "parameters"), ("LOCK", "lock"),
    ):  # fmt: skip
        if word in name:
            return meaning
    return f"{operation} of others"


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
