"""What the kernels compute, once more: plain numpy in double precision, written from the formulas."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.maths.kernels.compare import GAMMA, GRADIENT_X, GRADIENT_Y, PHASE
from mpr_dist.maths.rotations import exp_rotation


def grid_points(view, kx, ky, kz=0.0):
    """(samples, 3) x, y, z of image frequencies in the reference's frame: A^T (kx, ky, kz)."""
    return np.stack([kx, ky, kz + 0 * kx], -1) @ view


def trilinear(volume, points):
    """The transform [z, y, x >= 0] of a real map at points (n, 3): conj F(-k) where x < 0, trilinear in between."""
    centre = volume.shape[0] // 2
    mirrored = points[:, 0] < 0
    k = np.where(mirrored[:, None], -points, points) + np.array([0, centre, centre])
    cell = np.floor(k).astype(int)
    fraction = k - cell
    out = np.zeros(len(k), np.complex128)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, fraction, 1 - fraction), axis=1)
        x, y, z = (cell + corner).T
        out += weight * volume[z, y, x]
    return np.where(mirrored, out.conj(), out)


def away_from_cells(view, kx, ky, margin, kz=0.0):
    """Which samples lie further than ``margin`` from every face of their cell (the plane x = 0 is one, too)."""
    points = grid_points(view, kx, ky, kz)
    return (np.abs(points - np.rint(points)) > margin).all(axis=1)


@dataclass(frozen=True, eq=False)
class Image:
    """One image as the kernel sees it; arrays over samples, see ``compare``."""

    volume: np.ndarray
    view: np.ndarray
    shift: np.ndarray
    defocus: float
    astig: np.ndarray
    fixed: np.ndarray
    weight: np.ndarray
    tables: np.ndarray
    is_curved: bool = False
    kinds: tuple = ()
    rows: tuple = ()

    def model(self):
        """w C F(A^T (Mq, z)) exp(-2 pi i q.d) exp(-i phi)"""
        qx, qy, kx, ky, a2, cos2, sin2, _, odd, kz, _ = self.tables
        turns = a2 * (self.defocus + self.astig[0] * cos2 + self.astig[1] * sin2) + self.fixed
        phase = self.weight * np.exp(-2j * np.pi * (qx * self.shift[0] + qy * self.shift[1] + odd))
        if self.is_curved:
            up, down = (trilinear(self.volume, grid_points(self.view, kx, ky, sign * kz)) for sign in (1, -1))
            wave = np.exp(2j * np.pi * turns)
            return phase * 0.5j * (wave * up - wave.conj() * down)
        slice_ = trilinear(self.volume, grid_points(self.view, kx, ky))
        return -np.sin(2 * np.pi * turns) * phase * slice_

    def moved(self, parameter, step):
        """The image with one local parameter changed, in the order of the kernel."""
        if parameter < 2:
            return replace(self, shift=self.shift + step * np.eye(2)[parameter])
        if parameter < 5:
            return replace(self, view=exp_rotation(step * np.eye(3)[parameter - 2]) @ self.view)
        if parameter == 5:
            return replace(self, defocus=self.defocus + step)
        if parameter == 6:
            return replace(self, weight=self.weight * np.exp(step * self.tables[7]))
        return self._moved_extra(self.kinds[parameter - 7], step * self.rows[parameter - 7])

    def _moved_extra(self, kind, change):
        tables = self.tables.copy()
        if kind == GAMMA:
            return replace(self, fixed=self.fixed + change)
        tables[{PHASE: 8, GRADIENT_X: 2, GRADIENT_Y: 3}[kind]] += change
        return replace(self, tables=tables)


def inner(a, b):
    """Sum of Re(conj(a) b)."""
    return float(np.sum(a.real * b.real + a.imag * b.imag))
