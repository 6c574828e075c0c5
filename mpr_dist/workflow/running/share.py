"""One share of an iteration without any scheduler, for job arrays: refined series and a partial, nothing decided.

Shares may run at the same time on any machines that see the files. The ``refine`` that follows takes in what they left
as it takes in what a killed run left, and does what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mpr_dist
from mpr_dist.engine import events
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError, Interrupted, PopulationError
from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.refinement.batches import even_shares
from mpr_dist.storage.accumulators import DamagedPartial, read_manifest
from mpr_dist.storage.lock import read_holder
from mpr_dist.storage.population import load_population
from mpr_dist.storage.publish import is_temporary
from mpr_dist.workflow.running.iteration import IterationDriver, Tools
from mpr_dist.workflow.running.run import run_record
from mpr_dist.workflow.running.tasks import Batch, run_batch
from mpr_dist.workflow.state.jobs import series_cost
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.science import Science
from mpr_dist.workflow.state.stopping import StopRequest


@dataclass(frozen=True)
class Share:
    """What became of a share: ``done`` and ``failed`` (with reasons) series; ``partial`` holds the former."""

    iteration: int
    done: tuple[str, ...]
    failed: dict[str, str]
    partial: str | None


class _OwnStop(StopRequest):
    """Stops this share alone: the others of a job array have signals of their own."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self._index = index

    def watch(self, file: Path) -> None:
        super().watch(file.with_name(f"STOP-{self._index}"))


def run_share(
    path: Path,
    science: Science,
    settings: RunSettings,
    index: int,
    of: int,
    listeners: tuple[events.Listener, ...] = (),
) -> Share:
    """Refine and back-project share ``index`` (1 to ``of``) of the next iteration, and publish one partial.

    Raises:
        InputError: there is no such share. PopulationError: a run holds the population, or the iteration was begun
        with other settings. Interrupted: stopped; the series finished by then are kept.
    """
    if not 1 <= index <= of:
        raise InputError(f"there are shares 1 to {of}, asked for was {index}")
    population = load_population(path)
    number = population.iteration + 1
    _check(population, number)

    def say(text: str) -> None:
        events.tell(listeners, events.Message(text))

    with _OwnStop(index) as stop:
        record = run_record(population, science, settings, say)
        tools = Tools(science, InlineExecutor(), stop, listeners)
        driver = IterationDriver(population, settings, number, number == record.first, tools)
        driver.begin()
        cost = {name: series_cost(population, job.entry) for name, job in driver.jobs.items()}
        names = even_shares(cost, of)[index - 1]
        ready = _ready(driver.files, names, driver.context.settings_hash)
        if ready is not None or not names:
            say(f"share {index} of {of}: {'done before' if names else 'there is nothing in it'}")
            return Share(number, names, {}, ready)
        say(f"share {index} of {of}: {len(names)} of {len(cost)} series of iteration {number:03d}")
        own_stop = driver.files.stop.with_name(f"STOP-{index}")
        jobs = tuple(driver.jobs[name] for name in names)
        batch = Batch(jobs, driver.shapes, driver.files.partials, own_stop, mpr_dist.__version__)
        outcome = run_batch(science, batch)
        done = tuple(report.name for report in outcome.done)
        for report in outcome.done:
            numbers = {key: float(value) for key, value in report.numbers.items()}
            finished = events.SeriesDone(number, report.name, cost[report.name], report.seconds, report.reused, numbers)
            events.tell(listeners, finished)
        if stop():
            own_stop.unlink(missing_ok=True)
            raise Interrupted(f"stopped with {len(done)} of {len(names)} series done and kept; run the share again")
    reasons = {each.series: each.reason for each in outcome.failed}
    return Share(number, done, reasons, outcome.partial)


def _check(population: Population, number: int) -> None:
    holder = read_holder(population.path / "LOCK")
    if holder is not None and not holder.is_dead:
        raise PopulationError(
            f"{population.path} is in use by process {holder.pid} on {holder.host} since {holder.since}, which does "
            "all series itself; mpr-dist worker adds workers to it"
        )
    if population.files(number).is_finished:
        raise PopulationError(f"iteration {number:03d} is finished but not in force; run mpr-dist refine once")
    if not population.series or not population.species:
        raise PopulationError(f"{population.path} needs a source and a species first: mpr-dist source add, species add")


def _ready(files: IterationFiles, names: tuple[str, ...], settings: str) -> str | None:
    """A partial that holds exactly these series; whether it counts is for the driver to say."""
    for path in sorted(files.partials.glob("partial-*")):
        if is_temporary(path):
            continue
        try:
            manifest = read_manifest(path)
        except DamagedPartial:
            continue
        if set(manifest.series) == set(names) and manifest.settings == settings:
            return path.name
    return None
