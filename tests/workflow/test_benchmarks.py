"""What the benchmarks promise, at a size that tests can bear."""

from __future__ import annotations

import pytest

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.publish import using_disk
from mpr_dist.workflow.benchmarks.benchmark_driver import measure_driver
from mpr_dist.workflow.benchmarks.benchmark_scaling import Scaling, ScalingPoint, measure_scaling
from mpr_dist.workflow.benchmarks.benchmark_schedule import simulate_schedule
from mpr_dist.workflow.benchmarks.benchmark_science import (
    CountingDisk,
    CountingExecutor,
    WaitingScience,
    Written,
    make_waiting_population,
)
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings


def _silent(text: str) -> None:
    pass


@pytest.mark.parametrize("seed", range(5))
def test_two_hundred_workers_hardly_wait_for_the_last(seed: int) -> None:
    """10,000 series of log-normal costs, known to the driver with an error of 30 %."""
    found = simulate_schedule(200, 10_000, seed)
    assert found.longest < 1, "one series alone takes longer than its share: nothing could avoid waiting"
    assert found.idle < 0.05


def test_the_simulation_knows_what_waiting_is() -> None:
    """Equal series without error or overhead: none when they come out even, half of the time of one worker if not."""
    assert simulate_schedule(4, 400, spread=0.0, error=0.0, overhead=0.0).idle == pytest.approx(0.0, abs=1e-12)
    assert simulate_schedule(2, 1, spread=0.0, error=0.0, overhead=0.0).idle == pytest.approx(0.5)


def test_the_driver_costs_little_and_writes_per_batch() -> None:
    """The limit of 5 ms per series, and what is written beside parameters grows with batches, not with series."""
    small, large = (measure_driver(series, 1.0, 2, _silent) for series in (60, 240))
    assert large.driver_cpu_ms < 5
    assert large.batches < 2 * small.batches
    per_batch = [one.tasks.bytes["others"] / one.batches for one in (small, large)]
    assert per_batch[1] < 1.5 * per_batch[0]
    per_series = [one.tasks.bytes["series"] / one.series for one in (small, large)]
    assert per_series[1] == pytest.approx(per_series[0], rel=0.05)
    assert large.driver.operations < 5 * large.batches + 50
    assert large.memory_MB[1] < large.memory_MB[0] + 200


def test_bytes_are_counted_wherever_they_are_written(tmp_path) -> None:
    """All files of the iteration, found on the disk afterwards, were counted: nothing is written past the count."""
    population = make_waiting_population(tmp_path / "pop", 6)
    tasks, disk = Written(), CountingDisk()
    with using_disk(disk):
        executor = CountingExecutor(InlineExecutor(), tasks)
        run(population.path, WaitingScience(0.0), RunSettings(RefineSettings(iterations=1)), executor)
    series = population.files(1).series_directory
    assert tasks.bytes["series"] == sum(path.stat().st_size for path in series.iterdir())
    kept = [path for path in population.files(1).root.rglob("*") if path.is_file() and path.parent != series]
    total = tasks.bytes["others"] + disk.written.bytes["others"]
    assert total >= sum(path.stat().st_size for path in kept if path.name not in ("events.jsonl", "zarr.json"))


def test_efficiency_is_speed_over_workers() -> None:
    points = tuple(ScalingPoint(n, seconds, 0, 0, 0, 0, "") for n, seconds in ((1, 12.0), (2, 8.0), (4, 3.0)))
    assert Scaling(3, points).efficiency == pytest.approx((1.0, 0.75, 1.0))
    with pytest.raises(InputError, match="numbers from 1 on"):
        measure_scaling([0, 1], 2, _silent)


@pytest.mark.slow
def test_more_workers_give_the_same_bits() -> None:
    measured = measure_scaling([2, 1], 4, _silent, particles=8)
    assert [point.workers for point in measured.points] == [1, 2]
    assert len({point.bits for point in measured.points}) == 1
    assert min(point.refine_s for point in measured.points) > 0
