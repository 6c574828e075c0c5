"""Gaussians drawn from points that lie on no grid: maps and projections of atoms, float64 throughout.

Every output cell belongs to one thread and is summed in the order of the atoms: the same numbers for any number of
threads.
"""

from __future__ import annotations

import numba as nb
import numpy as np

CUT_SIGMAS = 6.0  # what lies beyond is 1.5e-8 of the peak


@nb.njit(nogil=True, cache=True)
def _profile(x, sigma, n, values):  # type: ignore[no-untyped-def]
    """Samples of a unit-area Gaussian at centre x (grid units) inside 0..n-1: first index and how many."""
    first = max(int(np.ceil(x - CUT_SIGMAS * sigma)), 0)
    last = min(int(np.floor(x + CUT_SIGMAS * sigma)), n - 1)
    # exp(-(d + h)^2 / 2) = exp(-d^2 / 2) exp(-d h - h^2 / 2), and that factor falls by exp(-h^2) at every step
    h = 1.0 / sigma
    d = (first - x) * h
    value = h / np.sqrt(2.0 * np.pi) * np.exp(-0.5 * d * d)
    factor, fall = np.exp(-d * h - 0.5 * h * h), np.exp(-h * h)
    for i in range(last - first + 1):
        values[i] = value
        value *= factor
        factor *= fall
    return first, last - first + 1


@nb.njit(parallel=True, nogil=True, cache=True)
def draw_projections(points, weight, sigma, views, centres, out):  # type: ignore[no-untyped-def]
    """Add to out[i] the projection along z of the points turned by views[i], with the origin at centres[i].

    points (atoms, 3), sigma and centres (images, 2) x, y are in grid units; out (images, height, width); a weight is
    the sum of its Gaussian over the grid.
    """
    reach = 2 * int(np.ceil(CUT_SIGMAS * sigma)) + 3
    for i in nb.prange(out.shape[0]):
        wx, wy = np.empty(reach), np.empty(reach)
        v = views[i]
        for a in range(points.shape[0]):
            px, py, pz = points[a, 0], points[a, 1], points[a, 2]
            x = v[0, 0] * px + v[0, 1] * py + v[0, 2] * pz + centres[i, 0]
            y = v[1, 0] * px + v[1, 1] * py + v[1, 2] * pz + centres[i, 1]
            x0, nx = _profile(x, sigma, out.shape[2], wx)
            y0, ny = _profile(y, sigma, out.shape[1], wy)
            for iy in range(ny):
                row, w = out[i, y0 + iy], weight[a] * wy[iy]
                for ix in range(nx):
                    row[x0 + ix] += w * wx[ix]


@nb.njit(parallel=True, nogil=True, cache=True)
def draw_map(points, weight, sigma, out):  # type: ignore[no-untyped-def]
    """Add Gaussians at points (atoms, 3) x, y, z, in grid units from voxel (0, 0, 0), to out [z, y, x]."""
    reach = 2 * int(np.ceil(CUT_SIGMAS * sigma)) + 3
    norm = 1.0 / (np.sqrt(2.0 * np.pi) * sigma)
    for z in nb.prange(out.shape[0]):
        wx, wy = np.empty(reach), np.empty(reach)
        for a in range(points.shape[0]):
            d = (z - points[a, 2]) / sigma
            if abs(d) > CUT_SIGMAS:
                continue
            wz = weight[a] * norm * np.exp(-0.5 * d * d)
            x0, nx = _profile(points[a, 0], sigma, out.shape[2], wx)
            y0, ny = _profile(points[a, 1], sigma, out.shape[1], wy)
            for iy in range(ny):
                row, w = out[z, y0 + iy], wz * wy[iy]
                for ix in range(nx):
                    row[x0 + ix] += w * wx[ix]
