"""Symmetry expansion: every rotation of a group is one copy times one rotation of the group that is left."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import euler_to_matrix, rotation_x, rotation_z
from mpr_dist.maths.symmetry import cosets, fixed_part, rotations, turned_group

ORDERS = {"C2": 2, "C7": 7, "D1": 2, "D2": 4, "D5": 10, "T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


@pytest.mark.parametrize("group", ORDERS)
def test_expanding_to_c1_gives_every_rotation_once(group):
    """The orders are those of the groups (n, 2n, 12, 24, 60), written down here."""
    found = cosets(group, "C1")
    assert len(found) == ORDERS[group]
    np.testing.assert_array_equal(found[0], np.eye(3))
    distances = np.abs(found[:, None] - found[None]).max(axis=(2, 3))
    assert distances[~np.eye(len(found), dtype=bool)].min() > 0.1, "two copies are the same"


@pytest.mark.parametrize(
    ("whole", "part", "count"),
    [
        ("D7", "C7", 2),
        ("D7", "D1", 7),
        ("C6", "C2", 3),
        ("O", "T", None),
        ("O", "C4", 6),
        ("O", "D4", 3),
        ("O", "D2", 6),
        ("T", "C3", 4),
        ("I2", "D2", 15),
        ("I3", "C5", 12),
        ("D4", "D4", 1),
    ],
)
def test_copies_times_what_is_left_is_the_whole(whole, part, count):
    if count is None:  # RELION's T has its 3-fold on z, its O on the diagonals
        with pytest.raises(InputError, match="not contained in O"):
            cosets(whole, part)
        return
    copies, left = cosets(whole, part), rotations(part)
    assert len(copies) == count
    products = (copies[:, None] @ left[None]).reshape(-1, 3, 3)
    whole_group = rotations(whole)
    assert len(products) == len(whole_group)
    for element in whole_group:
        assert (np.abs(products - element).max(axis=(1, 2)) < 1e-9).sum() == 1


def test_a_turned_map_keeps_its_group_only_where_its_axes_stay():
    assert turned_group("C1", euler_to_matrix([10.0, 20.0, 30.0])) == "C1"
    assert turned_group("C4", rotation_z(13.0)) == "C4"
    assert turned_group("C4", rotation_x(180.0)) == "C4"
    assert turned_group("C4", rotation_x(90.0)) is None
    assert turned_group("D3", rotation_z(60.0)) == "D3"
    assert turned_group("D3", rotation_z(13.0)) is None
    # I1 is I2 turned by 90 degrees about z (RELION's two settings with 2-folds on the axes)
    assert turned_group("I1", rotation_z(90.0)) == "I2"
    assert turned_group("I3", rotation_z(180.0)) == "I4"


def test_which_points_stay():
    point = np.array([3.0, -2.0, 5.0])
    np.testing.assert_allclose(fixed_part("C1", point), point)
    np.testing.assert_allclose(fixed_part("C5", point), [0, 0, 5.0], atol=1e-12)
    np.testing.assert_allclose(fixed_part("D5", point), 0, atol=1e-12)
    np.testing.assert_allclose(fixed_part("I", point), 0, atol=1e-12)
