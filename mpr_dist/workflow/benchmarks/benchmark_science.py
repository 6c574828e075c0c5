"""A science that only waits: it shows what everything around the refinement costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.engine.executor import Done, Executor, R, T
from mpr_dist.imaging.reference import half_map_fsc
from mpr_dist.maths.filters import soft_sphere
from mpr_dist.model.population import Population, SeriesEntry, Source, SpeciesFiles
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.population import add_source, add_species, create_population, finish_import
from mpr_dist.storage.publish import Disk, publish_text, using_disk
from mpr_dist.units import I64
from mpr_dist.workflow.state import science as s
from mpr_dist.workflow.state.fsc_table import write_fsc
from mpr_dist.workflow.state.series_results import publish_summary

BOX_PX = 32
PIXEL_A = 2.0


@dataclass(frozen=True)
class WaitingScience:
    """Refines by waiting ``task_s``; publishes, adds up and makes maps as the real one does, of next to nothing."""

    task_s: float
    version: str = "waiting-1"

    def footprint(self, species: Species) -> s.Footprint:
        return s.Footprint((BOX_PX, BOX_PX, BOX_PX // 2 + 1), reference_bytes=0, bytes_per_image=0)

    def prepare(self, job: s.PrepareJob) -> s.Reference:
        path = job.directory / f"{job.species.name}.txt"
        publish_text(path, "reference")
        return s.Reference(job.species.name, path, sha256(b"reference").hexdigest())

    def read_ahead(self, job: s.SeriesJob) -> None:
        """Nothing to read."""

    def settle(self) -> None:
        """Nothing waits anywhere."""

    def refine_and_backproject(self, job: s.SeriesJob, accumulators: Mapping[str, I64]) -> s.SeriesOutcome:
        if not job.reuse:
            time.sleep(self.task_s)
            for path in (job.output.xml, job.output.poses, job.output.sigma):
                publish_text(path, f"{path.name} of iteration {job.context.iteration}\n")
            publish_summary(job, {"passes": 1})
        seed = int.from_bytes(sha256(job.output.xml.read_bytes()).digest()[:4], "little")
        for species in job.context.species:
            sums = accumulators[species.name]
            sums.reshape(-1)[seed % sums.size] += 1 << 20
        return s.SeriesOutcome({"passes": 1.0})

    def finish(self, job: s.FinishJob, accumulator: I64) -> s.SpeciesOutcome:
        noise = np.random.default_rng(int(np.abs(accumulator).sum() % (1 << 31)))
        halves = noise.standard_normal((2, BOX_PX, BOX_PX, BOX_PX)).astype(np.float32)
        for path, half in zip((job.output.half1, job.output.half2), halves, strict=True):
            write_volume(path, half, PIXEL_A)
        write_volume(job.output.map, halves.mean(axis=0), PIXEL_A)
        curves = half_map_fsc(halves[0], halves[1], soft_sphere(BOX_PX, BOX_PX / 4, 0.0), PIXEL_A)
        write_fsc(job.output.fsc, curves)
        return s.SpeciesOutcome(curves.resolution_A, {"particles_per_half": [1, 1]})


def make_waiting_population(directory: Path, series: int) -> Population:
    """A population of ``series`` imported tilt series without images."""
    population = create_population(directory, "benchmark")
    names = [f"TS_{i:05d}" for i in range(series)]
    for name in names:  # not published one by one: nobody else looks, and only what comes after is measured
        population.files(0).series(name).xml.write_text(f"imported {name}\n")
        population.files(0).series(name).poses.write_text(f"imported {name}\n")
    entries = tuple(SeriesEntry(name, directory / f"{name}.xml", (True,) * 41) for name in names)
    source = Source("waiting", directory / "none.settings", entries, PIXEL_A, (4096, 4096), (4096, 4096, 1000))
    population = add_source(population, source)
    counts = tuple((name, 50 + number % 100) for number, name in enumerate(names))
    population = add_species(population, SpeciesFiles(Species("nothing", PIXEL_A, BOX_PX, 30.0), None, counts))
    files = population.files(0).species("nothing")
    files.directory.mkdir(parents=True)
    for path in (files.half1, files.half2):
        write_volume(path, np.zeros((BOX_PX,) * 3, np.float32), PIXEL_A)
    finish_import(population)
    return population


@dataclass
class Written:
    """Operations on the disk, and bytes by what they belong to: "series" (parameters) or "others"."""

    operations: int = 0
    bytes: dict[str, int] = field(default_factory=dict)

    def add(self, other: Written) -> None:
        self.operations += other.operations
        for what, count in other.bytes.items():
            self.bytes[what] = self.bytes.get(what, 0) + count


class CountingDisk(Disk):
    """Does what the disk does, and counts; chunks of arrays count as large as they are when they are synchronised."""

    def __init__(self) -> None:
        self.written = Written()
        self._known: set[Path] = set()

    def _count(self, path: Path, count: int) -> None:
        what = "series" if path.parent.name == "series" else "others"
        self.written.bytes[what] = self.written.bytes.get(what, 0) + count

    def write(self, path: Path, data: bytes) -> None:
        self.written.operations += 1
        self._known.add(path)
        self._count(path, len(data))
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        self.written.operations += 1
        self._count(path, len(data))
        super().append(path, data)

    def sync(self, path: Path) -> None:
        self.written.operations += 1
        if path.is_file() and path not in self._known and path.name != "manifest.json":
            self._count(path, path.stat().st_size)
        super().sync(path)

    def replace(self, source: Path, target: Path) -> None:
        self.written.operations += 1
        super().replace(source, target)


@dataclass(frozen=True)
class CountingExecutor:
    """Hands everything to ``inner`` and adds up in ``written`` what the tasks wrote, wherever they ran."""

    inner: Executor
    written: Written

    @property
    def workers(self) -> int:
        return self.inner.workers

    def map_unordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[Done[T, R]]:
        for done in self.inner.map_unordered(partial(counted, function), items):
            result: Any = None
            if done.result is not None:
                result, written = done.result
                self.written.add(written)
            yield Done(done.item, result, done.error)

    def close(self) -> None:
        self.inner.close()


def counted(function: Callable[[T], R], item: T) -> tuple[R, Written]:
    """The result of ``function``, with what it wrote."""
    with using_disk(CountingDisk()) as disk:
        assert isinstance(disk, CountingDisk)
        return function(item), disk.written
