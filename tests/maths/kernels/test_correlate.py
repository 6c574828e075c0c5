"""Sums per bin are those of the fused pass, and an uncertain place costs as much as a scattered one."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.maths.kernels.compare import A2, N_TABLES, Q2_4, QX, QY, compare, n_out
from mpr_dist.maths.kernels.correlate import MM, MM_BLURRED, XM, correlate
from mpr_dist.maths.rotations import euler_to_matrix

N, S, P, T = 24, 150, 3, 2


@pytest.fixture(scope="module")
def problem():
    return a_problem()


def a_problem():
    rng = np.random.default_rng(4)
    volumes = rng.standard_normal((2, N + 3, N + 3, N // 2 + 2, 2)).astype(np.float32)
    tables = np.zeros((N_TABLES, S), np.float32)
    tables[:4] = np.tile(rng.uniform(-0.09, 0.09, (2, S)), (2, 1)).astype(np.float32)
    tables[2:4] *= 2.0 * N / 2  # grid units of a box of N px of 2 A, well inside
    tables[4:9] = rng.uniform(-1, 1, (5, S)).astype(np.float32)
    tables[A2] = -0.5 * 0.02 * (tables[QX] ** 2 + tables[QY] ** 2)
    tables[Q2_4] = (tables[QX] ** 2 + tables[QY] ** 2) / 4
    angles = rng.uniform(0, 180, (P, T, 3))
    return {
        "volumes": volumes,
        "reference": np.array([0, 1, 0]),
        "images": rng.standard_normal((P, T, S, 2)).astype(np.float32),
        "active": np.array([[True, True], [True, False], [True, True]]),
        "views": euler_to_matrix(angles).astype(np.float32),
        "shifts": rng.uniform(-3, 3, (P, T, 2)).astype(np.float32),
        "defocus": rng.uniform(9e3, 1.1e4, (P, T)).astype(np.float32),
        "astig": rng.uniform(-200, 200, (T, 2)).astype(np.float32),
        "fixed": rng.uniform(-1, 1, (T, S)).astype(np.float32),
        "weight": rng.uniform(0.5, 1, (T, S)).astype(np.float32),
        "weight_row": np.tile(np.arange(T), (P, 1)),
        "n_samples": np.array([S, S - 40]),
        "tables": tables,
        "is_curved": False,
    }


def sums(problem, bins, blur=0.0, **changed):
    given = problem | changed
    out = np.empty((P, T, int(bins.max()) + 1, 3))
    blurs = np.broadcast_to(np.asarray(blur, np.float32), (P, T, 4)).copy()
    order = ("volumes", "reference", "images", "active", "views", "shifts", "defocus")
    later = ("astig", "fixed", "weight", "weight_row", "n_samples", "tables", "is_curved")
    correlate(*(given[name] for name in order), blurs, *(given[name] for name in later), bins, out)
    return out


@pytest.mark.parametrize("is_curved", [False, True])
def test_bins_add_up_to_the_fused_pass(problem, is_curved):
    bins = np.random.default_rng(5).integers(0, 7, S)
    tables = problem["tables"].copy()
    tables[9] = 0.3 * is_curved
    ours = sums(problem, bins, is_curved=is_curved, tables=tables).sum(axis=2)
    theirs = np.empty((P, T, n_out(0)))
    given = problem | {"tables": tables, "is_curved": is_curved}
    compare(*given.values(), np.zeros(0, np.int64), np.zeros((0, S), np.float32), theirs)
    # float32 models of order 1, sums over 150 samples
    np.testing.assert_allclose(ours[..., XM], theirs[..., 0], rtol=0, atol=2e-3)
    np.testing.assert_allclose(ours[..., MM], theirs[..., 8], rtol=1e-5)
    np.testing.assert_array_equal(ours[..., MM_BLURRED], ours[..., MM])
    assert not ours[1, 1].any()


def test_blur_is_what_scattered_shifts_cost(problem):
    """The mean of <m, m shifted> over Gaussian shifts, by quadrature, in every bin."""
    bins = np.arange(S) % 5
    cov = np.array([[4.0, 1.5], [1.5, 2.0]])
    at, share = np.polynomial.hermite_e.hermegauss(12)
    root = np.linalg.cholesky(cov)
    expected = np.zeros((P, T, 5))
    model = model_of(problem)
    for i, x in enumerate(at):
        for j, y in enumerate(at):
            step = (root @ [x, y]).astype(np.float32)
            moved = sums(problem, bins, images=model, shifts=problem["shifts"] + step)
            expected += share[i] * share[j] / (2 * np.pi) * moved[..., XM]
    blur = [cov[0, 0], cov[1, 1], cov[0, 1], 0.0]
    found = sums(problem, bins, blur=blur)[..., MM_BLURRED]
    # float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    assert found.sum() < 0.8 * sums(problem, bins)[..., MM].sum()


def model_of(problem) -> np.ndarray:
    """Every sample of the model, read off by images that are 1 or i in one sample: a bin for each."""
    bins = np.arange(S)
    parts = []
    for part in range(2):
        one = np.zeros((P, T, S, 2), np.float32)
        one[..., part] = 1.0
        parts.append(sums(problem, bins, images=one)[..., XM])
    return np.stack(parts, -1).astype(np.float32)
