"""A science of integers: deterministic, quick, and with buttons for everything that may go wrong.

A "map" is a file with one number. A series is refined to a text that depends on its name, its previous text and the
references; it is back-projected as pseudo-random integers seeded by what was published.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.model.population import Population, SeriesEntry, Source, SpeciesFiles
from mpr_dist.model.species import Species
from mpr_dist.storage.population import add_source, add_species, create_population, finish_import
from mpr_dist.storage.publish import publish_bytes, publish_text
from mpr_dist.units import I64
from mpr_dist.workflow.state import science as s
from mpr_dist.workflow.state.series_results import publish_summary

SHAPE = (12, 10, 6)


@dataclass(frozen=True)
class FakeScience:
    """``fail``, ``fail_late``: series that raise before / after adding. ``kill``, ``poison``: that kill their process
    once / always.

    ``calls`` gets one file per refinement and back-projection.
    """

    calls: Path
    seconds: float = 0.0
    fail: tuple[str, ...] = ()
    fail_late: tuple[str, ...] = ()
    kill: tuple[str, ...] = ()
    poison: tuple[str, ...] = ()
    version: str = "fake-1"

    def footprint(self, species: Species) -> s.Footprint:
        return s.Footprint(SHAPE, reference_bytes=1000, bytes_per_image=100)

    def prepare(self, job: s.PrepareJob) -> s.Reference:
        text = job.species.previous.half1.read_text() + job.species.previous.half2.read_text()
        path = job.directory / f"{job.species.name}.txt"
        publish_text(path, text)
        self._note("prepare", job.species.name)
        return s.Reference(job.species.name, path, sha256(text.encode()).hexdigest())

    def read_ahead(self, job: s.SeriesJob) -> None:
        self._note("ahead", job.name)

    def settle(self) -> None:
        """Nothing waits anywhere."""

    def refine_and_backproject(self, job: s.SeriesJob, accumulators: Mapping[str, I64]) -> s.SeriesOutcome:
        if job.name in self.fail:
            raise SeriesError(f"series {job.name}: no images")
        if not job.reuse:
            self._refine(job)
        self._maybe_die(job.name)
        for species in job.context.species:
            published = job.output.xml.read_text() + job.output.poses.read_text() + species.name
            seed = int.from_bytes(sha256(published.encode()).digest()[:8], "little")
            values = np.random.default_rng(seed).integers(-(2**40), 2**40, (2, *SHAPE, 3))
            accumulators[species.name][...] += values
            if job.name in self.fail_late:
                raise ValueError("not finite")
        self._note("backproject", job.name)
        return s.SeriesOutcome({"passes": 3.0})

    def _refine(self, job: s.SeriesJob) -> None:
        time.sleep(self.seconds)
        references = "".join(r.path.read_text() for r in job.context.references)
        text = f"{job.name} {job.previous.xml.read_text()} {references} {job.context.settings}"
        publish_text(job.output.xml, sha256(text.encode()).hexdigest())
        publish_text(job.output.poses, f"poses of {job.name}")
        publish_text(job.output.sigma, f"sigma of {job.name}")
        publish_summary(job, {"passes": 3, "score": 1.5})
        self._note("refine", job.name)

    def _maybe_die(self, name: str) -> None:
        if name in self.poison or (name in self.kill and not list(self.calls.glob(f"kill-{name}-*"))):
            self._note("kill", name)
            os.kill(os.getpid(), signal.SIGKILL)

    def finish(self, job: s.FinishJob, accumulator: I64) -> s.SpeciesOutcome:
        for half, path in enumerate((job.output.half1, job.output.half2)):
            publish_text(path, sha256(accumulator[half].tobytes()).hexdigest())
        publish_bytes(job.output.map, accumulator.sum(axis=0).tobytes())
        publish_text(job.output.fsc, "fsc")
        return s.SpeciesOutcome(10.0 - job.context.iteration, {"series": len(job.series)})

    def _note(self, what: str, name: str) -> None:
        (self.calls / f"{what}-{name}-{time.monotonic_ns()}-{os.getpid()}").touch()


def calls(directory: Path, what: str) -> list[str]:
    """Names of the series for which ``what`` was done, each as often as it was."""
    return sorted(path.name.split("-")[1] for path in directory.glob(f"{what}-*"))


def make_population(directory: Path, series: int = 9, without: tuple[str, ...] = ()) -> Population:
    population = create_population(directory / "pop", "fake")
    (directory / "calls").mkdir()
    names = [name for name in (f"TS_{i:02d}" for i in range(series)) if name not in without]
    for name in names:
        population.files(0).series(name).xml.write_text(f"imported {name}")
        population.files(0).series(name).poses.write_text("imported")
    entries = tuple(SeriesEntry(name, directory / f"{name}.xml", (True,) * 3) for name in names)
    population = add_source(population, Source("src", directory / "s", entries, 1.0, (100, 100), (100, 100, 50)))
    for number, species in enumerate(("apo", "ribo")):
        counts = tuple((name, 1 + (i + number) % 4) for i, name in enumerate(names))
        population = add_species(population, SpeciesFiles(Species(species, 1.0, 12, 10.0), None, counts))
        files = population.files(0).species(species)
        files.directory.mkdir(parents=True)
        files.half1.write_text("1")
        files.half2.write_text("2")
    finish_import(population)
    return population


def content(population: Population) -> dict[str, str]:
    """Hash of every result file of every iteration, except times and logs."""
    result = {}
    for path in sorted((population.path / "iterations").rglob("*")):
        relative = path.relative_to(population.path)
        if path.is_file() and path.name not in ("ledger.jsonl", "events.jsonl") and "000" not in relative.parts:
            result[str(relative)] = sha256(path.read_bytes()).hexdigest()
    return result
