"""What a run would do, as a value: stages, tasks and bytes. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpr_dist.errors import InputError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.batches import guided_batches
from mpr_dist.refinement.layout import classes_of

GIB = 1 << 30


@dataclass(frozen=True)
class SeriesLoad:
    """What one tilt series asks for; ``solver_bytes``: the normal equations of all its parameters."""

    name: str
    tilts: int
    particles: int
    image_bytes: int
    solver_bytes: int = 0

    @property
    def images(self) -> int:
        return self.tilts * self.particles


@dataclass(frozen=True)
class SpeciesLoad:
    """Accumulators hold 2 halves x (real, imaginary, weight) int64; references both half-maps."""

    name: str
    particles: int
    accumulator_shape: tuple[int, int, int]
    reference_bytes: int

    @property
    def accumulator_bytes(self) -> int:
        z, y, x = self.accumulator_shape
        return 2 * 3 * 8 * z * y * x


@dataclass(frozen=True)
class Plan:
    """One run: ``iterations`` times prepare, refine and back-project, merge, finish.

    Attributes:
        batches: series of every batch of the first pass; slabs: tasks of the merge.
    """

    population: str
    first: int
    iterations: int
    workers: int
    refines: tuple[str, ...]
    series: tuple[SeriesLoad, ...]
    species: tuple[SpeciesLoad, ...]
    batches: tuple[tuple[str, ...], ...]
    slabs: int

    @property
    def accumulator_bytes(self) -> int:
        return sum(species.accumulator_bytes for species in self.species)

    @property
    def reference_bytes(self) -> int:
        return sum(species.reference_bytes for species in self.species)

    @property
    def image_bytes(self) -> int:
        """Of the series that needs most; a worker holds one at a time."""
        return max((series.image_bytes for series in self.series), default=0)

    @property
    def solver_bytes(self) -> int:
        """Of the series that needs most."""
        return max((series.solver_bytes for series in self.series), default=0)

    @property
    def worker_bytes(self) -> int:
        return self.accumulator_bytes + self.reference_bytes + self.image_bytes + self.solver_bytes

    @property
    def scratch_bytes(self) -> int:
        """Partials of one iteration before compression, and the references; gone when it is finished."""
        return len(self.batches) * self.accumulator_bytes + self.reference_bytes

    @property
    def files_per_iteration(self) -> int:
        """Those that stay: four per series; maps, curve, table and accumulator slabs per species; logs, reports."""
        return 4 * len(self.series) + 7 * len(self.species) + self.slabs + 5

    def check(self, available_bytes: int) -> None:
        """
        Raises:
            InputError: the workers together need more memory than there is; says what to change.
        """
        needed = self.workers * self.worker_bytes
        if needed <= available_bytes:
            return
        fitting = available_bytes // max(1, self.worker_bytes)
        advice = (
            f"use --workers {fitting}"
            if fitting >= 1
            else f"one worker alone needs {self.worker_bytes / GIB:.1f} GiB: use a smaller box or another machine"
        )
        raise InputError(
            f"{self.workers} workers need {needed / GIB:.1f} GiB, "
            f"available are {available_bytes / GIB:.1f} GiB: {advice}"
        )

    def __str__(self) -> str:
        images = sum(series.images for series in self.series)
        sizes = [len(batch) for batch in self.batches]
        last = self.first + self.iterations - 1
        lines = [
            f"population {self.population}: iterations {self.first:03d} to {last:03d}",
            f"  refine       {', '.join(self.refines) or 'nothing (reconstruction only)'}",
            f"  series       {len(self.series)}, {sum(series.tilts for series in self.series)} tilts, "
            f"{images} particle images",
        ]
        lines += [
            f"  species      {s.name}: {s.particles} particles, "
            f"accumulator {' x '.join(map(str, s.accumulator_shape))}, {size(s.accumulator_bytes)}"
            for s in self.species
        ]
        lines += [
            f"  stages       prepare: {len(self.species)} tasks; refine and back-project: {len(self.batches)} batches "
            f"of {max(sizes, default=0)} down to {min(sizes, default=0)} series; merge: {self.slabs} slabs; "
            f"finish: {len(self.species)} tasks",
            f"  per worker   {size(self.worker_bytes)}: images {size(self.image_bytes)}, references "
            f"{size(self.reference_bytes)}, accumulators {size(self.accumulator_bytes)}, "
            f"solver {size(self.solver_bytes)}",
            f"  {self.workers} workers    {size(self.workers * self.worker_bytes)}",
            f"  scratch      up to {size(self.scratch_bytes)} during an iteration",
            f"  files        {self.files_per_iteration} per iteration",
        ]
        return "\n".join(lines)


def make_plan(
    population: str,
    first: int,
    iterations: int,
    workers: int,
    refines: tuple[str, ...],
    series: tuple[SeriesLoad, ...],
    species: tuple[SpeciesLoad, ...],
    slabs: Mapping[str, int],
) -> Plan:
    """The batches are the very ones the run would make."""
    batches = guided_batches({load.name: float(max(1, load.images)) for load in series}, workers)
    return Plan(population, first, iterations, workers, refines, series, species, batches, sum(slabs.values()))


def solver_bytes(settings: RefineSettings, tilts: int, particles: int, samples: int = 1) -> int:
    """Float64 arrays of the normal equations of one series that live at the same time.

    Five dense matrices (data, damped, reduced, factor, inverse), three couplings to the poses, what every image says
    about its pose, and for one tilt the Jacobian with its weighted copy.
    """
    n = sum(each.size(tilts) for each in classes_of(settings))
    pose = 6 * max(samples, settings.temporal_samples) if settings.particles else 0
    local = 8 + sum(each.n_own for each in classes_of(settings))
    of_tilt = 2 * local * (min(n, n // max(tilts, 1) + 200) + pose)
    per_particle = 3 * n * pose + (pose * pose + local * local) * tilts + of_tilt
    return 8 * (5 * n * n + per_particle * particles)


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
