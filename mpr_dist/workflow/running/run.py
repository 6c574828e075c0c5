"""The run: iteration after iteration, each from the one in force, until as many as asked for are finished.

The same command continues a run that was interrupted: ``run.json`` remembers which iterations it was to make.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mpr_dist.engine import events
from mpr_dist.engine.executor import Executor
from mpr_dist.errors import InputError, Interrupted, MprError, PopulationError
from mpr_dist.model.population import Population
from mpr_dist.storage.lock import locked
from mpr_dist.storage.population import advance, load_population
from mpr_dist.storage.publish import clean_litter, disk, publish_json, temporary_beside
from mpr_dist.workflow.running.iteration import IterationDriver, Tools
from mpr_dist.workflow.series.in_force import in_force
from mpr_dist.workflow.state.outcomes import disk_full, is_disk_full
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.science import Science
from mpr_dist.workflow.state.stopping import StopRequest

FORMAT_VERSION = 1


@dataclass(frozen=True)
class RunRecord:
    """A run that is under way: its iterations, and the hash of what was asked for."""

    first: int
    last: int
    asked: str

    @property
    def count(self) -> int:
        return self.last - self.first + 1


def run(
    path: Path,
    science: Science,
    settings: RunSettings,
    executor: Executor,
    listeners: tuple[events.Listener, ...] = (),
    restart: bool = False,
    max_failed: float = 0.5,
) -> Population:
    """Refine the population at ``path`` for ``settings.refine.iterations`` iterations; returns its new state.

    With ``settings.refine.until`` the run ends with that iteration, whichever is in force; if it is finished, nothing
    is done.

    Raises:
        Interrupted: stopped by Ctrl-C, SIGTERM or a STOP file; the same call continues.
        TooManyFailed: more than the share ``max_failed`` of the tilt series failed. DiskFull: no space left.
        PopulationError: locked, contradictory, or an unfinished iteration was begun otherwise (``restart`` discards).
    """

    if not 0 <= max_failed <= 1:
        raise InputError(f"--max-failed is a share of the tilt series, from 0 to 1; got {max_failed:g}")

    def say(text: str) -> None:
        events.tell(listeners, events.Message(text))

    with session(path, say) as (population, stop):
        idle = nothing_to_do(population, settings)
        if idle:
            _forget_finished(population)
            say(idle)
            return population
        if restart:
            discard_unfinished(population)
        record = run_record(population, science, settings, say)
        engine = type(executor).__name__.removesuffix("Executor").lower()
        started = events.RunStarted(population.name, record.first, record.last, engine, executor.workers)
        events.tell(listeners, started)
        tools = Tools(science, executor, stop, listeners, max_failed)
        for number in range(population.iteration + 1, record.last + 1):
            IterationDriver(population, settings, number, number == record.first, tools).run()
            population = advance(population, number)
            if stop() and number < record.last:
                raise Interrupted(f"stopped after iteration {number:03d}; the same command continues")
        disk().unlink(_record_path(population))
    return population


@contextmanager
def session(path: Path, say: Callable[[str], None]) -> Iterator[tuple[Population, StopRequest]]:
    """Hold the lock of the population at ``path``, put it in order after an earlier end, and listen to signals.

    Raises:
        PopulationError: locked, or nothing to work with. DiskFull: whenever a full disk ends the body.
    """
    path = load_population(path).path  # before anything is written: is this a population at all?
    with _full_disk_in_words(), locked(path, say), StopRequest() as stop:
        clean_litter(path, spare="LOCK")
        clean_litter(path / "iterations")
        population = _heal(load_population(path), say)
        _check(population)
        yield population, stop


@contextmanager
def _full_disk_in_words() -> Iterator[None]:
    """Wherever a full disk was noticed, it is told of in the same line."""
    try:
        yield
    except (MprError, OSError) as error:
        if is_disk_full(error):
            raise disk_full(error) from error
        raise


def discard_unfinished(population: Population) -> None:
    """Remove what an interrupted run left of the iteration after the one in force, and forget that run."""
    files = population.files(population.iteration + 1)
    if files.root.exists() and not files.is_finished:
        aside = temporary_beside(files.root)
        disk().replace(files.root, aside)  # gone at once, even if removing all of it is interrupted
        disk().remove_tree(aside)
    disk().unlink(_record_path(population))


def nothing_to_do(population: Population, settings: RunSettings) -> str:
    """A sentence where the iteration that a run shall end with is finished; empty where there is something to do."""
    until = settings.refine.until
    if not until or population.iteration < until:
        return ""
    return f"iteration {until:03d} is finished, {population.iteration:03d} is in force: nothing to do"


def _forget_finished(population: Population) -> None:
    """A driver killed after its last iteration left the record of its run."""
    old = _read_record(_record_path(population))
    if old is not None and old.last <= population.iteration:
        disk().unlink(_record_path(population))


def _heal(population: Population, say: Callable[[str], None]) -> Population:
    """A driver killed after DONE and before population.toml: the iteration is finished, so put it in force."""
    while population.files(population.iteration + 1).is_finished:
        population = advance(population, population.iteration + 1)
        say(f"iteration {population.iteration:03d} was finished already; it is in force now")
    if population.iteration > 0:
        disk().remove_tree(population.files(population.iteration).scratch)
    return population


def _check(population: Population) -> None:
    if not population.series:
        raise PopulationError(f"{population.path} has no tilt series; add a source first: mpr-dist source add")
    if not population.species:
        raise PopulationError(f"{population.path} has no species; add one first: mpr-dist species add")


def run_record(
    population: Population, science: Science, settings: RunSettings, say: Callable[[str], None]
) -> RunRecord:
    """The run to continue, or a new one."""
    check_count(settings)
    if settings.refine.until:
        return _record_until(population, science, settings, say)
    path = _record_path(population)
    asked = settings.hash(science.version, is_first=True)
    begun = population.files(population.iteration + 1).settings.exists()
    old = _read_record(path)
    count = settings.refine.iterations
    if old is not None and old.asked == asked and (old.last, old.count) == (population.iteration, count):
        # A driver killed after its last iteration, before it could say so: nobody asked for more.
        say(f"the run of iterations {old.first:03d} to {old.last:03d} was finished; the same command again adds more")
        return old
    if old is not None and population.iteration < old.last and (begun or old.asked == asked):
        # If an iteration is begun and something else was asked for, its settings.toml will say what differs.
        if old.asked == asked and old.count == count:
            say(f"continuing the run of iterations {old.first:03d} to {old.last:03d}")
            return old
        if begun and old.asked == asked:
            say(f"continuing iteration {population.iteration + 1:03d}, with {count} iterations in this run")
            last = max(old.first + count - 1, population.iteration + 1)
            return _write_record(path, RunRecord(old.first, last, asked))
        if begun:
            return old
    first = population.iteration + 1
    return _write_record(path, RunRecord(first, first + count - 1, asked))


def _record_until(
    population: Population, science: Science, settings: RunSettings, say: Callable[[str], None]
) -> RunRecord:
    """The same for a run whose last iteration has a number: it goes on wherever it was interrupted."""
    path, until = _record_path(population), settings.refine.until
    asked = settings.hash(science.version, is_first=True)
    old = _read_record(path)
    if old is not None and population.iteration < old.last:
        if old.asked == asked:
            say(f"continuing the run of iterations {old.first:03d} to {until:03d}")
            return _write_record(path, RunRecord(old.first, until, asked))
        if population.files(population.iteration + 1).settings.exists():
            return old  # its settings.toml will say what differs
    return _write_record(path, RunRecord(population.iteration + 1, until, asked))


def check_count(settings: RunSettings) -> None:
    """Raises InputError if no iteration is asked for."""
    if settings.refine.iterations < 1 and not settings.refine.until:
        raise InputError(f"a run needs at least 1 iteration, got {settings.refine.iterations}")


def check_begun(population: Population, science: Science, settings: RunSettings) -> None:
    """What ``run`` says of an unfinished iteration, without touching a file.

    Raises:
        PopulationError: it was begun with other settings or versions.
    """
    number = population.iteration + 1
    files = population.files(number)
    if not files.settings.exists() or files.is_finished:
        return
    old = _read_record(_record_path(population))
    first = old.first if old is not None and population.iteration < old.last else number
    in_force(settings, population, number).compare(files, science.version, number == first)


def _record_path(population: Population) -> Path:
    return population.path / "run.json"


def _read_record(path: Path) -> RunRecord | None:
    try:
        table = json.loads(path.read_text("utf-8"))
        version = table.pop("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise PopulationError(
                f"{path}: format_version {version}, but this mpr-dist reads {FORMAT_VERSION}; continue with the "
                "mpr-dist that began the run, or delete this file to start a new run"
            )
        return RunRecord(**table)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise PopulationError(f"{path}: cannot be read ({error}); delete it to start a new run") from error


def _write_record(path: Path, record: RunRecord) -> RunRecord:
    publish_json(path, {"format_version": FORMAT_VERSION, **asdict(record)})
    return record
