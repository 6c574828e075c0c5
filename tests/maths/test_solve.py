"""The block solver against dense linear algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpr_dist.maths.solve import NormalEquations, covariance, posterior, solve


def dense(e: NormalEquations, damping: float = 0.0):
    """The whole matrix and right side, points behind the series parameters."""
    n, points, k = e.b.shape
    whole = np.zeros((n + points * k,) * 2)
    whole[:n, :n] = e.s
    whole[:n, n:] = e.b.reshape(n, -1)
    whole[n:, :n] = whole[:n, n:].T
    for i in range(points):
        at = slice(n + i * k, n + (i + 1) * k)
        whole[at, at] = e.p[i]
    whole[np.diag_indices_from(whole)] *= 1 + damping
    return whole, np.r_[e.g, e.h.ravel()]


def random_equations(seed, n, points, k) -> NormalEquations:
    """Positive definite: J^T J of random residuals, each of which sees the series and one point."""
    rng = np.random.default_rng(seed)
    s, b, p = 0.5 * np.eye(n), np.zeros((n, points, k)), np.tile(0.5 * np.eye(k), (points, 1, 1))
    for i in range(points):
        j = rng.standard_normal((n + k + 2, n + k))
        block = j.T @ j
        s, b[:, i], p[i] = s + block[:n, :n], block[:n, n:], p[i] + block[n:, n:]
    return NormalEquations(s, b, p, rng.standard_normal(n), rng.standard_normal((points, k)))


@settings(deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 5), st.integers(1, 6), st.sampled_from([0.0, 1e-3, 2.0])
)
def test_solution_is_that_of_the_dense_matrix(seed, n, points, k, damping):
    """x and y solve the whole system, its diagonal multiplied by 1 + damping."""
    equations = random_equations(seed, n, points, k)
    matrix, right = dense(equations, damping)
    expected = np.linalg.solve(matrix, right)
    x, y = solve(equations, damping)
    # double precision times condition numbers of up to some 1e4
    np.testing.assert_allclose(np.r_[x, y.ravel()], expected, rtol=1e-9, atol=1e-10)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 5), st.integers(1, 6))
def test_covariance_is_the_inverse_of_the_dense_matrix(seed, n, points, k):
    """s, sp and p are the blocks of the inverse: series, series with points, and each point with itself."""
    equations = random_equations(seed, n, points, k)
    inverse = np.linalg.inv(dense(equations)[0])
    blocks = covariance(equations)
    np.testing.assert_allclose(blocks.s, inverse[:n, :n], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(blocks.sp, inverse[:n, n:].reshape(n, points, k), rtol=1e-9, atol=1e-10)
    for i in range(points):
        at = slice(n + i * k, n + (i + 1) * k)
        np.testing.assert_allclose(blocks.p[i], inverse[at, at], rtol=1e-9, atol=1e-10)


def test_without_points_it_is_the_series_alone():
    """No points: the dense solution and the dense inverse of S."""
    e = random_equations(1, 5, 2, 3)
    alone = NormalEquations(e.s, np.zeros((5, 0, 3)), np.zeros((0, 3, 3)), e.g, np.zeros((0, 3)))
    x, y = solve(alone, 0.1)
    np.testing.assert_allclose(x, np.linalg.solve(e.s + 0.1 * np.diag(np.diag(e.s)), e.g), rtol=1e-9)
    assert y.shape == (0, 3)
    blocks = covariance(alone)
    np.testing.assert_allclose(blocks.s, np.linalg.inv(e.s), rtol=1e-9, atol=1e-12)
    assert blocks.sp.shape == (5, 0, 3)


def test_without_series_it_is_every_point_alone():
    """No dense part: each block is solved and inverted by itself."""
    e = random_equations(3, 2, 4, 3)
    alone = NormalEquations(np.zeros((0, 0)), np.zeros((0, 4, 3)), e.p, np.zeros(0), e.h)
    x, y = solve(alone)
    assert x.shape == (0,)
    np.testing.assert_allclose(y, np.linalg.solve(e.p, e.h[..., None])[..., 0], rtol=1e-9)
    blocks = covariance(alone)
    assert blocks.sp.shape == (0, 4, 3)
    np.testing.assert_allclose(blocks.p, np.linalg.inv(e.p), rtol=1e-9, atol=1e-12)


def test_strong_damping_is_a_short_step_along_the_scaled_gradient():
    """With damping d >> 1 the step is gradient / (d x diagonal): small and uphill."""
    e = random_equations(2, 4, 3, 2)
    d = 1e6
    x, y = solve(e, d)
    np.testing.assert_allclose(x, e.g / (d * np.diag(e.s)), rtol=1e-4)  # the next order is 1/d, times some tens
    np.testing.assert_allclose(y, e.h / (d * np.diagonal(e.p, axis1=1, axis2=2)), rtol=1e-4)


def test_an_indefinite_matrix_is_an_error():
    """What has no Cholesky factor raises LinAlgError, so that the caller can damp more."""
    e = random_equations(3, 4, 2, 2)
    bad = NormalEquations(e.s - 1e3 * np.eye(4), e.b, e.p, e.g, e.h)
    with pytest.raises(np.linalg.LinAlgError):
        solve(bad)


def chained_equations(seed, widths, rest, points, k) -> NormalEquations:
    """As random_equations, but most of S is a chain whose rows are scattered over S; blocks may be of any width."""
    rng = np.random.default_rng(seed)
    n = sum(widths) + rest
    rows = np.split(rng.permutation(n), np.cumsum(widths))[:-1]
    e = random_equations(seed, n, points, k)
    chain = np.concatenate(rows)
    s, place = e.s.copy(), np.repeat(np.arange(len(widths)), widths)
    s[np.ix_(chain, chain)] *= abs(place[:, None] - place) <= 1
    # what was taken away may have made it indefinite: rows sums of S and B dominate again
    s[np.diag_indices(n)] += np.abs(s).sum(1) + np.abs(e.b).sum((1, 2))
    p = e.p + np.abs(e.b).sum((0, 2))[:, None, None] * np.eye(k)
    return NormalEquations(s, e.b, p, e.g, e.h, chain=tuple(rows))


@pytest.fixture
def chain_first(monkeypatch):
    """However small a problem is, its chain is eliminated first."""
    monkeypatch.setattr("mpr_dist.maths.solve._chain_is_cheaper", lambda equations: True)


chains = given(
    st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 3), st.integers(0, 3)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@chains
def test_with_the_chain_eliminated_the_solution_is_that_of_the_dense_matrix(chain_first, seed, widths, rest, points):
    """x and y solve the whole system, with and without damping, poses, and a rest of S."""
    for damping in (0.0, 0.5):
        equations = chained_equations(seed, widths, rest, points, 3)
        matrix, right = dense(equations, damping)
        x, y = solve(equations, damping)
        np.testing.assert_allclose(np.r_[x, y.ravel()], np.linalg.solve(matrix, right), rtol=1e-9, atol=1e-10)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@chains
def test_with_the_chain_eliminated_the_covariance_is_the_inverse(chain_first, seed, widths, rest, points):
    """All blocks of the inverse; not whole, all but what stands between blocks of the chain; and the solution."""
    equations = chained_equations(seed, widths, rest, points, 3)
    n, (matrix, right) = len(equations.g), dense(equations)
    inverse = np.linalg.inv(matrix)
    whole, part = covariance(equations), covariance(equations, whole=False)
    np.testing.assert_allclose(whole.s, inverse[:n, :n], rtol=1e-9, atol=1e-10)
    for blocks in (whole, part):
        np.testing.assert_allclose(blocks.sp.reshape(n, -1), inverse[:n, n:], rtol=1e-9, atol=1e-10)
        for i in range(points):
            at = slice(n + 3 * i, n + 3 * i + 3)
            np.testing.assert_allclose(blocks.p[i], inverse[at, at], rtol=1e-9, atol=1e-10)
    others = np.setdiff1d(np.arange(n), np.concatenate(equations.chain))
    for rows in equations.chain:
        at = np.ix_(np.r_[rows, others], np.r_[rows, others])
        np.testing.assert_allclose(part.s[at], inverse[at], rtol=1e-9, atol=1e-10)
    again, (x, y) = posterior(equations)
    np.testing.assert_array_equal(again.s, whole.s)
    np.testing.assert_allclose(np.r_[x, y.ravel()], np.linalg.solve(matrix, right), rtol=1e-9, atol=1e-10)


def test_a_chain_that_is_indefinite_is_an_error(chain_first):
    """As any other matrix, so that the caller can damp more."""
    e = chained_equations(3, [2, 2, 2], 1, 2, 3)
    with pytest.raises(np.linalg.LinAlgError):
        solve(replace(e, s=e.s - 1e3 * np.eye(len(e.s))))


@pytest.mark.parametrize("n", [1, 127, 128, 300])
def test_inverses_of_any_size_are_symmetric_to_the_last_bit(n):
    """Half of them is computed; block by block the other is its mirror image."""
    e = random_equations(5, n, 2, 2)
    inverse = covariance(e).s
    np.testing.assert_array_equal(inverse, inverse.T)
    np.testing.assert_allclose(inverse, np.linalg.inv(dense(e)[0])[:n, :n], rtol=1e-6, atol=1e-8)
