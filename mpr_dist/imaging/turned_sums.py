"""Fourier sums of a half-set, summed over the copies that a point group or a helix turns them into."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from mpr_dist.arrays import Device
from mpr_dist.maths.kernels.cards import symmetrise_on
from mpr_dist.units import F64

# edge of the cubes in which sums are turned, cells
CUBE = 8


def turned_sums(sums: Any, matrices: F64, device: Device) -> Any:
    """Sum over rotated copies, trilinear; exact where a rotation permutes the axes. Zero outside the inner sphere.

    sums: (nz, ny, nx, 3) float64 where the device has them, kx >= 0, the plane kx = 0 Hermitian; matrices: (copies, 3,
    3), of a whole group or of one turn.
    """
    if device.is_card:
        return symmetrise_on(device, sums, matrices)
    whole = np.rint(matrices)
    # the cells of an orbit share one sum; one turn alone makes no orbit
    if len(matrices) > 1 and np.array_equal(whole, matrices):
        return _sums_of_orbits(sums, whole.astype(np.int64))
    return _symmetrise(sums, matrices)


@nb.njit(parallel=True, nogil=True, cache=True)
def _sums_of_orbits(sums, matrices):  # type: ignore[no-untyped-def]
    """For groups that permute the axes: every orbit is read once, summed once, and written to all its cells."""
    nz, ny, nx, _ = sums.shape
    c = nz // 2
    out = np.zeros_like(sums)
    for iz in nb.prange(nz):
        z = iz - c
        cells = np.empty((len(matrices), 4), np.int64)
        for iy in range(ny):
            y = iy - c
            for x in range(nx):
                if x * x + y * y + z * z <= (c - 1) ** 2 and _orbit(matrices, x, y, z, cells):
                    _share(sums, cells, c, out)
    return out


@nb.njit(inline="always")
def _turned(a, x, y, z):  # type: ignore[no-untyped-def]
    return (
        a[0, 0] * x + a[0, 1] * y + a[0, 2] * z,
        a[1, 0] * x + a[1, 1] * y + a[1, 2] * z,
        a[2, 0] * x + a[2, 1] * y + a[2, 2] * z,
    )


@nb.njit(inline="always")
def _orbit(matrices, x, y, z, cells):  # type: ignore[no-untyped-def]
    """Cells (kx, ky, kz, sign) of the copies; False unless this one is the first of them, so that each orbit has one.

    Of a frequency and its negative, which hold the same, one counts: the sign is -1 where the other was meant.
    """
    if x == 0 and (y < 0 or (y == 0 and z < 0)):
        return False
    for m in range(len(matrices)):
        kx, ky, kz = _turned(matrices[m], x, y, z)
        sign = 1
        if kx < 0 or (kx == 0 and (ky < 0 or (ky == 0 and kz < 0))):
            kx, ky, kz, sign = -kx, -ky, -kz, -1
        if kz < z or (kz == z and (ky < y or (ky == y and kx < x))):
            return False
        cells[m, 0], cells[m, 1], cells[m, 2], cells[m, 3] = kx, ky, kz, sign
    return True


@nb.njit(inline="always")
def _share(sums, cells, c, out):  # type: ignore[no-untyped-def]
    re, im, weight = 0.0, 0.0, 0.0
    for m in range(len(cells)):
        cell = sums[cells[m, 2] + c, cells[m, 1] + c, cells[m, 0]]
        re, im, weight = re + cell[0], im + cells[m, 3] * cell[1], weight + cell[2]
    for m in range(len(cells)):
        kx, ky, kz, sign = cells[m]
        cell = out[kz + c, ky + c, kx]
        cell[0], cell[1], cell[2] = re, sign * im, weight
        if kx == 0:  # the plane that holds both
            cell = out[c - kz, c - ky, 0]
            cell[0], cell[1], cell[2] = re, -sign * im, weight


@nb.njit(parallel=True, nogil=True, cache=True)
def _symmetrise(sums, matrices):  # type: ignore[no-untyped-def]
    """Cell by cell of small cubes: their rotated copies stay in the cache, whole lines of cells would not."""
    nz, ny, nx, _ = sums.shape
    whole = np.array([np.all(np.rint(matrix) == matrix) for matrix in matrices])
    out = np.zeros_like(sums)
    cubes_y, cubes_x = (ny + CUBE - 1) // CUBE, (nx + CUBE - 1) // CUBE
    for slab in nb.prange((nz + CUBE - 1) // CUBE):
        for cube in range(cubes_y * cubes_x):
            y, x = cube // cubes_x * CUBE, cube % cubes_x * CUBE
            for iz in range(slab * CUBE, min(slab * CUBE + CUBE, nz)):
                for iy in range(y, min(y + CUBE, ny)):
                    for ix in range(x, min(x + CUBE, nx)):
                        _add_copies(sums, matrices, whole, iz, iy, ix, out[iz, iy, ix])
    return out


@nb.njit(inline="always")
def _add_copies(sums, matrices, whole, iz, iy, ix, out):  # type: ignore[no-untyped-def]
    """Sum of all copies of one cell."""
    c = sums.shape[0] // 2
    z, y, x = float(iz - c), float(iy - c), float(ix)
    if x * x + y * y + z * z > (c - 1.0) ** 2:
        return
    re, im, weight = 0.0, 0.0, 0.0
    for m in range(len(matrices)):
        kx, ky, kz = _turned(matrices[m], x, y, z)
        sign = 1.0
        if kx < 0:
            kx, ky, kz, sign = -kx, -ky, -kz, -1.0
        if whole[m]:
            jz, jy, jx = int(kz) + c, int(ky) + c, int(kx)
            r, i, w = sums[jz, jy, jx, 0], sums[jz, jy, jx, 1], sums[jz, jy, jx, 2]
        else:
            r, i, w = _between(sums, kx, ky, kz, c)
        re, im, weight = re + r, im + sign * i, weight + w
    out[0], out[1], out[2] = re, im, weight


@nb.njit(inline="always")
def _between(sums, kx, ky, kz, c):  # type: ignore[no-untyped-def]
    """The sums at a place between cells, trilinear."""
    jx, jy, jz = int(kx), int(np.floor(ky)) + c, int(np.floor(kz)) + c
    fx, fy, fz = kx - jx, ky + c - jy, kz + c - jz
    re, im, weight = 0.0, 0.0, 0.0
    for dz in range(2):
        wz = fz if dz else 1 - fz
        for dy in range(2):
            wzy = wz * (fy if dy else 1 - fy)
            cells = sums[jz + dz, jy + dy]
            a, b = wzy * (1 - fx), wzy * fx
            re += a * cells[jx, 0] + b * cells[jx + 1, 0]
            im += a * cells[jx, 1] + b * cells[jx + 1, 1]
            weight += a * cells[jx, 2] + b * cells[jx + 1, 2]
    return re, im, weight
