"""Which Fourier samples count: half the plane, each pair once, low resolution first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpr_dist.errors import InputError
from mpr_dist.imaging.samples import box_samples

BOXES = st.integers(4, 24).map(lambda half: 2 * half)
PIXEL_A = 2.5


@given(BOXES, st.floats(0.05, 0.5))
def test_every_hermitian_pair_once(box, q_max):
    """Samples and their mates are all frequencies but zero, in the full rings up to q_max and inside Nyquist."""
    s = box_samples(box, PIXEL_A, q_max)
    ours = list(zip(s.kx.tolist(), s.ky.tolist(), strict=True))
    both = ours + [(-x, -y) for x, y in ours]
    r_max = min(int(np.floor(q_max * box * PIXEL_A + 1e-6)), box // 2 - 1)
    k = range(-r_max, r_max + 1)
    expected = {(x, y) for x in k for y in k if 0 < round(float(np.hypot(x, y))) <= r_max}
    assert len(both) == len(set(both))
    assert set(both) == expected
    assert s.n_rings == r_max + 1


@given(BOXES, st.floats(0.05, 0.5))
def test_rings_are_sorted_and_their_ends_are_counts(box, q_max):
    """ring is |k| rounded and never falls; ring_end[r] counts the samples with ring <= r."""
    s = box_samples(box, PIXEL_A, q_max)
    np.testing.assert_array_equal(s.ring, np.rint(np.sqrt(s.kx**2 + s.ky**2)))
    assert (np.diff(s.ring) >= 0).all()
    np.testing.assert_array_equal(s.ring_end, [(s.ring <= r).sum() for r in range(s.n_rings)])


@given(BOXES, st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_a_lower_limit_is_a_prefix(box, one, two):
    """The samples up to a lower resolution are the first samples of those up to a higher one."""
    few, many = (box_samples(box, PIXEL_A, q) for q in sorted((one, two)))
    n = len(few.kx)
    np.testing.assert_array_equal(few.kx, many.kx[:n])
    np.testing.assert_array_equal(few.ky, many.ky[:n])
    assert many.ring_end[few.n_rings - 1] == n


@given(BOXES, st.floats(0.01, 1.0))
def test_ring_of_is_wholly_inside(box, q):
    """No sample of ring_of(q) lies beyond q, and the next ring reaches beyond it unless there is none."""
    s = box_samples(box, PIXEL_A, 0.5)
    r, edge = int(s.ring_of(q)), q * box * PIXEL_A
    inside = np.hypot(s.kx, s.ky)[s.ring == r]
    assert r == 0 or inside.max() <= edge + 1e-5
    assert r == s.n_rings - 1 or r + 1.5 > edge - 1e-5


def test_frequencies_are_in_inverse_angstrom():
    """qx, qy = k / (box * pixel)."""
    s = box_samples(16, PIXEL_A, 0.2)
    np.testing.assert_allclose(s.qx * 40.0, s.kx, atol=1e-12)
    np.testing.assert_allclose(s.qy * 40.0, s.ky, atol=1e-12)


def test_odd_boxes_are_refused():
    """A box without a middle pixel pair is an input error."""
    with pytest.raises(InputError, match="even"):
        box_samples(15, PIXEL_A, 0.2)
