"""Soft edges: plateaus, halves and distances."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.maths.filters import LONG_REACH, high_pass, low_pass, raised_cosine, soft_mask, soft_sphere


def test_a_raised_cosine_goes_from_one_to_zero_through_a_half():
    assert np.allclose(raised_cosine([-3, 0, 2, 4, 9], 4), [1, 1, 0.5, 0, 0])
    assert np.allclose(raised_cosine([-1, 0, 0.1], 0), [1, 1, 0])


@pytest.mark.parametrize(("n", "ndim"), [(20, 3), (21, 3), (20, 2)])
def test_a_soft_sphere_is_centred_on_the_origin_voxel(n, ndim):
    sphere = soft_sphere(n, 5, 4, ndim)
    along = sphere[(n // 2,) * (ndim - 1)][n // 2 :]
    assert sphere.dtype == np.float32
    assert np.allclose(along[:6], 1)
    assert np.isclose(along[7], 0.5)
    assert np.allclose(along[9:], 0)
    assert np.all(np.diff(along) <= 0)


def test_a_soft_mask_grows_then_falls():
    binary = np.zeros((32, 32, 32), np.float32)
    binary[16, 16, 16] = 1
    mask = soft_mask(binary, 3, 4)
    assert np.allclose(mask, soft_sphere(32, 3, 4), atol=1e-6)
    assert np.array_equal(soft_mask(binary, 0, 0), binary)
    assert not soft_mask(np.zeros((8, 8, 8)), 3, 4).any()


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5])  # some touch the edges of the box, some lie alone in it
def test_a_soft_mask_falls_with_the_distance_from_what_is_inside(share):
    """Against distances to all inside voxels; beyond the edge it is zero, up to the rim of the box."""
    rng = np.random.default_rng(5)
    binary = rng.random((14, 17, 15)) < share
    binary[tuple(rng.integers(binary.shape))] = True
    places = np.stack(np.indices(binary.shape), -1).astype(float)
    distance = np.linalg.norm(places[..., None, :] - places[binary], axis=-1).min(-1)
    found = soft_mask(binary, 1.5, 3.0)
    assert np.allclose(found, raised_cosine(distance - 1.5, 3.0), atol=1e-6)
    assert found.dtype == np.float32


def test_a_mask_of_long_reach_falls_with_the_distance_too():
    """Beyond ``LONG_REACH`` distances come from somewhere else; the same law."""
    binary = np.zeros((40, 60, 50), bool)
    binary[3, 5, 7] = binary[30, 50, 12] = True
    places = np.stack(np.indices(binary.shape), -1).astype(float)
    distance = np.linalg.norm(places[..., None, :] - places[binary], axis=-1).min(-1)
    assert np.ceil(15 + 12) > LONG_REACH
    assert np.allclose(soft_mask(binary, 15.0, 12.0), raised_cosine(distance - 15.0, 12.0), atol=1e-6)


def test_low_and_high_pass_share_everything_and_meet_at_the_cutoff():
    f = np.linspace(0, 0.5, 101)
    low = low_pass(f, 0.2, 0.1)
    assert np.allclose(low + high_pass(f, 0.2, 0.1), 1)
    assert np.isclose(low_pass(0.2, 0.2, 0.1), 0.5)
    assert np.allclose(low[f <= 0.15], 1)
    assert np.allclose(low[f >= 0.25], 0, atol=1e-12)
    assert np.allclose(low_pass(f, 0.2, 0), f <= 0.2)
