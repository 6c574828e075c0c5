"""A run as the command line asks for it: engine opened, plan checked, progress shown, and the outcome as a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpr_dist.engine.events import Console
from mpr_dist.engine.executor import Executor
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import LocalExecutor, default_workers
from mpr_dist.errors import InputError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.plan import Plan
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.done import read_done
from mpr_dist.workflow.plan import plan
from mpr_dist.workflow.resources import available_memory
from mpr_dist.workflow.run import run
from mpr_dist.workflow.run_settings import RunSettings

ENGINES = ("local", "inline")

if TYPE_CHECKING:
    from mpr_dist.workflow.change import Change


@dataclass(frozen=True)
class EngineChoice:
    """Attributes:
    kind: "local" (processes on this machine) or "inline" (this process alone).
    workers: None = one per usable core, but no more than there are series.
    threads: of each worker.
    """

    kind: str = "local"
    workers: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise InputError(f"engine {self.kind!r} is not known; there are {' and '.join(ENGINES)}")
        if self.threads < 1 or (self.workers is not None and self.workers < 1):
            raise InputError("workers and threads must be 1 or more")
        if self.kind == "inline" and self.workers not in (None, 1):
            raise InputError(f"the engine inline is one process; leave --workers {self.workers} out, or take local")

    def workers_for(self, series: int) -> int:
        if self.kind == "inline":
            return 1
        return self.workers or max(1, min(default_workers() // self.threads, series))


@dataclass(frozen=True)
class Outcome:
    """``failed``: series that were left out of any iteration of this run, with the reason."""

    population: Population
    first: int
    failed: dict[str, str]

    @property
    def lines(self) -> list[str]:
        p = self.population
        files = p.files(p.iteration)
        lines = [f"  {name}: LEFT OUT: {reason}" for name, reason in sorted(self.failed.items())]
        lines += [f"{each.name}: {files.species(each.name).directory}" for each in p.species]
        report = files.root / "report.html"
        return lines + ([f"report: {report}"] if report.exists() else [])


def refine_population(
    path: Path,
    settings: RefineSettings,
    engine: EngineChoice | None = None,
    restart: bool = False,
    max_failed: float = 0.5,
) -> Outcome:
    """Refine, or continue what was begun. Raises InputError when the memory does not suffice, and all that ``run``
    does."""
    from mpr_dist.workflow.physics import Physics

    engine = engine or EngineChoice()
    planned = plan_population(path, settings, engine)
    planned.check(available_memory())
    before = load_population(path).iteration
    console = Console()
    try:
        with _opened(engine, planned.workers) as executor:
            population = run(path, Physics(), RunSettings(settings), executor, (console,), restart, max_failed)
    finally:
        console.close()
    return _outcome(population, before)


def change_population(path: Path, asked: Change, engine: EngineChoice | None = None, restart: bool = False) -> Outcome:
    """Leave series out of the iteration in force, or add some; nothing is refined. Raises what ``change`` does."""
    from mpr_dist.workflow.change import change
    from mpr_dist.workflow.physics import Physics

    engine = engine or EngineChoice()
    workers = engine.workers_for(max(1, len(asked.added)))
    before = load_population(path).iteration
    console = Console()
    try:
        with _opened(engine, workers) as executor:
            population = change(path, Physics(), asked, executor, (console,), restart)
    finally:
        console.close()
    return _outcome(population, before)


def _outcome(population: Population, before: int) -> Outcome:
    failed: dict[str, str] = {}
    for number in range(before + 1, population.iteration + 1):
        failed |= (read_done(population.files(number)) or {}).get("failed", {})
    return Outcome(population, before + 1, failed)


def plan_population(path: Path, settings: RefineSettings, engine: EngineChoice) -> Plan:
    """What ``refine_population`` would do; changes nothing."""
    from mpr_dist.workflow.physics import Physics

    population = load_population(path)
    return plan(population, Physics(), settings, engine.workers_for(len(population.series)))


@contextmanager
def _opened(engine: EngineChoice, workers: int) -> Iterator[Executor]:
    executor: Executor = InlineExecutor() if engine.kind == "inline" else LocalExecutor(workers, engine.threads)
    try:
        yield executor
    finally:
        executor.close()
