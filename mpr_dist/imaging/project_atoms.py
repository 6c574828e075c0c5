"""Projections of atoms that lie on no grid, as transforms: free of aliasing, limited to the band of the image.

A magnification M shows F(Mq) instead of F(q): atoms are drawn at M' x, and the blob's own transform is taken at Mq.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from mpr_dist.errors import InputError
from mpr_dist.imaging.phantom import Atoms, oversampling
from mpr_dist.maths.kernels.gaussians import CUT_SIGMAS, draw_projections
from mpr_dist.units import C128, F64


@dataclass(frozen=True)
class _Window:
    """The finer grid on which atoms are drawn: ``n`` cells per box, of which only 2 ``half`` are filled."""

    fine: int
    box_px: int
    pixel_A: float
    half: int

    @property
    def n(self) -> int:
        return self.fine * self.box_px

    @property
    def fine_A(self) -> float:
        return self.pixel_A / self.fine


def _window(atoms: Atoms, box_px: int, pixel_A: float, offset_px: F64, stretch: float) -> _Window:
    s = oversampling(atoms.sigma_A, pixel_A)
    reach = stretch * atoms.radius_A + CUT_SIGMAS * atoms.sigma_A
    reach += pixel_A * float(np.abs(offset_px).max(initial=0.0))
    window = _Window(s, box_px, pixel_A, int(np.ceil(reach * s / pixel_A)) + 1)
    if 2 * window.half > window.n:
        raise InputError(f"a box of {box_px} px of {pixel_A:g} A is too small for a particle of radius {reach:.0f} A")
    return window


def projection_spectra(
    atoms: Atoms, view: F64, offset_px: F64, box_px: int, pixel_A: float, magnification: F64 | None = None
) -> C128:
    """Transforms (images, box, box // 2 + 1) of projections along z, in V A, free of aliasing; Nyquist is zero.

    view (images, 3, 3) turns the atoms into the image frame; offset_px (images, 2) x, y is where their origin lies,
    counted from pixel box // 2; magnification (2, 2) shows F(Mq) instead of F(q). Drawn in the smallest window of a
    finer grid, transformed as if padded with zeros.
    """
    placed, stretch = _magnified(view, magnification)
    w = _window(atoms, box_px, pixel_A, offset_px, stretch)
    images = np.zeros((len(view), 2 * w.half, 2 * w.half))
    _draw(atoms.position_A, atoms.weight, atoms.sigma_A, placed, offset_px, w, images)
    return _with_widths(_band(images, w), atoms, pixel_A, magnification)


def slab_spectra(
    atoms: Atoms,
    view: F64,
    offset_px: F64,
    box_px: int,
    pixel_A: float,
    thickness_A: float,
    magnification: F64 | None = None,
) -> tuple[C128, F64]:
    """``projection_spectra`` of one image, slab by slab: (slabs, box, box // 2 + 1), and the height (slabs,) of each.

    view (3, 3), offset_px (2,). Slabs lie across the beam; heights are along the image's z from the particle's origin.
    """
    placed, stretch = _magnified(view[None], magnification)
    w = _window(atoms, box_px, pixel_A, offset_px, stretch)
    z = atoms.position_A @ view[2]
    slab = np.floor(z / thickness_A).astype(np.int64)
    numbers = np.unique(slab)
    images = np.zeros((len(numbers), 2 * w.half, 2 * w.half))
    for image, number in zip(images, numbers, strict=True):
        inside = slab == number
        _draw(atoms.position_A[inside], atoms.weight[inside], atoms.sigma_A, placed, offset_px[None], w, image[None])
    spectra = _with_widths(_band(images, w), atoms, pixel_A, magnification)
    return spectra, (numbers + 0.5) * thickness_A


def _magnified(view: F64, magnification: F64 | None) -> tuple[F64, float]:
    """Views (images, 3, 3) that put x at M' x in the image, and by how much that stretches at most."""
    if magnification is None:
        return np.ascontiguousarray(view), 1.0
    placed = view.copy()
    placed[:, :2] = np.einsum("ji,njk->nik", magnification, view[:, :2])
    return placed, max(1.0, float(np.linalg.norm(magnification, 2)))


def _draw(position_A: F64, weight: F64, sigma_A: float, view: F64, offset_px: F64, w: _Window, out: F64) -> None:
    centres = w.fine * offset_px + w.half
    draw_projections(position_A / w.fine_A, weight / w.fine_A**2, sigma_A / w.fine_A, view, centres, out)


def _band(images: F64, w: _Window) -> C128:
    """Windows (images, 2 half, 2 half) -> transforms (images, box, box // 2 + 1) of the band of the coarse pixel."""
    box_px, s, n = w.box_px, w.fine, w.n
    keep = (box_px + 1) // 2
    k = np.arange(-(keep - 1), keep)
    rows = fft.fft(fft.rfft(images, n, axis=2, workers=-1)[..., :keep], n, axis=1, workers=-1)
    corner = s * (box_px // 2) - w.half
    phase = np.exp((-2j * np.pi * corner / n) * k)
    out: C128 = np.zeros((len(images), box_px, box_px // 2 + 1), np.complex128)
    out[:, k, :keep] = rows[:, k] * (phase[:, None] * phase[None, keep - 1 :] / s**2)
    return out


def _with_widths(spectra: C128, atoms: Atoms, pixel_A: float, magnification: F64 | None) -> C128:
    """Blobs drawn round, exp(-2 (pi sigma q)^2), become what M makes of them: the same at Mq."""
    if magnification is None:
        return spectra
    n = spectra.shape[1]
    q = np.stack(np.meshgrid(fft.rfftfreq(n, pixel_A), fft.fftfreq(n, pixel_A)))
    seen = np.einsum("ij,jyx->iyx", magnification, q)
    return np.asarray(spectra * np.exp(-2 * (np.pi * atoms.sigma_A) ** 2 * ((seen**2).sum(0) - (q**2).sum(0))))


def projections(atoms: Atoms, view: F64, offset_px: F64, box_px: int, pixel_A: float) -> F64:
    """(images, box, box) float64 projections along z in V A, centre at pixel box // 2 plus the offset."""
    spectra = projection_spectra(atoms, view, offset_px, box_px, pixel_A)
    return np.asarray(fft.irfft2(spectra, s=(box_px, box_px), workers=-1))
