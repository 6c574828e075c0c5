"""A run as the command line asks for it: engine opened, plan checked, progress shown, and the outcome as a value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpr_dist.engine.events import Console
from mpr_dist.engine.executor import Executor
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import LocalExecutor, default_workers
from mpr_dist.errors import InputError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.plan import Plan
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.plan import plan
from mpr_dist.workflow.resources import available_memory
from mpr_dist.workflow.run import run
from mpr_dist.workflow.run_settings import RunSettings

ENGINES = ("local", "inline")


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
    path: Path, settings: RefineSettings, engine: EngineChoice | None = None, restart: bool = False
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
            population = run(path, Physics(), RunSettings(settings), executor, (console,), restart)
    finally:
        console.close()
    failed: dict[str, str] = {}
    for number in range(before + 1, population.iteration + 1):
        failed |= _done(population, number).get("failed", {})
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


def _done(population: Population, number: int) -> dict[str, Any]:
    record = json.loads(population.files(number).done.read_text("utf-8"))
    return record if isinstance(record, dict) else {}
