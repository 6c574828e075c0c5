"""Tilt images of known atoms: exact projection, contrast transfer, dose damage, and shot noise.

Nothing is interpolated: the Gaussians are drawn at their projected places, limited to the band of the image, and all
else happens in Fourier space. An expected image is electrons * (1 - 2 sigma_e C P): P the projected potential in V A,
C = -sin(gamma) with its envelope, sigma_e the interaction constant. Protein comes out dark.

A magnification turns and stretches the particles' images, not their places and not the CTF. Odd aberrations multiply
the transform by exp(-i phase). The curved Ewald sphere is its physics: the particle is cut across the beam into thin
slabs, each with the CTF of its own height.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from mpr_dist.errors import InputError
from mpr_dist.imaging.ctf import CtfTerms, ctf_terms, delocalisation_A, tilt_bfactors_A2, tilt_scales
from mpr_dist.imaging.geometry import grid_at, project, views
from mpr_dist.imaging.phantom import Atoms
from mpr_dist.imaging.project_atoms import projection_spectra, slab_spectra
from mpr_dist.imaging.spoiled import Spoiled, bead_contrast
from mpr_dist.maths.kernels.gaussians import CUT_SIGMAS
from mpr_dist.maths.zernike import even_gamma_rad, odd_phase_rad
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import A_PER_UM, C128, F32, F64, wavelength_A

_ELECTRON_REST_V = 510998.95
_CHUNK = 32  # particles whose boxes are in memory at once
_SHOT, _SOLVENT = 0, 1  # what a stream of random numbers is for
_THROUGH_A_BAR = 0.1  # share of the electrons that a bar of the grid lets through
_SLAB_RAD = 0.01  # phase at Nyquist between the middle of a slab and its faces: an error of at most 0.6 % there


@dataclass(frozen=True)
class Exposure:
    """How images are taken.

    Attributes:
        pixel_A: of the images; their size is the series' ``image_size_A`` over it.
        dose_per_tilt: e/A^2, all of which reach the detector.
        contrast: factor on the physical contrast of the atoms.
        solvent_rms: standard deviation per pixel of a white relative contrast that the CTF and the envelope filter.
        noise_only: leave the particles and the solvent out.
        ewald: 0 takes the Ewald sphere as flat, 1 as curved the way the depth of the series says, -1 the other way.
    """

    pixel_A: float
    dose_per_tilt: float = 3.0
    contrast: float = 1.0
    solvent_rms: float = 0.0
    noise_only: bool = False
    ewald: int = 0

    def __post_init__(self) -> None:
        if self.ewald not in (-1, 0, 1):
            raise InputError(f"exposure: ewald must be -1, 0 or 1, got {self.ewald}")
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


def ctf_box_px(series: TiltSeries, defocus_um: F64, atoms: Atoms, pixel_A: float, ewald: int = 0) -> int:
    """Even box that holds a particle and everything the CTF spreads inside the band of the images."""
    delta = 0.5 * np.abs(series.optics.defocus_delta_um.values).max()
    delta += atoms.radius_A / A_PER_UM if ewald else 0.0
    extremes = np.array([defocus_um.min() - delta, defocus_um.max() + delta])
    spread = max(delocalisation_A(series.optics, float(z), 0.5 / pixel_A) for z in extremes)
    spread += _aberration_spread_A(series, 0.5 / pixel_A)
    stretch = max(1.0, float(np.linalg.norm(series.optics.magnification, 2)))
    # nine pixels: the offset inside a pixel and the tails of the sharp limit at Nyquist
    half = (stretch * atoms.radius_A + CUT_SIGMAS * atoms.sigma_A + spread) / pixel_A + 9
    return 2 * int(fft.next_fast_len(int(np.ceil(half)), real=True))


def _aberration_spread_A(series: TiltSeries, q_max: float) -> float:
    """How far (A) odd and even aberrations move what has frequencies up to q_max: max |gradient| / 2 pi."""
    o = series.optics
    if not any((*o.zernike_odd, *o.zernike_even)):
        return 0.0
    q = np.linspace(-q_max, q_max, 65)
    qx, qy = np.meshgrid(q, q)
    inside = np.hypot(qx, qy) <= q_max
    spread = 0.0
    for phase in (odd_phase_rad(o.zernike_odd, qx, qy), even_gamma_rad(o.zernike_even, qx, qy)):
        spread += float(np.hypot(*np.gradient(phase, q[1] - q[0]))[inside].max()) / (2 * np.pi)
    return spread


def contrast_images(series: TiltSeries, particles: Particles, atoms: Atoms, exposure: Exposure) -> Iterator[F64]:
    """One (height, width) float64 image per tilt: relative contrast of all particles, positive where it darkens."""
    pixel_A, shape = exposure.pixel_A, image_shape(series, exposure.pixel_A)
    if not len(particles) or exposure.noise_only:
        yield from (np.zeros(shape) for _ in range(series.n_tilts))
        return
    seen, view = project(series, particles), views(series, particles)
    box = ctf_box_px(series, seen.defocus_um, atoms, pixel_A, exposure.ewald)
    microscope = _Microscope.of(series, exposure, box)
    for t in range(series.n_tilts):
        image = np.zeros(shape)
        for first in range(0, len(particles), _CHUNK):
            part = slice(first, first + _CHUNK)
            xy_px = seen.xy_A[part, t] / pixel_A
            nearest = np.rint(xy_px).astype(int)
            spectra = microscope.spectra(atoms, t, view[part, t], xy_px - nearest, seen.defocus_um[part, t])
            boxes = fft.irfft2(spectra, s=(box, box), workers=-1)
            for values, corner in zip(boxes, nearest - box // 2, strict=True):
                _add_box(image, values, int(corner[0]), int(corner[1]))
        yield image


@dataclass(frozen=True, eq=False)
class _Microscope:
    """What turns projections of particles into the transforms of their images, in boxes of one size."""

    series: TiltSeries
    exposure: Exposure
    box_px: int
    q2: F64
    terms: CtfTerms

    @staticmethod
    def of(series: TiltSeries, exposure: Exposure, box_px: int) -> _Microscope:
        pixel_A = exposure.pixel_A
        qx, qy = (a.ravel() for a in np.meshgrid(fft.rfftfreq(box_px, pixel_A), fft.fftfreq(box_px, pixel_A)))
        return _Microscope(series, exposure, box_px, qx**2 + qy**2, ctf_terms(series, qx, qy))

    def spectra(self, atoms: Atoms, t: int, view: F64, offset_px: F64, defocus_um: F64) -> C128:
        """(particles, box, box // 2 + 1) contrast of particles seen in tilt t, odd aberrations and damping included."""
        envelope = self.strength * damping(self.series, t, self.q2)
        if self.exposure.ewald:
            curved = self._curved(atoms, t, view, offset_px, defocus_um)
            return np.asarray(curved * self._shape(envelope if self._odd is None else envelope * self._odd))
        sharp = projection_spectra(
            atoms, view, offset_px, self.box_px, self.exposure.pixel_A, _unless_identity(self.series)
        )
        transfer = _transfer(self.terms, t, defocus_um) * envelope
        return np.asarray(sharp * self._shape(transfer if self._odd is None else transfer * self._odd))

    def _curved(self, atoms: Atoms, t: int, view: F64, offset_px: F64, defocus_um: F64) -> C128:
        """Slab by slab: a slab at height z has the underfocus of the particle plus z, whichever way z points."""
        up = -self.exposure.ewald if self.series.are_angles_inverted else self.exposure.ewald
        pixel_A, stretch = self.exposure.pixel_A, _unless_identity(self.series)
        # pi lambda z q^2 at Nyquist, z half a slab
        thickness_A = 2 * _SLAB_RAD / (np.pi * self.series.optics.wavelength_A) * (2 * pixel_A) ** 2
        out = np.empty((len(view), self.box_px, self.box_px // 2 + 1), np.complex128)
        for i in range(len(view)):
            slabs, height_A = slab_spectra(atoms, view[i], offset_px[i], self.box_px, pixel_A, thickness_A, stretch)
            transfer = _transfer(self.terms, t, defocus_um[i] + up * height_A / A_PER_UM)
            out[i] = (slabs * self._shape(transfer)).sum(0)
        return out

    @property
    def strength(self) -> float:
        return 2 * interaction_constant(self.series.optics.voltage_kV) * self.exposure.contrast

    @property
    def _odd(self) -> C128 | None:
        return np.exp(-2j * np.pi * self.terms.odd) if self.terms.odd.any() else None

    def _shape(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(*values.shape[:-1], self.box_px, self.box_px // 2 + 1)


def _unless_identity(series: TiltSeries) -> F64 | None:
    m = series.optics.magnification
    return None if np.array_equal(m, np.eye(2)) else m


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
    shape = image_shape(series, exposure.pixel_A)
    frequencies = fft.rfftfreq(shape[1], exposure.pixel_A), fft.fftfreq(shape[0], exposure.pixel_A)
    qx, qy = (a.ravel() for a in np.meshgrid(*frequencies))
    middle = np.array([0.5])
    defocus_um = grid_at(series.optics.defocus_um, middle, middle, series.tilt_position[t : t + 1])
    terms = ctf_terms(series, qx, qy)
    transfer = _transfer(terms, t, defocus_um)[0] * damping(series, t, qx**2 + qy**2)
    if terms.odd.any():
        transfer = transfer * np.exp(-2j * np.pi * terms.odd)
    white = exposure.solvent_rms * rng.standard_normal(shape)
    return np.asarray(fft.irfft2(fft.rfft2(white) * transfer.reshape(shape[0], -1), s=shape))


def counts(contrast: F64, exposure: Exposure, rng: np.random.Generator) -> F32:
    """Electrons per pixel: Poisson around electrons * (1 - contrast), never below zero."""
    expected = exposure.electrons * np.maximum(1.0 - contrast, 0.0)
    return rng.poisson(expected).astype(np.float32)


def tilt_images(
    series: TiltSeries,
    specimen: Sequence[tuple[Particles, Atoms]],
    exposure: Exposure,
    seed: int,
    index: int = 0,
    spoiled: Spoiled | None = None,
) -> Iterator[F32]:
    """(height, width) float32 averages, one per tilt in file order; ``index`` is the series' place in its project.

    specimen: the particles of every species with their atoms. Every image has streams of random numbers of its own: it
    does not depend on which others are made, or when.
    """
    for t, contrast in enumerate(tilt_contrasts(series, specimen, exposure, seed, index, spoiled)):
        yield counts(contrast, exposure, _stream(seed, index, t, _SHOT))


def tilt_contrasts(
    series: TiltSeries,
    specimen: Sequence[tuple[Particles, Atoms]],
    exposure: Exposure,
    seed: int,
    index: int = 0,
    spoiled: Spoiled | None = None,
) -> Iterator[F64]:
    """(height, width) relative contrasts that ``tilt_images`` has without shot noise."""
    shape, spoiled = image_shape(series, exposure.pixel_A), spoiled or Spoiled()
    species = [contrast_images(series, particles, atoms, exposure) for particles, atoms in specimen]
    for t, contrasts in enumerate(zip(*species, strict=True)):
        contrast = sum(contrasts[1:], contrasts[0])
        if exposure.solvent_rms > 0 and not exposure.noise_only:
            contrast = contrast + solvent_contrast(series, t, exposure, _stream(seed, index, t, _SOLVENT))
        if t in spoiled.blocked:
            contrast = np.full(shape, 1.0 - _THROUGH_A_BAR)
        for bead in spoiled.beads:
            if bead.tilt == t:
                contrast = np.maximum(contrast, bead_contrast(bead, shape, exposure.pixel_A))
        yield contrast


def _stream(seed: int, index: int, t: int, purpose: int) -> np.random.Generator:
    # 1: images; the project's other random numbers are drawn from other branches of the same seed
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, index, t, purpose)))
