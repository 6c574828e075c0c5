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

Samples come in blocks: one loop finds their places, one copies cells of the reference, one interpolates, one applies
the CTF, one forms the derivatives, one takes the products; all but the copying work on several samples at once. Sums
are float32 over a few blocks and float64 beyond them; each image belongs to one thread, so the result does not depend
on their number.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from mpr_dist.maths.kernels.vector import TWO_PI, fma, places, sincos_turns

N_LOCAL = 7
BLOCK = 64
# sums are float32 over so many blocks, in so many lanes
BLOCKS, LANES = 4, 16
# rows of the tables over samples
QX, QY, KX, KY, A2, COS2, SIN2, Q2_4, ODD, EWALD, OVERLAP = range(11)
N_TABLES = 11
# kinds of extra parameters p with table row r: what dm/dp is
PHASE, GAMMA, GRADIENT_X, GRADIENT_Y = range(4)


def n_out(n_extra: int) -> int:
    """Numbers per image with so many extra parameters: <X,m> <X,dm_j> <m,m> <m,dm_j> <dm_j,dm_k>."""
    k = N_LOCAL + n_extra
    return 2 + 2 * k + k * (k + 1) // 2


_f = np.float32


@nb.njit(inline="always")
def _fetch(volume, first, ny, nx, cell, n, corners):  # type: ignore[no-untyped-def]
    """Copy the corners of n cells. corners: (4, 4 BLOCK), per z, y of the corner (r, i) at x and (r, i) at x + 1."""
    for i in range(n):
        a = first + np.uint64(2) * (np.uint64(cell[0, i]) * nx + np.uint64(cell[1, i]))
        for row in range(4):
            b = a + np.uint64(2) * nx * (np.uint64(row // 2) * ny + np.uint64(row % 2))
            r0, i0 = volume[b], volume[b + np.uint64(1)]
            r1, i1 = volume[b + np.uint64(2)], volume[b + np.uint64(3)]
            corners[row, 4 * i], corners[row, 4 * i + 1] = r0, i0
            corners[row, 4 * i + 2], corners[row, 4 * i + 3] = r1, i1


@nb.njit(inline="always")
def _interpolate(view, place, corners, n, slot):  # type: ignore[no-untyped-def]
    """F and its gradient with respect to the image frame, at n samples; slot rows: Fr Fi and (r, i) of Gx Gy Gz."""
    v00, v01, v02 = view[0, 0], view[0, 1], view[0, 2]
    v10, v11, v12 = view[1, 0], view[1, 1], view[1, 2]
    v20, v21, v22 = view[2, 0], view[2, 1], view[2, 2]
    for i in range(n):
        fx, fy, fz, flip = place[0, i], place[1, i], place[2, i], place[3, i]
        for part in range(2):
            j = 4 * i + part
            c000, c010, c100, c110 = corners[0, j], corners[1, j], corners[2, j], corners[3, j]
            d00, d01 = corners[0, j + 2] - c000, corners[1, j + 2] - c010
            d10, d11 = corners[2, j + 2] - c100, corners[3, j + 2] - c110
            e00, e01, e10, e11 = fma(fx, d00, c000), fma(fx, d01, c010), fma(fx, d10, c100), fma(fx, d11, c110)
            h0, h1 = e01 - e00, e11 - e10
            g0, g1 = fma(fy, h0, e00), fma(fy, h1, e10)
            dx0, dx1 = fma(fy, d01 - d00, d00), fma(fy, d11 - d10, d10)
            dx, dy, dz = fma(fz, dx1 - dx0, dx0), fma(fz, h1 - h0, h0), g1 - g0
            value = fma(fz, dz, g0)
            # a mirrored sample is conj F(-k): the imaginary part of its value and the real of its gradient change sign
            value_sign = _f(1.0) if part == 0 else flip
            grad_sign = flip if part == 0 else _f(1.0)
            slot[part, i] = value_sign * value
            slot[2 + part, i] = grad_sign * fma(v02, dz, fma(v01, dy, v00 * dx))
            slot[4 + part, i] = grad_sign * fma(v12, dz, fma(v11, dy, v10 * dx))
            slot[6 + part, i] = grad_sign * fma(v22, dz, fma(v21, dy, v20 * dx))


@nb.njit(inline="always")
def _flat_ctf(slot, turns, u, v, start, n, mixed):  # type: ignore[no-untyped-def]
    """Rows of mixed (real, imaginary): C F, its derivative by gamma, C Gx, C Gy, and by the rotations about x and y."""
    for i in range(n):
        sg, cg = sincos_turns(turns[i])
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
        sg, cg = sincos_turns(turns[i])
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
        sp, cp = sincos_turns(-(x * shift[0] + y * shift[1]) - tables[ODD, j])
        cr, ci = weight[j] * cp, weight[j] * sp
        for row in range(0, 12, 2):
            re, im = mixed[row, i], mixed[row + 1, i]
            mixed[row, i], mixed[row + 1, i] = cr * re - ci * im, cr * im + ci * re
        mr, mi = mixed[0, i], mixed[1, i]
        d[1, i], d[1, BLOCK + i] = mr, mi
        d[2, i], d[2, BLOCK + i] = TWO_PI * x * mi, -TWO_PI * x * mr
        d[3, i], d[3, BLOCK + i] = TWO_PI * y * mi, -TWO_PI * y * mr
        # the gradient is per grid unit of the reference, and so are the frequencies here
        u, v = tables[KX, j], tables[KY, j]
        d[4, i], d[4, BLOCK + i] = mixed[8, i], mixed[9, i]
        d[5, i], d[5, BLOCK + i] = mixed[10, i], mixed[11, i]
        d[6, i] = v * mixed[4, i] - u * mixed[6, i]
        d[6, BLOCK + i] = v * mixed[5, i] - u * mixed[7, i]
        wave = TWO_PI * tables[A2, j]
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
                w = TWO_PI * rows[e, start + i]
                d[a, i], d[a, BLOCK + i] = w * mixed[1, i], -w * mixed[0, i]
        else:
            unit = TWO_PI if kind == GAMMA else _f(1.0)
            for i in range(n):
                w = unit * rows[e, start + i]
                d[a, i], d[a, BLOCK + i] = w * mixed[source, i], w * mixed[source + 1, i]


@nb.njit(inline="always")
def _products(d, lanes):  # type: ignore[no-untyped-def]
    """Add the products of the rows of d, in the order of the module's text, to LANES sums side by side of each."""
    o = 0
    for a in range(len(d)):
        first = 1 if a == 0 else a
        for b in range(first, len(d)):
            for k in range(LANES):
                s = lanes[o, k]
                for c in range(0, 2 * BLOCK, LANES):
                    s = fma(d[a, c + k], d[b, c + k], s)
                lanes[o, k] = s
            o += 1


@nb.njit(inline="always")
def _settle(lanes, out):  # type: ignore[no-untyped-def]
    """Move the sums of all lanes to out."""
    for o in range(len(out)):
        for k in range(LANES):
            out[o] += np.float64(lanes[o, k])
            lanes[o, k] = _f(0.0)


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
    reference (particles,) which volume; images (particles, tilts, samples, 2) f32 whitened, contiguous.
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
    ny = volumes.shape[2]
    uy, ux = np.uint64(ny), np.uint64(volumes.shape[3])
    size, flat = np.uint64(volumes[0].size), volumes.reshape(-1)
    for image in nb.prange(n_p * n_t):
        p, t = image // n_t, image % n_t
        result = out[p, t]
        result[:] = 0.0
        if not active[p, t]:
            continue
        d = np.zeros((2 + N_LOCAL + len(kinds), 2 * BLOCK), np.float32)
        slot, other = np.zeros((8, BLOCK), np.float32), np.zeros((8, BLOCK), np.float32)
        mixed, turns = np.zeros((12, BLOCK), np.float32), np.zeros(BLOCK, np.float32)
        place, cell = np.zeros((4, BLOCK), np.float32), np.zeros((2, BLOCK), np.int32)
        corners, lanes = np.zeros((4, 4 * BLOCK), np.float32), np.zeros((len(result), LANES), np.float32)
        x, view = images[p, t].reshape(-1), views[p, t]
        u, v, h = tables[KX], tables[KY], tables[EWALD]
        z, a0, a1 = defocus[p, t], astig[t, 0], astig[t, 1]
        up = _f(1.0) if is_curved else _f(0.0)
        for start in range(0, n_samples[t], BLOCK):
            n = min(BLOCK, n_samples[t] - start)
            if n < BLOCK:
                d[:, :] = _f(0.0)
            samples = x[2 * start : 2 * (start + n)]
            for i in range(n):
                j = start + i
                turns[i] = tables[A2, j] * (z + a0 * tables[COS2, j] + a1 * tables[SIN2, j]) + fixed[t, j]
                d[0, i], d[0, BLOCK + i] = samples[2 * i], samples[2 * i + 1]
            places(view, u, v, h, up, start, n, ny, place, cell)
            _fetch(flat, np.uint64(reference[p]) * size, uy, ux, cell, n, corners)
            _interpolate(view, place, corners, n, slot)
            if is_curved:
                places(view, u, v, h, _f(-1.0), start, n, ny, place, cell)
                _fetch(flat, np.uint64(reference[p]) * size, uy, ux, cell, n, corners)
                _interpolate(view, place, corners, n, other)
                _curved_ctf(slot, other, turns, u, v, h, start, n, mixed)
            else:
                _flat_ctf(slot, turns, u, v, start, n, mixed)
            _model(mixed, tables, weight[weight_row[p, t]], shifts[p, t], start, n, d)
            _extra(mixed, kinds, rows, start, n, d)
            _products(d, lanes)
            if start // BLOCK % BLOCKS == BLOCKS - 1 or start + BLOCK >= n_samples[t]:
                _settle(lanes, result)
