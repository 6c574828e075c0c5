"""Images in a scratch file are those in memory, bit for bit, and the file leaves nothing behind."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import DiskFull, SeriesError
from mpr_dist.imaging import image_store
from mpr_dist.imaging.image_store import ImageRoom, StreamedValues, blocks, values_bytes

SHAPE = (7, 3, 5, 2)
ONE = values_bytes((1, *SHAPE[1:]))


def _fill(values: np.ndarray | StreamedValues) -> None:
    """Everything but particle 4, and tilt 1 of particle 2, as the loader does: tilt by tilt."""
    rng = np.random.default_rng(0)
    for t in range(SHAPE[1]):
        rows = np.array([p for p in range(SHAPE[0]) if p != 4 and (p, t) != (2, 1)])
        values[rows, t] = rng.standard_normal((len(rows), *SHAPE[2:])).astype(np.float32)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100])
def test_blocks_are_the_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(image_store, "STREAM_BYTES", step * ONE)
    expected = np.zeros(SHAPE, np.float32)
    streamed = StreamedValues(SHAPE, tmp_path)
    _fill(expected)
    _fill(streamed)
    parts = []
    for part, values in blocks(streamed):
        assert values.flags.c_contiguous
        np.testing.assert_array_equal(values, expected[part])
        parts += range(part.start, part.stop)
    assert parts == list(range(SHAPE[0]))
    rows = np.array([1, 5, 4])
    np.testing.assert_array_equal(streamed[rows, 2], expected[rows, 2])
    streamed.close()


def test_an_array_is_one_block() -> None:
    values = np.ones(SHAPE, np.float32)
    ((part, same),) = blocks(values)
    assert same is values
    assert part == slice(0, SHAPE[0])


def test_a_room_keeps_what_fits(tmp_path: Path) -> None:
    whole = values_bytes(SHAPE)
    with ImageRoom(2 * whole + 10, tmp_path) as room:
        room.reserve(10)
        kinds = [type(room.place(SHAPE)) for _ in range(3)]
        assert kinds == [np.ndarray, np.ndarray, StreamedValues]
    with ImageRoom() as room:
        assert isinstance(room.place(SHAPE), np.ndarray)


def test_nothing_is_left_even_after_an_error(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError):
        _use_and_fail(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def _use_and_fail(scratch: Path) -> None:
    with ImageRoom(0, scratch) as room:
        _fill(room.place(SHAPE))
        assert list(scratch.iterdir()) == []  # it never had a name: a killed process leaves nothing either
        raise ZeroDivisionError


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (values_bytes(SHAPE) - 1, hard))
    try:
        with pytest.raises(DiskFull, match=r"is full; images that exceed the memory need .* --scratch"):
            StreamedValues(SHAPE, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(SeriesError, match="nowhere cannot be used"):
        StreamedValues(SHAPE, tmp_path / "nowhere")
