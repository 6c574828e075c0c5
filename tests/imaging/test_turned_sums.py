"""Sums over the copies of a group: shared by orbits where a group permutes the axes, the same as copy by copy."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.arrays import HOST
from mpr_dist.imaging.turned_sums import _symmetrise, turned_sums
from mpr_dist.maths.symmetry import rotations

EDGE = 21


def hermitian_sums(seed: int) -> np.ndarray:
    """Random numbers with a plane kx = 0 in which F(-k) is the conjugate of F(k)."""
    sums = np.random.default_rng(seed).normal(size=(EDGE, EDGE, EDGE // 2 + 1, 3))
    sums[:, :, 0] += sums[::-1, ::-1, 0] * [1.0, -1.0, 1.0]
    return sums


@pytest.mark.parametrize("symmetry", ["C2", "C4", "D2", "D4", "O"])
def test_orbits_are_summed_as_copy_by_copy(symmetry):
    """Up to 24 numbers of about 1 in another order: 24 x 24 x 2^-53 at most, twice for a Hermitian pair."""
    sums, matrices = hermitian_sums(1), rotations(symmetry)
    assert np.array_equal(np.rint(matrices), matrices)
    expected = _symmetrise(sums, matrices)
    np.testing.assert_allclose(turned_sums(sums, matrices, HOST), expected, rtol=0, atol=1e-12)
    assert np.abs(expected[:, :, 0]).max() > 1


@pytest.mark.parametrize("symmetry", ["C4", "D2", "O"])
def test_all_cells_of_an_orbit_hold_the_same_bits(symmetry):
    """Turned once more by any element of the group, nothing changes: copy by copy, orders of sums would differ."""
    found = turned_sums(hermitian_sums(2), rotations(symmetry), HOST)
    c = EDGE // 2
    z, y, x = np.indices(found.shape[:3]) - np.array([c, c, 0])[:, None, None, None]
    inside = x**2 + y**2 + z**2 <= (c - 1) ** 2
    k = np.stack([x, y, z], -1)[inside]
    for matrix in np.rint(rotations(symmetry)).astype(int):
        to = k @ matrix.T
        flip = np.where(to[:, 0] < 0, -1, 1)
        to = to * flip[:, None]
        there = found[to[:, 2] + c, to[:, 1] + c, to[:, 0]] * np.stack(
            [np.ones_like(flip), flip, np.ones_like(flip)], 1
        )
        # in the plane of both, and where an element turns k into -k, imaginary parts cancel up to rounding
        np.testing.assert_allclose(there[:, 1], found[inside][:, 1], rtol=0, atol=1e-12)
        assert np.array_equal(there[:, [0, 2]], found[inside][:, [0, 2]])
    assert not found[~inside].any()


def test_nothing_is_lost_between_turns():
    """One turn by 90 degrees about z is an exact permutation; with its group it adds up to four times the mean."""
    sums, matrices = hermitian_sums(3), rotations("C4")
    singly = sum(turned_sums(sums, np.ascontiguousarray(matrix[None]), HOST) for matrix in matrices)
    np.testing.assert_allclose(turned_sums(sums, matrices, HOST), singly, rtol=0, atol=1e-12)
