"""What the run loop asks of the science, and the small values they exchange.

Jobs travel to worker processes, so they and the science itself pickle to a few kB: paths, settings and counts, never
arrays. A science may be unpickled anew for every task: what it wants to keep (references, plans) it keeps per process,
keyed by content hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mpr_dist.model.population import SeriesEntry, SeriesFiles, Source, SpeciesResult
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.species import Species
from mpr_dist.units import I64

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Footprint:
    """What a species needs: accumulators of (2 halves, *shape, 3 parts), and bytes in every worker.

    Attributes:
        prepare_bytes, finish_bytes: most that making its reference, and its maps, takes.
        tilt_bytes: while one tilt image is prepared; tables_per_tilt: beside the images of a series.
        base_bytes: of a worker that has nothing to do.
    """

    accumulator_shape: Shape
    reference_bytes: int
    bytes_per_image: int
    prepare_bytes: int = 0
    finish_bytes: int = 0
    tilt_bytes: int = 0
    tables_per_tilt: int = 0
    base_bytes: int = 0


@dataclass(frozen=True)
class SpeciesInput:
    """A species at the start of an iteration.

    Attributes:
        previous: its half-maps and FSC then.
        table: its particles as they were imported; columns that are not refined are copied from there.
    """

    species: Species
    mask: Path | None
    previous: SpeciesResult
    table: Path | None = None

    @property
    def name(self) -> str:
        return self.species.name


@dataclass(frozen=True)
class Reference:
    """A prepared reference of one species (both half-maps in one file or directory), known by its content."""

    species: str
    path: Path
    sha256: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What all jobs of one iteration share.

    Attributes:
        is_first: the first iteration of this run (``first_iteration_fraction``, search for the defocus).
        exponent: k of the fixed point; contributions are rint(value x 2^k).
        settings_hash: of everything that determines the result besides the series' own files.
        footing: factor of scales that are as imported, where refined ones stand beside them.
        common_log_magnification: of all series, to be taken out after their refinement.
    """

    iteration: int
    is_first: bool
    settings: RefineSettings
    exponent: int
    settings_hash: str
    species: tuple[SpeciesInput, ...]
    references: tuple[Reference, ...] = ()
    footing: float = 1.0
    common_log_magnification: float = 0.0


@dataclass(frozen=True)
class PrepareJob:
    """Make the reference of one species; its file goes into ``directory``, published by rename."""

    context: Context
    species: SpeciesInput
    directory: Path


@dataclass(frozen=True)
class SeriesJob:
    """One tilt series of one iteration.

    Attributes:
        source: acquisition values; its list of series is left empty.
        imported: files of iteration 000; previous: of the last iteration that refined this series, or the same.
        output: where the results of this iteration go.
        input_hash: of everything the refinement depends on; set by the task, written into the summary.
        reuse: ``output`` is there already and valid: only back-project.
    """

    context: Context
    source: Source
    entry: SeriesEntry
    imported: SeriesFiles
    previous: SeriesFiles
    output: SeriesFiles
    input_hash: str = ""
    reuse: bool = False

    @property
    def name(self) -> str:
        return self.entry.name


@dataclass(frozen=True)
class SeriesOutcome:
    """A few numbers for the console and the log, e.g. passes, score, cross_score."""

    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FinishJob:
    """Make the maps of one species from its merged accumulator; ``series`` are those that went into it."""

    context: Context
    species: SpeciesInput
    output: SpeciesResult
    series: tuple[SeriesFiles, ...]


@dataclass(frozen=True)
class SpeciesOutcome:
    """``resolution_A``: infinite when the half-maps share nothing."""

    resolution_A: float
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """For result.json; JSON has no infinity, so that becomes null."""
        return {"resolution_A": finite(self.resolution_A), "numbers": dict(self.numbers)}


def finite(resolution_A: float) -> float | None:
    return resolution_A if math.isfinite(resolution_A) else None


class Science(Protocol):
    """Everything that knows what an image is. Results depend on the jobs and the files they name, on nothing else."""

    @property
    def version(self) -> str:
        """Changes whenever results would; part of every hash."""
        ...

    def footprint(self, species: Species) -> Footprint: ...

    def prepare(self, job: PrepareJob) -> Reference:
        """From half-maps, FSC and mask of the previous iteration to the reference."""
        ...

    def refine_and_backproject(self, job: SeriesJob, accumulators: Mapping[str, I64]) -> SeriesOutcome:
        """Refine one series, publish, and add its contribution as read back from what was published.

        1. Unless ``job.reuse``: refine; write ``job.output.xml``, ``.poses`` and ``.sigma`` (temporary name, fsync,
           rename); then call ``series_results.publish_summary(job, numbers)``, which vouches for them.
        2. Read the parameters back from those files and add to ``accumulators[species]``, (2 halves, z, y, x, 3 parts:
           real, imaginary, weight) int64, in place, or where ``settle`` will add it from. Ask for them only when about
           to add: a series that fails before costs nothing; after, the batch is added up again without it.
        """
        ...

    def settle(self) -> None:
        """Nothing of what was added to any accumulators waits elsewhere, such as on a card, when this returns."""
        ...

    def read_ahead(self, job: SeriesJob) -> None:
        """Have the images of a series that comes next read in the background. Never fails, changes no result."""
        ...

    def finish(self, job: FinishJob, accumulator: I64) -> SpeciesOutcome:
        """Write half1.mrc, half2.mrc, map.mrc and fsc.star into ``job.output``. May be repeated after a kill."""
        ...
