"""A run as the command line asks for it: engine opened, plan checked, progress shown, and the outcome as a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from tempfile import gettempdir
from typing import TYPE_CHECKING

from mpr_dist.arrays import why_no_card
from mpr_dist.engine.choice import EngineChoice as EngineChoice
from mpr_dist.engine.connection import Connection, publish_connection, withdraw_connection
from mpr_dist.engine.dask_executor import DaskExecutor
from mpr_dist.engine.events import Console, Event, Message, RunStarted
from mpr_dist.engine.executor import Executor
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.opening import open_executor
from mpr_dist.errors import InputError, PopulationError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.plan import Plan
from mpr_dist.storage.lock import locked
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.running.plan import conditions, plan
from mpr_dist.workflow.running.run import check_begun, check_count, nothing_to_do, run
from mpr_dist.workflow.running.share import Share, run_share
from mpr_dist.workflow.state.done import read_done
from mpr_dist.workflow.state.resources import Resources, available_memory
from mpr_dist.workflow.state.run_settings import RunSettings

if TYPE_CHECKING:
    from mpr_dist.workflow.running.change import Change


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
    from mpr_dist.workflow.series.physics import Physics

    engine = engine or EngineChoice()
    if idle_words(path, settings):  # no workers are asked for; ``run`` says so and forgets what was killed at its end
        population = run(path, Physics(), RunSettings(settings), InlineExecutor(), (Console(),))
        return Outcome(population, population.iteration + 1, {})
    planned = plan_population(path, settings, engine)
    check_memory(planned, engine)
    physics = Physics.on(_resources(engine, planned.memory_bytes, planned.workers))
    before = load_population(path).iteration
    console = Console()
    try:
        with locked(path, lambda text: console(Message(text))):  # nobody else works here: only then ask for workers
            for stale in path.glob("tls-*.json"):  # of a driver that was killed
                stale.unlink(missing_ok=True)
        with _opened(engine, planned.workers, path) as executor:
            listeners = (console, _Publisher(path, executor, console))
            population = run(path, physics, RunSettings(settings), executor, listeners, restart, max_failed)
    finally:
        console.close()
    return _outcome(population, before)


def change_population(path: Path, asked: Change, engine: EngineChoice | None = None, restart: bool = False) -> Outcome:
    """Leave series out of the iteration in force, or add some; nothing is refined. Raises what ``change`` does."""
    from mpr_dist.workflow.running.change import change
    from mpr_dist.workflow.series.physics import Physics

    engine = engine or EngineChoice()
    workers = engine.workers_for(max(1, len(asked.added)))
    physics = Physics.on(_resources(engine, engine.memory_of_worker(available_memory(), workers), workers))
    before = load_population(path).iteration
    console = Console()
    try:
        with _opened(engine, workers, path) as executor:
            population = change(path, physics, asked, executor, (console,), restart)
    finally:
        console.close()
    return _outcome(population, before)


def _resources(engine: EngineChoice, memory_bytes: int | None, workers: int) -> Resources:
    """What a worker may use. InputError: it is to compute on a card of this machine, and there is none."""
    if engine.computes_on == "gpu" and engine.kind in ("local", "inline") and not engine.is_foreign:
        missing = why_no_card()
        if missing is not None:
            raise InputError(f"--device gpu: {missing}; there is --device cpu")
    return Resources(memory_bytes, engine.scratch, engine.computes_on, engine.workers_per_card(workers))


def _outcome(population: Population, before: int) -> Outcome:
    failed: dict[str, str] = {}
    for number in range(before + 1, population.iteration + 1):
        failed |= (read_done(population.files(number)) or {}).get("failed", {})
    return Outcome(population, before + 1, failed)


def batch_population(
    path: Path,
    settings: RefineSettings,
    index: int,
    of: int,
    threads: int,
    memory_per_worker: str | None = None,
    scratch: Path | None = None,
    device: str | None = None,
) -> Share:
    """One share of the next iteration in this process; see ``share.run_share``. Memory is by default all there is.

    Raises InputError when it does not suffice, and all that ``run_share`` does.
    """
    from mpr_dist.workflow.series.physics import Physics

    idle = idle_words(path, settings)
    if idle:
        Console()(Message(idle))
        return Share(load_population(path).iteration, (), {}, None)
    engine = EngineChoice("inline", memory_per_worker=memory_per_worker, scratch=scratch, device=device)
    planned = plan_population(path, settings, engine)
    check_memory(planned, engine)
    physics = Physics.on(_resources(engine, planned.memory_bytes, 1))
    import numba

    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, int(numba.config.NUMBA_NUM_THREADS)))
    console = Console()
    try:
        return run_share(path, physics, RunSettings(settings), index, of, (console,))
    finally:
        numba.set_num_threads(before)
        console.close()


def idle_words(path: Path, settings: RefineSettings) -> str:
    """A sentence where the iteration that was asked for (``until``) is finished; empty where there is work."""
    return nothing_to_do(load_population(path), RunSettings(settings))


def plan_population(path: Path, settings: RefineSettings, engine: EngineChoice) -> Plan:
    """What ``refine_population`` would do; changes nothing. InputError: no iteration is asked for."""
    from mpr_dist.workflow.series.physics import Physics

    check_count(RunSettings(settings))
    population = load_population(path)
    settings = replace(settings, iterations=settings.count_after(population.iteration))
    workers = engine.workers_for(len(population.series))
    memory = engine.memory_of_worker(available_memory(), workers)
    return plan(population, Physics(conditions=conditions(population)), settings, workers, memory)


def refusal(path: Path, settings: RefineSettings, engine: EngineChoice, planned: Plan) -> list[str]:
    """A line where ``refine_population`` would refuse on this machine, as it would say so; changes nothing."""
    from mpr_dist.workflow.series.physics import Physics

    try:
        if engine.kind == "cuda" and not engine.is_foreign:
            from mpr_dist.engine.cuda import find_cards

            find_cards(engine.gpus)
        physics = Physics.on(_resources(engine, planned.memory_bytes, planned.workers))
        check_begun(load_population(path), physics, RunSettings(settings))
    except (InputError, PopulationError) as error:
        return [f"  NOTE         refine would refuse: {error}"]
    return []


def check_memory(planned: Plan, engine: EngineChoice) -> None:
    """
    Raises:
        InputError: the workers of this machine, or those of one job, need more memory than there is, or more space
            for scratch files; or a worker cannot do with what it may use.
    """
    if engine.is_foreign:
        planned.check_worker()
        return  # nobody here knows those machines
    if not engine.is_queue:
        planned.check(available_memory())
        scratch = engine.scratch or Path(gettempdir())
        if not scratch.is_dir():
            raise InputError(f"{scratch}: no such directory; --scratch needs one on a local disk")
        planned.check_scratch(disk_usage(scratch).free, str(scratch))
        return
    needed, given = engine.workers_per_job * planned.worker_bytes, engine.job.memory_bytes
    if needed > given:
        raise InputError(
            f"the {engine.workers_per_job} workers of a job need {needed / 1e9:.1f} GB, a job has {engine.job.memory}: "
            "raise memory in [engine.job], or lower the number of workers of a job"
        )
    planned.check_worker()


@contextmanager
def _opened(engine: EngineChoice, workers: int, path: Path) -> Iterator[Executor]:
    executor = open_executor(engine, workers, path)
    try:
        yield executor
    finally:
        executor.close()
        if isinstance(executor, DaskExecutor):
            withdraw_connection(path)


class _Publisher:
    """Tells where workers can join, as soon as the run holds the population; and that some must, if there are none."""

    def __init__(self, path: Path, executor: Executor, console: Console) -> None:
        self._path, self._executor, self._console = path, executor, console

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStarted) and isinstance(self._executor, DaskExecutor):
            publish_connection(self._path, Connection(self._executor.address, self._executor.tls))
            if self._executor.dashboard:
                self._console(Message(f"Dask's dashboard, for this machine alone: {self._executor.dashboard}"))
            if not self._executor.joined:
                text = (
                    f"no worker has joined yet; work begins with the first one (mpr-dist worker {self._path} adds some)"
                )
                self._console(Message(text))
