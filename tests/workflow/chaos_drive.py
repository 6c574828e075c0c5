"""A driver for the chaos test, and the science its workers run: chaos_drive.py DIRECTORY SCHEDULER_FILE."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fake_science import FakeScience

from mpr_dist.engine.local import DaskExecutor
from mpr_dist.errors import MprError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage import publish
from mpr_dist.storage.publish import Disk
from mpr_dist.units import I64
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state import science as s
from mpr_dist.workflow.state.run_settings import RunSettings

SETTINGS = RunSettings(RefineSettings(iterations=2))
OPERATIONS = ("write", "append", "store", "sync", "replace", "link", "mkdir", "unlink", "remove_tree")


class MortalDisk(Disk):
    """At an operation drawn by chance the process kills itself, if a ticket of its kind lies ready.

    Tickets are files: whoever can rename one may die, once, and its new name says where that was.
    """

    def __init__(self, tickets: Path, kind: str) -> None:
        self._tickets, self._kind = tickets, kind
        self._left = random.randint(1, 40)

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name not in OPERATIONS:
            return found

        def mortal(*arguments: Any) -> None:
            self._left -= 1
            if self._left <= 0:
                self._left = random.randint(1, 40)
                self._maybe_die(name, arguments)
            found(*arguments)

        return mortal

    def _maybe_die(self, name: str, arguments: tuple[Any, ...]) -> None:
        for ticket in sorted(self._tickets.glob(f"{self._kind}-*")):
            what = arguments[0].name if isinstance(arguments[0], Path) else "chunk"
            try:
                ticket.rename(self._tickets / f"used-{ticket.name}-{name}-{what.replace('/', '_')}")
            except FileNotFoundError:
                continue
            if name in ("write", "append"):
                with arguments[0].open("ab") as stream:
                    stream.write(arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)


def arm(tickets: Path, kind: str) -> None:
    """From now on every operation of this process on the disk may be its last."""
    if not isinstance(publish.disk(), MortalDisk):
        publish._disks.append(MortalDisk(tickets, kind))


@dataclass(frozen=True)
class ChaosScience:
    """The fake science in processes that may die."""

    fake: FakeScience
    tickets: Path
    version: str = "fake-1"  # its results are those of the fake science

    def footprint(self, species: Any) -> s.Footprint:
        return self.fake.footprint(species)

    def prepare(self, job: s.PrepareJob) -> s.Reference:
        arm(self.tickets, "worker")
        return self.fake.prepare(job)

    def read_ahead(self, job: s.SeriesJob) -> None:
        """Nothing to read."""

    def settle(self) -> None:
        """Nothing waits anywhere."""

    def refine_and_backproject(self, job: s.SeriesJob, accumulators: Mapping[str, I64]) -> s.SeriesOutcome:
        arm(self.tickets, "worker")
        return self.fake.refine_and_backproject(job, accumulators)

    def finish(self, job: s.FinishJob, accumulator: I64) -> s.SpeciesOutcome:
        arm(self.tickets, "worker")
        return self.fake.finish(job, accumulator)


def main() -> int:
    from distributed import Client

    directory, scheduler = Path(sys.argv[1]), sys.argv[2]
    arm(directory / "tickets", "driver")
    science = ChaosScience(FakeScience(directory / "calls", 0.04), directory / "tickets")
    client = Client(scheduler_file=scheduler, timeout=30)
    client.wait_for_workers(1, timeout=60)
    executor = DaskExecutor(client, len(client.scheduler_info(n_workers=-1)["workers"]))
    try:
        run(directory / "pop", science, SETTINGS, executor)
    except MprError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        executor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
