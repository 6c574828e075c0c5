"""The work of the kernels as one would first write it down: plain loops to measure them against."""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from mpr_dist.maths.kernels.compare import A2, COS2, KX, KY, ODD, Q2_4, QX, QY, SIN2
from mpr_dist.units import F32, F64, I64

_TWO_PI = np.float32(2.0 * math.pi)
_I = np.complex64(1j)


@nb.njit(nogil=True, fastmath=True, cache=True)
def plain_compare(  # type: ignore[no-untyped-def]
    volumes, reference, images, views, shifts, defocus, astig, fixed, weight, tables, out
):
    """The fused pass on a flat sphere without extra parameters, image by image and sample by sample."""
    n_p, n_t, n, _ = images.shape
    rows = np.zeros((9, 2), np.float32)
    sums = np.zeros(44, np.float32)
    f = np.float32
    for p in range(n_p):
        volume = volumes[reference[p]]
        for t in range(n_t):
            out[p, t] = 0.0
            for j in range(n):
                value, gradient = _slice(volume, views[p, t], tables[KX, j], tables[KY, j])
                gamma = _TWO_PI * (
                    tables[A2, j] * (defocus[p, t] + astig[t, 0] * tables[COS2, j] + astig[t, 1] * tables[SIN2, j])
                    + fixed[t, j]
                )
                phase = -_TWO_PI * (tables[QX, j] * shifts[p, t, 0] + tables[QY, j] * shifts[p, t, 1] + tables[ODD, j])
                turn = weight[t, j] * np.complex64(complex(math.cos(phase), math.sin(phase)))
                ctf, slope = -math.sin(gamma), -math.cos(gamma)
                model = turn * ctf * value
                gx, gy, gz = turn * ctf * gradient[0], turn * ctf * gradient[1], turn * ctf * gradient[2]
                u, v = tables[KX, j], tables[KY, j]
                wave = _TWO_PI * tables[A2, j] * slope
                rows[0, 0], rows[0, 1] = images[p, t, j, 0], images[p, t, j, 1]
                _put(rows, 1, model, f(1.0))
                _put(rows, 2, _I * model, -_TWO_PI * tables[QX, j])
                _put(rows, 3, _I * model, -_TWO_PI * tables[QY, j])
                _put(rows, 4, gz, -v)
                _put(rows, 5, gz, u)
                _put(rows, 6, v * gx - u * gy, f(1.0))
                _put(rows, 7, turn * value, wave)
                _put(rows, 8, model, tables[Q2_4, j])
                o = 0
                for a in range(9):
                    for b in range(max(a, 1), 9):
                        sums[o] += rows[a, 0] * rows[b, 0] + rows[a, 1] * rows[b, 1]
                        o += 1
                if j % 256 == 255 or j == n - 1:
                    for o in range(44):
                        out[p, t, o] += sums[o]
                        sums[o] = f(0.0)


@nb.njit(inline="always")
def _put(rows, a, value, factor):  # type: ignore[no-untyped-def]
    rows[a, 0], rows[a, 1] = factor * value.real, factor * value.imag


@nb.njit(fastmath=True)
def _slice(volume, view, x, y):  # type: ignore[no-untyped-def]
    """Trilinear value of a transform at A^T (x, y, 0), and its gradient along the axes of the image."""
    k = view[0] * x + view[1] * y
    flip = k[0] < 0
    if flip:
        k = -k
    half = volume.shape[0] // 2
    ix, iy, iz = int(k[0]), int(k[1] + half), int(k[2] + half)
    fx, fy, fz = np.float32(k[0] - ix), np.float32(k[1] + half - iy), np.float32(k[2] + half - iz)
    one = np.float32(1)
    value, dx, dy, dz = np.complex64(0), np.complex64(0), np.complex64(0), np.complex64(0)
    for corner in range(8):
        ax, ay, az = corner & 1, (corner >> 1) & 1, corner >> 2
        c = np.complex64(complex(volume[iz + az, iy + ay, ix + ax, 0], volume[iz + az, iy + ay, ix + ax, 1]))
        wx, wy, wz = (fx if ax else one - fx), (fy if ay else one - fy), (fz if az else one - fz)
        value += wx * wy * wz * c
        dx += np.float32(2 * ax - 1) * wy * wz * c
        dy += np.float32(2 * ay - 1) * wx * wz * c
        dz += np.float32(2 * az - 1) * wx * wy * c
    if flip:
        value, dx, dy, dz = value.conjugate(), -dx.conjugate(), -dy.conjugate(), -dz.conjugate()
    gx = view[0, 0] * dx + view[0, 1] * dy + view[0, 2] * dz
    gy = view[1, 0] * dx + view[1, 1] * dy + view[1, 2] * dz
    gz = view[2, 0] * dx + view[2, 1] * dy + view[2, 2] * dz
    return value, (gx, gy, gz)


@nb.njit(nogil=True, fastmath=True, cache=True)
def plain_insert(  # type: ignore[no-untyped-def]
    sums, images, views, defocus, astig, fixed, weight, tables, scale
):
    """The insertion on a flat sphere into the sums of one half-set, (z, y, x, 3) int64."""
    n_p, n_t, n, _ = images.shape
    half = sums.shape[0] // 2
    for p in range(n_p):
        for t in range(n_t):
            for j in range(n):
                turns = tables[A2, j] * (defocus[p, t] + astig[t, 0] * tables[COS2, j] + astig[t, 1] * tables[SIN2, j])
                c = -math.sin(_TWO_PI * (turns + fixed[t, j])) * weight[t, j]
                odd = _TWO_PI * tables[ODD, j]
                value = c * complex(math.cos(odd), math.sin(odd)) * complex(images[p, t, j, 0], images[p, t, j, 1])
                k = views[p, t, 0] * tables[KX, j] + views[p, t, 1] * tables[KY, j]
                if k[0] < 0:
                    k, value = -k, value.conjugate()
                ix, iy, iz = int(k[0]), int(k[1] + half), int(k[2] + half)
                fx, fy, fz = k[0] - ix, k[1] + half - iy, k[2] + half - iz
                for corner in range(8):
                    ax, ay, az = corner & 1, (corner >> 1) & 1, corner >> 2
                    w = scale * (fx if ax else 1 - fx) * (fy if ay else 1 - fy) * (fz if az else 1 - fz)
                    sums[iz + az, iy + ay, ix + ax, 0] += round(w * value.real)
                    sums[iz + az, iy + ay, ix + ax, 1] += round(w * value.imag)
                    sums[iz + az, iy + ay, ix + ax, 2] += round(w * c * c)


def plain_extract(image: F32, xy_px: F64, box_px: int, kx: I64, ky: I64) -> F32:
    """Boxes inside an image, transformed one by one with numpy; see ``imaging.extract.extract_samples``."""
    out = np.empty((len(xy_px), len(kx), 2), np.float32)
    for i, (x, y) in enumerate(xy_px):
        left, top = int(np.rint(x)) - box_px // 2, int(np.rint(y)) - box_px // 2
        transform = np.fft.rfft2(image[top : top + box_px, left : left + box_px])
        moved = np.exp(2j * np.pi * (kx * (x - left) + ky * (y - top)) / box_px)
        value = transform[ky, kx] * moved / box_px
        out[i, :, 0], out[i, :, 1] = value.real, value.imag
    return out
