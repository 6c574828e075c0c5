"""Laws of the transforms, the shells and resampling."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.maths import fourier


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 8, 8), (6, 10), (7, 7, 7), (3, 8, 8)])
def test_transform_and_back_is_the_identity(shape):
    real = noise(*shape)
    back = fourier.to_real(fourier.to_fourier(real), shape)
    assert back.dtype == np.float32
    assert fourier.to_fourier(real).dtype == np.complex64
    assert np.allclose(back, real, atol=1e-5)


def test_only_the_last_axes_are_transformed_when_asked():
    stack = noise(3, 8, 10)
    spectra = fourier.to_fourier(stack, ndim=2)
    assert np.allclose(spectra[1], fourier.to_fourier(stack[1]), atol=1e-5)
    assert np.allclose(fourier.to_real(spectra, (8, 10)), stack, atol=1e-5)


@pytest.mark.parametrize("n", [8, 9])
def test_a_point_at_the_origin_has_a_flat_transform(n):
    point = np.zeros((n, n, n), np.float32)
    point[n // 2, n // 2, n // 2] = 1
    assert np.allclose(fourier.to_fourier(point), 1.0, atol=1e-6)


@pytest.mark.parametrize(("n", "ndim"), [(8, 3), (9, 3), (12, 2)])
def test_shell_sums_obey_parseval_up_to_the_corners(n, ndim):
    real = noise(*(n,) * ndim)
    spectrum = np.fft.fftn(np.fft.ifftshift(real))
    axes = np.meshgrid(*(np.fft.fftfreq(n) * n,) * ndim, indexing="ij")
    radius = np.rint(np.sqrt(sum(a**2 for a in axes))).astype(int)
    expected = np.bincount(radius.ravel(), np.abs(spectrum.ravel()) ** 2)
    power = np.abs(fourier.to_fourier(real)) ** 2
    assert np.allclose(fourier.shell_sums(power)[0], expected[: n // 2 + 1], rtol=1e-5)
    whole = (power * fourier.hermitian_weights(n)).sum()
    assert np.isclose(whole, n**ndim * (real.astype(float) ** 2).sum(), rtol=1e-5)


@pytest.mark.parametrize(("n", "ndim"), [(8, 3), (9, 3), (12, 2)])
def test_shells_are_rounded_radii(n, ndim):
    radius = fourier.shells(n, ndim)
    assert radius.shape == (*(n,) * (ndim - 1), n // 2 + 1)
    assert radius[(0,) * ndim] == 0
    assert radius[(-1,) * (ndim - 1) + (2,)] == round((4 + ndim - 1) ** 0.5)
    assert np.allclose(fourier.radial_profile(radius.astype(np.float32)), np.arange(n // 2 + 1))


@pytest.mark.parametrize(("n", "m"), [(8, 12), (8, 13), (9, 12), (12, 5)])
def test_cropping_and_padding_keep_the_centre(n, m):
    volume = noise(n, n, n)
    out = fourier.crop_or_pad_real(volume, m)
    assert out.shape == (m, m, m)
    assert out[m // 2, m // 2, m // 2] == volume[n // 2, n // 2, n // 2]
    if m > n:
        assert np.array_equal(fourier.crop_or_pad_real(out, n), volume)
        assert np.isclose(out.sum(), volume.sum(), rtol=1e-4, atol=1e-4)


def test_finer_and_coarser_again_is_the_identity():
    volume = noise(8, 8, 8)
    fine = fourier.fourier_resample(volume, 20)
    assert fine.dtype == np.float32
    assert np.allclose(fourier.fourier_resample(fine, 8), volume, atol=1e-5)
    assert np.allclose(fourier.fourier_resample(volume, 16)[::2, ::2, ::2], volume, atol=1e-5)


def test_a_band_limited_map_survives_coarser_sampling():
    x = np.arange(24) / 24
    wave = 3 + np.cos(2 * np.pi * (2 * x[:, None, None] + x[None, :, None] - 3 * x[None, None, :]) + 0.4)
    coarse = fourier.fourier_resample(wave.astype(np.float32), 10)
    y = np.arange(10) / 10
    expected = 3 + np.cos(2 * np.pi * (2 * y[:, None, None] + y[None, :, None] - 3 * y[None, None, :]) + 0.4)
    assert np.allclose(coarse, expected, atol=1e-5)


def test_resampling_keeps_the_centre_where_it_is():
    n, m = 16, 24
    grid = [(np.arange(k) - k // 2) / k for k in (n, m)]
    blobs = [
        np.exp(-(g[:, None, None] ** 2 + g[None, :, None] ** 2 + g[None, None, :] ** 2) / 0.02).astype(np.float32)
        for g in grid
    ]
    assert np.allclose(fourier.fourier_resample(blobs[0], m), blobs[1], atol=2e-3)


def test_odd_or_uneven_cubes_are_refused():
    for shape, size in ((7, 7, 7), 8), ((8, 8, 8), 7), ((8, 8, 6), 8):
        with pytest.raises(InputError, match="even"):
            fourier.fourier_resample(np.zeros(shape, np.float32), size)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (11, 17), (20, 24)])
def test_images_resample_like_the_waves_they_are_made_of(shape):
    def wave(ny, nx):
        y, x = np.arange(ny)[:, None] / ny, np.arange(nx)[None, :] / nx
        return (1 + np.sin(2 * np.pi * (2 * y + 4 * x)) + np.cos(2 * np.pi * (3 * x - y))).astype(np.float32)

    assert np.allclose(fourier.fourier_resample_image(wave(20, 24), shape), wave(*shape), atol=1e-5)


def test_the_result_does_not_depend_on_the_number_of_threads():
    volume = noise(16, 16, 16)
    assert fourier.to_fourier(volume, workers=2).tobytes() == fourier.to_fourier(volume).tobytes()
    assert fourier.fourier_resample(volume, 12, workers=2).tobytes() == fourier.fourier_resample(volume, 12).tobytes()
