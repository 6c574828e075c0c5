"""The CUDA text that cuts boxes, packs the samples of their transforms, and imposes symmetry, against its twins."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.imaging.extract import extract_samples
from mpr_dist.imaging.reconstruct import _symmetrise
from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.kernels.cards import cut_on, pack_on, symmetrise_on
from mpr_dist.maths.symmetry import rotations

SHAPE = (70, 90)  # height, width


def an_image():
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def test_boxes_are_cut_where_they_lie_and_zero_outside(card):
    """Inside, across every edge, and wholly outside."""
    image, n = an_image(), 16
    corner = np.array([[5, 7], [-3, 60], [80, -9], [200, 10], [-100, -100], [0, 0]])
    padded = np.zeros((SHAPE[0] + 400, SHAPE[1] + 600), np.float32)
    padded[200 : 200 + SHAPE[0], 300 : 300 + SHAPE[1]] = image
    expected = [padded[200 + y : 200 + y + n, 300 + x : 300 + x + n] for x, y in corner]
    np.testing.assert_array_equal(card.take(cut_on(card, card.put(image), corner, n)), expected)


@pytest.mark.parametrize("n", [16, 18])  # half a box is even or odd
def test_samples_are_those_of_the_twin(card, n):
    """Cut, transform and phases as extract_samples does them, to float32."""
    image, samples = an_image(), box_samples(n, 2.0, 0.25)
    xy = np.array([[20.3, 30.8], [33.5, 12.49], [88.2, 1.0]])
    expected = extract_samples(image, xy, np.ones(3, bool), samples)
    middle = np.rint(xy).astype(int)
    boxes = cut_on(card, card.put(image), middle - n // 2, n)
    transforms = card.fft.rfft2(boxes)
    found = card.take(pack_on(card, transforms, samples.kx, samples.ky, xy - middle))
    assert np.abs(found - expected).max() < 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["C1", "C3", "O"])
def test_symmetry_is_that_of_the_twin(card, name):
    """The same sums in the same order of float64; a card fuses multiplications and additions."""
    rng = np.random.default_rng(1)
    sums = rng.standard_normal((15, 15, 8, 3))
    matrices = np.ascontiguousarray(rotations(name))
    expected = _symmetrise(sums, matrices)
    found = card.take(symmetrise_on(card, card.put(sums), matrices))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * len(matrices))
    assert np.abs(expected).max() > 1
