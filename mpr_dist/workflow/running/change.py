"""One tilt series more or less in a finished iteration, exactly.

The sums of an iteration are integers, so what a series added can be taken away again: it is back-projected once more
from the parameters it was added with, and subtracted. The maps that follow have the bits of a run that never had it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import mpr_dist
from mpr_dist.engine import events
from mpr_dist.engine.executor import Executor
from mpr_dist.errors import InputError, PopulationError
from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.accumulators import (
    Accumulators,
    DamagedPartial,
    Manifest,
    read_manifest,
    read_slab,
    slab_starts,
    write_partial,
)
from mpr_dist.storage.population import advance, last_iteration_with, read_table
from mpr_dist.storage.publish import publish_bytes
from mpr_dist.workflow.running.carrying import map_carrying
from mpr_dist.workflow.running.iteration import IterationDriver, Tools
from mpr_dist.workflow.running.run import discard_unfinished, session
from mpr_dist.workflow.state.done import read_done
from mpr_dist.workflow.state.jobs import series_jobs
from mpr_dist.workflow.state.run_settings import RunSettings, check_versions
from mpr_dist.workflow.state.science import Science, SeriesJob
from mpr_dist.workflow.state.series_results import (
    input_hash,
    is_reusable,
    publish_summary,
    published_hash,
    read_summary,
)

# settings that a back-projection depends on; the others only matter to a refinement
BACKPROJECTING = ("weight_threshold", "ewald")


@dataclass(frozen=True)
class Change:
    """Names of tilt series to leave out of the iteration in force, and to add to it."""

    without: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def change(
    path: Path,
    science: Science,
    asked: Change,
    executor: Executor,
    listeners: tuple[events.Listener, ...] = (),
    restart: bool = False,
) -> Population:
    """A new iteration: the one in force without some series and with some others; returns the population's new state.

    No parameter is refined. A series that is added comes with the parameters of the last iteration that refined it,
    or as it was imported. Interrupted, the same call continues.

    Raises:
        InputError: a series is not known, not there or there already, or nothing would be left.
        PopulationError: the iteration in force was made by other versions, or its files are not as they were.
    """

    def say(text: str) -> None:
        events.tell(listeners, events.Message(text))

    with session(path, say) as (population, stop):
        base = _base(population)
        if _is_done(base, asked):
            say(f"iteration {base.number:03d}, which is in force, is that already")
            return population
        _check_asked(population, base, asked)
        if restart:
            discard_unfinished(population)
        settings = _settings(base, science, asked)
        driver = ChangeDriver(population, settings, base, asked, Tools(science, executor, stop, listeners, 0.0))
        driver.run()
        return advance(population, base.number + 1)


def _base(population: Population) -> IterationFiles:
    if population.iteration < 1:
        raise InputError(
            f"{population.path}: nothing was refined or reconstructed yet, so there are no sums to change; "
            "run mpr-dist refine or mpr-dist reconstruct first"
        )
    return population.files(population.iteration)


def _is_done(base: IterationFiles, asked: Change) -> bool:
    """Whether this very change made the iteration in force, such as by a driver that was killed at its very end."""
    made = read_table(base.settings).get("change", {})
    return bool(made) and (made["without"], made["with"]) == (sorted(set(asked.without)), sorted(set(asked.added)))


def _check_asked(population: Population, base: IterationFiles, asked: Change) -> None:
    there = set((read_done(base) or {}).get("series", ()))
    known = {entry.name for _, entry in population.series}
    where = f"iteration {base.number:03d}, which is in force"
    for name in (*asked.without, *asked.added):
        if name not in known:
            raise InputError(f"tilt series {name} is not part of {population.path}; mpr-dist source list shows them")
    _check_same_members(population, base, there - known)
    absent = [name for name in asked.without if name not in there]
    if absent:
        raise InputError(f"--without {absent[0]}: it is not in {where}; nothing to take away")
    present = [name for name in asked.added if name in there]
    if present:
        raise InputError(f"--with {present[0]}: it is in {where} already; a series counts once")
    if not there - set(asked.without):
        raise InputError(f"--without: no tilt series would be left of {where}")


def _check_same_members(population: Population, base: IterationFiles, gone: set[str]) -> None:
    """The sums in force are those of the species and series that the population has now."""
    new = [one.name for one in population.species if not base.species(one.name).accumulator.exists()]
    if gone or new:
        what = f"of series of removed sources ({min(gone)} ...)" if gone else f"none of species {new[0]}"
        raise InputError(
            f"iteration {base.number:03d}, which is in force, has sums {what}; make sums of what the population is now "
            "first: mpr-dist reconstruct"
        )


def _settings(base: IterationFiles, science: Science, asked: Change) -> RunSettings:
    """As the iteration in force was made, but nothing to refine."""
    begun = read_table(base.settings)
    for name, now in (("software", mpr_dist.__version__), ("science", science.version)):
        if begun.get(name) != now:
            raise PopulationError(
                f"iteration {base.number:03d} was made with {name} {begun.get(name)}, this is {now}: what is taken "
                "away or added now would not be what was added then. Use that version, or reconstruct all of it"
            )
    check_versions(begun, f"iteration {base.number:03d} was made with")
    refine = {name: begun["refine"][name] for name in BACKPROJECTING if name in begun.get("refine", {})}
    about: dict[str, Any] = {"of": base.number, "without": sorted(set(asked.without)), "with": sorted(set(asked.added))}
    return RunSettings(RefineSettings(iterations=1, **refine), int(begun["exponent"]), about)


class ChangeDriver(IterationDriver):
    """An iteration that begins with the sums of the one before it as a partial that is there already."""

    def __init__(
        self, population: Population, settings: RunSettings, base: IterationFiles, asked: Change, tools: Tools
    ) -> None:
        self.base = base
        self.removed = tuple(sorted(set(asked.without)))
        there = set((read_done(base) or {})["series"])
        self.whole = population
        wanted = (there - set(asked.without)) | set(asked.added)
        self.kept = sorted(there - set(asked.without))
        super().__init__(_only(population, wanted), settings, base.number + 1, False, tools)

    def _prepare(self) -> None:
        super()._prepare()
        self.ledger.append("removed", series=self.removed)
        for job in series_jobs(self.population, self.context):
            _carry_over(self.whole, job)
        with self._stage("subtract", len(self.removed)):
            self._subtract()
        self._end_if_stopped()

    def _subtract(self) -> None:
        """Publish the sums of the kept series as a partial, unless an earlier session did."""
        series = {name: published_hash(self.files.series(name)) or "" for name in self.kept}
        manifest = replace(self._expected(), series=series)
        if (self.files.partials / manifest.name).exists():
            return
        removed = {job.name: job for job in series_jobs(_only(self.whole, set(self.removed)), self.context)}
        jobs = tuple(replace(removed[n], output=self.base.series(n), reuse=True) for n in self.removed)
        sums = {name: self.base.species(name).accumulator for name in self.shapes}
        work = partial(run_take_away, self.tools.science)
        task = TakeAway(jobs, sums, manifest, self.files.partials)
        for done in map_carrying(self.tools.executor, work, self._until_stopped([task])):
            done.unwrap()

    def _record(self, resolution: Mapping[str, float | None]) -> dict[str, Any]:
        return {**super()._record(resolution), "removed": self.removed}


def _only(population: Population, names: set[str]) -> Population:
    """The population as if it had these tilt series alone."""
    return replace(
        population,
        sources=tuple(
            replace(source, series=tuple(entry for entry in source.series if entry.name in names))
            for source in population.sources
        ),
    )


def _carry_over(population: Population, job: SeriesJob) -> None:
    """Copy the parameters that the last iteration published for a series, and vouch for them in this one."""
    job = replace(job, input_hash=input_hash(job))
    last = last_iteration_with(population, job.name, job.context.iteration)
    if last < 1 or is_reusable(job):
        return
    old = population.files(last).series(job.name)
    for source, target in zip((old.xml, old.poses, old.sigma), _parameters(job), strict=True):
        publish_bytes(target, source.read_bytes())
    publish_summary(job, (read_summary(old) or {}).get("numbers", {}))


def _parameters(job: SeriesJob) -> Sequence[Path]:
    return job.output.xml, job.output.poses, job.output.sigma


@dataclass(frozen=True)
class TakeAway:
    """Series to be subtracted from the accumulators ``sums`` (species -> directory), and what is left then."""

    jobs: tuple[SeriesJob, ...]
    sums: Mapping[str, Path]
    left: Manifest
    partials: Path


def run_take_away(science: Science, task: TakeAway) -> str:
    """Publish ``sums`` less the contributions of ``jobs`` as a partial; returns its name.

    Raises:
        PopulationError: the accumulators, or the parameters of a series, are not those of that iteration.
    """
    taken = Accumulators(task.left.shapes)
    try:
        manifests = {species: read_manifest(path) for species, path in task.sums.items()}
        for species, manifest in manifests.items():
            _check_base(task, species, manifest)
        for job in task.jobs:
            science.refine_and_backproject(job, taken)
        science.settle()
        for species, path in task.sums.items():
            for z in slab_starts(task.left.shapes[species]):
                whole = read_slab(path, manifests[species], species, z)
                part = taken[species][:, z : z + whole.shape[1]]
                np.subtract(whole, part, out=part)
    except DamagedPartial as damage:
        raise PopulationError(
            f"{damage}: the sums of that iteration are damaged or gone, so nothing can be subtracted; restore them "
            "from a copy, or make them again with mpr-dist reconstruct"
        ) from damage
    return write_partial(task.partials, task.left, taken)[0]


def _check_base(task: TakeAway, species: str, manifest: Manifest) -> None:
    """The accumulator is what the subtraction takes it for."""
    where = task.sums[species]
    if manifest.shapes != {species: task.left.shapes[species]} or manifest.exponent != task.left.exponent:
        raise PopulationError(f"{where}: has another box or fixed point than {species} has now; restore the species")
    expected = {job.name for job in task.jobs} | set(task.left.series)
    if set(manifest.series) != expected:
        raise PopulationError(f"{where}: holds other tilt series than its iteration says; restore it from a copy")
    changed = [job.name for job in task.jobs if published_hash(job.output) != manifest.series[job.name]]
    changed += [name for name, value in task.left.series.items() if manifest.series[name] != value]
    if changed:
        raise PopulationError(
            f"{where}: the parameters of {', '.join(changed[:3])} are not those it was added with; restore the files "
            "of that iteration from a copy"
        )
