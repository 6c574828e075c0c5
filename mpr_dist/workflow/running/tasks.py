"""What a worker runs: small values in, files written, small values out."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from mpr_dist.engine.executor import TASK_ERRORS
from mpr_dist.engine.leaving import is_leaving
from mpr_dist.errors import SeriesError
from mpr_dist.storage.accumulators import (
    Accumulators,
    DamagedPartial,
    Manifest,
    read_accumulator,
    verify,
    write_partial,
    write_sum,
)
from mpr_dist.storage.publish import publish_json
from mpr_dist.workflow.state.at_hand import at_hand
from mpr_dist.workflow.state.outcomes import Failure, disk_full, failure, is_disk_full
from mpr_dist.workflow.state.science import (
    FinishJob,
    PrepareJob,
    Reference,
    Science,
    SeriesJob,
    Shape,
    SpeciesOutcome,
)
from mpr_dist.workflow.state.series_results import input_hash, is_reusable, published_hash


@dataclass(frozen=True)
class Batch:
    """Series that one task works through, and where its partial goes."""

    jobs: tuple[SeriesJob, ...]
    shapes: Mapping[str, Shape]
    partials: Path
    stop: Path
    software: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(job.name for job in self.jobs)


@dataclass(frozen=True)
class SeriesReport:
    name: str
    seconds: float
    reused: bool
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class BatchOutcome:
    """``partial`` holds exactly the series of ``done``; None if there are none. What is in neither was not begun."""

    done: tuple[SeriesReport, ...]
    failed: tuple[Failure, ...]
    partial: str | None
    host: str


def run_batch(science: Science, batch: Batch) -> BatchOutcome:
    """Refine and back-project one series after the other, then publish their sum as one partial.

    Raises:
        DiskFull: no series is to blame for that.
    """
    sums = Accumulators(batch.shapes)
    done: list[tuple[SeriesJob, SeriesReport, str]] = []
    failed: list[Failure] = []
    for job, following in zip_longest(batch.jobs, batch.jobs[1:]):
        if following is not None:
            science.read_ahead(following)
        if batch.stop.exists() or is_leaving():
            break
        sums.touched = False
        try:
            with at_hand(batch.partials, job.name):
                done.append(_run_series(science, job, sums))
        except TASK_ERRORS as error:
            if is_disk_full(error):
                raise disk_full(error) from error
            failed.append(failure(job.name, error))
            if sums.touched:
                _add_again(science, [job for job, _, _ in done], sums)
    partial = _publish(science, batch, {job.name: parameters for job, _, parameters in done}, sums) if done else None
    return BatchOutcome(tuple(report for _, report, _ in done), tuple(failed), partial, socket.gethostname())


def _run_series(science: Science, job: SeriesJob, sums: Accumulators) -> tuple[SeriesJob, SeriesReport, str]:
    start = time.monotonic()
    job = replace(job, input_hash=input_hash(job))
    job = replace(job, reuse=is_reusable(job))
    before = published_hash(job.output) if job.reuse else None
    outcome = science.refine_and_backproject(job, sums)
    parameters = published_hash(job.output)
    if parameters is None:
        raise SeriesError(f"series {job.name}: its published files do not agree with {job.output.summary}")
    if before not in (None, parameters):
        raise SeriesError(f"series {job.name}: its parameters changed while they were back-projected")
    report = SeriesReport(job.name, time.monotonic() - start, job.reuse, outcome.numbers)
    return replace(job, reuse=True), report, parameters


def _add_again(science: Science, jobs: list[SeriesJob], sums: Accumulators) -> None:
    """A series failed after it had begun to add: start from zero with those that did not."""
    science.settle()
    sums.clear()
    for job in jobs:
        science.refine_and_backproject(job, sums)


def _publish(science: Science, batch: Batch, parameters: Mapping[str, str], sums: Accumulators) -> str:
    science.settle()
    context = batch.jobs[0].context
    manifest = Manifest(parameters, context.exponent, context.settings_hash, batch.software, batch.shapes)
    name, _ = write_partial(batch.partials, manifest, sums)
    return name


def run_prepare(science: Science, job: PrepareJob) -> Reference:
    return science.prepare(job)


def run_verify(partial: Path) -> str | None:
    """Why a partial is damaged; None when every byte is right."""
    try:
        verify(partial)
    except DamagedPartial as damage:
        return damage.why
    return None


@dataclass(frozen=True)
class Slab:
    """One z-slab of one species: sum it over all partials and write it into ``target``."""

    species: str
    z: int
    partials: tuple[Path, ...]
    target: Path


def run_slab(slab: Slab) -> int:
    """Returns the CRC of the sum. Raises DamagedPartial naming the partial that cannot be used."""
    return write_sum(slab.target, slab.partials, slab.species, slab.z)


def run_finish(science: Science, job: FinishJob) -> SpeciesOutcome:
    outcome = science.finish(job, read_accumulator(job.output.accumulator, job.species.name))
    publish_json(job.output.result, outcome.table())
    return outcome
