"""How fast the kernels are on fixed synthetic loads, beside what the machine allows and beside plain loops.

Times are processor seconds of one thread per Fourier sample, the least of many short repetitions. The bounds:

* operations: those that the kernel's text asks for, over the measured rate; an addition, a multiplication, a rounding
  or a comparison counts one, a fused multiply-add two; conversions, selections and addresses count nothing;
* bytes: what must come from memory at least once and what must go back, over the measured bandwidth: the data, and of
  the grid every cache line (64 bytes) that a slice touches, once per image. Tables of a tilt stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.extract import extract_samples
from mpr_dist.imaging.samples import Samples, box_samples
from mpr_dist.maths.kernels.compare import KX, KY, N_TABLES, compare, n_out
from mpr_dist.maths.kernels.insert import insert
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.units import F32, F64, I64
from mpr_dist.workflow.benchmarks.benchmark_peers import plain_compare, plain_extract, plain_insert
from mpr_dist.workflow.benchmarks.benchmark_rates import Rates, least_seconds, measure_rates

PIXEL_A, WAVELENGTH_A, CS_A = 2.0, 0.0197, 2.7e7
SAMPLES_ABOUT = 400_000  # in a load, if it is not to take longer than a moment
TILTS = 8
CACHE_LINE = 64
SCALE = 2.0**28

# counted in kernels/compare.py and insert.py, as the text above says, per sample
PLACE, SINCOS, ANGLE = 24, 29, 6
FUSED = PLACE + 2 * 52 + ANGLE + (SINCOS + 14) + (4 + SINCOS + 2 + 6 * 6 + 17) + 44 * 4
INSERTION = PLACE + 1 + ANGLE + 2 * SINCOS + 25 + 3 + 8 + 8 + 24 * 3


@dataclass(frozen=True, eq=False)
class Load:
    """A fixed synthetic load: white noise in images and reference, tilts from -60 to 60 degrees, particles anyhow.

    volumes (1, n + 3, n + 3, n/2 + 2, 2), images (particles, tilts, samples, 2), and what ``compare`` takes with them.
    """

    samples: Samples
    volumes: F32
    images: F32
    views: F32
    shifts: F32
    defocus: F32
    astig: F32
    fixed: F32
    weight: F32
    tables: F32

    @property
    def n_samples(self) -> int:
        """In all images together."""
        return self.images.size // 2


@dataclass(frozen=True)
class KernelTime:
    """Nanoseconds per Fourier sample and core: of the kernel, of both bounds, and of a peer that does the same work."""

    kernel: str
    box_px: int
    ns: float
    bytes_ns: float
    operations_ns: float
    bytes_per_sample: float
    operations_per_sample: float
    peer: str
    peer_ns: float


@dataclass(frozen=True)
class KernelTimes:
    device: str
    rates: Rates
    times: tuple[KernelTime, ...]


def make_load(box_px: int, samples_about: int = SAMPLES_ABOUT, seed: int = 0) -> Load:
    """A load with the grid of a box that is not oversampled, and all samples up to Nyquist."""
    rng = np.random.default_rng(seed)
    s = box_samples(box_px, PIXEL_A, 0.5 / PIXEL_A)
    n = len(s.kx)
    n_p = max(1, samples_about // (n * TILTS))
    tilt = np.zeros((TILTS, 3))
    tilt[:, 1] = np.linspace(-60, 60, TILTS)
    views = np.einsum("tij,pjk->ptik", euler_to_matrix(tilt), euler_to_matrix(rng.uniform(-180, 180, (n_p, 3))))
    q2, theta = s.qx**2 + s.qy**2, np.arctan2(s.qy, s.qx)
    tables = np.zeros((N_TABLES, n), np.float32)
    tables[:8] = s.qx, s.qy, s.kx, s.ky, -0.5 * WAVELENGTH_A * q2, np.cos(2 * theta), np.sin(2 * theta), q2 / 4
    fixed = 0.25 * CS_A * WAVELENGTH_A**3 * q2**2 - 0.01

    def normal(*shape: int) -> F32:
        return rng.standard_normal(shape, dtype=np.float32)

    return Load(
        samples=s,
        volumes=normal(1, box_px + 3, box_px + 3, box_px // 2 + 2, 2),
        images=normal(n_p, TILTS, n, 2),
        views=np.ascontiguousarray(views, np.float32),
        shifts=normal(n_p, TILTS, 2),
        defocus=(2e4 + 1e3 * normal(n_p, TILTS)),
        astig=100 * normal(TILTS, 2),
        fixed=np.tile(fixed, (TILTS, 1)).astype(np.float32),
        weight=rng.uniform(0.5, 1.5, (TILTS, n)).astype(np.float32),
        tables=tables,
    )


def run_compare(load: Load) -> F64:
    """The fused pass over a load; (particles, tilts, n_out)."""
    n_p, n_t, n, _ = load.images.shape
    out = np.empty((n_p, n_t, n_out(0)))
    compare(
        load.volumes, np.zeros(n_p, np.int64), load.images, np.ones((n_p, n_t), bool), load.views, load.shifts,
        load.defocus, load.astig, load.fixed, load.weight, _rows(load), np.full(n_t, n), load.tables, False,
        np.zeros(0, np.int64), np.zeros((0, n), np.float32), out,
    )  # fmt: skip
    return out


def run_insert(load: Load, sums: I64) -> None:
    """The insertion of a load into the sums of the first half-set; sums (2, z, y, x, 3)."""
    n_p, n_t, n, _ = load.images.shape
    insert(
        sums, np.zeros(n_p, np.int8), load.images, np.ones((n_p, n_t), bool), load.views, load.defocus, load.astig,
        load.fixed, load.weight, _rows(load), np.full(n_t, n), load.tables, False, SCALE,
    )  # fmt: skip


def plain_products(load: Load) -> F64:
    """What ``run_compare`` returns, by the plain loop and in its own order: <a, b> of the data and the 8 rows."""
    n_p, n_t = load.images.shape[:2]
    out = np.empty((n_p, n_t, n_out(0)))
    plain_compare(
        load.volumes, np.zeros(n_p, np.int64), load.images, load.views, load.shifts, load.defocus, load.astig,
        load.fixed, load.weight, load.tables, out,
    )  # fmt: skip
    return out


def plain_sums(load: Load, sums: I64) -> None:
    """What ``run_insert`` does, by the plain loop."""
    plain_insert(
        sums[0], load.images, load.views, load.defocus, load.astig, load.fixed, load.weight, load.tables, SCALE
    )


def empty_sums(box_px: int) -> I64:
    """Accumulators (2, z, y, x, 3) for a load."""
    return np.zeros((2, box_px + 3, box_px + 3, box_px // 2 + 2, 3), np.int64)


def touched_bytes(load: Load, bytes_per_cell: int) -> float:
    """Mean over images of the bytes in all cache lines that a slice reads from a grid of such cells."""
    ny, nx = load.volumes.shape[2:4]
    u, v, half = load.tables[KX], load.tables[KY], ny // 2
    lines = []
    for view in load.views.reshape(-1, 3, 3):
        k = view[0][:, None] * u + view[1][:, None] * v
        k = np.where(k[0] < 0, -k, k)
        x, y, z = np.floor(k + np.array([[0], [half], [half]])).astype(np.int64)
        first = ((z * ny + y) * nx + x) * bytes_per_cell
        rows = [first + bytes_per_cell * nx * (dz * ny + dy) for dz in (0, 1) for dy in (0, 1)]
        # two cells of a row are read together: from the line of the first byte to that of the last
        ends = [row + end for row in rows for end in range(0, 2 * bytes_per_cell, 8)]
        lines.append(len(np.unique(np.concatenate(ends) // CACHE_LINE)))
    return CACHE_LINE * float(np.mean(lines))


def measure_kernels(boxes: Sequence[int], say: Callable[[str], None], device: str = "cpu") -> KernelTimes:
    """Time the kernels on loads of these boxes (px), with one thread. For cards there is ``benchmark_card``.

    Raises:
        InputError: a box that is odd or out of range, or a device there is no benchmark for.
    """
    if device != "cpu":
        raise InputError(f"benchmark kernels knows the devices cpu and gpu, not {device!r}")
    if not boxes or any(box % 2 or not 16 <= box <= 512 for box in boxes):
        raise InputError(f"--boxes needs even numbers from 16 to 512, such as 64,128; got {list(boxes)}")
    threads = nb.get_num_threads()
    nb.set_num_threads(1)
    try:
        say("rates of this machine")
        rates = measure_rates()
        times: list[KernelTime] = []
        for box in boxes:
            say(f"box {box} px")
            times += _measure(box, rates)
    finally:
        nb.set_num_threads(threads)
    return KernelTimes(device, rates, tuple(times))


def _measure(box_px: int, rates: Rates) -> list[KernelTime]:
    load = make_load(box_px)
    n, per_image = load.n_samples, len(load.samples.kx)
    seconds, peer = least_seconds(lambda: run_compare(load)), least_seconds(lambda: plain_products(load))
    data = 8.0 + touched_bytes(load, 8) / per_image
    fused = _time("fused pass", box_px, (seconds / n, peer / n), (data, rates.read), (FUSED, rates), "plain numba loop")
    sums = empty_sums(box_px)
    seconds, peer = least_seconds(lambda: run_insert(load, sums)), least_seconds(lambda: plain_sums(load, sums))
    grid = 2 * touched_bytes(load, 24) / per_image
    bandwidth = (8.0 + grid) / (8.0 / rates.read + grid / rates.updated)
    inserted = _time(
        "insertion", box_px, (seconds / n, peer / n), (8.0 + grid, bandwidth), (INSERTION, rates), "plain numba loop"
    )
    return [fused, inserted, _measure_extraction(box_px, load.samples, rates)]


def _measure_extraction(box_px: int, s: Samples, rates: Rates) -> KernelTime:
    rng = np.random.default_rng(1)
    count = max(2, SAMPLES_ABOUT // (4 * len(s.kx)))
    image = rng.standard_normal((1024, 1024), dtype=np.float32)
    xy_px = rng.uniform(box_px, 1024 - box_px, (count, 2))
    keep, n = np.ones(count, bool), count * len(s.kx)
    ours = least_seconds(lambda: extract_samples(image, xy_px, keep, s))
    plain = least_seconds(lambda: plain_extract(image, xy_px, box_px, s.kx, s.ky))
    # a real transform of N numbers: 2.5 N log2 N; a complex product with the ramp of either axis: 6 each
    pixels = box_px**2
    operations = (2.5 * pixels * math.log2(pixels) + 12 * pixels / 2) / len(s.kx)
    moved = (4 * pixels + 8 * len(s.kx)) / len(s.kx)
    return _time(
        "extraction", box_px, (ours / n, plain / n), (moved, rates.read), (operations, rates), "plain numpy loop"
    )


def _time(
    kernel: str,
    box_px: int,
    seconds: tuple[float, float],
    moved: tuple[float, float],
    operations: tuple[float, Rates],
    peer: str,
) -> KernelTime:
    size, bandwidth = moved
    count, rates = operations
    return KernelTime(
        kernel, box_px, 1e9 * seconds[0], 1e9 * size / bandwidth, 1e9 * count / rates.operations_per_s, size, count,
        peer, 1e9 * seconds[1],
    )  # fmt: skip


def _rows(load: Load) -> I64:
    n_p, n_t = load.images.shape[:2]
    return np.ascontiguousarray(np.broadcast_to(np.arange(n_t), (n_p, n_t)))
