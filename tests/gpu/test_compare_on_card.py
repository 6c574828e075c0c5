"""The CUDA text of the fused pass against its numba twin, which is tested against plain numpy and differences."""

from __future__ import annotations

import numpy as np
import pytest
import shim
from plain_slices import Image, inner
from problems import a_problem

from mpr_dist.maths.kernels.cards import MOST_EXTRA, columns, compare_on, together
from mpr_dist.maths.kernels.compare import N_LOCAL, compare, n_out


def on_host(problem):
    p, s = problem, problem.seen
    out = np.full((*s.active.shape, n_out(len(p.kinds))), np.nan)
    where = (p.reference, p.images, s.active, s.views, p.shifts, s.defocus, s.astig, s.fixed, s.weight, s.weight_row)
    compare(p.volumes, *where, s.n_samples, s.tables, s.is_curved, p.kinds, p.rows, out)
    return out


def on_card(card, problem):
    p = problem
    images = card.put(p.images)
    return card.take(compare_on(card, p.volumes, p.reference, images, p.shifts, p.seen, p.kinds, p.rows))


def sizes(out, problem):
    """(particles, tilts, n_out): the product of the norms of what is multiplied."""
    rows = 2 + N_LOCAL + len(problem.kinds)
    upper = np.triu_indices(rows)
    place = np.full((rows, rows), -1)
    place[upper] = np.arange(len(upper[0])) - 1
    squares = np.empty((*out.shape[:2], rows))
    squares[..., 0] = (problem.images.astype(np.float64) ** 2).sum(axis=(2, 3))
    squares[..., 1:] = out[..., np.diag(place)[1:]]
    norms = np.sqrt(squares)
    return (norms[..., upper[0]] * norms[..., upper[1]])[..., 1:]


@pytest.mark.parametrize("is_curved", [False, True], ids=["flat", "curved"])
@pytest.mark.parametrize("n_extra", [0, 1, MOST_EXTRA, MOST_EXTRA + 3])
def test_all_products_are_those_of_the_twin(card, n_extra, is_curved):
    """Every inner product agrees with numba's to 2e-6 of the norms, also where several launches share the work."""
    problem = a_problem(n_extra=n_extra, is_curved=is_curved)
    expected, found = on_host(problem), on_card(card, problem)
    # float32 phases of up to 10 turns are off by 1e-6 turns, differently where a card fuses multiplication and addition
    assert np.max(np.abs(found - expected) / sizes(expected, problem)) < 2e-6
    assert np.abs(expected).min() > 0


@pytest.mark.parametrize("is_curved", [False, True], ids=["flat", "curved"])
def test_values_are_those_of_plain_numpy(card, is_curved):
    """<X,m> and <m,m> are the sums of the formula in double precision."""
    problem = a_problem(n_particles=2, is_curved=is_curved)
    found, s = on_card(card, problem), problem.seen
    for p, t in np.ndindex(*s.active.shape):
        volume = problem.volumes[problem.reference[p]].astype(np.float64)
        numbers = (s.views[p, t], problem.shifts[p, t], s.defocus[p, t], s.astig[t], s.fixed[t])
        numbers += (s.weight[s.weight_row[p, t]], s.tables)
        model = Image(volume[..., 0] + 1j * volume[..., 1], *(a.astype(float) for a in numbers), is_curved).model()
        data = problem.images[p, t, :, 0] + 1j * problem.images[p, t, :, 1].astype(float)
        # float32 phases and places in the grid, as for the twin; a few hundred samples average little
        assert abs(found[p, t, 0] - inner(data, model)) < 3e-6 * np.linalg.norm(data) * np.linalg.norm(model)
        assert found[p, t, 1 + N_LOCAL] == pytest.approx(inner(model, model), rel=3e-6)


def test_groups_of_extra_parameters_cover_every_pair():
    """Any two of many extra parameters meet in a launch, and no launch has more than fit."""
    for n in (MOST_EXTRA + 1, 13, 26):
        seen = np.zeros((n, n), bool)
        for extra in together(n):
            assert len(extra) <= MOST_EXTRA
            seen[np.ix_(extra, extra)] = True
        assert seen.all()


def test_columns_name_the_products_of_a_launch():
    """The place of <d_i, d_j> among all sums, for a launch with the extra parameters 1 and 3 of four."""
    n, taken = 4, np.array([1, 3])
    names = [(i, j) for i in range(2 + N_LOCAL + n) for j in range(i, 2 + N_LOCAL + n)][1:]
    kept = [*range(2 + N_LOCAL), *(2 + N_LOCAL + taken).tolist()]
    pairs = [(i, j) for a, i in enumerate(kept) for j in kept[a:]][1:]
    expected = [names.index(pair) for pair in pairs]
    np.testing.assert_array_equal(columns(taken, n), expected)


def test_two_runs_have_the_same_bits(card):
    """No sum depends on scheduling."""
    problem = a_problem(n_extra=2)
    assert on_card(card, problem).tobytes() == on_card(card, problem).tobytes()


def test_the_order_of_threads_and_blocks_changes_no_bit(shim_card):
    """Threads run backwards and blocks shuffled: what is written where, and when it is read, is ordered by barriers."""
    problem = a_problem(n_particles=4)
    first = on_card(shim_card, problem)
    other = shim.ShimCard(backward=True, order=lambda n: np.random.default_rng(1).permutation(n))
    assert on_card(other, problem).tobytes() == first.tobytes()


def test_inactive_images_and_trailing_samples_do_not_count(card):
    """What is not active is zero; samples beyond the limit may be anything."""
    problem = a_problem()
    active = np.array([[True, False], [False, True], [True, True]])
    limited = problem.seen_as(active=active, n_samples=np.array([130, 17]))
    expected = on_host(limited)
    limited.images[0, 1], limited.images[:, 0, 130:] = np.nan, np.nan
    found = on_card(card, limited)
    assert not found[~active].any()
    scale = sizes(expected, problem_prefix(limited))
    assert np.max(np.abs(found - expected)[active] / scale[active]) < 3e-6  # fewer samples average less


def problem_prefix(problem):
    images = np.nan_to_num(problem.images)
    return type(problem)(**{**vars(problem), "images": images})


def test_each_particle_meets_its_own_reference(card):
    """Swapping volumes and choices together changes no bit; swapping the choices alone does."""
    problem = a_problem()
    first = on_card(card, problem)
    swapped = type(problem)(
        **{**vars(problem), "volumes": problem.volumes[::-1].copy(), "reference": 1 - problem.reference}
    )
    np.testing.assert_array_equal(on_card(card, swapped), first)
    other = type(problem)(**{**vars(problem), "reference": 1 - problem.reference})
    assert np.abs(on_card(card, other)[..., 0] - first[..., 0]).min() > 0


def test_a_card_without_room_for_both_references_gives_the_same_bits(shim_card):
    """One half-set's reference after the other."""
    problem = a_problem(n_extra=1)
    first = on_card(shim_card, problem)
    shim_card.resident = lambda values, lasting: None
    assert on_card(shim_card, problem).tobytes() == first.tobytes()
