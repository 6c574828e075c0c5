"""What happens when a card has too little memory, or fails."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.arrays import HOST, WORKERS_PER_CARD, card_errors, in_blocks, memory_share, open_device, there_or_here
from mpr_dist.errors import InputError, MprError
from mpr_dist.imaging.image_store import CardStream, CardValues, ImageRoom


def test_blocks_are_halved_until_they_fit(device):
    """Every index once and in order, whatever fits; what does not fit at all is an error."""
    for fits in (1, 3, 7, 100):
        done, largest = [], []

        def work(part, fits=fits, done=done, largest=largest):
            if part.stop - part.start > fits:
                raise MemoryError
            largest.append(part.stop - part.start)
            done.extend(range(part.start, part.stop))

        in_blocks(device, 20, 16, work)
        assert done == list(range(20))
        assert max(largest) <= min(fits, 16)

    def never(part):
        raise MemoryError

    with pytest.raises(MemoryError):
        in_blocks(device, 5, 4, never)


def test_the_host_does_what_a_card_cannot(card):
    """The same work once more, there; the host's own lack of memory goes through."""
    asked = []

    def work(where):
        asked.append(where)
        if where.is_card:
            raise MemoryError
        return 7

    assert there_or_here(card, work) == 7
    assert asked == [card, HOST]

    def never(where):
        raise MemoryError

    with pytest.raises(MemoryError):
        there_or_here(HOST, never)


def test_images_lie_where_there_is_room(shim_card):
    """On the card up to half of its room, otherwise on the host; both hand the same blocks out, on the card."""
    rng = np.random.default_rng(0)
    shape, rows = (6, 2, 50, 2), np.array([1, 4])
    values = rng.standard_normal((2, 50, 2)).astype(np.float32)
    found = []
    for room, kind in ((1 << 20, CardValues), (6400, CardStream)):
        shim_card.room = room
        with ImageRoom(device=shim_card) as images_room:
            kept = images_room.place(shape)
            assert isinstance(kept, kind)
            kept[rows, 1] = shim_card.put(values)
            assert (shim_card.take(kept[rows, 1]) == values).all()
            blocks = [(part, shim_card.take(block)) for part, block in kept.blocks()]
        assert [i for part, _ in blocks for i in range(part.start, part.stop)] == list(range(6))
        found.append(np.concatenate([block for _, block in blocks]))
    assert len(blocks) == 3  # 6400 / 4 bytes hold two particles of 800
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0][rows, 1], values)
    assert not np.delete(found[0], rows, axis=0).any()


def test_errors_of_a_card_are_told_in_one_line():
    """cupy's are RuntimeErrors; on the host one is a mistake of ours and goes through."""
    with pytest.raises(MprError, match="the card failed: out of luck") as caught, card_errors("gpu"):
        raise RuntimeError("out of luck\nand more")
    assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError), card_errors("cpu"):
        raise RuntimeError("ours")
    with pytest.raises(MemoryError), card_errors("gpu"):
        raise MemoryError


def test_workers_of_a_card_share_its_memory(monkeypatch):
    """As many as the run says or as were started, whichever is more; never more than is free."""
    monkeypatch.delenv(WORKERS_PER_CARD, raising=False)
    free, total = 9 * 10**9, 10 * 10**9
    assert memory_share(free, total, 1) == pytest.approx(0.9 * free)
    assert memory_share(free, total, 4) == pytest.approx(0.92 * total / 4)
    monkeypatch.setenv(WORKERS_PER_CARD, "8")
    assert memory_share(free, total, 4) == pytest.approx(0.92 * total / 8)
    assert memory_share(10**9, total, 1) == pytest.approx(0.9 * 10**9)


def test_unknown_devices_are_refused():
    with pytest.raises(InputError, match="cpu, gpu"):
        open_device("tpu")
    assert open_device("cpu") is HOST
