"""The plan counts what the run would need, and refuses with advice."""

from __future__ import annotations

import pytest

from mpr_dist.errors import InputError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.plan import GIB, Plan, SeriesLoad, SpeciesLoad, make_plan, size, solver_bytes


def _plan(workers: int = 4) -> Plan:
    series = tuple(SeriesLoad(f"TS_{i:02d}", 40, 10 + i, 1000 * (10 + i)) for i in range(20))
    species = (SpeciesLoad("apo", 390, (216, 216, 109), 5000),)
    return make_plan("ribosomes", 3, 2, workers, ("particles",), series, species, {"apo": 14})


def test_it_adds_up() -> None:
    plan = _plan()
    assert plan.accumulator_bytes == 2 * 3 * 8 * 216 * 216 * 109
    assert plan.worker_bytes == plan.accumulator_bytes + 5000 + 29000
    assert sorted(name for batch in plan.batches for name in batch) == sorted(s.name for s in plan.series)
    assert plan.scratch_bytes == len(plan.batches) * plan.accumulator_bytes + 5000


def test_it_reads_like_a_plan() -> None:
    text = str(_plan())
    assert "iterations 003 to 004" in text
    assert "apo: 390 particles, accumulator 216 x 216 x 109, 233 MiB" in text
    assert max(len(line) for line in text.splitlines()) < 160


def test_too_little_memory_is_refused_with_advice() -> None:
    _plan().check(GIB)
    with pytest.raises(InputError, match="use --workers 2"):
        _plan().check(GIB // 2)
    with pytest.raises(InputError, match="one worker alone"):
        _plan().check(1000)


def test_sizes_read_naturally() -> None:
    assert [size(n) for n in (5, 2048, 3 << 20, 5 * GIB)] == ["5 B", "2 KiB", "3 MiB", "5.0 GiB"]


def test_the_solver_is_part_of_the_memory() -> None:
    """A grid of 100 x 100 nodes in 41 tilts makes a matrix of 820,000 squared: terabytes, and the plan refuses it."""
    asked = RefineSettings(image_warp=(100, 100), particles=True)
    assert solver_bytes(asked, 41, 60) > 8 * (2 * 100 * 100 * 41) ** 2
    series = (SeriesLoad("TS_01", 41, 60, 0, solver_bytes(asked, 41, 60)),)
    planned = make_plan("p", 1, 1, 1, ("image warp 100x100",), series, (), {})
    with pytest.raises(InputError):
        planned.check(1000 * GIB)
