"""Images against slices of a reference, bin by bin: how well they agree, and how well they should.

The model is that of ``compare``, without derivatives. For every image and every bin of samples the kernel returns the
sums over the half-plane
    <X,m>   |m|^2   |m|^2 exp(-v/2)
v is the variance of the model's phase when shift and defocus of the image are known with a Gaussian error: a true
position that scatters about m's multiplies the expected <X,m> by exp(-v/2), so the last sum is what <X,m> is expected
to be at amplitude scale 1.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from mpr_dist.maths.kernels.compare import A2, COS2, EWALD, KX, KY, ODD, QX, QY, SIN2
from mpr_dist.maths.kernels.vector import TWO_PI, sincos_turns

_f = np.float32
XM, MM, MM_BLURRED = range(3)
N_SUMS = 3


@nb.njit(inline="always")
def _slice_at(volume, view, x, y, z):  # type: ignore[no-untyped-def]
    """Trilinear F at a place of the image frame, in grid units; volume (nz, ny, nx, 2), kx >= 0."""
    half = _f(volume.shape[0] // 2)
    kx = view[0, 0] * x + view[1, 0] * y + view[2, 0] * z
    ky = view[0, 1] * x + view[1, 1] * y + view[2, 1] * z
    kz = view[0, 2] * x + view[1, 2] * y + view[2, 2] * z
    flip = _f(1.0)
    if kx < _f(0.0):
        flip = _f(-1.0)
        kx, ky, kz = -kx, -ky, -kz
    ky += half
    kz += half
    ix, iy, iz = int(kx), int(ky), int(kz)
    fx, fy, fz = kx - _f(ix), ky - _f(iy), kz - _f(iz)
    re, im = _f(0.0), _f(0.0)
    for corner in range(8):
        dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
        share = (fx if dx else _f(1.0) - fx) * (fy if dy else _f(1.0) - fy) * (fz if dz else _f(1.0) - fz)
        re += share * volume[iz + dz, iy + dy, ix + dx, 0]
        im += share * volume[iz + dz, iy + dy, ix + dx, 1]
    return re, flip * im


@nb.njit(inline="always")
def _with_ctf(volume, view, x, y, z, turns, is_curved):  # type: ignore[no-untyped-def]
    """C F, or (i/2) (exp(i gamma) F(z) - exp(-i gamma) F(-z)) on the curved sphere."""
    sg, cg = sincos_turns(turns)
    if not is_curved:
        re, im = _slice_at(volume, view, x, y, _f(0.0))
        return -sg * re, -sg * im
    pr, pi = _slice_at(volume, view, x, y, z)
    qr, qi = _slice_at(volume, view, x, y, -z)
    half = _f(0.5)
    return -half * (sg * (pr + qr) + cg * (pi - qi)), half * (cg * (pr - qr) - sg * (pi + qi))


@nb.njit(parallel=True, nogil=True, cache=True)
def correlate(  # type: ignore[no-untyped-def]
    volumes,
    reference,
    images,
    active,
    views,
    shifts,
    defocus,
    blur,
    astig,
    fixed,
    weight,
    weight_row,
    n_samples,
    tables,
    is_curved,
    bins,
    out,
):
    """Sums over bins of samples for every active image; the arguments not named here are those of ``compare``.

    blur (particles, tilts, 4) f32: variances of x, y, their covariance (A^2), variance of the defocus (A^2).
    bins (samples,) i64: where each sample counts. out (particles, tilts, bins, 3) f64, overwritten.
    """
    n_p, n_t = active.shape
    for image in nb.prange(n_p * n_t):
        p, t = image // n_t, image % n_t
        result = out[p, t]
        result[:] = 0.0
        if not active[p, t]:
            continue
        volume, view, x, w = volumes[reference[p]], views[p, t], images[p, t], weight[weight_row[p, t]]
        z, a0, a1 = defocus[p, t], astig[t, 0], astig[t, 1]
        vxx, vyy, vxy, vz = blur[p, t, 0], blur[p, t, 1], blur[p, t, 2], blur[p, t, 3]
        for j in range(n_samples[t]):
            qx, qy, a2 = tables[QX, j], tables[QY, j], tables[A2, j]
            turns = a2 * (z + a0 * tables[COS2, j] + a1 * tables[SIN2, j]) + fixed[t, j]
            re, im = _with_ctf(volume, view, tables[KX, j], tables[KY, j], tables[EWALD, j], turns, is_curved)
            sp, cp = sincos_turns(-(qx * shifts[p, t, 0] + qy * shifts[p, t, 1]) - tables[ODD, j])
            mr, mi = w[j] * (cp * re - sp * im), w[j] * (cp * im + sp * re)
            variance = TWO_PI * TWO_PI * (qx * qx * vxx + qy * qy * vyy + _f(2.0) * qx * qy * vxy + a2 * a2 * vz)
            power = mr * mr + mi * mi
            sums = result[bins[j]]
            sums[XM] += x[j, 0] * mr + x[j, 1] * mi
            sums[MM] += power
            sums[MM_BLURRED] += power * math.exp(-0.5 * variance)
