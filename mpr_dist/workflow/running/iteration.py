"""One iteration, from references to maps: prepare, refine and back-project in batches, merge, finish.

The driver alone decides what counts and writes it into the ledger; workers only publish files. Everything here can be
interrupted at any line and run again: accepted partials are kept, published parameters are used again, the rest is done
anew. Sums are integers, so none of this changes a bit of the result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

import mpr_dist
from mpr_dist.engine import events
from mpr_dist.engine.executor import TASK_ERRORS, Executor
from mpr_dist.errors import Interrupted, MprError, TooManyFailed
from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.refinement.batches import guided_batches
from mpr_dist.storage.accumulators import Manifest
from mpr_dist.storage.ledger import FORMAT_VERSION, SESSION, Ledger
from mpr_dist.storage.publish import clean_litter, disk
from mpr_dist.workflow.reporting.iteration_report import write_report
from mpr_dist.workflow.running.acceptance import Acceptance
from mpr_dist.workflow.running.carrying import map_carrying
from mpr_dist.workflow.running.containment import Containment
from mpr_dist.workflow.running.merge import merge
from mpr_dist.workflow.running.references import keep_reference, kept_reference
from mpr_dist.workflow.running.tasks import Batch, BatchOutcome, run_batch, run_finish, run_prepare
from mpr_dist.workflow.running.watching import watching
from mpr_dist.workflow.series.footing import common_footing
from mpr_dist.workflow.series.in_force import in_force
from mpr_dist.workflow.series.uncertainty_table import write_uncertainty
from mpr_dist.workflow.state import at_hand
from mpr_dist.workflow.state.done import publish_done
from mpr_dist.workflow.state.jobs import prepare_jobs, series_cost, series_jobs, species_hash, species_inputs
from mpr_dist.workflow.state.outcomes import PARTIAL_LOST, STOPPED, Failure, end_of_run, failure, is_disk_full, reason
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.science import Context, FinishJob, Science, SeriesJob, Shape, finite
from mpr_dist.workflow.state.stopping import StopRequest

T = TypeVar("T")

ATTEMPTS = 4  # dispatches of a series whose partial is lost or not accepted, before it is given up
# a report shows results and changes none: whatever is wrong with it, the iteration stands
REPORT_ERRORS: tuple[type[Exception], ...] = (*TASK_ERRORS, LookupError, TypeError)


@dataclass(frozen=True)
class Tools:
    """What a run is done with: none of it may change the result, except the science.

    ``max_failed``: share of the series, 0 to 1; when more fail, the run stops.
    """

    science: Science
    executor: Executor
    stop: StopRequest
    listeners: tuple[events.Listener, ...] = ()
    max_failed: float = 0.5


class IterationDriver:
    """Works through one iteration; ``run`` returns when it is finished or raises what hinders it."""

    def __init__(self, population: Population, settings: RunSettings, number: int, is_first: bool, tools: Tools):
        self.population = population
        self.files: IterationFiles = population.files(number)
        self.tools = tools
        for directory in (self.files.series_directory, self.files.partials, self.files.references):
            disk().mkdir(directory)
        tools.stop.watch(self.files.stop)
        settings = in_force(settings, population, number)
        asked = settings.begin(self.files, tools.science.version, is_first)
        self.listeners: tuple[events.Listener, ...] = (*tools.listeners, events.JsonLines(self.files.events))
        self._telling = threading.Lock()  # the watch tells from a thread of its own
        self.ledger = Ledger(self.files.ledger)
        inputs = species_inputs(population, number)
        footing = 1.0 if settings.refine.refines_anything else common_footing(population, number)
        beside = "" if footing == 1.0 else repr(footing)
        self.settings_hash = sha256((asked + species_hash(inputs) + beside).encode()).hexdigest()
        self.context = Context(
            number,
            is_first,
            settings.refine,
            settings.exponent,
            self.settings_hash,
            inputs,
            footing=footing,
            common_log_magnification=settings.common_log_magnification,
        )
        self.shapes: dict[str, Shape] = {i.name: tools.science.footprint(i.species).accumulator_shape for i in inputs}
        self.containment = Containment(len(population.series), tools.max_failed, self.ledger)
        self.alone: set[str] = set()
        self.attempts: dict[str, int] = {}
        self.jobs: dict[str, SeriesJob] = {}

    def run(self) -> None:
        """Raises Interrupted, TooManyFailed, DiskFull, or what else ends the run; the ledger says so where it can."""
        self.ledger.append(SESSION, format_version=FORMAT_VERSION, software=mpr_dist.__version__)
        try:
            self._run()
        except (MprError, OSError) as error:
            if not isinstance(error, Interrupted):
                with suppress(OSError):  # the disk may be full
                    self.ledger.append("ended", outcome=end_of_run(error), reason=reason(error))
            raise

    def _run(self) -> None:
        start = time.monotonic()
        number = self.files.number
        self._clean()
        self.begin()
        self.accepted = Acceptance(self.files, self.ledger, self.jobs, self._expected())
        kept, rejected = self.accepted.recover(self.tools.executor, self.tools.stop)
        for name, why in rejected:
            self._tell(events.PartialRejected(number, name, why))
        self._tell(events.IterationStarted(number, len(self.jobs), kept))
        self._refine_and_merge()
        resolution = self._finish()
        self._close(resolution, time.monotonic() - start)

    def begin(self) -> None:
        """References, and what is to be done with every series; nothing is decided yet."""
        self._prepare()
        self.jobs = {job.name: job for job in series_jobs(self.population, self.context)}

    def _expected(self) -> Manifest:
        return Manifest({}, self.context.exponent, self.context.settings_hash, mpr_dist.__version__, self.shapes)

    def _clean(self) -> None:
        files = self.files
        disk().remove_tree(at_hand.directory(files.partials))  # deaths of an earlier session are forgiven
        species = [files.species(each.name).directory for each in self.population.species]
        for directory in (files.root, files.series_directory, files.partials, files.references, *species):
            clean_litter(directory)

    def _prepare(self) -> None:
        jobs = prepare_jobs(self.context, self.files)
        with self._stage("prepare", len(jobs)):
            found = {job.species.name: kept_reference(job) for job in jobs}
            missing = [job for job in jobs if found[job.species.name] is None]
            work = partial(run_prepare, self.tools.science)
            for done in map_carrying(self.tools.executor, work, self._until_stopped(missing)):
                reference = done.unwrap()
                keep_reference(done.item, reference)
                found[reference.species] = reference
        self._end_if_stopped()
        references = tuple(found[job.species.name] for job in jobs)
        together = "".join(r.sha256 for r in references if r is not None)
        self.context = replace(
            self.context,
            references=tuple(r for r in references if r is not None),
            settings_hash=sha256((self.settings_hash + together).encode()).hexdigest(),
        )

    def _refine_and_merge(self) -> None:
        while True:
            self._refine()
            self._end_if_stopped()
            if not self.accepted.series:
                reasons = self.containment.first_reasons
                raise MprError(
                    f"iteration {self.files.number:03d}: every one of {len(self.jobs)} tilt series failed, nothing to "
                    f"reconstruct from. The first reasons: {reasons or 'there are no series'}. "
                    "When the cause is gone, the same command continues"
                )
            with self._stage("merge", len(self.shapes)):
                paths = [self.files.partials / name for name in sorted(self.accepted.partials)]
                total = self.accepted.total()
                damaged = merge(self.tools.executor, self.files, paths, total, self.tools.stop)
            self._end_if_stopped()
            unusable = {path.name: why for path, why in damaged.items()} or self.accepted.overtaken()
            for name, why in unusable.items():
                self._reject(name, why)
            if not unusable:
                self.ledger.append("merge", partials=len(paths), series=len(total.series))
                return

    def _refine(self) -> None:
        cost = {name: series_cost(self.population, job.entry) for name, job in self.jobs.items()}
        pending = self._pending_without_hopeless(cost)
        if not pending:
            return
        with self._stage("refine", len(pending)):
            self._tell(events.WorkBegins(self.files.number, len(pending), sum(cost[name] for name in pending)))
            with watching(self.files, pending, cost, self._tell):
                self._dispatch(pending, cost)

    def _dispatch(self, pending: list[str], cost: dict[str, float]) -> None:
        while pending and not self.tools.stop():
            work = partial(run_batch, self.tools.science)
            for done in map_carrying(self.tools.executor, work, self._until_stopped(self._batches(pending, cost))):
                if done.error is None:
                    self._take(done.unwrap(), cost)
                elif is_disk_full(done.error):
                    raise done.error
                elif len(done.item.jobs) > 1:
                    # One of them brought the batch down; on its own it will be known by name.
                    self.alone.update(done.item.names)
                else:
                    self._fail(failure(done.item.names[0], done.error), cost)
                self._contain()
            pending = self._pending_without_hopeless(cost)

    def _pending_without_hopeless(self, cost: dict[str, float]) -> list[str]:
        """Series that are neither counted nor failed; one that was done often enough and never counted fails here."""
        decided = self.accepted.series | self.containment.failed.keys()
        pending = [name for name in self.jobs if name not in decided]
        for name in [name for name in pending if self.attempts.get(name, 0) >= ATTEMPTS]:
            self._fail(Failure(name, PARTIAL_LOST, f"its partial was lost or damaged {ATTEMPTS} times"), cost)
            pending.remove(name)
        return pending

    def _batches(self, pending: Sequence[str], cost: dict[str, float]) -> list[Batch]:
        together = {name: cost[name] for name in pending if name not in self.alone}
        groups = guided_batches(together, self.tools.executor.workers)
        alone = tuple((name,) for name in sorted(set(pending) & self.alone))
        return [
            Batch(
                tuple(self.jobs[name] for name in group),
                self.shapes,
                self.files.partials,
                self.files.stop,
                mpr_dist.__version__,
            )
            for group in (*groups, *alone)
        ]

    def _until_stopped(self, items: Sequence[T]) -> Iterator[T]:
        for item in items:
            if self.tools.stop():
                return
            yield item

    def _take(self, outcome: BatchOutcome, cost: dict[str, float]) -> None:
        """Accept what a batch brought, name by name in the log, or say why not."""
        number = self.files.number
        for failed in outcome.failed:
            self._fail(failed, cost)
        self.containment.note(
            outcome.host, [one.name for one in outcome.done], [failed.series for failed in outcome.failed]
        )
        for report in outcome.done:
            self.attempts[report.name] = self.attempts.get(report.name, 0) + 1
        if outcome.partial is None:
            return
        why_not = self.accepted.accept(outcome.partial)
        if why_not:
            self._tell(events.PartialRejected(number, outcome.partial, why_not))
            return
        self._tell(events.PartialAccepted(number, outcome.partial, len(outcome.done)))
        for report in outcome.done:
            numbers = {key: float(value) for key, value in report.numbers.items()}
            done = events.SeriesDone(number, report.name, cost[report.name], report.seconds, report.reused, numbers)
            self._tell(done)

    def _fail(self, failed: Failure, cost: dict[str, float]) -> None:
        self.containment.fail(failed)
        name, why = failed.series, failed.reason
        self._tell(events.SeriesFailed(self.files.number, name, cost.get(name, 0.0), why))

    def _contain(self) -> None:
        """After every batch: leave out bad hosts, and stop where too much has failed."""
        for host, again in self.containment.avoid_bad_hosts(self.tools.executor):
            text = f"{len(again)} tilt series failed on host {host}: it is avoided, and they are tried again elsewhere"
            self._tell(events.Message(text))
        if self.containment.too_many:
            self.tools.stop.ask()  # what the workers have finished is kept

    def _reject(self, name: str, why: str) -> None:
        self.accepted.reject(name, why)
        self._tell(events.PartialRejected(self.files.number, name, why))

    def _finish(self) -> dict[str, float | None]:
        series = tuple(self.files.series(name) for name in sorted(self.accepted.series))
        jobs = [FinishJob(self.context, i, self.files.species(i.name), series) for i in self.context.species]
        resolution: dict[str, float | None] = {}
        with self._stage("finish", len(jobs)):
            work = partial(run_finish, self.tools.science)
            for done in map_carrying(self.tools.executor, work, self._until_stopped(jobs)):
                resolution[done.item.species.name] = finite(done.unwrap().resolution_A)
        self._end_if_stopped()
        nyquist_A = {each.name: 2 * each.species.pixel_size_A for each in self.context.species}
        for name, value in sorted(resolution.items()):
            self.ledger.append("finish", species=name, resolution_A=value)
            self._tell(events.SpeciesFinished(self.files.number, name, value, nyquist_A[name]))
        return resolution

    def _close(self, resolution: dict[str, float | None], seconds: float) -> None:
        """DONE is the last file of an iteration; nothing in it changes afterwards, and scratch is no part of it."""
        for name in self.containment.failed:
            # It may have failed after it was published; it is not part of this iteration, so nothing vouches for it.
            disk().unlink(self.files.series(name).summary)
        done = len(self.accepted.series)
        failed = len(self.containment.failed)
        self._tell(events.IterationFinished(self.files.number, done, failed, seconds))
        self._report()
        self._clean()  # what workers that were killed left behind
        publish_done(self.files, self._record(resolution))
        disk().remove_tree(self.files.scratch)

    def _record(self, resolution: Mapping[str, float | None]) -> dict[str, Any]:
        """For DONE."""
        series = sorted(self.accepted.series)
        return {"series": series, "resolution_A": dict(resolution), **self.containment.record()}

    def _report(self) -> None:
        """A report that cannot be written is told of; the iteration stands without it."""
        try:
            write_uncertainty(self.files, sorted(self.accepted.series))
            write_report(self.population, self.files.number)
        except REPORT_ERRORS as error:
            self._tell(events.Message(f"the report of iteration {self.files.number:03d} is missing: {reason(error)}"))

    def _end_if_stopped(self) -> None:
        if not self.tools.stop():
            return
        accepted = getattr(self, "accepted", None)
        done = len(accepted.series) if accepted is not None else 0
        if self.containment.too_many:
            raise TooManyFailed(
                f"iteration {self.files.number:03d}: {self.containment.too_many}. {done} tilt series are done and "
                "kept; when the cause is gone, the same command continues"
            )
        self.ledger.append("interrupted", series=done, outcome=STOPPED)
        raise Interrupted(
            f"stopped in iteration {self.files.number:03d} with {done} of {len(self.population.series)} tilt series "
            "done and kept; the same command continues"
        )

    def _tell(self, event: events.Event) -> None:
        with self._telling:
            events.tell(self.listeners, event)

    @contextmanager
    def _stage(self, stage: str, tasks: int) -> Iterator[None]:
        start = time.monotonic()
        self._tell(events.StageStarted(self.files.number, stage, tasks))
        yield
        self._tell(events.StageFinished(self.files.number, stage, time.monotonic() - start))
