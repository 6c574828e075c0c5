"""Fourier shell correlation of half-maps, and the resolution it gives.

Under a mask two maps agree partly because they share it. That part is measured by masking maps whose phases beyond
some shell are random, and taken out (Chen et al. 2013, Ultramicroscopy 135, 24): corrected = (m - r) / (1 - r).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.errors import InputError
from mpr_dist.maths.filters import occupied
from mpr_dist.maths.fourier import crop_or_pad_real, shell_sums, shells, to_fourier_on, to_real_on
from mpr_dist.maths.kernels.cards import correlate_shells_on
from mpr_dist.units import F64

RANDOMISE_BELOW = 0.8
THRESHOLD = 0.143
# Few coefficients lie in the first shells: a dip in 0, 1, 2 says nothing as long as shell 3 is good.
LEADING = 3
# maps that lie in less of their box's edge than this were made in a smaller box and padded
PADDED = 0.9
# all shells up to the resolution must together stand out of noise by this many standard deviations
SIGNIFICANT = 3.0


@dataclass(frozen=True, eq=False)
class FscCurves:
    """What two half-maps agree on, shell by shell.

    Attributes:
        pixel_size_A, box_px: of the maps.
        unmasked, masked, randomised, corrected: (box_px//2 + 1,) float64, shell k at k / (box_px pixel_size_A) per A.
        randomised_from: first shell with random phases; box_px//2 + 1 if there is none.
        resolution_A: where ``corrected`` falls below 0.143; infinite when the maps share nothing.
    """

    pixel_size_A: float
    box_px: int
    unmasked: F64
    masked: F64
    randomised: F64
    corrected: F64
    randomised_from: int
    resolution_A: float

    @property
    def frequency_per_A(self) -> F64:
        """(box_px//2 + 1,) spatial frequency of every shell, 1/A."""
        return frequencies_per_A(self.box_px, self.pixel_size_A)


def frequencies_per_A(box_px: int, pixel_size_A: float) -> F64:
    """(box_px//2 + 1,) spatial frequency of every shell of a cube, 1/A."""
    return np.asarray(np.arange(box_px // 2 + 1) / (box_px * pixel_size_A))


def fsc(a: Any, b: Any, device: Device = HOST) -> F64:
    """Fourier shell correlation of two cubes (n, n, n) of float32: (n//2 + 1,) float64; 0 where a shell is empty.

    FSC(k) = sum Re(A conj B) / sqrt(sum |A|^2 sum |B|^2) over the coefficients whose radius rounds to k. The cubes lie
    on the device or on the host, the curve comes to the host.
    Raises InputError unless both are cubes of the same size.
    """
    _check_cubes(a, b)
    first, second = (to_fourier_on(device, device.put(each, np.float32)) for each in (a, b))
    return _correlate(first, second, device)


def masked_fsc(
    half1: Any, half2: Any, mask: Any, pixel_size_A: float, seed: int = 0, copies: int = 1, device: Device = HOST
) -> FscCurves:
    """All curves for two half-maps (n, n, n) float32 and a soft mask of the same shape, on the device or the host.

    Phases are random from the first shell where the unmasked curve is below 0.8; the correction starts 2 shells later
    (of the box in which the maps were made, if they were padded), before that the masked curve stands. The same
    ``seed`` gives the same curves; random numbers are the host's whatever the device, so a card's curves are the
    host's to float32 rounding. ``copies`` is the order of the point group that was imposed on the maps.
    Raises InputError if shapes differ.
    """
    _check_cubes(half1, half2, mask)
    n = len(half1)
    halves, mask = [device.put(half) for half in (half1, half2)], device.put(mask)
    spectra = [to_fourier_on(device, device.put(half, np.float32)) for half in halves]
    unmasked = _correlate(spectra[0], spectra[1], device)
    start = first_shell_below(unmasked, RANDOMISE_BELOW)
    masked = fsc(halves[0] * mask, halves[1] * mask, device)
    if start > n // 2:
        randomised, corrected = np.zeros_like(masked), masked.copy()
    else:
        edge = _support_px(halves, device)
        inner = spectra if edge == n else [_cropped(half, edge, device) for half in halves]
        noisy = [noise * mask for noise in _randomised(inner, round(start * edge / n), n, seed, device)]
        randomised = fsc(noisy[0], noisy[1], device)
        corrected = _correct(masked, randomised, start + -(-2 * n // edge))
    resolution = resolution_A(corrected, pixel_size_A, n, THRESHOLD)
    if significance(corrected, first_shell_below(corrected, THRESHOLD), mask, copies, device) < SIGNIFICANT:
        resolution = float("inf")
    return FscCurves(pixel_size_A, n, unmasked, masked, randomised, corrected, start, resolution)


def _support_px(volumes: list[Any], device: Device) -> int:
    """Even edge of the centred cube outside of which all volumes are 0; the box's own unless that is much larger."""
    n = len(volumes[0])
    inside = [np.flatnonzero(line) - n // 2 for volume in volumes for line in occupied(volume, device)]
    reach = max((max(-int(i[0]), int(i[-1]) + 1) for i in inside if i.size), default=n // 2)
    return 2 * reach if 2 * reach < PADDED * n else n


def _cropped(volume: Any, edge: int, device: Device) -> Any:
    return to_fourier_on(device, crop_or_pad_real(device.put(volume, np.float32), edge, device))


def _randomised(spectra: list[Any], first_shell: int, n: int, seed: int, device: Device) -> list[Any]:
    """Maps (n, n, n) with random phases, made in the box that the given transforms belong to.

    Noise that filled all of a padded box would be thin where the maps are.
    """
    generator = np.random.default_rng(seed)
    noise = [randomise_phases(each, max(1, first_shell), generator, device) for each in spectra]
    return [crop_or_pad_real(to_real_on(device, each, (len(each),) * 3), n, device) for each in noise]


def significance(curve: F64, n_shells: int, mask: Any, copies: int, device: Device = HOST) -> float:
    """How many standard deviations of pure noise the curve rises above zero in shells 1 to ``n_shells`` - 1 together.

    Shell k holds about 2 pi k^2 v / copies independent coefficients: symmetry repeats each ``copies`` times, and a mask
    ties neighbours together, v = (sum m^2)^2 / (n^3 sum m^4) being the share of the box it leaves.
    """
    power = device.xp.square(mask, dtype=np.float64)
    second, fourth = device.take(device.xp.stack([power.sum(), device.xp.square(power).sum()]))
    share = second**2 / max(fourth, 1e-30) / power.size
    k = np.arange(1, max(n_shells, 2))
    count = 2.0 * np.pi * k**2 * share / copies
    return float((count * curve[k]).sum() / np.sqrt(max(count.sum(), 1e-30)))


def randomise_phases(spectrum: Any, first_shell: int, generator: np.random.Generator, device: Device = HOST) -> Any:
    """The half-complex transform of a cube with random phases from ``first_shell`` on and unchanged amplitudes.

    The phases are those of real white noise, so the result is the transform of a real map: coefficients that are
    stored together with their Hermitian mate (x = 0 and x = Nyquist) stay conjugate. The noise is made on the host.
    """
    n, xp = spectrum.shape[0], device.xp
    noise = to_fourier_on(device, device.put(generator.standard_normal((n,) * 3, dtype=np.float32)))
    size = xp.abs(noise)
    phasor = xp.where(size > 0, noise / xp.where(size > 0, size, 1.0), 1.0)
    return xp.where(shells(n, device=device) >= first_shell, spectrum * phasor, spectrum).astype(np.complex64)


def first_shell_below(curve: F64, threshold: float) -> int:
    """First shell where the curve is below the threshold; its length if it never is.

    Counted from the last of the shells 1 to 3 that reaches the threshold: earlier dips are noise.
    """
    start = max((k for k in range(1, min(LEADING + 1, len(curve))) if curve[k] >= threshold), default=0)
    below = np.flatnonzero(curve[start + 1 :] < threshold)
    return start + 1 + int(below[0]) if below.size else len(curve)


def resolution_A(curve: F64, pixel_size_A: float, box_px: int, threshold: float = THRESHOLD) -> float:
    """Where a curve of shells 0 to box_px//2 first falls below the threshold, linear between shells, in A.

    Twice the pixel if it never does. Infinite when none of the shells 1 to 3 is above both the threshold and three
    standard deviations of pure noise, 3 / sqrt(2 pi k^2) with 2 pi k^2 independent coefficients in shell k.
    """
    leading = range(1, min(LEADING + 1, len(curve)))
    if not any(curve[k] >= max(threshold, 3.0 / np.sqrt(2.0 * np.pi * k * k)) for k in leading):
        return float("inf")
    k = first_shell_below(curve, threshold)
    if k >= len(curve):
        return 2.0 * pixel_size_A
    above, below = float(curve[k - 1]), float(curve[k])
    shell = k - 1 + (above - threshold) / (above - below)
    return box_px * pixel_size_A / shell


def _correct(masked: F64, randomised: F64, start: int) -> F64:
    corrected = masked.copy()
    # a shell in which even random phases agree fully carries no information: the floor keeps it finite
    gap = np.maximum(1.0 - randomised[start:], 1e-6)
    corrected[start:] = np.maximum((masked[start:] - randomised[start:]) / gap, -1.0)
    return corrected


def _correlate(a: Any, b: Any, device: Device) -> F64:
    if device.is_card:
        cross, power_a, power_b = device.take(correlate_shells_on(device, a, b)).sum(axis=0).T
    else:
        cross, power_a, power_b = shell_sums((a * b.conj()).real, np.square(np.abs(a)), np.square(np.abs(b)))
    norm = np.sqrt(power_a * power_b)
    return np.asarray(np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0))


def _check_cubes(*volumes: Any) -> None:
    first = volumes[0].shape
    if len(first) != 3 or len(set(first)) != 1 or any(v.shape != first for v in volumes):
        raise InputError(f"the FSC needs cubes of one size, got {', '.join(str(v.shape) for v in volumes)}")
