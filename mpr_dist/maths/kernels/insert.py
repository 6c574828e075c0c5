"""Insertion of slices into fixed-point accumulators: the adjoint of the trilinear slice.

Each contribution is rounded to an integer multiple of 2^-k before it is added; integer addition is associative, so the
sums do not depend on the order of images, threads or machines.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from mpr_dist.maths.kernels.compare import A2, COS2, EWALD, KX, KY, ODD, OVERLAP, SIN2

_f = np.float32
_TWO_PI = _f(2.0 * np.pi)


@nb.njit(nogil=True, cache=True)
def _insert_image(accumulator, view, qx, qy, qz, sign, values, weights, n, scale):  # type: ignore[no-untyped-def]
    """Add n samples; returns the largest contribution, in units of the fixed point, to detect overflow."""
    half = np.float32(accumulator.shape[0] // 2)
    largest = 0.0
    for i in range(n):
        x, y, z = qx[i], qy[i], sign * qz[i]
        kx = view[0, 0] * x + view[1, 0] * y + view[2, 0] * z
        ky = view[0, 1] * x + view[1, 1] * y + view[2, 1] * z
        kz = view[0, 2] * x + view[1, 2] * y + view[2, 2] * z
        re, im, w = values[i, 0], values[i, 1], weights[i]
        if kx < _f(0.0):
            kx, ky, kz, im = -kx, -ky, -kz, -im
        ky += half
        kz += half
        ix, iy, iz = np.uint32(kx), np.uint32(ky), np.uint32(kz)
        fx, fy, fz = kx - np.float32(ix), ky - np.float32(iy), kz - np.float32(iz)
        re_s, im_s, w_s = np.float64(re) * scale, np.float64(im) * scale, np.float64(w) * scale
        largest = max(largest, abs(re_s), abs(im_s), w_s)
        if re_s != re_s or im_s != im_s:
            largest = np.inf  # max would lose a NaN
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


@nb.njit(inline="always")
def _turned(turns):  # type: ignore[no-untyped-def]
    """sin and cos of a phase in turns."""
    phase = _TWO_PI * (turns - np.rint(turns))
    return np.sin(phase), np.cos(phase)


@nb.njit(nogil=True)
def _flat(image, turns, weight, tables, n, values, weights):  # type: ignore[no-untyped-def]
    """Data times the conjugate model of the flat sphere, and the square of that model."""
    for j in range(n):
        s, _ = _turned(turns[j])
        so, co = _turned(tables[ODD, j])
        c = -s * weight[j]
        values[j, 0] = c * (co * image[j, 0] - so * image[j, 1])
        values[j, 1] = c * (co * image[j, 1] + so * image[j, 0])
        weights[j] = c * c


@nb.njit(nogil=True)
def _sideband(image, turns, weight, tables, sign, n, values, weights):  # type: ignore[no-untyped-def]
    """The same for one sideband of the curved sphere, (i/2) exp(i gamma) above (sign 1), its conjugate below (-1).

    The weight is what the data hold of F there: w^2/4 of its own, and -w^2/4 exp(-2 i gamma) of the other sideband,
    which is the same F as far as they overlap: w^2 ((1 - overlap)/4 + overlap sin^2(gamma)/2).
    """
    half = _f(0.5)
    for j in range(n):
        s, c = _turned(turns[j])
        so, co = _turned(tables[ODD, j])
        re, im = co * image[j, 0] - so * image[j, 1], co * image[j, 1] + so * image[j, 0]
        ar, ai = -half * s * weight[j], -half * sign * c * weight[j]
        values[j, 0], values[j, 1] = ar * re - ai * im, ar * im + ai * re
        shared = tables[OVERLAP, j]
        weights[j] = weight[j] * weight[j] * (_f(0.25) * (_f(1.0) - shared) + half * shared * s * s)


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
    n = images.shape[2]
    largest = np.zeros(2)
    for h in nb.prange(2):
        values, weights = np.empty((n, 2), np.float32), np.empty(n, np.float32)
        turns = np.empty(n, np.float32)
        u, v, q = tables[KX], tables[KY], tables[EWALD]
        for p in range(n_p):
            if half[p] != h:
                continue
            for t in range(n_t):
                if not active[p, t]:
                    continue
                z, a0, a1 = defocus[p, t], astig[t, 0], astig[t, 1]
                count, view, sums = n_samples[t], views[p, t], accumulators[h]
                w = weight[weight_row[p, t]]
                for j in range(count):
                    turns[j] = tables[A2, j] * (z + a0 * tables[COS2, j] + a1 * tables[SIN2, j]) + fixed[t, j]
                if is_curved:
                    for sign in (_f(1.0), _f(-1.0)):
                        _sideband(images[p, t], turns, w, tables, sign, count, values, weights)
                        m = _insert_image(sums, view, u, v, q, sign, values, weights, count, scale)
                        largest[h] = max(largest[h], m)
                else:
                    _flat(images[p, t], turns, w, tables, count, values, weights)
                    m = _insert_image(sums, view, u, v, q, _f(0.0), values, weights, count, scale)
                    largest[h] = max(largest[h], m)
    return largest
