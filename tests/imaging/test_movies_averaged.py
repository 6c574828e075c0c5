"""Averages of movies: motion is taken out whole, and noise stays what it was."""

from __future__ import annotations

import numpy as np

from mpr_dist.imaging.movies import average_frames
from mpr_dist.model.movie import Motion
from mpr_dist.model.warp import CubicGrid

PIXEL_A = 2.0


def moving(x_A, y_A) -> Motion:
    """The same everywhere; nodes at every frame, so that the spline goes through them."""
    return Motion(((CubicGrid.per_tilt(np.asarray(x_A)), CubicGrid.per_tilt(np.asarray(y_A))),))


def test_motion_by_whole_pixels_is_undone():
    """What stands at u stands at u - motion in a frame: frames rolled by minus the motion give the image back."""
    image = np.random.default_rng(0).standard_normal((24, 20)).astype(np.float32)
    shifts = [(0, 0), (1, -2), (3, 4)]
    frames = [np.roll(image, (-y, -x), (0, 1)) for x, y in shifts]
    motion = moving(*(PIXEL_A * np.array(shifts, float).T))
    np.testing.assert_allclose(average_frames(frames, motion, np.zeros(3), PIXEL_A), image, atol=1e-5)


def test_local_motion_agrees_with_global_motion():
    """A grid over the image that is the same everywhere, by splines, is the Fourier shift of a smooth image."""
    y, x = np.indices((48, 40))
    image = (np.sin(2 * np.pi * x / 20) + np.cos(2 * np.pi * y / 24)).astype(np.float32)
    frames = [image, np.roll(image, (-1, 2), (0, 1))]
    flat = moving([0.0, -2 * PIXEL_A + 0.7], [0.0, PIXEL_A])
    local = Motion(tuple(tuple(CubicGrid(np.tile(g.values, (1, 2, 2))) for g in pair) for pair in flat.grids))
    assert local.is_local
    a, b = (average_frames(frames, m, np.zeros(2), PIXEL_A)[6:-6, 6:-6] for m in (flat, local))
    np.testing.assert_allclose(a, b, atol=2e-3)  # cubic splines on 20 samples per period


def test_white_noise_stays_white_and_damaged_frames_count_less():
    """The power of noise is that of a plain average at all frequencies; signal is what the weights are worth."""
    rng = np.random.default_rng(1)
    frames = rng.standard_normal((6, 128, 128)).astype(np.float32)
    doses = 8.0 * np.arange(6)
    power = np.abs(np.fft.rfft2(average_frames(frames, moving(np.zeros(6), np.zeros(6)), doses, PIXEL_A))) ** 2
    q = np.hypot(np.fft.fftfreq(128, PIXEL_A)[:, None], np.fft.rfftfreq(128, PIXEL_A)[None])
    expected = 128**2 / 6
    for low, high in ((0.02, 0.08), (0.1, 0.15), (0.18, 0.24)):
        ring = power[(q >= low) & (q < high)]
        # the mean of n exponential variables scatters by 1 / sqrt(n); thrice that
        assert abs(ring.mean() / expected - 1) < 3 * np.sqrt(2 / len(ring))
    # at 5 A only the first frame is left: the average is that frame over sqrt(6)
    high = (q > 0.2) & (q < 0.25)
    first = np.fft.rfft2(frames[0])[high]
    found = np.fft.rfft2(average_frames(frames, moving(np.zeros(6), np.zeros(6)), 20 * doses, PIXEL_A))[high]
    np.testing.assert_allclose(found, first / np.sqrt(6), atol=1e-3 * np.abs(first).max())


def test_binned_averages_keep_low_frequencies():
    """Half the size: the same field, mean and low frequencies."""
    y, x = np.indices((48, 40))
    image = (3 + np.sin(2 * np.pi * x / 20) + np.cos(2 * np.pi * y / 24)).astype(np.float32)
    found = average_frames([image], Motion(), np.zeros(1), PIXEL_A, (24, 20))
    np.testing.assert_allclose(found, image[::2, ::2], atol=1e-5)
