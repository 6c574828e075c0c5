"""The CUDA text that cuts boxes, packs and averages the samples of their transforms, imposes symmetry, and averages
shells, against its twins."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.arrays import HOST
from mpr_dist.imaging.extract import extract_samples, noise_of_rings
from mpr_dist.imaging.reconstruct import shell_means
from mpr_dist.imaging.samples import box_samples
from mpr_dist.imaging.turned_sums import _symmetrise
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


@pytest.mark.parametrize("n", [16, 96, 300])  # fewer rings than threads, and more
def test_noise_of_rings_is_that_of_the_twin(card, n):
    """Sums of a ring in the same order; windows are summed, or are differences of running sums: float64 rounding."""
    samples = box_samples(n, 2.0, 0.25)
    power = np.random.default_rng(2).uniform(0.1, 10.0, len(samples.kx))
    power[samples.ring == 5] = 0.0
    expected = noise_of_rings(HOST, power, 7, samples)
    found = card.take(noise_of_rings(card, card.put(power), 7, samples))
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert np.ptp(expected[1:]) > 0


def test_noise_of_nothing_is_not_zero_and_nan_stays(card):
    """Images are divided by its root; what is not finite has to be seen later."""
    samples = box_samples(16, 2.0, 0.25)
    power = np.zeros(len(samples.kx))
    assert (card.take(noise_of_rings(card, card.put(power), 3, samples)) > 0).all()
    power[samples.ring == 4] = np.nan
    assert np.isnan(card.take(noise_of_rings(card, card.put(power), 3, samples))[4])


def test_order_of_threads_changes_no_bit(shim_card):
    """Rings and shells with the threads of a block backwards, and blocks from last to first."""
    rng, samples = np.random.default_rng(4), box_samples(300, 2.0, 0.25)
    power, values = rng.uniform(0.1, 10.0, len(samples.kx)), rng.standard_normal((35, 35, 18))
    found = []
    for backward in (False, True):
        shim_card.backward, shim_card.order = backward, (lambda n: range(n)[::-1]) if backward else range
        noise = shim_card.take(noise_of_rings(shim_card, shim_card.put(power), 7, samples))
        found.append(noise.tobytes() + shell_means(shim_card.put(values), 18, shim_card).tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(("edge", "shells"), [(19, 10), (35, 18), (290, 144)])
def test_means_of_shells_are_those_of_the_twin(card, edge, shells):
    """The same cells in the same order: the same bits."""
    values = np.random.default_rng(3).standard_normal((edge, edge, edge // 2 + 1)) ** 2
    expected = shell_means(values, shells)
    np.testing.assert_array_equal(shell_means(card.put(values), shells, card), expected)
    assert (expected > 0).all()
