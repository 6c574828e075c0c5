"""What a run would do, as a value: stages, tasks and bytes. Nothing here touches a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mpr_dist.errors import InputError
from mpr_dist.imaging.image_store import STREAM_BYTES
from mpr_dist.model.reading import counted
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.batches import guided_batches
from mpr_dist.refinement.layout import classes_of

GIB = 1 << 30
# of an accumulator only the half ball inside its box is ever written, 0.52 of it and the rest of the pages there
FILLED = 0.6
FILES_PER_SERIES = 4  # XML, poses, standard deviations, summary
FILES_PER_SPECIES = 6  # both half-maps, map, curve, particles, result; and the chunks of two zarr directories
FILES_PER_ITERATION = 5  # settings, ledger, events, report, DONE


@dataclass(frozen=True)
class MovieLoad:
    """The movie of one tilt.

    Attributes:
        frames, width_px, height_px: of it; average_bytes: of the file of its average.
        work_bytes: while its frames are moved and added up; image_bytes: of all particles in all frames.
    """

    frames: int
    width_px: int
    height_px: int
    average_bytes: int
    work_bytes: int
    image_bytes: int


@dataclass(frozen=True)
class SeriesLoad:
    """What one tilt series asks for.

    Attributes:
        solver_bytes: the normal equations of all its parameters; table_bytes: of the kernels, beside the images.
        stream_bytes: of images that are read block by block from scratch files.
        files: that an iteration writes about it.
        movie: of its tilts, if they are to be averaged again.
    """

    name: str
    tilts: int
    particles: int
    image_bytes: int
    solver_bytes: int = 0
    table_bytes: int = 0
    stream_bytes: int = 0
    files: int = FILES_PER_SERIES
    movie: MovieLoad | None = None

    @property
    def images(self) -> int:
        return self.tilts * self.particles


@dataclass(frozen=True)
class SpeciesLoad:
    """Accumulators hold 2 halves x (real, imaginary, weight) int64; references both half-maps.

    Attributes:
        prepare_bytes, finish_bytes: while its reference, and its maps, are made; tilt_bytes: while a tilt image is cut.
        files: that an iteration writes about it.
    """

    name: str
    particles: int
    accumulator_shape: tuple[int, int, int]
    reference_bytes: int
    prepare_bytes: int = 0
    finish_bytes: int = 0
    tilt_bytes: int = 0
    files: int = FILES_PER_SPECIES

    @property
    def accumulator_bytes(self) -> int:
        z, y, x = self.accumulator_shape
        return 2 * 3 * 8 * z * y * x


@dataclass(frozen=True)
class Phase:
    """A task of a worker, and what it holds at its peak: bytes by name, which add up."""

    name: str
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """One run: ``iterations`` times prepare, refine and back-project, merge, finish.

    Attributes:
        batches: series of every batch of the first pass; slabs: tasks of the merge.
        base_bytes: of a worker that has nothing to do; memory_bytes: what one may use, None: no limit.
        releases: lines about what a protocol will refine when.
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
    base_bytes: int = 0
    memory_bytes: int | None = None
    releases: tuple[str, ...] = ()

    @property
    def accumulator_bytes(self) -> int:
        return sum(species.accumulator_bytes for species in self.species)

    @property
    def reference_bytes(self) -> int:
        return sum(species.reference_bytes for species in self.species)

    @property
    def streamed(self) -> tuple[SeriesLoad, ...]:
        """Series whose images do not fit into the memory of a worker beside everything else."""
        return tuple(each for each in self.series if self._is_streamed(each))

    @property
    def image_bytes(self) -> int:
        """Most that a worker holds of images; it works on one series at a time."""
        return max((self._held(each) for each in self.series), default=0)

    @property
    def solver_bytes(self) -> int:
        """Of the series that needs most."""
        return max((series.solver_bytes for series in self.series), default=0)

    @property
    def peak(self) -> Phase:
        """The task at which a worker needs most."""
        refining = (phase for each in self.series for phase in (*self._averaging(each), *self._refining(each)))
        return max((*refining, *self._maps()), key=lambda phase: phase.bytes)

    @property
    def worker_bytes(self) -> int:
        """Most that a worker needs at any task."""
        return self.peak.bytes

    @property
    def least_worker_bytes(self) -> int:
        """The same if the images of every series were streamed."""
        return replace(self, memory_bytes=0).worker_bytes

    @property
    def stream_bytes(self) -> int:
        """Scratch files of one worker."""
        movies = (each.movie.image_bytes for each in self.series if each.movie and self._are_frames_streamed(each))
        return max(max((each.image_bytes for each in self.streamed), default=0), max(movies, default=0))

    @property
    def average_bytes(self) -> int:
        """Of new averages of movies, which stay in every iteration."""
        return sum(each.tilts * each.movie.average_bytes for each in self.series if each.movie)

    def _are_frames_streamed(self, series: SeriesLoad) -> bool:
        if self.memory_bytes is None or series.movie is None:
            return False
        held = self.base_bytes + self.accumulator_bytes + self.reference_bytes
        return held + series.movie.work_bytes + series.table_bytes + series.movie.image_bytes > self.memory_bytes

    def _averaging(self, series: SeriesLoad) -> tuple[Phase, ...]:
        """Movies come first, tilt after tilt, before the images of the series are there."""
        if series.movie is None:
            return ()
        images = series.movie.image_bytes
        held = {
            "programs": self.base_bytes,
            "references": self.reference_bytes,
            "images of frames": min(images, STREAM_BYTES) if self._are_frames_streamed(series) else images,
            "frames": series.movie.work_bytes,
        }
        filled = int(FILLED * self.accumulator_bytes) if any(len(batch) > 1 for batch in self.batches) else 0
        return (Phase("averaging movies", held | {"accumulators": filled}),)

    def _is_streamed(self, series: SeriesLoad) -> bool:
        return self.memory_bytes is not None and self._besides(series) + series.image_bytes > self.memory_bytes

    def _held(self, series: SeriesLoad) -> int:
        return series.stream_bytes if self._is_streamed(series) else series.image_bytes

    def _maps(self) -> tuple[Phase, Phase]:
        held = {"programs": self.base_bytes, "references": self.reference_bytes}
        prepare = max((each.prepare_bytes for each in self.species), default=0)
        finish = max((each.finish_bytes for each in self.species), default=0)
        return (
            Phase("preparing references", held | {"maps and transforms": prepare}),
            Phase("making maps", held | {"accumulators and maps": finish}),
        )

    def _refining(self, series: SeriesLoad) -> tuple[Phase, ...]:
        """The accumulators of a batch are made when its first series was refined: a series alone never needs both."""
        filled = int(FILLED * self.accumulator_bytes)
        tilt = max((each.tilt_bytes for each in self.species), default=0)
        held = {"programs": self.base_bytes, "references": self.reference_bytes, "images": self._held(series)}
        equations = series.solver_bytes + series.table_bytes
        solving = {"solver and tables": equations} if equations > tilt else {"tilt image": tilt}
        inserting = {"tables": series.table_bytes} if series.table_bytes > tilt else {"tilt image": tilt}
        if any(len(batch) > 1 for batch in self.batches):
            return (Phase("refining", held | {"accumulators": filled} | solving),)
        return (
            Phase("refining", held | solving),
            Phase("back-projecting", held | {"accumulators": filled} | inserting),
        )

    def _besides(self, series: SeriesLoad) -> int:
        """Everything that a worker may need besides the images of a series, as it reckons itself."""
        tilt = max((each.tilt_bytes for each in self.species), default=0)
        solver = max(series.solver_bytes + series.table_bytes, tilt)
        return self.base_bytes + self.accumulator_bytes + self.reference_bytes + solver

    @property
    def _smaller(self) -> str:
        """What makes the largest part smaller, where images are streamed."""
        parts = replace(self, memory_bytes=0).peak.parts
        tables = max((series.table_bytes for series in self.series), default=0)
        if max(parts, key=lambda name: parts[name]) == "solver and tables" and self.solver_bytes > tables:
            return "use a coarser warp or fewer parameters (the solver takes most of it)"
        return "use a smaller box"

    @property
    def scratch_bytes(self) -> int:
        """Partials of one iteration before compression, and the references; gone when it is finished."""
        return len(self.batches) * self.accumulator_bytes + self.reference_bytes

    @property
    def files_per_iteration(self) -> int:
        """Those that stay: of series, of species, and of the iteration itself."""
        own = FILES_PER_ITERATION + (1 if self.refines else 0)  # uncertainty.star
        return sum(each.files for each in self.series) + sum(each.files for each in self.species) + own

    def check(self, available_bytes: int) -> None:
        """
        Raises:
            InputError: the workers together need more memory than there is, or one needs more than it may use, even
                with its images streamed; says what to change.
        """
        least, needed = self.least_worker_bytes, self.workers * self.worker_bytes
        if needed > available_bytes:
            fitting = available_bytes // max(1, least)
            advice = (
                f"use --workers {fitting}"
                if fitting >= 1
                else f"one worker alone needs {least / GIB:.1f} GiB: {self._smaller} or another machine"
            )
            raise InputError(
                f"{counted(self.workers, 'worker')} need{'s' * (self.workers == 1)} {needed / GIB:.1f} GiB, "
                f"available are {available_bytes / GIB:.1f} GiB: {advice}"
            )
        self.check_worker()

    def check_worker(self) -> None:
        """
        Raises:
            InputError: a worker needs more than it may use, even with its images streamed.
        """
        if self.memory_bytes is not None and self.least_worker_bytes > self.memory_bytes:
            raise InputError(
                f"a worker needs at least {size(self.least_worker_bytes)}, even with its images in scratch files, "
                f"and may use {size(self.memory_bytes)}: give more --memory-per-worker, or {self._smaller}"
            )

    def check_scratch(self, free_bytes: int, directory: str) -> None:
        """
        Raises:
            InputError: the scratch files of the workers of one machine do not fit.
        """
        needed = self.workers * self.stream_bytes
        if needed > free_bytes:
            raise InputError(
                f"images that are streamed need {size(needed)} in the scratch directory {directory}, which has "
                f"{size(free_bytes)} free: give another one with --scratch, or more --memory-per-worker"
            )

    def __str__(self) -> str:
        images = sum(series.images for series in self.series)
        sizes = [len(batch) for batch in self.batches]
        most, least = max(sizes, default=0), min(sizes, default=0)
        span = f"{most}" if most == least else f"{most} down to {least}"
        last = self.first + self.iterations - 1
        lines = [
            f"population {self.population}: iterations {self.first:03d} to {last:03d}",
            f"  refine       {', '.join(self.refines) or 'nothing (reconstruction only)'}",
            *(f"               {line}" for line in self.releases),
            f"  series       {len(self.series)}, {sum(series.tilts for series in self.series)} tilts, "
            f"{images} particle images",
        ]
        lines += [
            f"  species      {s.name}: {s.particles} particles, "
            f"accumulator {' x '.join(map(str, s.accumulator_shape))}, {size(s.accumulator_bytes)}"
            for s in self.species
        ]
        lines += [
            f"  stages       prepare: {counted(len(self.species), 'task')}; refine and back-project: "
            f"{counted(len(self.batches), 'batch', 'batches')} of {span} series; merge: {counted(self.slabs, 'slab')}; "
            f"finish: {counted(len(self.species), 'task')}",
            f"  per worker   {size(self.worker_bytes)}, most while {self.peak.name}: "
            + " + ".join(f"{name} {size(count)}" for name, count in self.peak.parts.items() if count),
            *self._streaming(),
            *self._movies(),
            f"  {counted(self.workers, 'worker'):<12} {size(self.workers * self.worker_bytes)}",
            f"  scratch      up to {size(self.scratch_bytes)} during an iteration",
            f"  files        {self.files_per_iteration} per iteration",
        ]
        return "\n".join(lines)

    def _movies(self) -> list[str]:
        most = max((each.movie for each in self.series if each.movie), key=lambda one: one.work_bytes, default=None)
        if most is None:
            return []
        tilts = sum(each.tilts for each in self.series if each.movie)
        return [
            f"  movies       {counted(tilts, 'tilt')}, {counted(most.frames, 'frame')} of {most.width_px} x "
            f"{most.height_px} px; new averages take {size(self.average_bytes)} per iteration"
        ]

    def _streaming(self) -> list[str]:
        if not self.streamed:
            return []
        return [
            f"  streamed     images of {len(self.streamed)} of {len(self.series)} series exceed the "
            f"{size(self.memory_bytes or 0)} of a worker: scratch files of up to {size(self.stream_bytes)} per worker"
        ]


def make_plan(
    population: str,
    first: int,
    iterations: int,
    workers: int,
    refines: tuple[str, ...],
    series: tuple[SeriesLoad, ...],
    species: tuple[SpeciesLoad, ...],
    slabs: Mapping[str, int],
    base_bytes: int = 0,
    memory_bytes: int | None = None,
    releases: tuple[str, ...] = (),
) -> Plan:
    """The batches are the very ones the run would make."""
    batches = guided_batches({load.name: float(max(1, load.images)) for load in series}, workers)
    total = sum(slabs.values())
    return Plan(
        population,
        first,
        iterations,
        workers,
        refines,
        series,
        species,
        batches,
        total,
        base_bytes,
        memory_bytes,
        releases,
    )


def solver_bytes(settings: RefineSettings, tilts: int, particles: int, samples: int = 1) -> int:
    """Float64 arrays of the normal equations of one series that live at the same time.

    Eight dense matrices (two states, prior, damped, reduced, factor, inverse and its copy), five couplings to the
    poses, what every image says of itself and of its pose, the geometry, and for one tilt the Jacobian.
    """
    n = sum(each.size(tilts) for each in classes_of(settings))
    pose = 6 * max(samples, settings.temporal_samples) if settings.particles else 0
    local = 8 + sum(each.n_own for each in classes_of(settings))
    of_tilt = 3 * local * (min(n, n // max(tilts, 1) + 200) + pose)
    geometry = 50 + 12 * max(samples, settings.temporal_samples) + 2 * sum(settings.image_warp or ())
    of_image = 2 * pose * pose + 2 * local * local + geometry
    return 8 * (8 * n * n + (5 * n * pose + of_image * tilts + of_tilt) * particles)


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
