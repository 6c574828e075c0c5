"""How fast fused pass and insertion are on a card, beside what it could do at most.

Two floors, measured on the same card: the bytes that must come from its memory or go there, over the speed of a copy;
and the operations of one sample, over the rate of fused multiply-adds, or of the additions of whole numbers that the
insertion is made of. The load is fixed: a tilt series of particles in random orientations, all samples to Nyquist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mpr_dist.arrays import Device, open_device
from mpr_dist.errors import InputError
from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.kernels.cards import Seen, compare_on, insert_on, kernel
from mpr_dist.maths.kernels.compare import A2, COS2, KX, KY, N_TABLES, Q2_4, QX, QY, SIN2
from mpr_dist.maths.rotations import euler_to_matrix, rotation_y

BOXES = (64, 128, 256, 512)
PIXEL_A, TILTS, PARTICLES = 1.6, 41, 300
# arithmetic of float32 per sample of a flat sphere, a fused multiply-add counting as one: of the fused pass as compiled
# (a test counts again); of the insertion what it cannot do without, 69 for value and place, 38 for weights and sums;
# and additions to the accumulators
FUSED_OPERATIONS, INSERT_OPERATIONS, INSERT_ADDITIONS = 328, 107, 24
SCALE = 2.0**28
LEAST_S = 0.3
CHAINS, ROUNDS = 16, 4096  # rates.cu


@dataclass(frozen=True)
class Rates:
    """Of a card: bytes read and written, fused multiply-adds, and additions to cells, per second."""

    bytes_s: float
    operations_s: float
    additions_s: float


@dataclass(frozen=True)
class KernelTime:
    """One kernel at one box.

    Attributes:
        images: in a launch; sample_ps: time of a sample, 10^-12 s.
        memory_ps, operations_ps: the floors.
    """

    kernel: str
    box_px: int
    images: int
    sample_ps: float
    memory_ps: float
    operations_ps: float

    @property
    def share(self) -> float:
        """Of the higher floor that is reached, 1 at best."""
        return max(self.memory_ps, self.operations_ps) / self.sample_ps


def measure_rates(device: Device, size: int = 1 << 28, blocks: int = 1 << 14) -> Rates:
    """size: bytes that are copied; blocks: of 128 threads that compute."""
    xp = device.xp
    source, target = xp.zeros(size // 4, np.float32), xp.zeros(size // 4, np.float32)
    copying = _seconds(device, lambda: xp.copyto(target, source))
    multiply_add, add_whole = kernel("rates", "multiply_add"), kernel("rates", "add_whole")
    threads = blocks * multiply_add.threads
    out, cells = xp.zeros(threads, np.float32), xp.zeros(threads, np.int64)
    rounds = max(1, ROUNDS * blocks >> 14)
    arguments = (np.uint32(rounds), np.float32(0.999), out)
    computing = _seconds(device, lambda: device.launch(multiply_add, (blocks,), arguments))
    whole = (np.uint32(16), np.uint32(threads), cells)
    adding = _seconds(device, lambda: device.launch(add_whole, (blocks,), whole))
    return Rates(2 * size / copying, threads * rounds * CHAINS / computing, threads * 16 / adding)


def measure_kernels(
    device: Device, rates: Rates, boxes: Sequence[int] = BOXES, particles: int = PARTICLES, tilts: int = TILTS
) -> Iterator[KernelTime]:
    """Both kernels at every box for which a card has room."""
    for box in boxes:
        device.release()
        for name, measure in (("fused pass", _fused), ("insertion", _insertion)):
            try:
                yield measure(device, rates, name, box, particles, tilts)
            except MemoryError:
                device.release()


def _seconds(device: Device, work: Callable[[], Any]) -> float:
    """Of one call; as many as take ``LEAST_S`` together, after one that compiles and warms up."""
    work()
    device.wait()
    count, elapsed = 1, 0.0
    while elapsed < LEAST_S and count < 1 << 16:
        start = time.perf_counter()
        for _ in range(count):
            work()
        device.wait()
        elapsed = time.perf_counter() - start
        if elapsed < LEAST_S:
            count *= 2
    return elapsed / count


def _load(device: Device, box: int, grid: int, particles: int, tilts: int) -> tuple[Any, Seen]:
    """Images (particles, tilts, samples, 2), as many particles as fit, and how they are seen; all on the card."""
    rng = np.random.default_rng(0)
    samples = box_samples(box, PIXEL_A, 0.5 / PIXEL_A)
    n, q2, theta = len(samples.kx), samples.qx**2 + samples.qy**2, np.arctan2(samples.qy, samples.qx)
    count = int(min(particles, max(1, device.room_bytes() // 4 // (8 * n * tilts))))
    images = device.xp.full((count, tilts, n, 2), 0.5, np.float32)
    tables = np.zeros((N_TABLES, n))
    to_grid = grid * PIXEL_A
    for row, values in ((QX, samples.qx), (QY, samples.qy), (KX, samples.qx * to_grid), (KY, samples.qy * to_grid)):
        tables[row] = values
    tables[A2], tables[COS2], tables[SIN2], tables[Q2_4] = -0.01 * q2, np.cos(2 * theta), np.sin(2 * theta), q2 / 4
    poses = euler_to_matrix(rng.uniform(-180, 180, (count, 1, 3)))
    views = rotation_y(np.linspace(-60, 60, tilts)) @ poses
    shape = count, tilts
    put = device.put
    seen = Seen(
        active=np.ones(shape, bool),
        views=put(views, np.float32),
        defocus=put(rng.uniform(2e4, 3e4, shape), np.float32),
        astig=put(rng.uniform(-200, 200, (tilts, 2)), np.float32),
        fixed=put(np.full((tilts, n), -0.01), np.float32),
        weight=put(np.ones((tilts, n)), np.float32),
        weight_row=put(np.tile(np.arange(tilts), (count, 1)), np.uint32),
        n_samples=put(np.full(tilts, n), np.uint32),
        tables=put(tables, np.float32),
        is_curved=False,
    )
    return images, seen


def _floors(rates: Rates, moved: float, operations: int, additions: int, samples: int) -> tuple[float, float]:
    """ps per sample: bytes moved in a launch of so many samples, and operations of one."""
    computing = max(operations / rates.operations_s, additions / rates.additions_s)
    return 1e12 * moved / rates.bytes_s / samples, 1e12 * computing


def _fused(device: Device, rates: Rates, name: str, box: int, particles: int, tilts: int) -> KernelTime:
    images, seen = _load(device, box, box, particles, tilts)
    edge = box + 3
    volumes = device.xp.full((2, edge, edge, box // 2 + 2, 2), 0.5, np.float32)
    count, n = images.shape[0], images.shape[2]
    half, shifts = np.arange(count) % 2, device.put(np.zeros((count, tilts, 2)), np.float32)
    none = np.zeros(0, np.int64), np.zeros((0, n), np.float32)
    seconds = _seconds(device, lambda: compare_on(device, volumes, half, images, shifts, seen, *none))
    samples = count * tilts * n
    moved = images.nbytes + volumes.nbytes + _table_bytes(seen)
    floors = _floors(rates, moved, FUSED_OPERATIONS, 0, samples)
    return KernelTime(name, box, count * tilts, 1e12 * seconds / samples, *floors)


def _insertion(device: Device, rates: Rates, name: str, box: int, particles: int, tilts: int) -> KernelTime:
    grid = 2 * box
    sums = device.xp.zeros((grid + 3, grid + 3, grid // 2 + 2, 3), np.int64)
    images, seen = _load(device, box, grid, particles, tilts)
    count, n = images.shape[0], images.shape[2]
    seconds = _seconds(device, lambda: insert_on(device, sums, 0, seen.active, images, seen, SCALE))
    samples = count * tilts * n
    moved = images.nbytes + 2 * sums.nbytes + _table_bytes(seen)
    floors = _floors(rates, moved, INSERT_OPERATIONS, INSERT_ADDITIONS, samples)
    return KernelTime(name, box, count * tilts, 1e12 * seconds / samples, *floors)


def _table_bytes(seen: Seen) -> int:
    return int(seen.fixed.nbytes + seen.weight.nbytes + seen.tables.nbytes)


@dataclass(frozen=True)
class CardTimes:
    """What was measured on a card, which says what it is."""

    card: str
    machine: dict[str, str]
    rates: Rates
    times: tuple[KernelTime, ...]


def measure_card(boxes: Sequence[int], say: Callable[[str], None], device: Device | None = None) -> CardTimes:
    """Both kernels at these boxes (px) on the first card, or on a device that is open already.

    Raises:
        InputError: a box that is odd or out of range, or no card.
    """
    if not boxes or any(box % 2 or not 16 <= box <= 512 for box in boxes):
        raise InputError(f"--boxes needs even numbers from 16 to 512, such as 64,128; got {list(boxes)}")
    from mpr_dist.workflow.benchmarks.benchmark_machine import machine

    device = device or open_device("gpu")
    say("rates of this card")
    rates = measure_rates(device)
    times = []
    for each in measure_kernels(device, rates, boxes):
        say(f"{each.kernel}, box {each.box_px} px: {each.sample_ps:.1f} ps per sample")
        times.append(each)
    return CardTimes(device.about(), machine(), rates, tuple(times))


def card_record(measured: CardTimes) -> dict[str, Any]:
    """For JSON."""
    times = [asdict(each) | {"share": each.share} for each in measured.times]
    return {"format_version": 1, **asdict(measured), "times": times}


def card_lines(measured: CardTimes) -> list[str]:
    """As a table; the columns are those of examples/benchmarks/gpu.md."""
    rates = measured.rates
    rows = [("kernel", "box", "images", "ps per sample", "floor: memory", "floor: operations", "reached")]
    rows += [
        (
            each.kernel,
            str(each.box_px),
            str(each.images),
            f"{each.sample_ps:.1f}",
            f"{each.memory_ps:.1f}",
            f"{each.operations_ps:.1f}",
            f"{100 * each.share:.0f} %",
        )
        for each in measured.times
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    speed = (
        f"{rates.bytes_s / 1e9:.0f} GB/s copied, {rates.operations_s / 1e12:.1f} x 10^12 multiply-adds/s, "
        f"{rates.additions_s / 1e9:.1f} x 10^9 additions of whole numbers/s"
    )
    return [measured.card, ", ".join(f"{name} {value}" for name, value in measured.machine.items()), speed, *table]
