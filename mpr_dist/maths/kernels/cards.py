"""The kernels on a card: their CUDA text, and launches over many images. The numba twins are the specification.

Everything but the images, the sums and the result may lie on the host: it is small and put where it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from mpr_dist.arrays import Device, Kernel
from mpr_dist.maths.kernels.compare import N_LOCAL, n_out
from mpr_dist.units import F32, F64, I64, Bool

THREADS = 128
# extra parameters in one launch: more sums do not fit into the registers of a thread
MOST_EXTRA = 6
FOLDER = files("mpr_dist.maths.kernels") / "cuda"


def kernel_text(name: str) -> str:
    """CUDA C++ of one file with what the files share."""
    return (FOLDER / "common.cuh").read_text() + (FOLDER / f"{name}.cu").read_text()


@cache
def kernel(name: str, entry: str, **macros: int) -> Kernel:
    """The function ``entry`` of the file ``name``.cu."""
    return Kernel(kernel_text(name), entry, THREADS, macros)


class Seen(NamedTuple):
    """How images are seen: what fused pass and insertion take, under the names and in the shapes of ``compare``."""

    active: Bool
    views: F32
    defocus: F32
    astig: F32
    fixed: Any
    weight: Any
    weight_row: I64
    n_samples: I64
    tables: Any
    is_curved: bool

    def of(self, particles: slice) -> Seen:
        """The same for some particles."""
        own = {name: getattr(self, name)[particles] for name in ("active", "views", "defocus", "weight_row")}
        return self._replace(**own)


def _places(device: Device, chosen: Bool) -> Any:
    """(images,) uint32: which of (particles, tilts) are chosen."""
    return device.put(np.flatnonzero(chosen).astype(np.uint32))


def _shared(device: Device, seen: Seen) -> tuple[Any, ...]:
    """Arguments from ``astig`` to ``tables``, as all kernels have them."""
    wanted = ((seen.astig, np.float32), (seen.fixed, np.float32), (seen.weight, np.float32))
    whole = ((seen.weight_row, np.uint32), (seen.n_samples, np.uint32))
    return tuple(device.put(values, kind) for values, kind in (*wanted, *whole, (seen.tables, np.float32)))


def compare_on(
    device: Device,
    volumes: F32,
    reference: I64,
    images: Any,
    shifts: F32,
    seen: Seen,
    kinds: I64,
    rows: F32,
) -> Any:
    """``compare`` on a card: (particles, tilts, n_out) float32 there; zero where not active.

    images (particles, tilts, samples, 2) float32 on the card. More extra parameters than fit into registers are taken
    in several launches, so that every pair of them meets in one.
    """
    xp = device.xp
    n_p, n_t, samples, _ = images.shape
    out = xp.zeros((n_p, n_t, n_out(len(kinds))), np.float32)
    where = tuple(device.put(values, np.float32) for values in (seen.views, shifts, seen.defocus))
    arguments = (*where, *_shared(device, seen))
    kept = device.resident(volumes, lasting=True)
    rows = device.put(rows, np.float32)
    places = {r: _places(device, seen.active & (reference == r)[:, None]) for r in np.unique(reference).tolist()}
    for extra in together(len(kinds)):
        is_whole = len(extra) == len(kinds)
        own = out if is_whole else xp.zeros((n_p, n_t, n_out(len(extra))), np.float32)
        chosen = kernel("compare", "compare", N_EXTRA=len(extra), CURVED=int(seen.is_curved))
        of_extra = device.put(kinds[extra], np.uint32), rows if is_whole else rows[device.put(extra)]
        for r, which in places.items():
            volume = device.put(volumes[r], np.float32) if kept is None else kept[r]
            sizes = np.uint32(volume.shape[0]), np.uint32(volume.shape[2])
            first = (volume, *sizes, images, which, np.uint32(n_t), np.uint32(samples))
            device.launch(chosen, (len(which),), (*first, *arguments, *of_extra, own))
        if not is_whole:
            out[:, :, device.put(columns(extra, len(kinds)))] = own
    return out


def together(n_extra: int) -> Iterator[I64]:
    """Which extra parameters are taken in one launch: all, or any two groups of them."""
    if n_extra <= MOST_EXTRA:
        yield np.arange(n_extra)
        return
    size = MOST_EXTRA // 2
    groups = [np.arange(start, min(start + size, n_extra)) for start in range(0, n_extra, size)]
    for one, other in combinations(groups, 2):
        yield np.concatenate([one, other])


def columns(extra: I64, n_extra: int) -> I64:
    """Where the sums of a launch with some of the extra parameters stand among those of all."""
    rows = 2 + N_LOCAL + n_extra
    place = np.zeros((rows, rows), np.int64)
    upper = np.triu_indices(rows)
    place[upper] = np.arange(len(upper[0])) - 1  # the square of the data is not taken
    taken = np.r_[np.arange(2 + N_LOCAL), 2 + N_LOCAL + extra]
    own = np.triu_indices(len(taken))
    return np.asarray(place[taken[own[0]], taken[own[1]]][1:])


def insert_on(device: Device, sums: Any, first: int, chosen: Bool, images: Any, seen: Seen, scale: float) -> Any:
    """``insert`` of the chosen images (particles, tilts) on a card, into planes ``first``... of one half-set's sums.

    sums (planes, edge, width, 3) int64 on the card, changed in place. Returns (particles, tilts) float32 there: the
    largest contribution of every image in units of the fixed point.
    """
    n_p, n_t, samples, _ = images.shape
    largest = device.xp.zeros((n_p, n_t), np.float32)
    which = _places(device, seen.active & chosen)
    planes, edge, width, _ = (np.uint32(n) for n in sums.shape)
    into = (sums, edge, width, np.uint32(first), planes)
    where = tuple(device.put(values, np.float32) for values in (seen.views, seen.defocus))
    device.launch(
        kernel("insert", "insert", CURVED=int(seen.is_curved)),
        (len(which),),
        (
            *into,
            images,
            which,
            np.uint32(n_t),
            np.uint32(samples),
            *where,
            *_shared(device, seen),
            np.float32(scale),
            largest,
        ),
    )
    return largest


def cut_on(device: Device, image: Any, corner: I64, n: int) -> Any:
    """Boxes (particles, n, n) float32 of an image (height, width) on a card, from corners (particles, 2) x, y."""
    boxes = device.xp.empty((len(corner), n, n), np.float32)
    height, width = (np.uint32(size) for size in image.shape)
    arguments = (image, height, width, device.put(corner, np.int32), np.uint32(n), boxes)
    device.launch(kernel("extract", "cut"), (len(corner) * n,), arguments)
    return boxes


def pack_on(device: Device, transforms: Any, kx: Any, ky: Any, rest: F64) -> Any:
    """Samples (particles, samples, 2) float32 at kx, ky of transforms (particles, n, n/2 + 1) complex64 on a card.

    rest (particles, 2): x, y from the middle of the box to the particle, px, to which the phases are referred.
    """
    count, n, _ = transforms.shape
    out = device.xp.empty((count, len(kx), 2), np.float32)
    places = device.put(kx, np.int32), device.put(ky, np.int32), device.put(rest, np.float32)
    blocks = (-(-len(kx) // THREADS), count)
    arguments = (device.put(transforms, np.complex64), np.uint32(n), np.uint32(len(kx)), *places, out)
    device.launch(kernel("extract", "pack"), blocks, arguments)
    return out


def symmetrise_on(device: Device, sums: Any, matrices: F64) -> Any:
    """Sum of sums (edge, edge, width, 3) float64 on a card over rotated copies, matrices (copies, 3, 3)."""
    edge, _, width, _ = sums.shape
    out = device.xp.empty(sums.shape, np.float64)
    sizes = np.uint32(edge), np.uint32(width)
    arguments = (sums, *sizes, device.put(matrices, np.float64), np.uint32(len(matrices)), out)
    device.launch(kernel("symmetrise", "symmetrise"), (-(-width // THREADS), edge, edge), arguments)
    return out


def ring_means_on(device: Device, power: Any, ring_end: I64, n_images: int, least: float) -> Any:
    """Smoothed means (rings,) float64 of powers (samples,) float64 on a card that were summed over images."""
    rings = len(ring_end)
    scratch, means = device.xp.empty(rings, np.float64), device.xp.empty(rings, np.float64)
    sizes = np.uint32(rings), np.uint32(n_images), np.float64(least)
    arguments = (power, device.put(ring_end, np.uint32), *sizes, scratch, means)
    device.launch(kernel("shells", "ring_means"), (1,), arguments)
    return means


def shell_sums_on(device: Device, values: Any, shells: int) -> Any:
    """(planes, shells, 2) float64: sums of values (edge, edge, width) on a card over shells, and numbers of cells."""
    edge, _, width = values.shape
    out = device.xp.empty((edge, shells, 2), np.float64)
    sizes = np.uint32(edge), np.uint32(width), np.uint32(shells)
    device.launch(kernel("shells", "shell_sums"), (-(-shells // THREADS), edge), (values, *sizes, out))
    return out


def correlate_shells_on(device: Device, a: Any, b: Any) -> Any:
    """(n, n//2 + 1, 3) float64: sums of Re(a conj b), |a|^2, |b|^2 over the shells of every plane z of transforms.

    a, b (n, n, n//2 + 1) complex64 on a card, in the layout of ``rfftn``; what stands for its mate, too, counts twice.
    """
    n = len(a)
    out = device.xp.empty((n, n // 2 + 1, 3), np.float64)
    blocks = -(-out.shape[1] // THREADS), n
    device.launch(kernel("shells", "correlate_shells"), blocks, (a, b, np.uint32(n), out))
    return out
