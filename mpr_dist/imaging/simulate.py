"""Tilt images of known atoms: exact projection, contrast transfer, dose damage, and shot noise.

Nothing is interpolated: the Gaussians are drawn at their projected places, limited to the band of the image, and all
else happens in Fourier space. An expected image is electrons * (1 - 2 sigma_e C P): P the projected potential in V A,
C = -sin(gamma) with its envelope, sigma_e the interaction constant. Protein comes out dark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft

from mpr_dist.errors import InputError
from mpr_dist.imaging.ctf import CtfTerms, ctf, ctf_terms, delocalisation_A, per_tilt, tilt_bfactors_A2, tilt_scales
from mpr_dist.imaging.geometry import grid_at, project, views
from mpr_dist.imaging.phantom import Atoms, oversampling
from mpr_dist.maths.kernels.gaussians import CUT_SIGMAS, draw_projections
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import C128, F32, F64, wavelength_A

_ELECTRON_REST_V = 510998.95
_CHUNK = 32  # particles whose boxes are in memory at once
_SHOT, _SOLVENT = 0, 1  # what a stream of random numbers is for


@dataclass(frozen=True)
class Exposure:
    """How images are taken.

    Attributes:
        pixel_A: of the images; their size is the series' ``image_size_A`` over it.
        dose_per_tilt: e/A^2, all of which reach the detector.
        contrast: factor on the physical contrast of the atoms.
        solvent_rms: standard deviation per pixel of a white relative contrast that the CTF and the envelope filter.
        noise_only: leave the particles and the solvent out.
    """

    pixel_A: float
    dose_per_tilt: float = 3.0
    contrast: float = 1.0
    solvent_rms: float = 0.0
    noise_only: bool = False

    def __post_init__(self) -> None:
        if not self.pixel_A > 0 or not self.dose_per_tilt > 0:
            raise InputError(f"exposure: pixel {self.pixel_A} A and dose {self.dose_per_tilt} e/A^2 must be positive")
        if self.contrast < 0 or self.solvent_rms < 0:
            raise InputError(f"exposure: contrast {self.contrast} and solvent {self.solvent_rms} must not be negative")

    @property
    def electrons(self) -> float:
        """Mean electrons per pixel."""
        return self.dose_per_tilt * self.pixel_A**2


def interaction_constant(voltage_kV: float) -> float:
    """Phase per projected potential, rad/(V A): (2 pi / lambda V) (m c^2 + eV) / (2 m c^2 + eV); 6.5e-4 at 300 kV."""
    volts = 1e3 * voltage_kV
    relativistic = (_ELECTRON_REST_V + volts) / (2 * _ELECTRON_REST_V + volts)
    return float(2 * np.pi / (wavelength_A(voltage_kV) * volts) * relativistic)


def image_shape(series: TiltSeries, pixel_A: float) -> tuple[int, int]:
    """(height, width) of the series' images in pixels."""
    width, height = np.rint(series.image_size_A / pixel_A).astype(int)
    return int(height), int(width)


def projection_spectra(atoms: Atoms, view: F64, offset_px: F64, box_px: int, pixel_A: float) -> C128:
    """Transforms (images, box, box // 2 + 1) of projections along z, in V A, free of aliasing; Nyquist is zero.

    view (images, 3, 3) turns the atoms into the image frame; offset_px (images, 2) x, y is where their origin lies,
    counted from pixel box // 2. Drawn in the smallest window of a finer grid, transformed as if padded with zeros.
    """
    s = oversampling(atoms.sigma_A, pixel_A)
    n, fine_A = s * box_px, pixel_A / s
    reach = atoms.radius_A + CUT_SIGMAS * atoms.sigma_A + pixel_A * float(np.abs(offset_px).max(initial=0.0))
    half = int(np.ceil(reach / fine_A)) + 1
    window = np.zeros((len(view), 2 * half, 2 * half))
    weight = atoms.weight / fine_A**2
    draw_projections(
        atoms.position_A / fine_A,
        weight,
        atoms.sigma_A / fine_A,
        np.ascontiguousarray(view),
        s * offset_px + half,
        window,
    )
    if 2 * half > n:
        raise InputError(f"a box of {box_px} px of {pixel_A:g} A is too small for a particle of radius {reach:.0f} A")
    keep = (box_px + 1) // 2
    k = np.arange(-(keep - 1), keep)
    rows = fft.fft(fft.rfft(window, n, axis=2, workers=-1)[..., :keep], n, axis=1, workers=-1)
    corner = s * (box_px // 2) - half
    phase = np.exp((-2j * np.pi * corner / n) * k)
    out: C128 = np.zeros((len(view), box_px, box_px // 2 + 1), np.complex128)
    out[:, k, :keep] = rows[:, k] * (phase[:, None] * phase[None, keep - 1 :] / s**2)
    return out


def projections(atoms: Atoms, view: F64, offset_px: F64, box_px: int, pixel_A: float) -> F64:
    """(images, box, box) float64 projections along z in V A, centre at pixel box // 2 plus the offset."""
    spectra = projection_spectra(atoms, view, offset_px, box_px, pixel_A)
    return np.asarray(fft.irfft2(spectra, s=(box_px, box_px), workers=-1))


def ctf_box_px(series: TiltSeries, defocus_um: F64, atoms: Atoms, pixel_A: float) -> int:
    """Even box that holds a particle and everything the CTF spreads inside the band of the images."""
    delta = 0.5 * np.abs(series.optics.defocus_delta_um.values).max()
    extremes = np.array([defocus_um.min() - delta, defocus_um.max() + delta])
    spread = max(delocalisation_A(series.optics, float(z), 0.5 / pixel_A) for z in extremes)
    # nine pixels: the offset inside a pixel and the tails of the sharp limit at Nyquist
    half = (atoms.radius_A + CUT_SIGMAS * atoms.sigma_A + spread) / pixel_A + 9
    return 2 * int(fft.next_fast_len(int(np.ceil(half)), real=True))


def contrast_images(series: TiltSeries, particles: Particles, atoms: Atoms, exposure: Exposure) -> Iterator[F64]:
    """One (height, width) float64 image per tilt: relative contrast of all particles, positive where it darkens."""
    pixel_A, shape = exposure.pixel_A, image_shape(series, exposure.pixel_A)
    if not len(particles) or exposure.noise_only:
        yield from (np.zeros(shape) for _ in range(series.n_tilts))
        return
    seen, view = project(series, particles), views(series, particles)
    box = ctf_box_px(series, seen.defocus_um, atoms, pixel_A)
    qx, qy = (a.ravel() for a in np.meshgrid(fft.rfftfreq(box, pixel_A), fft.fftfreq(box, pixel_A)))
    terms = ctf_terms(series, qx, qy)
    strength = 2 * interaction_constant(series.optics.voltage_kV) * exposure.contrast
    for t in range(series.n_tilts):
        envelope = strength * damping(series, t, qx**2 + qy**2)
        image = np.zeros(shape)
        for first in range(0, len(particles), _CHUNK):
            part = slice(first, first + _CHUNK)
            xy_px = seen.xy_A[part, t] / pixel_A
            nearest = np.rint(xy_px).astype(int)
            spectra = projection_spectra(atoms, view[part, t], xy_px - nearest, box, pixel_A)
            transfer = _transfer(terms, t, seen.defocus_um[part, t]) * envelope
            boxes = fft.irfft2(spectra * transfer.reshape(spectra.shape), s=(box, box), workers=-1)
            for values, corner in zip(boxes, nearest - box // 2, strict=True):
                _add_box(image, values, int(corner[0]), int(corner[1]))
        yield image


def damping(series: TiltSeries, t: int, q2: F64) -> F64:
    """Scale and dose envelope of tilt t at squared frequencies q2 (1/A^2)."""
    return np.asarray(tilt_scales(series)[t] * np.exp(tilt_bfactors_A2(series)[t] * q2 / 4))


def _transfer(terms: CtfTerms, t: int, defocus_um: F64) -> F64:
    """(particles, samples) -sin(gamma) of tilt t."""
    astigmatism = terms.astig_A[t, 0] * terms.cos2 + terms.astig_A[t, 1] * terms.sin2
    turns = 1e4 * defocus_um[:, None] * terms.a2 + (astigmatism * terms.a2 + terms.fixed[t])
    return np.asarray(-np.sin(2 * np.pi * turns))


def _add_box(image: F64, box: F64, x: int, y: int) -> None:
    """Add a box whose first pixel is x, y of the image; what lies outside is lost."""
    n, (height, width) = len(box), image.shape
    x0, x1, y0, y1 = max(x, 0), min(x + n, width), max(y, 0), min(y + n, height)
    if x0 < x1 and y0 < y1:
        image[y0:y1, x0:x1] += box[y0 - y : y1 - y, x0 - x : x1 - x]


def solvent_contrast(series: TiltSeries, t: int, exposure: Exposure, rng: np.random.Generator) -> F64:
    """(height, width) contrast of the ice in tilt t: white noise through the CTF at mean defocus, new in every tilt."""
    shape, o, n = image_shape(series, exposure.pixel_A), series.optics, series.n_tilts
    qx, qy = np.meshgrid(fft.rfftfreq(shape[1], exposure.pixel_A), fft.fftfreq(shape[0], exposure.pixel_A))
    middle = np.array([0.5])
    defocus = float(grid_at(o.defocus_um, middle, middle, series.tilt_position[t : t + 1])[0])
    delta, angle, phase = (
        float(per_tilt(g.values, n)[t]) for g in (o.defocus_delta_um, o.defocus_angle_deg, o.phase_shift_pi)
    )
    transfer = ctf(o, qx, qy, defocus, delta, angle, phase) * damping(series, t, qx**2 + qy**2)
    white = exposure.solvent_rms * rng.standard_normal(shape)
    return np.asarray(fft.irfft2(fft.rfft2(white) * transfer, s=shape))


def counts(contrast: F64, exposure: Exposure, rng: np.random.Generator) -> F32:
    """Electrons per pixel: Poisson around electrons * (1 - contrast), never below zero."""
    expected = exposure.electrons * np.maximum(1.0 - contrast, 0.0)
    return rng.poisson(expected).astype(np.float32)


def tilt_images(
    series: TiltSeries, particles: Particles, atoms: Atoms, exposure: Exposure, seed: int, index: int = 0
) -> Iterator[F32]:
    """(height, width) float32 averages, one per tilt in file order; ``index`` is the series' place in its project.

    Every image has streams of random numbers of its own: it does not depend on which others are made, or when.
    """
    for t, contrast in enumerate(contrast_images(series, particles, atoms, exposure)):
        if exposure.solvent_rms > 0 and not exposure.noise_only:
            contrast = contrast + solvent_contrast(series, t, exposure, _stream(seed, index, t, _SOLVENT))
        yield counts(contrast, exposure, _stream(seed, index, t, _SHOT))


def _stream(seed: int, index: int, t: int, purpose: int) -> np.random.Generator:
    # 1: images; the project's other random numbers are drawn from other branches of the same seed
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, index, t, purpose)))
