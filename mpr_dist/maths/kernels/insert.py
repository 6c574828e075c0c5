"""Insertion of slices into fixed-point accumulators: the adjoint of the trilinear slice.

Each contribution is rounded to an integer multiple of 2^-k before it is added; integer addition is associative, so the
sums do not depend on the order of images, threads or machines.
"""

from __future__ import annotations

import numba as nb
import numpy as np

_f = np.float32


@nb.njit(nogil=True, cache=True)
def _insert_image(accumulator, view, qx, qy, values, weights, n, scale):  # type: ignore[no-untyped-def]
    """Add n samples; returns the largest contribution, in units of the fixed point, to detect overflow."""
    half = np.float32(accumulator.shape[0] // 2)
    largest = 0.0
    for i in range(n):
        x, y = qx[i], qy[i]
        kx = view[0, 0] * x + view[1, 0] * y
        ky = view[0, 1] * x + view[1, 1] * y
        kz = view[0, 2] * x + view[1, 2] * y
        re, im, w = values[i, 0], values[i, 1], weights[i]
        if kx < _f(0.0):
            kx, ky, kz, im = -kx, -ky, -kz, -im
        ky += half
        kz += half
        ix, iy, iz = np.uint32(kx), np.uint32(ky), np.uint32(kz)
        fx, fy, fz = kx - np.float32(ix), ky - np.float32(iy), kz - np.float32(iz)
        re_s, im_s, w_s = np.float64(re) * scale, np.float64(im) * scale, np.float64(w) * scale
        largest = max(largest, abs(re_s), abs(im_s), w_s)
        for dz in range(2):
            wz = fz if dz else _f(1.0) - fz
            for dy in range(2):
                wzy = wz * (fy if dy else _f(1.0) - fy)
                for dx in range(2):
                    c = np.float64(wzy * (fx if dx else _f(1.0) - fx))
                    cell = accumulator[iz + dz, iy + dy, ix + dx]
                    cell[0] += np.int64(np.rint(re_s * c))
                    cell[1] += np.int64(np.rint(im_s * c))
                    cell[2] += np.int64(np.rint(w_s * c))
    return largest


@nb.njit(parallel=True, nogil=True, cache=True)
def insert(accumulators, half, images, active, views, defocus, astig, fixed, weight, n_samples, tables, scale):  # type: ignore[no-untyped-def]
    """Add whitened images times their CTF to the accumulator of their half-set.

    accumulators (2, nz, ny, nx, 3) int64: real, imaginary, weight; half (particles,) 0 or 1; scale = 2^k. The other
    arguments are those of ``compare``; tables rows 2, 3 are grid units of the accumulators. One thread per half-set.
    Adds w C X and (w C)^2. Returns the largest contribution in units of the fixed point, per half.
    """
    n_p, n_t = active.shape
    n = images.shape[2]
    largest = np.zeros(2)
    for h in nb.prange(2):
        values, weights = np.empty((n, 2), np.float32), np.empty(n, np.float32)
        for p in range(n_p):
            if half[p] != h:
                continue
            for t in range(n_t):
                if not active[p, t]:
                    continue
                z, a0, a1 = defocus[p, t], astig[t, 0], astig[t, 1]
                for j in range(n_samples[t]):
                    turns = tables[4, j] * (z + a0 * tables[5, j] + a1 * tables[6, j]) + fixed[t, j]
                    c = -np.sin(_f(2.0 * np.pi) * (turns - np.rint(turns))) * weight[t, j]
                    values[j, 0], values[j, 1] = c * images[p, t, j, 0], c * images[p, t, j, 1]
                    weights[j] = c * c
                view, n_used = views[p, t], n_samples[t]
                m = _insert_image(accumulators[h], view, tables[2], tables[3], values, weights, n_used, scale)
                largest[h] = max(largest[h], m)
    return largest
