"""Deformations of tilt images by RELION's tomo_align as image warps, and image warps as its splines.

RELION adds D(p) pixels to a projected position p; an image warp is subtracted from it: warp = -pixel D. Warp's natural
splines are piecewise bicubic, so RELION's Hermite patches hold them exactly, node for node; the other way round it is
a fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpr_dist.maths.splines import natural_weights
from mpr_dist.model.relion import RelionDeformation, frequencies
from mpr_dist.model.warp import CubicGrid, ImageWarp
from mpr_dist.units import F64

GOOD_ENOUGH_A = 0.02  # rms of what a warp may miss of a deformation; particles are placed to 0.1 A at best
LARGEST_REFINEMENT = 4  # nodes between two of RELION's
PROBES = 33  # per axis, where fits are compared


def displacement_px(deformation: RelionDeformation, uv: F64, image_px: tuple[int, int]) -> F64:
    """(tilts, points, 2) pixels that RELION adds at points (points, 2) = x, y in 0..1 of the image."""
    n = len(deformation.coefficients)
    if deformation.kind == "linear":
        xx, xy, yy = deformation.coefficients.T[:, :, None]
        x, y = ((uv - 0.5) * np.array(image_px)).T
        return np.stack([xx * x, xy * x + yy * y], -1)
    if deformation.kind == "Fourier":
        waves = np.pi * (uv @ frequencies(deformation.grid).T)
        pairs = deformation.coefficients.reshape(n, 2, -1, 2)
        both = np.stack([np.cos(waves), np.sin(waves)], -1)
        return np.asarray(np.einsum("pfc,tdfc->tpd", both, pairs))
    width, height = deformation.grid
    nodes = deformation.coefficients.reshape(n, 2, height, width, 2, 2)  # last: slope along y, slope along x or not
    value_x, slope_x = _hermite(width, uv[:, 0])
    value_y, slope_y = _hermite(height, uv[:, 1])
    along_x, along_y = np.stack([value_x, slope_x], -1), np.stack([value_y, slope_y], -1)
    return np.asarray(np.einsum("pyb,pxa,tdyxba->tpd", along_y, along_x, nodes, optimize=True))


def _hermite(n: int, u: F64) -> tuple[F64, F64]:
    """Weights (points, n) of the values and of the slopes (per cell) at the nodes, at u (points,) in 0..1."""
    place = np.clip(u, 0.0, 1.0) * (n - 1)
    cell = np.minimum(place.astype(np.int64), n - 2)
    t, rows = place - cell, np.arange(len(u))
    values, slopes = np.zeros((len(u), n)), np.zeros((len(u), n))
    values[rows, cell], values[rows, cell + 1] = 1 - 3 * t**2 + 2 * t**3, 3 * t**2 - 2 * t**3
    slopes[rows, cell], slopes[rows, cell + 1] = t - 2 * t**2 + t**3, t**3 - t**2
    return values, slopes


@dataclass(frozen=True, eq=False)
class FittedWarp:
    """An image warp, and how far it is from what it was fitted to: root mean square and most, A."""

    warp: ImageWarp
    rms_A: float
    most_A: float


def fit_image_warp(wanted_A: Callable[[F64], F64], smallest: tuple[int, int]) -> FittedWarp:
    """The image warp with the fewest nodes that is good enough, by least squares over the image.

    Args:
        wanted_A: (points, 2) in 0..1 -> (tilts, points, 2), what shall be subtracted from positions.
        smallest: nodes along x and y to begin with; then so many between two of them.
    """
    u = np.linspace(0.0, 1.0, PROBES)
    points = np.stack(np.meshgrid(u, u, indexing="xy"), -1).reshape(-1, 2)
    target = wanted_A(points).reshape(-1, PROBES, PROBES, 2)
    best: FittedWarp | None = None
    for refinement in range(1, LARGEST_REFINEMENT + 1):
        nx, ny = (min((n - 1) * refinement + 1, PROBES) for n in smallest)
        to_x, to_y = natural_weights(nx, u), natural_weights(ny, u)
        back_x, back_y = np.linalg.pinv(to_x), np.linalg.pinv(to_y)
        nodes = np.einsum("yi,xj,tijc->cyxt", back_y, back_x, target, optimize=True)
        made = np.einsum("iy,jx,cyxt->tijc", to_y, to_x, nodes, optimize=True)
        error = np.linalg.norm(made - target, axis=-1)
        grids = [CubicGrid(np.ascontiguousarray(axis.transpose(2, 0, 1))) for axis in nodes]
        fit = FittedWarp(ImageWarp(*grids), float(np.sqrt((error**2).mean())), float(error.max()))
        if best is None or fit.rms_A < best.rms_A:
            best = fit
        if best.rms_A < GOOD_ENOUGH_A:
            break
    assert best is not None
    return best


def spline_of(warp: ImageWarp, n_tilts: int, pixel_A: float) -> RelionDeformation:
    """RELION's spline with the values, slopes and twists of an image warp at its nodes: the same inside the image.

    Tilts between nodes are interpolated as Warp does it. Grids of x and y may differ; the spline has the nodes of both.
    """
    width, height = (max(2, *(g.values.shape[axis] for g in (warp.x, warp.y))) for axis in (2, 1))
    tilt = np.arange(n_tilts) / (n_tilts - 1) if n_tilts > 1 else np.zeros(1)
    parts = []
    for grid in (warp.x, warp.y):
        depth, rows, columns = grid.values.shape
        of_tilt = natural_weights(depth, tilt, grid.margins[2])
        x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)
        along_x = np.stack([natural_weights(columns, x, grid.margins[0], d) / (width - 1) ** d for d in (0, 1)])
        along_y = np.stack([natural_weights(rows, y, grid.margins[1], d) / (height - 1) ** d for d in (0, 1)])
        parts.append(np.einsum("tz,byj,axi,zji->tyxba", of_tilt, along_y, along_x, grid.values, optimize=True))
    coefficients = np.stack(parts, 1).reshape(n_tilts, -1) / -pixel_A
    return RelionDeformation("spline", (width, height), np.asarray(coefficients))
