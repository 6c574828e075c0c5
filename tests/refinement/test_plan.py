"""The plan counts what the run would need, and refuses with advice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.image_store import STREAM_BYTES
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.plan import (
    FILLED,
    GIB,
    MovieLoad,
    Plan,
    SeriesLoad,
    SpeciesLoad,
    make_plan,
    size,
    solver_bytes,
)


def _plan(workers: int = 4) -> Plan:
    series = tuple(SeriesLoad(f"TS_{i:02d}", 40, 10 + i, 1000 * (10 + i)) for i in range(20))
    species = (SpeciesLoad("apo", 390, (216, 216, 109), 5000),)
    return make_plan("ribosomes", 3, 2, workers, ("particles",), series, species, {"apo": 14})


def test_it_adds_up() -> None:
    plan = _plan()
    assert plan.accumulator_bytes == 2 * 3 * 8 * 216 * 216 * 109
    assert plan.worker_bytes == int(FILLED * plan.accumulator_bytes) + 5000 + 29000
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
        _plan().check(int(0.3 * GIB))
    with pytest.raises(InputError, match=r"one worker alone .* use a smaller box"):
        _plan().check(1000)


def test_sizes_read_naturally() -> None:
    assert [size(n) for n in (5, 2048, 3 << 20, 5 * GIB)] == ["5 B", "2 KiB", "3 MiB", "5.0 GiB"]


def test_the_solver_is_part_of_the_memory() -> None:
    """A grid of 100 x 100 nodes in 41 tilts makes a matrix of 820,000 squared: terabytes, and the plan refuses it."""
    asked = RefineSettings(image_warp=(100, 100), particles=True)
    assert solver_bytes(asked, 41, 60) > 8 * (2 * 100 * 100 * 41) ** 2
    series = (SeriesLoad("TS_01", 41, 60, 0, solver_bytes(asked, 41, 60)),)
    planned = make_plan("p", 1, 1, 1, ("image warp 100x100",), series, (), {})
    with pytest.raises(InputError, match=r"use a coarser warp or fewer parameters .* or another machine") as caught:
        planned.check(1000 * GIB)
    assert "smaller box" not in str(caught.value)


def _streaming(memory_bytes: int | None) -> Plan:
    """Two series of 1000 and 300 MiB of images beside 600 MiB of everything else."""
    mib = 1 << 20
    series = tuple(
        SeriesLoad(name, 40, 100, images * mib, 150 * mib, 50 * mib, 64 * mib)
        for name, images in (("a", 1000), ("b", 300))
    )
    species = (SpeciesLoad("apo", 200, (216, 216, 109), 5 * mib, 100 * mib, 500 * mib, 80 * mib),)
    return make_plan("p", 1, 1, 2, (), series, species, {"apo": 1}, 300 * mib, memory_bytes)


def test_the_parts_of_the_peak_add_up_and_it_has_a_name() -> None:
    mib = 1 << 20
    plan = _streaming(None)
    assert plan.peak.bytes == sum(plan.peak.parts.values()) == plan.worker_bytes
    assert plan.peak.name == "back-projecting"  # accumulators weigh more than the solver
    assert plan.peak.parts["images"] == 1000 * mib
    maps = _streaming(700 * mib)  # images are streamed: then making maps takes most
    assert maps.peak.name == "making maps"
    line = next(line for line in str(maps).splitlines() if line.startswith("  per worker"))
    assert line.endswith(
        "805 MiB, most while making maps: programs 300 MiB + references 5 MiB + accumulators and maps 500 MiB"
    )


def test_images_that_do_not_fit_are_streamed() -> None:
    mib = 1 << 20
    whole, tight = _streaming(None), _streaming(1500 * mib)
    assert whole.streamed == ()
    assert [each.name for each in tight.streamed] == ["a"]
    assert whole.worker_bytes - tight.worker_bytes == 700 * mib  # now b needs most
    assert tight.worker_bytes <= 1500 * mib
    assert tight.stream_bytes == 1000 * mib
    assert "streamed     images of 1 of 2 series exceed the 1.5 GiB of a worker" in str(tight)
    assert "streamed" not in str(whole)
    least = _streaming(0)
    assert len(least.streamed) == 2
    assert least.worker_bytes == tight.least_worker_bytes == (300 + 5 + 500) * mib  # now the making of maps needs most


def test_what_cannot_fit_even_streamed_is_refused_with_advice() -> None:
    mib = 1 << 20
    _streaming(1500 * mib).check(4 * GIB)
    with pytest.raises(InputError, match=r"needs at least 8\d\d MiB, even with its .* more --memory-per-worker"):
        _streaming(500 * mib).check(4 * GIB)
    with pytest.raises(InputError, match=r"2 workers need 1\.6 GiB, available are 1\.0 GiB: use --workers 1"):
        _streaming(512 * mib).check(GIB)
    with pytest.raises(InputError, match=r"need 2\.0 GiB in the scratch directory .*1\.0 GiB free: .* --scratch"):
        _streaming(1500 * mib).check_scratch(GIB, "/scratch")
    _streaming(None).check_scratch(0, "/scratch")


def test_making_maps_can_need_most() -> None:
    series = (SeriesLoad("a", 40, 1, 1000),)
    species = (SpeciesLoad("apo", 1, (10, 10, 6), 5000, 10_000, 90_000, 100),)
    assert make_plan("p", 1, 1, 1, (), series, species, {"apo": 1}, 7).worker_bytes == 7 + 5000 + 90_000


def test_movies_are_a_task_of_their_own() -> None:
    """Frames of a tilt and the images of particles in them; streamed where they do not fit; averages stay."""
    mib = 1 << 20
    movie = MovieLoad(10, 4000, 3000, 24 * mib, 1200 * mib, 500 * mib)
    whole, tight = (
        replace(_streaming(limit), series=tuple(replace(each, movie=movie) for each in _streaming(limit).series))
        for limit in (None, 2000 * mib)
    )
    assert whole.peak.name == "averaging movies"
    assert whole.worker_bytes == (300 + 5 + 1200 + 500) * mib
    assert whole.stream_bytes == 0
    assert tight.worker_bytes == (300 + 5 + 1200) * mib + STREAM_BYTES
    assert tight.stream_bytes == 500 * mib
    text = str(whole)
    assert "movies       80 tilts, 10 frames of 4000 x 3000 px; new averages take 1.9 GiB per iteration" in text
    assert "movies" not in str(_streaming(None))
