"""The fused pass: images against slices of a reference, with exact derivatives, in one sweep over the samples.

For image i with samples q of whitened data X, model m = w C F(A^T q) exp(-2 pi i q.d) and local parameters
    0, 1: shift d (A)    2, 3, 4: rotation vector of the view in the image frame (rad)    5: defocus (A)
    6: B-factor (A^2)
the kernel returns the real inner products (sums over the half-plane of Re(conj(a) b))
    <X,m>  <m,m>  <X,dm_j>  <m,dm_j>  <dm_j,dm_k> (j <= k)
which are all that value, gradient and Gauss-Newton matrix of |X - s m|^2 need for any scale s. F is the trilinear
interpolant of the reference transform and the derivatives are those of this interpolant.

Samples come in blocks: one loop gathers from the reference, one (vectorised) forms model and derivatives, one takes the
products. Sums are float32 inside a block and float64 beyond it; each image belongs to one thread, so the result does
not depend on their number.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

N_LOCAL = 7
N_VECTORS = 2 + N_LOCAL
N_OUT = 2 + 2 * N_LOCAL + N_LOCAL * (N_LOCAL + 1) // 2
BLOCK = 64

# No fastmath: a process that compiles the kernel and one that loads it from numba's cache run code that was optimised
# differently, and only arithmetic in the order that is written here gives both the same bits.
_f = np.float32
_TWO_PI = np.float32(2.0 * math.pi)


@nb.njit(inline="always")
def _sincos_turns(t):  # type: ignore[no-untyped-def]
    """sin and cos of 2 pi t; Taylor polynomials on a quarter turn, error below 1e-7."""
    k = np.rint(_f(2.0) * t)
    x = (t - _f(0.5) * k) * _TWO_PI
    sign = _f(1.0) - _f(2.0) * np.float32(np.int32(k) & np.int32(1))
    x2 = x * x
    s = x * (
        _f(1.0)
        + x2 * (_f(-1 / 6) + x2 * (_f(1 / 120) + x2 * (_f(-1 / 5040) + x2 * (_f(1 / 362880) + x2 * _f(-1 / 39916800)))))
    )
    c = _f(1.0) + x2 * (
        _f(-1 / 2)
        + x2
        * (_f(1 / 24) + x2 * (_f(-1 / 720) + x2 * (_f(1 / 40320) + x2 * (_f(-1 / 3628800) + x2 * _f(1 / 479001600)))))
    )
    return sign * s, sign * c


@nb.njit(inline="always")
def _gather(volume, view, qx, qy, start, n, slot):  # type: ignore[no-untyped-def]
    """F and its gradient with respect to the image frame, at n samples; slot rows: Fr Fi and (r, i) of Gx Gy Gz."""
    half = np.float32(volume.shape[0] // 2)
    for i in range(n):
        x, y = qx[start + i], qy[start + i]
        # rows of the view are the image axes in the reference frame: k = A^T (x, y, 0)
        kx = view[0, 0] * x + view[1, 0] * y
        ky = view[0, 1] * x + view[1, 1] * y
        kz = view[0, 2] * x + view[1, 2] * y
        flip = _f(1.0)
        if kx < _f(0.0):
            flip = _f(-1.0)
            kx, ky, kz = -kx, -ky, -kz
        ky += half
        kz += half
        ix, iy, iz = np.uint32(kx), np.uint32(ky), np.uint32(kz)
        fx, fy, fz = kx - np.float32(ix), ky - np.float32(iy), kz - np.float32(iz)
        for part in range(2):
            c000 = volume[iz, iy, ix, part]
            c001 = volume[iz, iy, ix + 1, part]
            c010 = volume[iz, iy + 1, ix, part]
            c011 = volume[iz, iy + 1, ix + 1, part]
            c100 = volume[iz + 1, iy, ix, part]
            c101 = volume[iz + 1, iy, ix + 1, part]
            c110 = volume[iz + 1, iy + 1, ix, part]
            c111 = volume[iz + 1, iy + 1, ix + 1, part]
            d00, d01, d10, d11 = c001 - c000, c011 - c010, c101 - c100, c111 - c110
            e00, e01 = c000 + fx * d00, c010 + fx * d01
            e10, e11 = c100 + fx * d10, c110 + fx * d11
            g0, g1 = e00 + fy * (e01 - e00), e10 + fy * (e11 - e10)
            value = g0 + fz * (g1 - g0)
            dx0, dx1 = d00 + fy * (d01 - d00), d10 + fy * (d11 - d10)
            dx = dx0 + fz * (dx1 - dx0)
            dy = (e01 - e00) + fz * ((e11 - e10) - (e01 - e00))
            dz = g1 - g0
            # a mirrored sample is conj F(-k): the imaginary part of its value and the real of its gradient change sign
            value_sign = _f(1.0) if part == 0 else flip
            grad_sign = flip * value_sign
            slot[part, i] = value_sign * value
            slot[2 + part, i] = grad_sign * (view[0, 0] * dx + view[0, 1] * dy + view[0, 2] * dz)
            slot[4 + part, i] = grad_sign * (view[1, 0] * dx + view[1, 1] * dy + view[1, 2] * dz)
            slot[6 + part, i] = grad_sign * (view[2, 0] * dx + view[2, 1] * dy + view[2, 2] * dz)


@nb.njit(inline="always")
def _model(slot, turns, qA, wave, weight, shift, start, n, d):  # type: ignore[no-untyped-def]
    """Rows 1.. of d: the model and its derivatives (real parts in 0..BLOCK, imaginary parts behind)."""
    for i in range(n):
        j = start + i
        x, y = qA[0, j], qA[1, j]
        sg, cg = _sincos_turns(turns[i])
        sp, cp = _sincos_turns(-(x * shift[0] + y * shift[1]))
        w = weight[j]
        c = -sg * w
        dc = -cg * w * _TWO_PI * wave[j]
        cr, ci = c * cp, c * sp
        fr, fi = slot[0, i], slot[1, i]
        mr, mi = cr * fr - ci * fi, cr * fi + ci * fr
        d[1, i], d[1, BLOCK + i] = mr, mi
        d[2, i], d[2, BLOCK + i] = _TWO_PI * x * mi, -_TWO_PI * x * mr
        d[3, i], d[3, BLOCK + i] = _TWO_PI * y * mi, -_TWO_PI * y * mr
        # the gradient is per grid unit of the reference, and so are the frequencies here
        u, v = qA[2, j], qA[3, j]
        zr, zi = cr * slot[6, i] - ci * slot[7, i], cr * slot[7, i] + ci * slot[6, i]
        d[4, i], d[4, BLOCK + i] = -v * zr, -v * zi
        d[5, i], d[5, BLOCK + i] = u * zr, u * zi
        tr, ti = v * slot[2, i] - u * slot[4, i], v * slot[3, i] - u * slot[5, i]
        d[6, i], d[6, BLOCK + i] = cr * tr - ci * ti, cr * ti + ci * tr
        er, ei = dc * cp, dc * sp
        d[7, i], d[7, BLOCK + i] = er * fr - ei * fi, er * fi + ei * fr
        d[8, i], d[8, BLOCK + i] = qA[7, j] * mr, qA[7, j] * mi


@nb.njit
def _products(d, lanes, out):  # type: ignore[no-untyped-def]
    """Add the inner products of the rows of d to out, in the order of the module's text.

    Products first, then halves are added onto halves: every loop runs side by side, in an order that is written down.
    """
    o = 0
    for a in range(N_VECTORS):
        first = 1 if a == 0 else a
        for b in range(first, N_VECTORS):
            for k in range(BLOCK):
                lanes[k] = d[a, k] * d[b, k] + d[a, BLOCK + k] * d[b, BLOCK + k]
            for k in range(32):
                lanes[k] += lanes[32 + k]
            for k in range(16):
                lanes[k] += lanes[16 + k]
            for k in range(8):
                lanes[k] += lanes[8 + k]
            even = (lanes[0] + lanes[4]) + (lanes[2] + lanes[6])
            out[o] += even + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
            o += 1


@nb.njit(parallel=True, nogil=True, cache=True)
def compare(volumes, reference, images, active, views, shifts, defocus, astig, fixed, weight, n_samples, tables, out):  # type: ignore[no-untyped-def]
    """Inner products of every active image with its model.

    volumes (references, nz, ny, nx, 2) f32: transforms, kx >= 0, centre at nz//2, ny//2, 0.
    reference (particles,) which volume; images (particles, tilts, samples, 2) f32 whitened.
    active (particles, tilts) bool; views (particles, tilts, 3, 3) f32; shifts (particles, tilts, 2) f32 in A.
    defocus (particles, tilts) f32 in A; astig (tilts, 2) f32 in A; fixed, weight (tilts, samples) f32.
    n_samples (tilts,) number of leading samples used. tables (8, samples) f32: qx qy (1/A), kx ky (grid units of the
    reference), a2 (turns per A), cos 2 theta, sin 2 theta, q^2 / 4. out (particles, tilts, N_OUT) f64:
    <X,m> <X,dm_j> <m,m> <m,dm_j> <dm_j,dm_k>, overwritten.
    """
    n_p, n_t = active.shape
    for image in nb.prange(n_p * n_t):
        p, t = image // n_t, image % n_t
        result = out[p, t]
        result[:] = 0.0
        if not active[p, t]:
            continue
        d = np.zeros((N_VECTORS, 2 * BLOCK), np.float32)
        slot = np.zeros((8, BLOCK), np.float32)
        turns = np.zeros(BLOCK, np.float32)
        lanes = np.zeros(BLOCK, np.float32)
        volume, x = volumes[reference[p]], images[p, t]
        z, a0, a1 = defocus[p, t], astig[t, 0], astig[t, 1]
        for start in range(0, n_samples[t], BLOCK):
            n = min(BLOCK, n_samples[t] - start)
            if n < BLOCK:
                d[:, :] = _f(0.0)
            _gather(volume, views[p, t], tables[2], tables[3], start, n, slot)
            for i in range(n):
                j = start + i
                turns[i] = tables[4, j] * (z + a0 * tables[5, j] + a1 * tables[6, j]) + fixed[t, j]
                d[0, i], d[0, BLOCK + i] = x[j, 0], x[j, 1]
            _model(slot, turns, tables, tables[4], weight[t], shifts[p, t], start, n, d)
            _products(d, lanes, result)
