"""How much faster a refinement is with more workers: the real science on simulated series."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from mpr_dist.engine import events
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.errors import InputError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.benchmarks.benchmark_machine import Meter, Usage
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import Progress, SimulateSettings, simulate_project
from mpr_dist.workflow.state.run_settings import RunSettings

REFINE = RefineSettings(iterations=2, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)


@dataclass(frozen=True)
class ScalingPoint:
    """The second iteration of a run, in which every worker has compiled or loaded what it needs.

    Attributes:
        refine_s: wall time of refinement and back-projection; merge_s, finish_s: of what follows.
        others: share of the machine's cores that other processes used meanwhile.
        bits: hash of the half-maps; the same for every number of workers.
    """

    workers: int
    refine_s: float
    merge_s: float
    finish_s: float
    task_s: float
    others: float
    bits: str


@dataclass(frozen=True)
class Scaling:
    series: int
    points: tuple[ScalingPoint, ...]

    @property
    def efficiency(self) -> tuple[float, ...]:
        """Speed over that of the fewest workers, and over the ratio of the workers."""
        first = self.points[0]
        return tuple(first.refine_s * first.workers / (p.refine_s * p.workers) for p in self.points)


def measure_scaling(
    workers: Sequence[int],
    series: int,
    say: Callable[[str], None],
    particles: int = 400,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Scaling:
    """Refine copies of one simulated population with each number of workers of one thread.

    ``particles`` of each series, in images that grow with them: fewer, and the writing of partials weighs more than it
    does in practice.

    Raises:
        InputError: no number of workers, or one below 1.
    """
    if not workers or min(workers) < 1 or series < 1 or particles < 2:
        raise InputError(f"--workers needs numbers from 1 on, such as 1,2; got {list(workers)} for {series} series")
    with TemporaryDirectory(dir=folder, prefix="mpr-dist-benchmark-") as directory:
        template = Path(directory) / "population"
        _simulate(Path(directory) / "project", template, (series, particles), progress)
        points = []
        for count in sorted(set(workers)):
            say(f"{series} series, {count} worker{'s' * (count > 1)}")
            points.append(_measure(Path(copytree(template, Path(directory) / f"workers-{count}")), count))
    return Scaling(series, tuple(points))


def _simulate(project: Path, population: Path, size: tuple[int, int], progress: Progress | None) -> None:
    fixture, (n_series, particles) = SimulateSettings.fixture(), size
    # as dense as 32 particles are in the fixture's images
    growth = max(1.0, particles / 32) ** 0.5
    width, height = (2 * round(growth * edge / 2) for edge in fixture.image_px)
    simulated = replace(fixture, n_series=n_series, particles_per_series=particles, image_px=(width, height))
    made = simulate_project(project, simulated, progress)
    import_simulated(population, made, "scaling")


def _measure(path: Path, workers: int) -> ScalingPoint:
    clock = _Clock()
    executor = LocalExecutor(workers)
    try:
        population = run(path, Physics(), RunSettings(REFINE), executor, (clock,))
    finally:
        executor.close()
    usage = clock.usage
    cores = os.cpu_count() or 1
    return ScalingPoint(
        workers=workers,
        refine_s=clock.seconds["refine"],
        merge_s=clock.seconds["merge"],
        finish_s=clock.seconds["finish"],
        task_s=clock.task_s,
        others=usage.others_s / (cores * usage.wall_s),
        bits=_bits(population),
    )


def _bits(population: Population) -> str:
    files = [population.files(population.iteration).species(each.name) for each in population.species]
    halves = b"".join(path.read_bytes() for one in files for path in (one.half1, one.half2))
    return sha256(halves).hexdigest()[:16]


class _Clock:
    """Times of the last iteration, and what else the machine did during its refinement."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.task_s = 0.0
        self.usage = Usage(1.0, 0.0, 0.0, 0.0)
        self._meter = Meter()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.StageStarted) and event.stage == "refine":
            self._meter, self.task_s = Meter(), 0.0
        elif isinstance(event, events.SeriesDone):
            self.task_s += event.seconds
        elif isinstance(event, events.StageFinished):
            self.seconds[event.stage] = event.seconds
            if event.stage == "refine":
                self.usage = self._meter.read()
