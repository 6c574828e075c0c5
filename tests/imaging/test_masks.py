"""Masks: what belongs to them, what is refused, and how soft they get."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.masks import check_mask, fsc_mask, reference_mask, threshold_mask, useless_mask
from mpr_dist.maths.filters import soft_sphere


def point(n=24, where=12):
    density = np.zeros((n, n, n), np.float32)
    density[where, where, where] = 1
    return density


def test_a_mask_is_what_reaches_the_threshold_grown_by_a_distance():
    mask = threshold_mask(point(), 2.0, 0.5, 4)
    assert mask.dtype == np.float32
    assert np.array_equal(mask, soft_sphere(24, 4, 0))
    assert np.array_equal(threshold_mask(point(), 2.0, 1.0, 0), point())


def test_a_sphere_leaves_out_what_lies_outside():
    density = point() + point(where=2)
    mask = threshold_mask(density, 2.0, 0.5, 3, sphere_diameter_A=20)
    assert np.array_equal(mask, soft_sphere(24, 3, 0))
    grown = threshold_mask(density, 2.0, 0.5, 9, sphere_diameter_A=20)
    assert np.array_equal(grown, soft_sphere(24, 5, 0))


def test_what_cannot_be_a_mask_is_refused():
    with pytest.raises(InputError, match="from 0 to 1"):
        threshold_mask(point(), 2.0, 1.5, 3)
    with pytest.raises(InputError, match="diameter"):
        threshold_mask(point(), 2.0, 0.5, 3, sphere_diameter_A=0)
    with pytest.raises(InputError, match="cubic"):
        threshold_mask(np.ones((4, 4, 6), np.float32), 2.0, 0.5, 3)


def test_only_binary_masks_of_the_right_box_pass():
    assert np.array_equal(check_mask(point(), 24), point())
    with pytest.raises(InputError, match="cube of 20 px"):
        check_mask(point(), 20)
    for bad in (0.5 * point(), point() * np.float32(np.nan)):
        with pytest.raises(InputError, match="only 0 and 1"):
            check_mask(bad, 24)
    with pytest.raises(InputError, match="empty"):
        check_mask(0 * point(), 24)


def test_soft_masks_keep_the_mask_and_fall_off_smoothly():
    mask = threshold_mask(point(48, 24), 2.0, 0.5, 6)
    soft = reference_mask(mask)
    assert np.all(soft[mask > 0] == 1)
    assert np.allclose(soft, soft_sphere(48, 9, 6), atol=0.26)  # the digital sphere is up to a voxel rough
    assert soft.max() == 1
    assert soft[0, 0, 0] == 0


@pytest.mark.parametrize(("resolution_A", "h"), [(2.0, 3), (8.0, 6), (1e9, 6), (float("inf"), 6)])
def test_the_edge_of_the_fsc_mask_follows_the_resolution_within_bounds(resolution_A, h):
    along = fsc_mask(point(48, 24), 2.0, resolution_A)[24, 24, 24:]
    assert np.all(along[: h + 1] == 1)
    assert np.isclose(along[h + h // 2], soft_sphere(48, h, h)[24, 24, 24 + h + h // 2])
    assert np.all(along[2 * h :] == 0)


def test_a_mask_that_leaves_hardly_anything_out_is_named():
    """Half of the box, its edge, and twice the diameter are each told; a ball in the middle is not."""
    ball = soft_sphere(24, 6, 0)
    assert useless_mask(ball, 2.0) is None
    assert useless_mask(ball, 2.0, 24.0) is None  # 12 px across, as the particle
    assert "is 24 A wide where the particle measures 10 A" in useless_mask(ball, 2.0, 10.0)
    for axis in range(3):
        for side in (0, -1):
            touching = np.moveaxis(ball.copy(), axis, 0)
            touching[side, 12, 12] = 1
            told = useless_mask(np.moveaxis(touching, 0, axis), 2.0)
            assert "reaches the edge" in told
            assert "covers" not in told
    full = useless_mask(np.ones((24,) * 3, np.float32), 2.0, 24.0)
    assert "covers 100 % of the box, reaches the edge of the box, is 83 A wide" in full  # 2 sqrt(3) 12 px of 2 A
    assert "shows the particle and no noise" in full
