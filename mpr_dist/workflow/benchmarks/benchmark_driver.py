"""What the driver costs: thousands of series whose refinement is a short wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mpr_dist.engine import events
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.publish import using_disk
from mpr_dist.workflow.benchmarks.benchmark_machine import Meter, Usage, peak_memory_MB
from mpr_dist.workflow.benchmarks.benchmark_science import (
    CountingDisk,
    CountingExecutor,
    WaitingScience,
    Written,
    make_waiting_population,
)
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings


@dataclass(frozen=True)
class DriverCost:
    """One iteration.

    Attributes:
        overhead_ms: wall time beyond what the tasks would take on perfectly busy workers, per series.
        driver_cpu_ms: CPU time of the process that holds driver and scheduler, per series.
        stages: seconds of every stage, and of what lies between them.
        memory_MB: resident memory of driver and scheduler before the run, and at its peak.
        driver, tasks: what the driver and what the tasks wrote.
    """

    series: int
    workers: int
    batches: int
    seconds: float
    task_seconds: float
    overhead_ms: float
    driver_cpu_ms: float
    stages: dict[str, float]
    memory_MB: tuple[float, float]
    driver: Written
    tasks: Written
    usage: Usage


def measure_driver(
    series: int, task_ms: float, workers: int, say: Callable[[str], None], folder: Path | None = None
) -> DriverCost:
    """One iteration over ``series`` synthetic series, in a temporary folder (inside ``folder``)."""
    with TemporaryDirectory(dir=folder, prefix="mpr-dist-benchmark-") as directory:
        population = make_waiting_population(Path(directory) / "population", series)
        say(f"{series} series of {task_ms:g} ms, {workers} workers")
        heard = _Listener()
        executor = LocalExecutor(workers)
        try:
            tasks, counting = Written(), CountingDisk()
            list(executor.map_unordered(time.sleep, [0.0] * workers))  # workers have started
            before = peak_memory_MB()
            meter = Meter()
            with using_disk(counting):
                settings = RunSettings(RefineSettings(iterations=1))
                science = WaitingScience(task_ms / 1e3)
                run(population.path, science, settings, CountingExecutor(executor, tasks), (heard,))
            usage = meter.read()
        finally:
            executor.close()
        overhead = usage.wall_s - heard.task_seconds / workers
        return DriverCost(
            series=series,
            workers=workers,
            batches=heard.batches,
            seconds=usage.wall_s,
            task_seconds=heard.task_seconds,
            overhead_ms=1e3 * overhead / series,
            driver_cpu_ms=1e3 * usage.own_s / series,
            stages=heard.stages | {"between": usage.wall_s - sum(heard.stages.values())},
            memory_MB=(before, peak_memory_MB()),
            driver=counting.written,
            tasks=tasks,
            usage=usage,
        )


class _Listener:
    """Times and counts, from what the run tells."""

    def __init__(self) -> None:
        self.batches = 0
        self.task_seconds = 0.0
        self.stages: dict[str, float] = {}

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.PartialAccepted):
            self.batches += 1
        elif isinstance(event, events.SeriesDone):
            self.task_seconds += event.seconds
        elif isinstance(event, events.StageFinished):
            self.stages[event.stage] = event.seconds
