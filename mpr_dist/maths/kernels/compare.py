"""The fused pass: images against slices of a reference, with exact derivatives, in one sweep over the samples.

For image i with samples q of whitened data X, model m = w C F(A^T (Mq, z)) exp(-2 pi i q.d) exp(-i phi(q)) and local
parameters
    0, 1: shift d (A)    2, 3, 4: rotation vector of the view in the image frame (rad)    5: defocus (A)
    6: B-factor (A^2)    7..: extra ones, each a kind and a row of a table over the samples (see ``PHASE`` and others)
the kernel returns the real inner products (sums over the half-plane of Re(conj(a) b))
    <X,m>  <m,m>  <X,dm_j>  <m,dm_j>  <dm_j,dm_k> (j <= k)
which are all that value, gradient and Gauss-Newton matrix of |X - s m|^2 need for any scale s. F is the trilinear
interpolant of the reference transform and the derivatives are those of this interpolant.

On a curved Ewald sphere both sidebands count: C F becomes (i/2) (exp(i gamma) F(Mq, z) - exp(-i gamma) F(Mq, -z)) with
z = lambda q^2 / 2, which is -sin(gamma) F for z = 0 (DeRosier 2000; Wolf, DeRosier and Grigorieff 2006).

Samples come in blocks: one loop gathers from the reference, one applies the CTF, one forms the derivatives, one takes
the products. Sums are float32 inside a block and float64 beyond it; each image belongs to one thread, so the result
does not depend on their number.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

N_LOCAL = 7
BLOCK = 64
# rows of the tables over samples
QX, QY, KX, KY, A2, COS2, SIN2, Q2_4, ODD, EWALD, OVERLAP = range(11)
N_TABLES = 11
# kinds of extra parameters p with table row r: what dm/dp is
PHASE, GAMMA, GRADIENT_X, GRADIENT_Y = range(4)


def n_out(n_extra: int) -> int:
    """Numbers per image with so many extra parameters: <X,m> <X,dm_j> <m,m> <m,dm_j> <dm_j,dm_k>."""
    k = N_LOCAL + n_extra
    return 2 + 2 * k + k * (k + 1) // 2


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
def _gather(volume, view, qx, qy, qz, sign, start, n, slot):  # type: ignore[no-untyped-def]
    """F and its gradient with respect to the image frame, at n samples; slot rows: Fr Fi and (r, i) of Gx Gy Gz."""
    half = np.float32(volume.shape[0] // 2)
    for i in range(n):
        x, y, z = qx[start + i], qy[start + i], sign * qz[start + i]
        # rows of the view are the image axes in the reference frame: k = A^T (x, y, z)
        kx = view[0, 0] * x + view[1, 0] * y + view[2, 0] * z
        ky = view[0, 1] * x + view[1, 1] * y + view[2, 1] * z
        kz = view[0, 2] * x + view[1, 2] * y + view[2, 2] * z
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
def _flat_ctf(slot, turns, u, v, start, n, mixed):  # type: ignore[no-untyped-def]
    """Rows of mixed (real, imaginary): C F, its derivative by gamma, C Gx, C Gy, and by the rotations about x and y."""
    for i in range(n):
        sg, cg = _sincos_turns(turns[i])
        mixed[0, i], mixed[1, i] = -sg * slot[0, i], -sg * slot[1, i]
        mixed[2, i], mixed[3, i] = -cg * slot[0, i], -cg * slot[1, i]
        mixed[4, i], mixed[5, i] = -sg * slot[2, i], -sg * slot[3, i]
        mixed[6, i], mixed[7, i] = -sg * slot[4, i], -sg * slot[5, i]
        zr, zi = -sg * slot[6, i], -sg * slot[7, i]
        mixed[8, i], mixed[9, i] = -v[start + i] * zr, -v[start + i] * zi
        mixed[10, i], mixed[11, i] = u[start + i] * zr, u[start + i] * zi


@nb.njit(inline="always")
def _curved_ctf(up, down, turns, u, v, z, start, n, mixed):  # type: ignore[no-untyped-def]
    """The same for both sidebands: up holds F at +z, down at -z."""
    half = _f(0.5)
    for i in range(n):
        sg, cg = _sincos_turns(turns[i])
        # a = (i/2) exp(i gamma) belongs to the upper one, its conjugate to the lower one
        ar, ai = -half * sg, half * cg
        for row in range(0, 6, 2):
            pr, pi = ar * up[row, i] - ai * up[row + 1, i], ar * up[row + 1, i] + ai * up[row, i]
            qr, qi = ar * down[row, i] + ai * down[row + 1, i], ar * down[row + 1, i] - ai * down[row, i]
            to = 0 if row == 0 else row + 2
            mixed[to, i], mixed[to + 1, i] = pr + qr, pi + qi
            # i (p - q)
            if row == 0:
                mixed[2, i], mixed[3, i] = qi - pi, pr - qr
            else:
                # with z of either sign: rotation about y takes -z Gx, about x +z Gy
                to = 10 if row == 2 else 8
                sign = -z[start + i] if row == 2 else z[start + i]
                mixed[to, i], mixed[to + 1, i] = sign * (pr - qr), sign * (pi - qi)
        pr, pi = ar * up[6, i] - ai * up[7, i], ar * up[7, i] + ai * up[6, i]
        qr, qi = ar * down[6, i] + ai * down[7, i], ar * down[7, i] - ai * down[6, i]
        mixed[8, i] -= v[start + i] * (pr + qr)
        mixed[9, i] -= v[start + i] * (pi + qi)
        mixed[10, i] += u[start + i] * (pr + qr)
        mixed[11, i] += u[start + i] * (pi + qi)


@nb.njit(inline="always")
def _model(mixed, tables, weight, shift, start, n, d):  # type: ignore[no-untyped-def]
    """Phase ramp and weight (in place on mixed); rows 1..8 of d: the model and its derivatives.

    Real parts of a row of d stand in 0..BLOCK, imaginary parts behind.
    """
    for i in range(n):
        j = start + i
        x, y = tables[QX, j], tables[QY, j]
        sp, cp = _sincos_turns(-(x * shift[0] + y * shift[1]) - tables[ODD, j])
        cr, ci = weight[j] * cp, weight[j] * sp
        for row in range(0, 12, 2):
            re, im = mixed[row, i], mixed[row + 1, i]
            mixed[row, i], mixed[row + 1, i] = cr * re - ci * im, cr * im + ci * re
        mr, mi = mixed[0, i], mixed[1, i]
        d[1, i], d[1, BLOCK + i] = mr, mi
        d[2, i], d[2, BLOCK + i] = _TWO_PI * x * mi, -_TWO_PI * x * mr
        d[3, i], d[3, BLOCK + i] = _TWO_PI * y * mi, -_TWO_PI * y * mr
        # the gradient is per grid unit of the reference, and so are the frequencies here
        u, v = tables[KX, j], tables[KY, j]
        d[4, i], d[4, BLOCK + i] = mixed[8, i], mixed[9, i]
        d[5, i], d[5, BLOCK + i] = mixed[10, i], mixed[11, i]
        d[6, i] = v * mixed[4, i] - u * mixed[6, i]
        d[6, BLOCK + i] = v * mixed[5, i] - u * mixed[7, i]
        wave = _TWO_PI * tables[A2, j]
        d[7, i], d[7, BLOCK + i] = wave * mixed[2, i], wave * mixed[3, i]
        d[8, i], d[8, BLOCK + i] = tables[Q2_4, j] * mr, tables[Q2_4, j] * mi


@nb.njit(inline="always")
def _extra(mixed, kinds, rows, start, n, d):  # type: ignore[no-untyped-def]
    """Rows 9.. of d: derivatives by the extra parameters."""
    for e in range(len(kinds)):
        kind, a = kinds[e], 2 + N_LOCAL + e
        source = 2 if kind == GAMMA else 4 if kind == GRADIENT_X else 6 if kind == GRADIENT_Y else 0
        if kind == PHASE:
            for i in range(n):
                w = _TWO_PI * rows[e, start + i]
                d[a, i], d[a, BLOCK + i] = w * mixed[1, i], -w * mixed[0, i]
        else:
            unit = _TWO_PI if kind == GAMMA else _f(1.0)
            for i in range(n):
                w = unit * rows[e, start + i]
                d[a, i], d[a, BLOCK + i] = w * mixed[source, i], w * mixed[source + 1, i]


@nb.njit
def _products(d, lanes, out):  # type: ignore[no-untyped-def]
    """Add the inner products of the rows of d to out, in the order of the module's text.

    Products first, then halves are added onto halves: every loop runs side by side, in an order that is written down.
    """
    o = 0
    for a in range(len(d)):
        first = 1 if a == 0 else a
        for b in range(first, len(d)):
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
def compare(  # type: ignore[no-untyped-def]
    volumes,
    reference,
    images,
    active,
    views,
    shifts,
    defocus,
    astig,
    fixed,
    weight,
    weight_row,
    n_samples,
    tables,
    is_curved,
    kinds,
    rows,
    out,
):
    """Inner products of every active image with its model.

    volumes (references, nz, ny, nx, 2) f32: transforms, kx >= 0, centre at nz//2, ny//2, 0.
    reference (particles,) which volume; images (particles, tilts, samples, 2) f32 whitened.
    active (particles, tilts) bool; views (particles, tilts, 3, 3) f32; shifts (particles, tilts, 2) f32 in A.
    defocus (particles, tilts) f32 in A; astig (tilts, 2) f32 in A; fixed (tilts, samples) f32.
    weight (rows, samples) f32, and weight_row (particles, tilts) i64: the row of each image.
    n_samples (tilts,) number of leading samples used. tables (11, samples) f32: qx qy (1/A), kx ky (Mq in grid units of
    the reference), a2 (turns per A), cos 2 theta, sin 2 theta, q^2 / 4, odd phase (turns), and for is_curved z (grid
    units) and overlap (of insertion). kinds (extra,) i64 and rows (extra, samples) f32: turns per unit of a PHASE (m
    turns by minus that) or of gamma (GAMMA), grid units per unit along x or y of Mq (GRADIENT_X, GRADIENT_Y).
    out (particles, tilts, n_out) f64: <X,m> <X,dm_j> <m,m> <m,dm_j> <dm_j,dm_k>, overwritten.
    """
    n_p, n_t = active.shape
    for image in nb.prange(n_p * n_t):
        p, t = image // n_t, image % n_t
        result = out[p, t]
        result[:] = 0.0
        if not active[p, t]:
            continue
        d = np.zeros((2 + N_LOCAL + len(kinds), 2 * BLOCK), np.float32)
        slot, other = np.zeros((8, BLOCK), np.float32), np.zeros((8, BLOCK), np.float32)
        mixed = np.zeros((12, BLOCK), np.float32)
        turns, lanes = np.zeros(BLOCK, np.float32), np.zeros(BLOCK, np.float32)
        volume, x = volumes[reference[p]], images[p, t]
        u, v, h = tables[KX], tables[KY], tables[EWALD]
        z, a0, a1 = defocus[p, t], astig[t, 0], astig[t, 1]
        up = _f(1.0) if is_curved else _f(0.0)
        for start in range(0, n_samples[t], BLOCK):
            n = min(BLOCK, n_samples[t] - start)
            if n < BLOCK:
                d[:, :] = _f(0.0)
            for i in range(n):
                j = start + i
                turns[i] = tables[A2, j] * (z + a0 * tables[COS2, j] + a1 * tables[SIN2, j]) + fixed[t, j]
                d[0, i], d[0, BLOCK + i] = x[j, 0], x[j, 1]
            _gather(volume, views[p, t], u, v, h, up, start, n, slot)
            if is_curved:
                _gather(volume, views[p, t], u, v, h, _f(-1.0), start, n, other)
                _curved_ctf(slot, other, turns, u, v, h, start, n, mixed)
            else:
                _flat_ctf(slot, turns, u, v, start, n, mixed)
            _model(mixed, tables, weight[weight_row[p, t]], shifts[p, t], start, n, d)
            _extra(mixed, kinds, rows, start, n, d)
            _products(d, lanes, result)
