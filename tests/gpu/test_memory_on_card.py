"""What happens when a card has too little memory, or fails."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import shim
from problems import BOX, GRID, PIXEL_A, a_problem

from mpr_dist.arrays import HOST, WORKERS_PER_CARD, card_errors, in_blocks, memory_share, open_device, there_or_here
from mpr_dist.errors import InputError, MprError
from mpr_dist.imaging.image_store import CardStream, CardValues, ImageRoom, values_bytes
from mpr_dist.imaging.particle_images import ParticleImages
from mpr_dist.imaging.passes import insert_images
from mpr_dist.imaging.samples import box_samples


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


def inserted(card, problem, particles, sums, streamed=False):
    """Images of some particles added to sums of the host (2, z, y, x, 3), where they are when the card has settled."""
    values = CardStream(np.ascontiguousarray(problem.images[particles]), card)
    if not streamed:
        values = CardValues(values.shape, card)
        for t in range(values.shape[1]):
            values[np.arange(values.shape[0]), t] = card.put(problem.images[particles, t])
    seen, xy_A = problem.seen.of(particles), np.zeros((*values.shape[:2], 2))
    samples = box_samples(BOX, PIXEL_A, 0.5 / PIXEL_A)
    images = ParticleImages(samples, values, seen.active, xy_A, np.ones((2, samples.n_rings)), seen.n_samples)
    return insert_images(sums, problem.reference[particles].astype(np.int8), images, seen, 2.0**28)


def empty_sums():
    return np.zeros((2, GRID + 3, GRID + 3, GRID // 2 + 2, 3), np.int64)


FIRST, LAST = slice(0, 4), slice(4, 9)


@pytest.fixture(scope="module")
def problem():
    return a_problem(n_particles=9)


def at_once(card, problem):
    """The sums of all images, in one step."""
    expected = empty_sums()
    inserted(card, problem, slice(0, 9), expected)
    card.settle()
    assert np.count_nonzero(expected) > 1000
    return expected


def test_sums_wait_on_the_card_for_the_next_series(card, problem):
    """They come to the host once, with the same bits; the largest contribution is known at once."""
    expected, sums = at_once(card, problem), empty_sums()
    largest = [inserted(card, problem, part, sums) for part in (FIRST, LAST)]
    assert not sums.any()
    assert min(largest) > 0
    shim.TRAFFIC.since()
    card.settle()
    assert sums.tobytes() == expected.tobytes()
    if card.name == "shim":
        assert shim.TRAFFIC.since() == (0, sums.nbytes, 2)  # a wait for each half-set
    card.settle()
    assert sums.tobytes() == expected.tobytes()


def test_sums_of_a_batch_that_is_gone_are_forgotten(shim_card, problem):
    """Whoever held the host's array gave up: the card's memory is free, and nothing is added anywhere."""
    gc.collect()
    before, sums = shim.MEMORY.live, empty_sums()
    inserted(shim_card, problem, FIRST, sums)
    gc.collect()
    assert shim.MEMORY.live - before >= sums.nbytes
    del sums
    gc.collect()
    assert shim.MEMORY.live == before
    shim_card.settle()


@pytest.mark.parametrize("refused", range(8))
def test_memory_that_runs_out_on_the_way_loses_nothing(shim_card, problem, refused):
    """At any launch, images particle by particle: what is done comes down, the rest is added slab by slab."""
    expected, sums = at_once(shim_card, problem), empty_sums()
    inserted(shim_card, problem, FIRST, sums)
    launch, launched = shim_card.launch, []

    def refusing(kernel, blocks, arguments):
        launched.append(kernel.entry)
        if len(launched) == refused + 1:
            raise MemoryError
        launch(kernel, blocks, arguments)

    shim_card.launch = refusing
    shim_card.room = 8 * sums.nbytes
    streamed = CardStream.blocks

    def one_by_one(values):
        for part, there in streamed(values):
            for i in range(part.start, part.stop):
                yield slice(i, i + 1), there[i - part.start : i - part.start + 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CardStream, "blocks", one_by_one)
        inserted(shim_card, problem, LAST, sums, streamed=True)
    shim_card.settle()
    assert sums.tobytes() == expected.tobytes()
    assert len(launched) > refused


def test_what_waits_makes_room_for_images(shim_card, problem):
    """Images that would fit without the sums of the series before stay on the card; sums come down for them."""
    sums = empty_sums()
    inserted(shim_card, problem, FIRST, sums)
    shape = (10, 2, 50, 2)
    try:
        gc.collect()
        free = int(1.2 * 2 * values_bytes(shape))
        shim.MEMORY.limit = shim.MEMORY.live + free - sums.nbytes // 2
        with ImageRoom(device=shim_card) as room:
            assert isinstance(room.place(shape), CardValues)
    finally:
        shim.MEMORY.limit = None
    assert sums.any()


def test_sums_that_take_much_of_the_room_do_not_wait(shim_card, problem):
    """They are made slab by slab, and reach the host's within the series."""
    expected, sums = at_once(shim_card, problem), empty_sums()
    shim_card.room = 3 * sums.nbytes
    for part in (FIRST, LAST):
        inserted(shim_card, problem, part, sums)
    assert sums.tobytes() == expected.tobytes()
