"""Tilt images made comparable, and boxes as packed samples."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from mpr_dist.imaging.extract import extract_samples, prepare_tilt_image, ring_power
from mpr_dist.imaging.samples import box_samples

RNG_IMAGE = np.random.default_rng(7).standard_normal((44, 52)).astype(np.float32)


def as_complex(packed):
    return packed[..., 0] + 1j * packed[..., 1].astype(np.complex128)


def wave(shape, cycles_x, cycles_y):
    """A cosine that is symmetric about the middle of the image, so that no plane correlates with it."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    return np.cos(2 * np.pi * (cycles_x * x[None] / shape[1] + cycles_y * y[:, None] / shape[0]))


def test_fourier_shift_that_warp_wrote(shared):
    """A delta that Warp shifted by (2.5, 3.3) px in Fourier space has flat samples when referred to where it went."""
    folder = shared / "data/real/warp_numbers"
    samples = box_samples(8, 1.0, 0.5)
    found = []
    for name, at, roll in (("shift_reference", (0.0, 0.0), (4, 4)), ("shift_shifted_2.5_3.3", (2.5, 3.3), (2, 1))):
        with mrcfile.open(folder / f"{name}.mrc", permissive=True) as file:
            image = np.asarray(file.data, np.float32).reshape(8, 8)
        # the image is periodic: rolled until the box around the particle is the whole of it
        moved = np.roll(image, roll[::-1], axis=(0, 1))
        found.append(extract_samples(moved, np.add([at], roll), np.array([True]), samples)[0])
    # a delta has transform 1, divided by the box edge; float32 pixels of size 1
    np.testing.assert_allclose(as_complex(found[0]), 1 / 8, atol=1e-6)
    np.testing.assert_allclose(as_complex(found[1]), 1 / 8, atol=1e-6)


def test_samples_are_the_transform_about_the_particle():
    """X(k) = sum_r I(r) exp(-2 pi i k (r - particle) / n) / n over the box at the nearest pixel, zeros outside."""
    n, pixel = 16, 3.0
    samples = box_samples(n, pixel, 0.5 / pixel)
    xy = np.array([[20.3, 17.8], [25.5, 30.4], [3.2, 40.9], [51.0, 1.0]])
    found = as_complex(extract_samples(RNG_IMAGE, xy, np.ones(4, bool), samples))
    padded = np.pad(RNG_IMAGE.astype(np.float64), n)
    for p, (x, y) in enumerate(xy):
        rows, cols = (np.arange(n) + int(np.rint(c)) - n // 2 for c in (y, x))
        box = padded[np.ix_(rows + n, cols + n)]
        ex = np.exp(-2j * np.pi / n * samples.kx[:, None] * (cols - x))
        ey = np.exp(-2j * np.pi / n * samples.ky[:, None] * (rows - y))
        expected = np.einsum("sy,yx,sx->s", ey, box, ex) / n
        # float32 transform of 256 values of size 1: rounding of about 1e-7 times a few
        np.testing.assert_allclose(found[p], expected, atol=2e-6)


def test_nothing_is_found_outside_the_image():
    """A box that lies outside, and a particle that is not to be cut, give zeros."""
    samples = box_samples(16, 1.0, 0.5)
    xy = np.array([[-9.0, 20.0], [20.0, 53.0], [20.0, 20.0]])
    found = extract_samples(RNG_IMAGE, xy, np.array([True, True, False]), samples)
    assert not found.any()
    assert extract_samples(RNG_IMAGE, xy, np.ones(3, bool), samples)[2].any()


def test_a_plane_is_taken_out():
    """Adding any plane changes nothing: the fit removes it before the periodic transform sees its edge."""
    y, x = np.indices(RNG_IMAGE.shape)
    tilted = RNG_IMAGE + (100 + 0.5 * x - 0.25 * y).astype(np.float32)
    one, _ = prepare_tilt_image(RNG_IMAGE, 2.0, 3.0, 1e4)
    two, _ = prepare_tilt_image(tilted, 2.0, 3.0, 1e4)
    # float32 pixels near 110 are rounded by 4e-6
    np.testing.assert_allclose(one, two, atol=3e-5)


def test_output_is_inverted_and_of_unit_deviation():
    """Standard deviation 1, mean 0, contrast of opposite sign, and independent of the units that came."""
    out, growth = prepare_tilt_image(RNG_IMAGE, 2.0, 2.0, 1e4)
    assert out.dtype == np.float32
    assert out.std() == pytest.approx(1, abs=1e-5)  # float32
    assert out.mean() == pytest.approx(0, abs=1e-5)
    np.testing.assert_array_equal(growth, [1.0, 1.0])
    assert np.corrcoef(out.ravel(), RNG_IMAGE.ravel())[0, 1] < -0.98  # the plane and the lowest frequencies are lost
    scaled, _ = prepare_tilt_image(-250 * RNG_IMAGE, 2.0, 2.0, 1e4)
    np.testing.assert_allclose(scaled, -out, atol=1e-5)


@pytest.mark.parametrize(("shape", "pixel_out"), [((60, 90), 3.0), ((60, 90), 1.5), ((61, 91), 3.0), ((60, 90), 2.0)])
def test_resampling_keeps_a_band_limited_image(shape, pixel_out):
    """A wave comes out as the same wave on the new grid of even size; growth says how positions move."""
    image = wave(shape, 7, -5).astype(np.float32)
    out, growth = prepare_tilt_image(image, 2.0, pixel_out, 1e4)
    assert not np.any(np.array(out.shape) % 2)
    exact = np.array(shape) * 2.0 / pixel_out
    np.testing.assert_allclose(growth, (np.array(out.shape) / exact)[::-1])
    assert np.abs(np.array(out.shape) - exact).max() <= 1
    y, x = np.indices(out.shape)
    # pixel i of the output lies at i * pixel_out / growth in A, that is at this pixel of the input
    xi, yi = x * pixel_out / growth[0] / 2.0, y * pixel_out / growth[1] / 2.0
    middle = (np.array(shape) - 1) / 2
    phase = 2 * np.pi * (7 * (xi - middle[1]) / shape[1] - 5 * (yi - middle[0]) / shape[0])
    # inverted, and a wave of unit deviation has amplitude sqrt(2)
    np.testing.assert_allclose(out, -np.sqrt(2) * np.cos(phase), atol=1e-5)


def test_low_frequencies_are_filtered_out():
    """Waves longer than twice the limit vanish, waves shorter than the limit stay."""
    image = wave((64, 64), 1, 0) + wave((64, 64), 8, 0)
    out, _ = prepare_tilt_image(image.astype(np.float32), 2.0, 2.0, 40.0)  # wave lengths 128 and 16 A
    np.testing.assert_allclose(out, -np.sqrt(2) * wave((64, 64), 8, 0), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 5.0, -1234.5])
def test_an_empty_image_stays_empty(value):
    """A constant image gives zeros, not NaN and not its own rounding errors blown up to deviation 1."""
    out, _ = prepare_tilt_image(np.full((32, 32), value, np.float32), 2.0, 2.0, 100.0)
    assert not out.any()


def test_nan_is_not_hidden():
    """An image with NaN gives NaN, so that whoever reads it can refuse it."""
    image = np.zeros((32, 32), np.float32)
    image[3, 4] = np.nan
    assert np.isnan(prepare_tilt_image(image, 2.0, 2.0, 100.0)[0]).any()


def test_ring_power_of_white_noise_is_its_variance():
    """E|X|^2 = v for white noise of variance v, in every ring, whatever the box."""
    samples = box_samples(32, 2.0, 0.25)
    image = 1.7 * np.random.default_rng(3).standard_normal((640, 640)).astype(np.float32)
    centres = 16.0 + 32 * np.indices((20, 20)).reshape(2, -1).T
    keep = np.arange(400) % 5 > 0
    cut = extract_samples(image, centres, keep, samples)
    power = ring_power(cut, keep, samples)
    n = np.bincount(samples.ring)[1] * 320
    # |X|^2 of a complex Gaussian scatters by its mean; the first window holds rings 1 and 2, so at least n values
    np.testing.assert_allclose(power[1:], 1.7**2, rtol=5 / np.sqrt(n))
    total = (cut[keep].astype(np.float64) ** 2).sum() / (320 * len(samples.kx))
    assert total == pytest.approx(1.7**2, rel=5 / np.sqrt(320 * len(samples.kx)))


def test_ring_power_ignores_what_is_not_kept():
    """Particles that are not kept do not count; those kept count alike."""
    samples = box_samples(16, 2.0, 0.2)
    values = np.zeros((3, len(samples.kx), 2), np.float32)
    values[0], values[1], values[2] = 1.0, 2.0, np.nan
    power = ring_power(values, np.array([True, True, False]), samples)
    np.testing.assert_allclose(power[1:], (2.0 + 8.0) / 2)
