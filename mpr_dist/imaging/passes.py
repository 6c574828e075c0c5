"""A pass over all particle images of a series, wherever they are: block after block, by numba or on a card."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mpr_dist.arrays import HOST, Device, in_blocks
from mpr_dist.imaging.particle_images import ParticleImages
from mpr_dist.maths.kernels.cards import Seen, compare_on, insert_on
from mpr_dist.maths.kernels.compare import compare, n_out
from mpr_dist.maths.kernels.insert import insert
from mpr_dist.units import F32, F64, I8, I64, Bool

# of a card's room: sums at a time; images and tables need the rest
SHARE_OF_SUMS = 0.5


def compare_images(
    images: ParticleImages,
    volumes: F32,
    reference: I64,
    shift: F32,
    seen: Seen,
    kinds: I64,
    rows: F32,
    where: Device = HOST,
) -> F64:
    """Inner products of all images with their models, (particles, tilts, n_out) float64; see ``kernels.compare``.

    where: the device that gets them, that of the images or the host; what says how images are seen may be on either.
    """
    device = images.device
    out: F64 = where.xp.empty((*seen.active.shape, n_out(len(kinds))))
    found: list[tuple[slice, Any]] = []

    def on_card(values: Any, first: int, rows_there: slice) -> None:
        some = slice(first + rows_there.start, first + rows_there.stop)
        there = values[rows_there]
        of_some = compare_on(device, volumes, reference[some], there, shift[some], seen.of(some), kinds, rows)
        found.append((some, of_some))

    for part, values in images.blocks():
        if device.is_card:
            in_blocks(device, len(values), len(values), partial(on_card, values, part.start))
        else:
            s = seen.of(part)
            how = (s.active, s.views, shift[part], s.defocus, s.astig, s.fixed, s.weight, s.weight_row, s.n_samples)
            # the kernels walk through images in the order of memory
            values = np.ascontiguousarray(values)
            compare(volumes, reference[part], values, *how, s.tables, s.is_curved, kinds, rows, out[part])
    # only now: while a card is at one block the host reads the next one and sends it there
    for some, of_some in found:
        out[some] = of_some if where is device else device.take(of_some)
    return out


def insert_images(sums: I64, half: I8, images: ParticleImages, seen: Seen, scale: float) -> float:
    """Add all images to the sums (2, z, y, x, 3) of their half-sets; see ``kernels.insert``.

    Returns the largest contribution in units of the fixed point. On a card they wait there for those of the series that
    follow, if there is room, until ``Device.settle``. Otherwise they are made slab by slab, and reach the host's when
    they are complete.
    """
    if images.device.is_card:
        return _insert_on_card(sums, half, images, seen, scale)
    largest = 0.0
    for part, values in images.blocks():
        s = seen.of(part)
        where = (s.active, s.views, s.defocus, s.astig, s.fixed, s.weight, s.weight_row, s.n_samples, s.tables)
        found = insert(sums, half[part], np.ascontiguousarray(values), *where, s.is_curved, scale)
        largest = max(largest, float(found.max()))
    return largest


def _insert_on_card(sums: I64, half: I8, images: ParticleImages, seen: Seen, scale: float) -> float:
    device, ran_out = images.device, False
    done, found = [0, 0], list[Any]()
    try:
        _insert_whole(sums, half, images, seen, scale, done, found)
    except MemoryError:
        ran_out = True
    if ran_out:  # out here: what holds the sums is gone
        device.release()
    rest = [(half == h) & (np.arange(len(half)) >= done[h]) for h in (0, 1)]
    return max(_largest(device, found), *(_insert_half(sums[h], rest[h], images, seen, scale) for h in (0, 1)))


def _insert_whole(
    sums: I64, half: I8, images: ParticleImages, seen: Seen, scale: float, done: list[int], found: list[Any]
) -> None:
    """Add images to sums that stay on the card, if there is room for them.

    done: how many particles of each half-set are added, the first ones; found: their largest contributions. Both are
    filled as far as it goes: MemoryError may come between any two blocks.
    """
    device = images.device
    for part, values in images.blocks():
        for h in (0, 1):
            # asked for every time: whoever runs out of memory has them added to the host's
            there = device.sums_of(sums)
            if there is None:
                return
            chosen = np.broadcast_to((half[part] == h)[:, None], seen.active[part].shape)
            largest = insert_on(device, there[h], 0, chosen, values, seen.of(part), scale)
            del there
            done[h] = part.stop
            found.append(largest)


def _largest(device: Device, found: list[Any]) -> float:
    """The largest of all, for which the host waits once."""
    return float(device.take(device.xp.stack([each.max() for each in found]).max())) if found else 0.0


def _insert_half(sums: I64, of_half: Bool, images: ParticleImages, seen: Seen, scale: float) -> float:
    device, largest = images.device, [0.0]
    chosen = np.broadcast_to(of_half[:, None], seen.active.shape)
    if not (chosen & seen.active).any():
        return 0.0

    def work(planes: slice) -> None:
        there = device.xp.zeros((planes.stop - planes.start, *sums.shape[1:]), np.int64)
        found = [
            insert_on(device, there, planes.start, chosen[part], values, seen.of(part), scale)
            for part, values in images.blocks()
        ]
        sums[planes] += device.take(there)
        largest[0] = max(largest[0], _largest(device, found))

    fits = int(SHARE_OF_SUMS * device.room_bytes() // max(1, sums[0].nbytes))
    in_blocks(device, len(sums), max(1, fits), work)
    return largest[0]
