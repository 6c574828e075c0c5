"""Fourier transforms of centred maps and images, and sums over their shells.

The origin of a map is voxel n//2 on every axis; its half-complex transform has the layout of ``rfftn`` (last axis from
0 to Nyquist, the others 0, 1, ... -2, -1), without normalisation forward and 1/N backward. Radii are in Fourier pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft

from mpr_dist.arrays import HOST, Device
from mpr_dist.errors import InputError
from mpr_dist.units import C64, F32, F64


def to_fourier(real: F32, ndim: int | None = None, workers: int = 1) -> C64:
    """Half-complex transform over the last ``ndim`` axes (default all); the origin is index n//2.

    float32 (..., n_z, n_y, n_x) -> complex64 (..., n_z, n_y, n_x//2 + 1). The result does not depend on ``workers``.
    """
    axes = _last_axes(real.ndim, ndim)
    return np.asarray(scipy.fft.rfftn(np.fft.ifftshift(real, axes=axes), axes=axes, workers=workers))


def to_real(spectrum: C64, shape: Sequence[int], workers: int = 1) -> F32:
    """Inverse of ``to_fourier``; ``shape`` is that of the transformed axes, (n_z, n_y, n_x) or (n_y, n_x)."""
    axes = _last_axes(spectrum.ndim, len(shape))
    real = scipy.fft.irfftn(spectrum, s=tuple(shape), axes=axes, workers=workers)
    return np.ascontiguousarray(np.fft.fftshift(real, axes=axes))


def to_fourier_on(device: Device, real: Any) -> Any:
    """``to_fourier`` of a map or an image of a device, over all its axes."""
    return device.fft.rfftn(device.xp.fft.ifftshift(real))


def to_real_on(device: Device, spectrum: Any, shape: Sequence[int]) -> Any:
    """``to_real`` of such a transform."""
    real = device.fft.irfftn(spectrum, s=tuple(shape))
    return device.xp.ascontiguousarray(device.xp.fft.fftshift(real))


def _last_axes(total: int, ndim: int | None) -> tuple[int, ...]:
    return tuple(range(-(total if ndim is None else ndim), 0))


def shells(n: int, ndim: int = 3, device: Device = HOST) -> Any:
    """Radius of every coefficient of a half-complex transform, rounded to whole Fourier pixels, on a device.

    int64 (n, ..., n, n//2 + 1) with ``ndim`` axes; corners beyond Nyquist keep their radius, up to n/2 sqrt(ndim).
    """
    full = device.put(np.square(np.rint(np.fft.fftfreq(n) * n)))
    squared = device.put(np.square(np.arange(n // 2 + 1, dtype=np.float64)))
    for _ in range(ndim - 1):
        squared = full.reshape(-1, *[1] * squared.ndim) + squared
    return device.xp.rint(device.xp.sqrt(squared)).astype(np.int64)


def hermitian_weights(n: int) -> F64:
    """(n//2 + 1,) how often each column of a half-complex transform stands in the whole one: 1 or 2."""
    weights = np.full(n // 2 + 1, 2.0)
    weights[0] = 1.0
    if n % 2 == 0:
        weights[-1] = 1.0
    return weights


def shell_sums(*values: F32) -> F64:
    """Sums of real quantities over the shells of the whole transform, (len(values), n//2 + 1) float64.

    Each of ``values`` has the shape of ``shells(n)``, with 2 or 3 axes. A coefficient whose Hermitian mate is not
    stored counts twice. Goes plane by plane, so that a large box needs no array of radii.
    """
    n = values[0].shape[0]
    weights = hermitian_weights(n)
    in_plane = np.square(np.rint(np.fft.fftfreq(n) * n))[:, None] + np.square(np.arange(n // 2 + 1))
    heights = np.square(np.rint(np.fft.fftfreq(n) * n)) if values[0].ndim == 3 else np.zeros(1)
    total = np.zeros((len(values), n // 2 + 1))
    for z, height in enumerate(heights):
        radius = np.rint(np.sqrt(in_plane + height)).astype(np.int64).ravel()
        for row, value in enumerate(values):
            plane = value[z] if value.ndim == 3 else value
            sums = np.bincount(radius, (plane * weights).ravel(), minlength=n // 2 + 1)
            total[row] += sums[: n // 2 + 1]
    return total


def radial_profile(values: F32) -> F64:
    """Mean of a real quantity in the layout of ``shells(n)`` over every shell, (n//2 + 1,) float64."""
    sums, counts = shell_sums(values, np.broadcast_to(np.float32(1.0), values.shape))
    return np.asarray(sums / counts)


def crop_or_pad_real(volume: Any, n: int, device: Device = HOST) -> Any:
    """The same map or image in a box of n px on every axis; voxel n//2 stays the origin, new voxels are zero."""
    out = device.xp.zeros((n,) * volume.ndim, volume.dtype)
    source, target = [], []
    for size in volume.shape:
        before = size // 2 - n // 2
        length = min(size, n)
        source.append(slice(max(before, 0), max(before, 0) + length))
        target.append(slice(max(-before, 0), max(-before, 0) + length))
    out[tuple(target)] = volume[tuple(source)]
    return out


def fourier_resample(volume: F32, n_new: int, workers: int = 1) -> F32:
    """A cubic map sampled on n_new^3 points of the same box, by cropping or padding its transform.

    Grey values are kept and the pixel size becomes n / n_new times the old. Both sizes must be even (so that voxel n//2
    stays the origin), else InputError.
    """
    if len(set(volume.shape)) != 1 or volume.shape[0] % 2 or n_new % 2 or n_new < 2:
        raise InputError(f"resampling needs cubes of even size, got {volume.shape} -> {n_new}")
    return _resample(volume, (n_new,) * volume.ndim, workers)


def fourier_resample_image(image: F32, shape: tuple[int, int], workers: int = 1) -> F32:
    """An image (n_y, n_x) float32 sampled on ``shape`` points of the same field of view; pixel 0, 0 stays in place."""
    return _resample(image, shape, workers)


def _resample(values: F32, shape: tuple[int, ...], workers: int) -> F32:
    # axes that shrink go first: less work for the others
    for axis in sorted(range(values.ndim), key=lambda a: shape[a] / values.shape[a]):
        values = _resample_axis(values, axis, shape[axis], workers)
    return np.ascontiguousarray(values)


def _resample_axis(values: F32, axis: int, n_new: int, workers: int) -> F32:
    """Trigonometric interpolation along one axis. Interpolates the old samples exactly when n_new is a multiple."""
    n = values.shape[axis]
    if n_new == n:
        return values.copy()
    common = min(n, n_new)
    spectrum = np.moveaxis(scipy.fft.rfft(values, axis=axis, workers=workers), axis, -1)
    kept = np.zeros((*spectrum.shape[:-1], n_new // 2 + 1), spectrum.dtype)
    kept[..., : common // 2 + 1] = spectrum[..., : common // 2 + 1]
    if common % 2 == 0:
        # the Nyquist coefficient of the smaller size holds both signs, elsewhere each sign has its own
        kept[..., common // 2] *= 2.0 if n_new < n else 0.5
    real = scipy.fft.irfft(kept, n=n_new, axis=-1, workers=workers) * np.float32(n_new / n)
    return np.moveaxis(real, -1, axis)
