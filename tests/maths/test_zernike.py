"""Polynomials of the aberrations: Cartesian forms of the textbook, orthogonality, the order of Warp's lists."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.maths.zernike import even_gamma_rad, even_terms, odd_phase_rad, odd_terms, zernike

# Cartesian forms, written out by hand from Born and Wolf's table 9.1; m < 0 are the sines
CARTESIAN = {
    (1, -1): lambda x, y, r2: y,
    (1, 1): lambda x, y, r2: x,
    (2, -2): lambda x, y, r2: 2 * x * y,
    (2, 0): lambda x, y, r2: 2 * r2 - 1,
    (2, 2): lambda x, y, r2: x**2 - y**2,
    (3, -3): lambda x, y, r2: 3 * x**2 * y - y**3,
    (3, -1): lambda x, y, r2: (3 * r2 - 2) * y,
    (3, 1): lambda x, y, r2: (3 * r2 - 2) * x,
    (3, 3): lambda x, y, r2: x**3 - 3 * x * y**2,
    (4, -4): lambda x, y, r2: 4 * x**3 * y - 4 * x * y**3,
    (4, -2): lambda x, y, r2: (4 * r2 - 3) * 2 * x * y,
    (4, 0): lambda x, y, r2: 6 * r2**2 - 6 * r2 + 1,
    (4, 2): lambda x, y, r2: (4 * r2 - 3) * (x**2 - y**2),
    (4, 4): lambda x, y, r2: x**4 - 6 * x**2 * y**2 + y**4,
    (5, -5): lambda x, y, r2: 5 * x**4 * y - 10 * x**2 * y**3 + y**5,
    (5, -3): lambda x, y, r2: (5 * r2 - 4) * (3 * x**2 * y - y**3),
    (5, -1): lambda x, y, r2: (10 * r2**2 - 12 * r2 + 3) * y,
    (5, 1): lambda x, y, r2: (10 * r2**2 - 12 * r2 + 3) * x,
    (5, 3): lambda x, y, r2: (5 * r2 - 4) * (x**3 - 3 * x * y**2),
    (5, 5): lambda x, y, r2: x**5 - 10 * x**3 * y**2 + 5 * x * y**4,
}


def points(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.uniform(-1.2, 1.2, (2, n)))  # beyond the unit circle, too: frequencies are not normalised


@pytest.mark.parametrize("term", CARTESIAN)
def test_polar_and_cartesian_forms_agree(term):
    x, y = points()
    np.testing.assert_allclose(zernike(*term, x, y), CARTESIAN[term](x, y, x**2 + y**2), atol=1e-12)


def test_lists_have_warps_order():
    """formats.md 1.4: n = 1, 3, 5 with m = -n, -n + 2 .. n; even ones start after the constant, n = 2, then n = 4."""
    assert odd_terms(5) == (
        *((1, -1), (1, 1)),
        *((3, -3), (3, -1), (3, 1), (3, 3)),
        *((5, -5), (5, -3), (5, -1), (5, 1), (5, 3), (5, 5)),
    )
    assert even_terms(4) == ((2, -2), (2, 0), (2, 2), (4, -4), (4, -2), (4, 0), (4, 2), (4, 4))
    assert [len(odd_terms(n)) for n in (1, 3, 5)] == [2, 6, 12]
    assert [len(even_terms(n)) for n in (2, 4)] == [3, 8]


def test_polynomials_are_orthogonal_on_the_disc():
    """Integrals over the unit disc of products vanish; of squares they are pi / (2 n + 2), twice that for m = 0."""
    radius, weight = np.polynomial.legendre.leggauss(12)  # exact to r^23
    radius, weight = (radius + 1) / 2, weight / 2
    angle = np.arange(24) * 2 * np.pi / 24  # exact below the 24th harmonic
    r, phi = np.meshgrid(radius, angle)
    area = np.broadcast_to(weight * radius, r.shape) * 2 * np.pi / 24
    terms = list(CARTESIAN)
    values = np.stack([zernike(n, m, r * np.cos(phi), r * np.sin(phi)) for n, m in terms])
    gram = np.einsum("arp,brp,rp->ab", values, values, area)
    expected = [np.pi / (2 * n + 2) * (2 if m == 0 else 1) for n, m in terms]
    np.testing.assert_allclose(gram, np.diag(expected), atol=1e-12)


def test_odd_changes_sign_with_the_frequency_and_even_does_not():
    """Odd terms are a phase of a real image (Hermitian); even ones belong into gamma."""
    x, y = points()
    rng = np.random.default_rng(1)
    odd, even = tuple(rng.normal(size=12)), tuple(rng.normal(size=8))
    np.testing.assert_allclose(odd_phase_rad(odd, -x, -y), -odd_phase_rad(odd, x, y), atol=1e-10)
    np.testing.assert_allclose(even_gamma_rad(even, -x, -y), even_gamma_rad(even, x, y), atol=1e-10)


def test_sums_are_linear_and_short_lists_mean_zeros():
    x, y = points()
    first, second = (0.0, 0.0, 1.5, 0.0, -2.0), (1.0, -1.0)
    both = odd_phase_rad(first, x, y) + odd_phase_rad(second, x, y)
    np.testing.assert_allclose(odd_phase_rad((1.0, -1.0, 1.5, 0.0, -2.0, 0.0), x, y), both, atol=1e-12)
    expected = 1.5 * CARTESIAN[3, -3](x, y, 0) - 2.0 * CARTESIAN[3, 1](x, y, x**2 + y**2) + x * -1.0 + y
    np.testing.assert_allclose(both, expected, atol=1e-12)
    np.testing.assert_array_equal(even_gamma_rad((), x, y), 0.0)


def test_an_unnormalised_coma_term_carries_a_shift():
    """At a few 0.1 per A the -2 r of Z(3, 1) outweighs its 3 r^3: what looks like beam tilt is mostly a shift."""
    q = np.array([0.1])
    assert zernike(3, 1, q, 0 * q)[0] == pytest.approx(3 * 0.001 - 2 * 0.1)
