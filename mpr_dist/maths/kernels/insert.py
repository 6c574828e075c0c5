"""Insertion of slices into fixed-point accumulators: the adjoint of the trilinear slice.

Each contribution is rounded to an integer multiple of 2^-k before it is added; integer addition is associative, so the
sums do not depend on the order of images, threads or machines.

Samples come in blocks: two loops work out values and places of several samples at once, a third adds them to the cells.
The places of the next block are known before the cells of this one are touched, so that these are in the cache by then.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from mpr_dist.maths.kernels.compare import A2, BLOCK, COS2, EWALD, KX, KY, ODD, OVERLAP, SIN2
from mpr_dist.maths.kernels.vector import add_rounded, places, prefetch, sincos_turns

_f = np.float32
# rows of a block: what is inserted, where in its cell (as places fills four rows)
RE, IM, WEIGHT, FX, FY, FZ, FLIP = range(7)


@nb.njit(inline="always")
def _values(image, tables, fixed, weight, defocus, astig, sign, start, n, scale, block):  # type: ignore[no-untyped-def]
    """Data times the conjugate model without F, and what the data hold of F, times scale (a power of two).

    sign 0: the flat sphere, C X and C^2. Otherwise one sideband of the curved one, (i/2) exp(i gamma) above (sign 1),
    its conjugate below (-1). The weight is what the data hold of F there: w^2/4 of its own, and -w^2/4 exp(-2 i gamma)
    of the other sideband, which is the same F as far as they overlap: w^2 ((1 - overlap)/4 + overlap sin^2(gamma)/2).
    """
    a0, a1 = astig[0], astig[1]
    flat = sign == _f(0.0)
    for i in range(n):
        j = start + i
        s, c = sincos_turns(tables[A2, j] * (defocus + a0 * tables[COS2, j] + a1 * tables[SIN2, j]) + fixed[j])
        so, co = sincos_turns(tables[ODD, j])
        w, shared = weight[j], tables[OVERLAP, j]
        re, im = co * image[2 * i] - so * image[2 * i + 1], co * image[2 * i + 1] + so * image[2 * i]
        half = _f(-1.0) if flat else _f(-0.5)
        ar, ai = half * s * w, half * sign * c * w
        block[RE, i], block[IM, i] = scale * (ar * re - ai * im), scale * (ar * im + ai * re)
        part = w * w * (_f(0.25) * (_f(1.0) - shared) + _f(0.5) * shared * s * s)
        block[WEIGHT, i] = scale * (ar * ar if flat else part)


@nb.njit(inline="always")
def _places(view, qx, qy, qz, sign, start, n, ny, block, cell):  # type: ignore[no-untyped-def]
    """Cells (line, column) of n samples and their places in them; a mirrored one is conjugated."""
    places(view, qx, qy, qz, sign, start, n, ny, block[FX:], cell)
    for i in range(n):
        block[IM, i] *= block[FLIP, i]


@nb.njit(inline="always")
def _largest(block, n, largest):  # type: ignore[no-untyped-def]
    """Lane by lane the largest contribution so far, infinite after a NaN."""
    for i in range(n):
        re, im, w = abs(block[RE, i]), abs(block[IM, i]), block[WEIGHT, i]
        m, total = max(max(re, im), w), re + im + w
        m = m if total == total else _f(np.inf)
        largest[i] = m if m > largest[i] else largest[i]


@nb.njit(inline="always")
def _ask(sums, ny, nx, cell, n):  # type: ignore[no-untyped-def]
    """Ask for the cells of n samples."""
    for i in range(n):
        a = np.uint64(3) * (np.uint64(cell[0, i]) * nx + np.uint64(cell[1, i]))
        prefetch(sums, a)
        prefetch(sums, a + np.uint64(3) * nx)
        prefetch(sums, a + np.uint64(3) * nx * ny)
        prefetch(sums, a + np.uint64(3) * nx * (ny + np.uint64(1)))


@nb.njit(inline="always")
def _add(sums, ny, nx, cell, block, n):  # type: ignore[no-untyped-def]
    """Add n samples to the 8 cells around each."""
    one = _f(1.0)
    for i in range(n):
        re, im, w = block[RE, i], block[IM, i], block[WEIGHT, i]
        x, y, z = block[FX, i], block[FY, i], block[FZ, i]
        a = np.uint64(3) * (np.uint64(cell[0, i]) * nx + np.uint64(cell[1, i]))
        for row in range(4):
            b = a + np.uint64(3) * nx * (np.uint64(row // 2) * ny + np.uint64(row % 2))
            c = (z if row // 2 else one - z) * (y if row % 2 else one - y)
            add_rounded(sums, b, re, im, w, c * (one - x), c * x)


@nb.njit(parallel=True, nogil=True, cache=True)
def insert(  # type: ignore[no-untyped-def]
    accumulators,
    half,
    images,
    active,
    views,
    defocus,
    astig,
    fixed,
    weight,
    weight_row,
    n_samples,
    tables,
    is_curved,
    scale,
):
    """Add whitened images times their CTF to the accumulator of their half-set.

    accumulators (2, nz, ny, nx, 3) int64: real, imaginary, weight; half (particles,) 0 or 1; scale = 2^k. The other
    arguments are those of ``compare``; tables rows KX, KY, EWALD are grid units of the accumulators. One thread per
    half-set. Adds w C X and (w C)^2, or the two sidebands of a curved sphere. Returns the largest contribution in units
    of the fixed point, per half.
    """
    n_p, n_t = active.shape
    ny = accumulators.shape[2]
    uy, ux = np.uint64(ny), np.uint64(accumulators.shape[3])
    largest = np.zeros(2)
    for h in nb.prange(2):
        block, cell = np.zeros((2, 7, BLOCK), np.float32), np.zeros((2, 2, BLOCK), np.int32)
        lanes, waiting, turn = np.zeros(BLOCK, np.float32), 0, 0
        u, v, q = tables[KX], tables[KY], tables[EWALD]
        sums, size = accumulators[h].reshape(-1), _f(scale)
        for image in range(n_p * n_t):
            p, t = image // n_t, image % n_t
            if half[p] != h or not active[p, t]:
                continue
            x, w, view = images[p, t].reshape(-1), weight[weight_row[p, t]], views[p, t]
            for side in range(2 if is_curved else 1):
                sign = _f(0.0) if not is_curved else _f(1.0) if side == 0 else _f(-1.0)
                for start in range(0, n_samples[t], BLOCK):
                    n = min(BLOCK, n_samples[t] - start)
                    now, where = block[turn], cell[turn]
                    _values(
                        x[2 * start : 2 * (start + n)],
                        tables,
                        fixed[t],
                        w,
                        defocus[p, t],
                        astig[t],
                        sign,
                        start,
                        n,
                        size,
                        now,
                    )
                    _places(view, u, v, q, sign, start, n, ny, now, where)
                    _largest(now, n, lanes)
                    _ask(sums, uy, ux, where, n)
                    _add(sums, uy, ux, cell[1 - turn], block[1 - turn], waiting)
                    waiting, turn = n, 1 - turn
        _add(sums, uy, ux, cell[1 - turn], block[1 - turn], waiting)
        largest[h] = lanes.max()
    return largest


@nb.njit(parallel=True, nogil=True, cache=True)
def insert_products(accumulators, half, values, weights, views, u, v, scale):  # type: ignore[no-untyped-def]
    """Add samples that were multiplied by their model already, and the squares of the model, as they are.

    values (images, samples, 2) and weights (images, samples) float32; half (images,) 0 or 1; views (images, 3, 3); u, v
    (samples,) grid units of the accumulators. One thread per half-set. Returns the largest contribution in units of the
    fixed point, per half.
    """
    largest, flat = np.zeros(2), np.zeros_like(u)
    ny, size = accumulators.shape[2], _f(scale)
    uy, ux = np.uint64(ny), np.uint64(accumulators.shape[3])
    for h in nb.prange(2):
        block, cell = np.zeros((7, BLOCK), np.float32), np.zeros((2, BLOCK), np.int32)
        lanes, sums = np.zeros(BLOCK, np.float32), accumulators[h].reshape(-1)
        for image in range(len(half)):
            if half[image] != h:
                continue
            for start in range(0, len(u), BLOCK):
                n = min(BLOCK, len(u) - start)
                for i in range(n):
                    block[RE, i] = size * values[image, start + i, 0]
                    block[IM, i] = size * values[image, start + i, 1]
                    block[WEIGHT, i] = size * weights[image, start + i]
                _places(views[image], u, v, flat, _f(0.0), start, n, ny, block, cell)
                _largest(block, n, lanes)
                _add(sums, uy, ux, cell, block, n)
        largest[h] = lanes.max()
    return largest
