"""The CUDA text of the insertion against its numba twin, which is tested as the adjoint of the slice."""

from __future__ import annotations

import numpy as np
import pytest
import shim
from problems import GRID, a_problem

from mpr_dist.maths.kernels.cards import insert_on
from mpr_dist.maths.kernels.insert import insert

SCALE = 2.0**28


def on_host(problem):
    p, s = problem, problem.seen
    sums = np.zeros((2, *p.volumes.shape[1:4], 3), np.int64)
    where = (s.active, s.views, s.defocus, s.astig, s.fixed, s.weight, s.weight_row, s.n_samples, s.tables)
    largest = insert(sums, p.reference.astype(np.int8), p.images, *where, s.is_curved, SCALE)
    return sums, largest


def on_card(card, problem, slabs=((0, GRID + 3),)):
    """Sums of both half-sets, made of slabs of planes, and the largest contribution of every image."""
    sums = np.zeros((2, *problem.volumes.shape[1:4], 3), np.int64)
    images, largest = card.put(problem.images), np.zeros(problem.seen.active.shape)
    for half in (0, 1):
        chosen = np.repeat((problem.reference == half)[:, None], problem.images.shape[1], 1)
        for first, end in slabs:
            part = card.put(sums[half, first:end])
            found = insert_on(card, part, first, chosen, images, problem.seen, SCALE)
            sums[half, first:end] = card.take(part)
            largest = np.maximum(largest, card.take(found))
    return sums, largest


@pytest.mark.parametrize("is_curved", [False, True], ids=["flat", "curved"])
def test_sums_are_those_of_the_twin(card, is_curved):
    """Every cell agrees with numba's to float32: phases are off by 1e-6 turns, products by 1e-7."""
    problem = a_problem(is_curved=is_curved)
    (expected, most), (found, largest) = on_host(problem), on_card(card, problem)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    for half in (0, 1):
        assert largest[problem.reference == half].max() == pytest.approx(most[half], rel=1e-5)
    assert np.count_nonzero(expected) > 1000


def test_shuffled_launches_give_the_same_bits(shim_card):
    """Integer addition is associative: neither the order of blocks nor that of threads changes a bit."""
    problem = a_problem(n_particles=5)
    first, _ = on_card(shim_card, problem)
    for seed in (1, 2):
        other = shim.ShimCard(seed == 2, lambda n, seed=seed: np.random.default_rng(seed).permutation(n))
        found, _ = on_card(other, problem)
        assert found.tobytes() == first.tobytes()
    assert first.any()


def test_two_runs_have_the_same_bits(card):
    """Atomics of integers leave no trace of the order in which they came."""
    problem = a_problem(n_particles=5)
    assert on_card(card, problem)[0].tobytes() == on_card(card, problem)[0].tobytes()


def test_slab_by_slab_is_all_at_once(card):
    """A card that holds a few planes at a time ends in the same bits."""
    problem = a_problem(is_curved=True)
    whole, largest = on_card(card, problem)
    slabs = [(0, 9), (9, 10), (10, GRID + 3)]
    found, same = on_card(card, problem, slabs)
    assert found.tobytes() == whole.tobytes()
    np.testing.assert_array_equal(same, largest)


def test_inactive_images_and_trailing_samples_add_nothing(card):
    """What is not active, and samples beyond the limit, leave no trace."""
    problem = a_problem()
    active = np.array([[True, False], [False, True], [True, True]])
    limited = problem.seen_as(active=active, n_samples=np.array([100, 50]))
    expected, _ = on_host(limited)
    limited.images[0, 1], limited.images[:, 0, 100:] = np.nan, np.nan
    found, largest = on_card(card, limited)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert not largest[~active].any()


def test_a_value_that_is_no_number_counts_as_infinite(card):
    """The largest contribution then exceeds every limit."""
    problem = a_problem()
    problem.images[1, 0, 7, 1] = np.nan
    _, largest = on_card(card, problem)
    assert np.isinf(largest[1, 0])
    assert np.isfinite(np.delete(largest.ravel(), 2)).all()
