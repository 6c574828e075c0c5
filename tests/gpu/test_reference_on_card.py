"""References and FSC on a card and on the host: the same random numbers, the same maps and curves to float32.

Without a card the same code runs on arrays that do not mix with the host's.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest
import scipy.ndimage
import shim
from problems import a_problem

from mpr_dist.arrays import HOST
from mpr_dist.imaging.fsc import fsc, masked_fsc
from mpr_dist.imaging.reference import filter_halves, prepare_reference, projector_volume, use_mask
from mpr_dist.maths.filters import occupied, soft_mask
from mpr_dist.maths.fourier import crop_or_pad_real, shell_sums, shells
from mpr_dist.maths.kernels.cards import compare_on, correlate_shells_on
from mpr_dist.model.species import Species

N, PIXEL_A = 40, 2.0
SPECIES = Species("blobs", PIXEL_A, N, 50.0, symmetry="C3")


def two_halves(noise, seed=0, n=N):
    """Half-maps (n, n, n) of the same blobs with noise of their own."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    places = rng.uniform(-n / 6, n / 6, (8, 3))
    signal = sum(np.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / 5) for a, b, c in places)
    return [(signal + noise * rng.standard_normal(signal.shape)).astype(np.float32) for _ in range(2)]


def a_sphere(n=N):
    z, y, x = np.mgrid[:n, :n, :n] - n // 2
    return (x**2 + y**2 + z**2 < (n / 3.2) ** 2).astype(np.float32)


def close(found, expected, rel=1e-5):
    """1e-5 of the largest: transforms of float32 there and back."""
    assert np.abs(found - expected).max() <= rel * np.abs(expected).max()
    assert np.abs(expected).max() > 0


@pytest.mark.parametrize(("extend", "edge"), [(0, 0), (1.0, 6.0), (2.5, 0.0), (1.5, 30.0)])
def test_soft_masks_follow_the_euclidean_distance(device, extend, edge):
    """Distances are those of scipy's transform, which knows no limit of reach; also at the edges of the box."""
    inside = np.random.default_rng(1).random((25, 31, 18)) > 0.998
    inside[0, 0, 0] = inside[-1, -1, -1] = True
    beyond = scipy.ndimage.distance_transform_edt(~inside) - extend
    expected = 0.5 + 0.5 * np.cos(np.pi * np.clip(beyond / edge, 0, 1)) if edge else beyond <= 0
    found = device.take(soft_mask(inside, extend, edge, device))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)  # float32
    assert not device.take(soft_mask(inside & False, extend, edge, device)).any()


def test_shells_and_what_is_occupied_are_the_same_everywhere(device):
    """Whole numbers: the same to the last."""
    np.testing.assert_array_equal(device.take(shells(18, device=device)), shells(18))
    volume = np.zeros((5, 7, 9))
    volume[1:3, 4, [2, 8]] = -1.5
    found = [np.flatnonzero(line).tolist() for line in occupied(device.put(volume), device)]
    assert found == [[1, 2], [4], [2, 8]]


@pytest.mark.parametrize("n", [9, 16, 258])  # odd; even; more shells than threads
def test_sums_of_shells_are_those_of_the_twin(card, n):
    """Cross products and powers of every shell, mates counted: float32 products, sums of float64 in the same order."""
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal((n, n, n // 2 + 1, 2), np.float32).view(np.complex64)[..., 0] for _ in range(2))
    expected = shell_sums((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    found = card.take(correlate_shells_on(card, card.put(a), card.put(b))).sum(axis=0).T
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    assert (expected[1] > 0).all()


def test_order_of_threads_changes_no_bit_of_a_curve(shim_card):
    """The threads of a block backwards, and blocks from last to first."""
    first, second = two_halves(0.3)
    found = []
    for backward in (False, True):
        shim_card.backward, shim_card.order = backward, (lambda n: range(n)[::-1]) if backward else range
        found.append(fsc(first, second, shim_card).tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("noise", [0.02, 0.3, 3.0])
def test_curves_and_resolution_do_not_depend_on_the_device(card, noise, padded):
    """Good, poor and worthless half-maps, also such that were made in a smaller box: phases are random in the same way.

    The resolution agrees to 1e-4: where a curve crosses 0.143 it falls by more than a hundredth of that in a shell.
    """
    first, second = two_halves(noise)
    if padded:
        first, second = (crop_or_pad_real(crop_or_pad_real(half, 28), N) for half in (first, second))
    soft = use_mask(a_sphere(), PIXEL_A)
    here = masked_fsc(first, second, soft, PIXEL_A, copies=3)
    there = masked_fsc(first, second, soft, PIXEL_A, copies=3, device=card)
    assert there.randomised_from == here.randomised_from
    assert there.resolution_A == pytest.approx(here.resolution_A, rel=1e-4)
    for name in ("unmasked", "masked", "randomised", "corrected"):
        assert isinstance(getattr(there, name), np.ndarray)
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=0, atol=2e-5)
    assert np.isinf(here.resolution_A) == (noise == 3.0)


@pytest.mark.parametrize("share_below_A", [0.0, 15.0])
def test_a_reference_is_that_of_the_host(card, share_below_A):
    """Masked, filtered, transformed and packed; the curves come with it."""
    first, second = two_halves(0.1)
    here, curves = prepare_reference(first, second, a_sphere(), SPECIES, share_below_A, 0.8)
    there, same = prepare_reference(first, second, a_sphere(), SPECIES, share_below_A, 0.8, card)
    assert type(there.volumes) is np.ndarray
    assert there.volumes.dtype == here.volumes.dtype
    close(there.volumes, here.volumes)
    np.testing.assert_allclose(same.corrected, curves.corrected, rtol=0, atol=2e-5)
    assert (there.grid_px, there.q_max) == (here.grid_px, pytest.approx(here.q_max, rel=1e-4))
    assert 0 < here.q_max < 0.5 / PIXEL_A
    for found, expected in zip(
        filter_halves(first, second, curves, share_below_A, card),
        filter_halves(first, second, curves, share_below_A),
        strict=True,
    ):
        close(card.take(found), expected)


@pytest.mark.parametrize("grid", [N, 2 * N])
def test_a_finer_grid_is_that_of_the_host(card, grid):
    volume = two_halves(0.1)[0]
    close(card.take(projector_volume(card.put(volume), grid, card)), projector_volume(volume, grid))


def test_a_reference_stays_where_it_was_made(shim_card):
    """Images are compared with it without its going up again, through the end of a series, while the host keeps it."""
    first, second = two_halves(0.1)
    before = shim.MEMORY.live
    reference, _ = prepare_reference(first, second, a_sphere(), SPECIES, device=shim_card)
    gc.collect()
    assert shim.MEMORY.live - before == reference.volumes.nbytes
    p = a_problem()
    images, (kinds, rows) = shim_card.put(p.images), (p.kinds[:0], p.rows[:0])
    shim.TRAFFIC.since()
    for _ in range(2):
        compare_on(shim_card, reference.volumes, p.reference, images, p.shifts, p.seen, kinds, rows)
        shim_card.release(all_of_it=False)  # the end of a series
    up, _, _ = shim.TRAFFIC.since()
    assert 0 < up < reference.volumes.nbytes / 4
    del reference, images
    gc.collect()
    assert shim.MEMORY.live == before


def test_a_reference_that_comes_from_the_disk_goes_up_once(shim_card):
    """And again only if a card had to be emptied. One that takes much of its room goes up once a series, as ever."""
    p = a_problem()
    images, (kinds, rows) = shim_card.put(p.images), (p.kinds[:0], p.rows[:0])

    def uploads(series, between):
        shim.TRAFFIC.since()
        for _ in range(series):
            for _ in range(2):
                compare_on(shim_card, p.volumes, p.reference, images, p.shifts, p.seen, kinds, rows)
            between()
        return shim.TRAFFIC.since()[0]

    rest = uploads(1, lambda: None) - p.volumes.nbytes
    assert uploads(3, lambda: shim_card.release(all_of_it=False)) == 3 * rest
    assert uploads(3, shim_card.release) == 3 * rest + 2 * p.volumes.nbytes
    shim_card.room = 4 * p.volumes.nbytes
    assert uploads(3, lambda: shim_card.release(all_of_it=False)) == 3 * (rest + p.volumes.nbytes)


def test_too_little_memory_leaves_it_to_the_host(shim_card):
    """Whoever makes a reference asks there_or_here; the card then keeps nothing of it."""
    first, second = two_halves(0.1)
    before = shim.MEMORY.live
    shim.MEMORY.limit = before + 4 * first.nbytes
    try:
        with pytest.raises(MemoryError):
            prepare_reference(first, second, a_sphere(), SPECIES, device=shim_card)
    finally:
        shim.MEMORY.limit = None
    gc.collect()
    assert shim.MEMORY.live == before
    assert prepare_reference(first, second, a_sphere(), SPECIES, device=HOST)[0].q_max > 0
