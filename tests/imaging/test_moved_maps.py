"""Turned and moved maps keep their frequencies, and agree with what the same density gives elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.moved_maps import recentre_map, recentre_mask, turn_map, turn_mask
from mpr_dist.maths.filters import soft_sphere
from mpr_dist.maths.rotations import euler_to_matrix, rotation_z

N, SIGMA = 40, 1.1  # px: of a width at which the last shells still hold signal


def _blobs(points: np.ndarray, n: int = N) -> np.ndarray:
    """A sum of Gaussians at points (k, 3) x, y, z from voxel n//2: known wherever they are put."""
    axis = np.arange(n) - n // 2
    out = np.zeros((n, n, n))
    for i, (x, y, z) in enumerate(points):
        of = [np.exp(-((axis - c) ** 2) / (2 * SIGMA**2)) for c in (x, y, z)]
        out += (1 + 0.3 * i) * of[2][:, None, None] * of[1][None, :, None] * of[0][None, None]
    return out.astype(np.float32)


POINTS = np.random.default_rng(3).uniform(-8, 8, (7, 3))


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, 30, 40), (-100, 117, 3)])
def test_turned_map(angles):
    rotation = euler_to_matrix(np.array(angles, float))
    expected, found = _blobs(POINTS @ rotation.T), turn_map(_blobs(POINTS), rotation)
    # a cubic spline on a grid twice as fine: about a percent at the map's own Nyquist, where these blobs are weak
    assert np.abs(found - expected).max() < 0.01 * expected.max()
    assert fsc(found, expected)[: N // 2 - 1].min() > 0.999


def test_quarter_turns_are_exact_where_no_interpolation_is_needed():
    volume = np.random.default_rng(0).standard_normal((16, 16, 16)).astype(np.float32) * soft_sphere(16, 5, 2)
    found = turn_map(volume, rotation_z(90.0))
    # x -> y, y -> -x about voxel 8
    expected = np.zeros_like(volume)
    expected[:, 1:, 1:] = np.swapaxes(volume, 1, 2)[:, 1:, 1:][:, :, ::-1]
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(volume).max() + 1e-6)


@pytest.mark.parametrize("centre", [(0, 0, 0), (3, -2, 5), (2.25, -0.5, 4.75)])
def test_recentred_map(centre):
    expected, found = _blobs(POINTS - np.array(centre)), recentre_map(_blobs(POINTS), np.array(centre, float))
    # a phase ramp is exact for what the grid can hold; Gaussians of 1.1 px leave 4e-3 beyond Nyquist
    assert np.abs(found - expected).max() < 0.01 * expected.max()
    assert fsc(found, expected)[: N // 2 - 1].min() > 0.999


def test_nothing_comes_in_from_the_other_side():
    volume = np.ones((16, 16, 16), np.float32)
    moved = recentre_map(volume, np.array([4.0, 0.0, -3.0]))
    np.testing.assert_array_equal(moved[:, :, -4:], 0)
    np.testing.assert_array_equal(moved[:3], 0)
    np.testing.assert_allclose(moved[3:, :, :-4], 1, atol=1e-5)


def test_masks_go_where_their_maps_go():
    volume, rotation, centre = _blobs(POINTS), euler_to_matrix([20.0, 50.0, 80.0]), np.array([3.4, -2.0, 1.7])
    mask = (volume > 0.2).astype(np.float32)
    for moved, of in (
        (turn_mask(mask, rotation), turn_map(volume, rotation)),
        (recentre_mask(mask, centre), recentre_map(volume, centre)),
    ):
        assert set(np.unique(moved)) == {0.0, 1.0}
        expected = of > 0.2
        # blobs of about 4 px: most voxels are at the surface, and fall on either side
        assert (moved != expected).sum() < 0.25 * expected.sum()
        assert (moved[of > 0.6] == 1).all()
        assert (moved[of < 0.05] == 0).all()
