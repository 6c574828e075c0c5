"""Splines against scipy, against finite differences and against numbers that Warp wrote."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from mpr_dist.maths import splines


@pytest.mark.parametrize("n", [3, 4, 9])
@pytest.mark.parametrize("margin", [0.0, 0.125])
def test_natural_weights_are_scipys_natural_spline(n, margin):
    values = np.random.default_rng(n).standard_normal(n)
    x = np.linspace(-0.1, 1.1, 57)
    spline = CubicSpline(np.linspace(margin, 1 - margin, n), values, bc_type="natural")
    assert np.allclose(splines.natural_weights(n, x, margin) @ values, spline(x), atol=1e-12)
    assert np.allclose(splines.natural_weights(n, x, margin, 1) @ values, spline(x, 1), atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_weights_are_one_at_their_node_and_sum_to_one(n):
    x = np.linspace(-0.2, 1.2, 29)
    assert np.allclose(splines.natural_weights(n, x).sum(1), 1)
    assert np.allclose(splines.natural_weights(n, x, 0.0, 1).sum(1), 0, atol=1e-10)
    assert np.allclose(splines.linear_weights(n, x).sum(1), 1)
    nodes = np.linspace(0, 1, n) if n > 1 else np.array([0.5])
    assert np.allclose(splines.natural_weights(n, nodes), np.eye(n), atol=1e-12)
    assert np.allclose(splines.linear_weights(n, nodes), np.eye(n), atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_derivative_is_the_finite_difference(n, margin):
    x, h = np.linspace(0.03, 0.97, 21), 1e-5
    difference = splines.natural_weights(n, x + h, margin) - splines.natural_weights(n, x - h, margin)
    assert np.allclose(splines.natural_weights(n, x, margin, 1), difference / (2 * h), atol=1e-6)


def test_a_cubic_grid_reproduces_planes_and_its_nodes():
    x, y, z = np.linspace(0, 1, 5), np.linspace(0, 1, 4), np.linspace(0, 1, 3)
    values = 1 + 2 * x[None, None, :] - 3 * y[None, :, None] + 0.5 * z[:, None, None]
    points = np.random.default_rng(0).uniform(-0.1, 1.1, (2, 7, 3))
    assert np.allclose(splines.cubic_grid(values, points), 1 + points @ [2, -3, 0.5])
    assert np.allclose(splines.cubic_grid(values, points, derivative=(0, 1, 0)), -3)
    rough = np.random.default_rng(1).standard_normal((3, 4, 5))
    nodes = np.stack(np.meshgrid(z, y, x, indexing="ij"), -1)[..., ::-1]
    assert np.allclose(splines.cubic_grid(rough, nodes), rough)


def test_a_quadrilinear_grid_reproduces_what_is_linear_in_each_axis():
    def truth(p):
        x, y, z, w = np.moveaxis(p, -1, 0)
        return 1 + x * y - 2 * z * w + x * y * z * w

    axes = [np.linspace(0, 1, n) for n in (3, 2, 4, 2)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1)[..., ::-1]
    points = np.random.default_rng(0).uniform(0, 1, (30, 4))
    assert np.allclose(splines.linear_grid4(truth(nodes), points), truth(points))


def test_linear_weights_extrapolate_below_and_hold_the_last_node_above():
    values = np.array([1.0, 2.0, 4.0])
    assert np.allclose(splines.linear_weights(3, [-0.25, 0.25, 0.75, 1.25]) @ values, [0.5, 1.5, 3.0, 4.0])


def test_resampling_to_more_nodes_keeps_the_spline_where_both_have_nodes():
    values = np.random.default_rng(3).standard_normal((4, 3, 1))
    fine = splines.resample_cubic(values, (7, 5, 2), (0.0, 0.0, 0.0))
    assert fine.shape == (7, 5, 2)
    assert np.allclose(fine[::2, ::2, :1], values)
    coarse = splines.resample_cubic(values, (1, 1, 1), (0.0, 0.0, 0.0))
    assert np.isclose(coarse[0, 0, 0], splines.cubic_grid(values, [0.5, 0.5, 0.5]))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_agrees_with_the_numbers_warp_wrote(dimensions):
    folder = os.environ.get("MPR_DIST_SHARED")
    path = Path(folder or "", f"data/real/warp_numbers/reference{dimensions}d.star")
    if not folder or not path.exists():
        pytest.skip("MPR_DIST_SHARED does not point to the shared test data")
    starfile = pytest.importorskip("starfile")
    tables = starfile.read(path)
    grid, wanted = tables["grid"], tables["eval"]
    index = np.zeros((len(grid), 3), int)
    points = np.full((len(wanted), 3), 0.5)
    for axis, name in enumerate("xyz"[:dimensions]):
        index[:, axis] = grid[f"i{name}"]
        points[:, axis] = wanted[name]
    values = np.zeros(tuple(index.max(0)[::-1] + 1))
    values[index[:, 2], index[:, 1], index[:, 0]] = grid["value"]
    assert np.allclose(splines.cubic_grid(values, points), wanted["value"], atol=2e-5)
