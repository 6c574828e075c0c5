"""What benchmarks count is what happens: peers do the kernels' work, bytes are those of the cells, phases add up."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.extract import extract_samples
from mpr_dist.workflow.benchmarks.benchmark_iteration import INSERTION, IterationTime, measure_iteration, phases
from mpr_dist.workflow.benchmarks.benchmark_kernels import (
    CACHE_LINE,
    empty_sums,
    make_load,
    measure_kernels,
    plain_products,
    plain_sums,
    run_compare,
    run_insert,
    touched_bytes,
)
from mpr_dist.workflow.benchmarks.benchmark_peers import plain_extract
from mpr_dist.workflow.benchmarks.benchmark_tables import iteration_lines
from mpr_dist.workflow.series.phase_clock import OTHER, PhaseClock

BOX = 16


@pytest.fixture(scope="module")
def load():
    return make_load(BOX, samples_about=2000)


def test_the_plain_loops_do_the_work_of_the_kernels(load):
    """Products agree to float32 sums, whole numbers to float32 phases; samples to a complex64 transform."""
    ours, plain = run_compare(load), plain_products(load)
    k = 7
    norms = np.ones_like(ours)
    squares = ours[..., 2 + 2 * k :]
    diagonal = np.cumsum([0, *range(k, 1, -1)])
    data = np.sqrt((load.images.astype(np.float64) ** 2).sum(axis=(2, 3)))
    model, derivatives = np.sqrt(ours[..., 1 + k]), np.sqrt(squares[..., diagonal])
    rows = np.concatenate([model[..., None], derivatives], axis=-1)
    norms[..., : 1 + k] = data[..., None] * rows
    upper = np.triu_indices(1 + k)
    norms[..., 1 + k :] = rows[..., upper[0]] * rows[..., upper[1]]
    # phases of 2e4 A of defocus are some 30 turns in float32, off by 1e-5 rad
    assert (np.abs(ours - plain) < 3e-5 * norms).all()
    assert load.n_samples == data.size * len(load.samples.kx)
    sums, same = empty_sums(BOX), empty_sums(BOX)
    run_insert(load, sums)
    plain_sums(load, same)
    assert np.abs(sums - same).max() < 3e-5 * np.abs(sums).max()
    assert sums[0].any()
    image = np.random.default_rng(0).standard_normal((80, 80), dtype=np.float32)
    xy, s = np.array([[30.2, 41.7], [39.5, 22.0]]), load.samples
    found = plain_extract(image, xy, BOX, s.kx, s.ky)
    np.testing.assert_allclose(found, extract_samples(image, xy, np.ones(2, bool), s), atol=1e-5)


def test_bytes_are_those_of_the_cells_a_slice_meets(load):
    """Against cells marked one by one: the lines of all eight around every sample, once per image."""
    for bytes_per_cell in (8, 24):
        one = replace(load, views=load.views[:1, :3])
        counts = []
        for view in one.views[0]:
            lines = set()
            for u, v in zip(load.samples.kx, load.samples.ky, strict=True):
                k = view[0] * np.float32(u) + view[1] * np.float32(v)
                x, y, z = np.floor((-k if k[0] < 0 else k) + np.array([0, (BOX + 3) // 2, (BOX + 3) // 2])).astype(int)
                for dx, dy, dz in np.ndindex(2, 2, 2):
                    cell = ((z + dz) * (BOX + 3) + y + dy) * (BOX // 2 + 2) + x + dx
                    first, last = cell * bytes_per_cell, (cell + 1) * bytes_per_cell - 1
                    lines.update((first // CACHE_LINE, last // CACHE_LINE))
            counts.append(CACHE_LINE * len(lines))
        assert touched_bytes(one, bytes_per_cell) == pytest.approx(np.mean(counts))


def busy(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def outer():
    busy(0.02)
    inner()
    with pytest.raises(ZeroDivisionError):
        failing()
    busy(0.02)


def inner():
    busy(0.06)


def failing():
    busy(0.01)
    return 1 // 0


def test_time_belongs_to_the_innermost_phase():
    """Processor time of nested, failing and unnamed functions, to a few milliseconds."""
    with PhaseClock({"outer": (outer,), "inner": (inner, failing)}) as clock:
        outer()
        busy(0.03)
    assert clock.seconds["outer"] == pytest.approx(0.04, abs=0.015)
    assert clock.seconds["inner"] == pytest.approx(0.07, abs=0.015)
    assert clock.seconds[OTHER] == pytest.approx(0.03, abs=0.015)


def test_phases_are_functions_of_one_phase_each():
    names = [function for functions in phases().values() for function in functions]
    assert len(set(names)) == len(names)
    with PhaseClock(phases()) as clock:
        pass
    assert set(clock.seconds) == {*phases(), OTHER}


def test_an_iteration_meets_every_phase(tmp_path):
    """The smallest load: all that is refined passes through the functions that the phases name."""
    measured = measure_iteration(32, (1, 3, 8), print, tmp_path)
    never = [name for name, seconds in measured.seconds.items() if not seconds > 0]
    assert not never
    assert sum(measured.share.values()) <= 1.0
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_shares_and_what_takes_too_long():
    seconds = {"solve": 2.0, "FSC": 1.0, INSERTION: 6.0}
    measured = IterationTime(64, 1, 5, 10, 20.0, seconds, 1.0)
    assert measured.share == {"solve": 0.2, "FSC": 0.1, INSERTION: 0.6}
    assert measured.too_long == ("solve",)
    assert "besides the two passes: solve" in iteration_lines(measured)[-1]


def test_nonsense_is_refused():
    for boxes, device in (([], "cpu"), ([15], "cpu"), ([1024], "cpu"), ([64], "abacus")):
        with pytest.raises(InputError):
            measure_kernels(boxes, print, device)
    for box, size in ((33, (1, 5, 10)), (64, (0, 5, 10)), (64, (1, 2, 10)), (64, (1, 5, 0))):
        with pytest.raises(InputError):
            measure_iteration(box, size, print)
