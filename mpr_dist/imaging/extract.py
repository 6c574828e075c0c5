"""Particle images: tilt images made comparable, boxes cut around particles, their transforms as packed samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import fft

from mpr_dist.arrays import HOST, Device
from mpr_dist.imaging.samples import Samples
from mpr_dist.maths.kernels.cards import cut_on, pack_on, ring_means_on
from mpr_dist.units import F32, F64, Bool

# of an empty image: its samples are divided by the root
LEAST_NOISE = 1e-12


def prepare_tilt_image(
    image: F32, pixel_in_A: float, pixel_out_A: float, highpass_A: float, device: Device = HOST
) -> tuple[Any, F64]:
    """Rescale, flatten and normalise one average; protein becomes bright.

    The image loses a fitted plane and everything below 1/highpass_A, is cut in Fourier space to the output pixel
    (even sizes), normalised to standard deviation 1 and inverted. Returns (image (height, width) float32 on the device,
    (2,) x and y factors: rounded size / exact size, by which positions grow).
    """
    there = device.put(image, device.real)
    # cards are asked for no number: the host would wait for it in every tilt
    largest = device.xp.maximum(there.max(), -there.min())
    flat = _minus_plane(there, device)
    del there
    shape_in = np.array(flat.shape)
    exact = shape_in * (pixel_in_A / pixel_out_A)
    shape_out = (2 * np.rint(exact / 2)).astype(int)
    transform = device.fft.rfft2(flat)
    del flat
    size_out = (int(shape_out[0]), int(shape_out[1]))
    transform = _resize_transform(transform, (int(shape_in[0]), int(shape_in[1])), size_out, device)
    _high_pass(transform, size_out, pixel_out_A, highpass_A, device)
    out = device.fft.irfft2(transform, s=size_out)
    std = out.std()
    # of a constant image only rounding is left; NaN stays NaN
    rounding = 1e-12 if device.real is np.float64 else 1e-6
    out /= device.xp.where(std <= rounding * largest, np.inf, -std).astype(device.real)
    return out.astype(np.float32), (shape_out / exact)[::-1].copy()


def _minus_plane(image: Any, device: Device) -> Any:
    y, x = (np.linspace(-1, 1, n) for n in image.shape)
    x_there, y_there = device.put(x, device.real), device.put(y, device.real)[:, None]
    # x and y are centred, so the three terms of the plane are orthogonal and are fitted one by one
    slope_x = (image * x_there).sum() / (image.shape[0] * float((x * x).sum()))
    slope_y = (image * y_there).sum() / (image.shape[1] * float((y * y).sum()))
    return image - image.mean() - slope_x * x_there - slope_y * y_there


def _resize_transform(transform: Any, shape_in: tuple[int, int], shape_out: tuple[int, int], device: Device) -> Any:
    out = device.xp.zeros((shape_out[0], shape_out[1] // 2 + 1), transform.dtype)
    rows, cols = min(shape_in[0], shape_out[0]) // 2, min(shape_in[1], shape_out[1]) // 2
    keep = cols + (shape_in[1] == shape_out[1])
    out[:rows, :keep] = transform[:rows, :keep]
    out[-rows:, :keep] = transform[-rows:, :keep]
    return out


def _high_pass(transform: Any, shape: tuple[int, int], pixel_A: float, highpass_A: float, device: Device) -> None:
    """Take everything below 1/highpass_A out of the transform of an image of this (even) shape, in place.

    From there on the filter is 1, so only the corner of low frequencies is touched.
    """
    y, x = fft.fftfreq(shape[0], pixel_A), fft.rfftfreq(shape[1], pixel_A)
    is_low = np.abs(y) * highpass_A < 1
    low_x = x[x * highpass_A < 1]
    half = shape[0] // 2
    above, below = int(is_low[:half].sum()), int(is_low[half:].sum())
    for rows in (slice(0, above), slice(shape[0] - below, shape[0])):
        q = np.hypot(y[rows, None], low_x)
        edge = np.clip(2 * (q * highpass_A - 0.5), 0, 1)
        transform[rows, : len(low_x)] *= device.put(0.5 - 0.5 * np.cos(np.pi * edge), device.real)


def extract_on(device: Device, image: Any, xy_px: F64, samples: Samples) -> Any:
    """``extract_samples`` of all particles, where the image is."""
    if not device.is_card:
        return extract_samples(image, xy_px, np.ones(len(xy_px), bool), samples)
    middle = np.rint(xy_px).astype(np.int64)
    boxes = cut_on(device, image, middle - samples.box_px // 2, samples.box_px)
    transforms = device.fft.rfft2(boxes)
    return pack_on(device, transforms, samples.kx, samples.ky, xy_px - middle)


def extract_samples(image: F32, xy_px: F64, keep: Bool, samples: Samples) -> F32:
    """Packed transforms of boxes around particles in one tilt image.

    xy_px (particles, 2) are positions of the particles; keep (particles,) says which to cut, the others are zero. The
    box is cut at the nearest pixel (zero outside the image) and the phases are referred to the exact position.
    Returns (particles, samples, 2) float32: real and imaginary parts, scaled so that white noise of variance v has
    E|X|^2 = v.
    """
    n = samples.box_px
    out = np.zeros((len(xy_px), len(samples.kx), 2), np.float32)
    place = (samples.ky % n) * (n // 2 + 1) + samples.kx
    ky, kx = np.rint(fft.fftfreq(n) * n), np.arange(n // 2 + 1)
    for p in np.flatnonzero(keep):
        corner = np.rint(xy_px[p]).astype(int) - n // 2
        transform = fft.rfft2(_cut(image, corner, n))
        x, y = xy_px[p] - corner
        # the phase ramp is a product of one along each axis, which saves its exponential for every sample
        ramp_y, ramp_x = np.exp((2j * np.pi / n) * y * ky) / n, np.exp((2j * np.pi / n) * x * kx)
        transform = transform * ramp_y.astype(np.complex64)[:, None] * ramp_x.astype(np.complex64)[None]
        out[p] = transform.ravel()[place].view(np.float32).reshape(-1, 2)
    return out


def _cut(image: F32, corner_xy: np.ndarray, n: int) -> F32:
    x, y = int(corner_xy[0]), int(corner_xy[1])
    height, width = image.shape
    box = np.zeros((n, n), np.float32)
    x0, x1, y0, y1 = max(x, 0), min(x + n, width), max(y, 0), min(y + n, height)
    if x0 < x1 and y0 < y1:
        box[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
    return box


def ring_power(images: F32, keep: Bool, samples: Samples) -> F64:
    """(rings,) mean |X|^2 over the kept particles of one tilt, smoothed over neighbouring rings."""
    return mean_of_rings(power_sums(images[keep]), int(keep.sum()), samples)


def power_sums(images: Any) -> Any:
    """(samples,) sums of |X|^2 over images (images, samples, 2), in float64, where the images are."""
    return (images.astype(np.float64) ** 2).sum(axis=(0, 2))


def noise_of_rings(device: Device, power: Any, n_images: int, samples: Samples) -> Any:
    """Noise power of every ring: (rings,) float64 above zero, on the device that has ``power`` (samples,) float64.

    The host's is ``mean_of_rings``; a card's kernel sums in the same order.
    """
    if device.is_card:
        return ring_means_on(device, power, samples.ring_end, n_images, LEAST_NOISE)
    return np.maximum(mean_of_rings(power, n_images, samples), LEAST_NOISE)


def mean_of_rings(power: F64, n_images: int, samples: Samples) -> F64:
    """(rings,) means of summed powers (samples,), smoothed over neighbouring rings."""
    count = np.bincount(samples.ring, minlength=samples.n_rings) * max(n_images, 1)
    total = np.bincount(samples.ring, weights=power, minlength=samples.n_rings)
    return _smooth(total.astype(np.float64), count.astype(np.float64))


def _smooth(total: F64, count: F64) -> F64:
    """Ratio of sums over a window that grows with the ring, so that all values carry similar errors."""
    n = len(total)
    sums, counts = np.cumsum(np.r_[0.0, total]), np.cumsum(np.r_[0.0, count])
    r = np.arange(n)
    width = 1 + r // 16
    low, high = np.maximum(r - width, 1), np.minimum(r + width, n - 1)
    low = np.minimum(low, high)
    return np.asarray((sums[high + 1] - sums[low]) / np.maximum(counts[high + 1] - counts[low], 1))
