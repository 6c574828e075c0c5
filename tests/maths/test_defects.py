"""Repaired pixels: what a bad pixel says never counts, and what is good never changes."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.maths.defects import ENOUGH, repaired


def pixels(*places, shape=(40, 50)):
    bad = np.zeros(shape, bool)
    for y, x in places:
        bad[y, x] = True
    return bad


LINES = pixels(*((y, 20) for y in range(40)), *((y, 21) for y in range(40)), (0, 0), (39, 49), (10, 0))


@pytest.mark.parametrize("value", [0.0, 1e6, np.nan])
def test_what_bad_pixels_say_does_not_count(value):
    """Hot, dead or not a number: the same bits come out, and good pixels as they were."""
    frame = np.random.default_rng(0).poisson(5.0, (40, 50)).astype(np.float32)
    spoiled = frame.copy()
    spoiled[LINES] = value
    out = repaired(spoiled, LINES)
    assert out.tobytes() == repaired(frame, LINES).tobytes()
    np.testing.assert_array_equal(out[~LINES], frame[~LINES])
    # means of at least so many counts of variance 5
    assert np.abs(out[LINES] - 5.0).max() < 5 * np.sqrt(5.0 / ENOUGH)


def test_a_ramp_goes_on_inside_and_a_constant_everywhere():
    """The mean over a disc about a pixel is the value of a plane there; a constant stays one, at edges too."""
    y, x = np.mgrid[:40, :50].astype(np.float32)
    inside = pixels((20, 20), (12, 40))
    np.testing.assert_allclose(repaired(3 * y - 2 * x, inside)[inside], (3 * y - 2 * x)[inside], atol=1e-4)
    np.testing.assert_array_equal(repaired(np.full((40, 50), 7.0, np.float32), LINES), 7.0)


def test_the_middle_of_a_large_block_becomes_the_mean_of_the_frame():
    """Nothing good is near; further out the neighbours decide."""
    frame = np.random.default_rng(1).normal(3.0, 1.0, (120, 120)).astype(np.float32)
    bad = np.zeros(frame.shape, bool)
    bad[20:100, 20:100] = True
    out = repaired(frame, bad)
    assert out[60, 60] == np.float32(frame[~bad].mean(dtype=np.float64))
    assert out[21, 60] != out[60, 60]
    assert repaired(frame, np.ones(frame.shape, bool)) is frame
    assert repaired(frame, np.zeros(frame.shape, bool)) is frame
