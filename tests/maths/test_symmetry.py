"""Point groups: each is a group of proper rotations, in RELION's axes."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import exp_rotation, rotation_x, rotation_z
from mpr_dist.maths.symmetry import rotations

GROUPS = {"C1": 1, "C3": 3, "C4": 4, "C17": 17, "D1": 2, "D2": 4, "D7": 14, "T": 12, "O": 24}
GROUPS |= {"I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def contains(group, element):
    return np.abs(group - element).max(axis=(1, 2)).min() < 1e-6


def about(fold, axis):
    axis = np.asarray(axis, float)
    return exp_rotation(axis / np.linalg.norm(axis) * 2 * np.pi / fold)


@pytest.mark.parametrize(("name", "order"), GROUPS.items())
def test_every_symmetry_is_a_group_of_proper_rotations(name, order):
    group = rotations(name)
    assert group.shape == (order, 3, 3)
    assert group.dtype == np.float64
    assert np.array_equal(group[0], np.eye(3))
    assert np.allclose(np.linalg.det(group), 1.0, atol=1e-12)
    assert np.allclose(group @ group.swapaxes(1, 2), np.eye(3), atol=1e-12)
    for element in group:
        products = group @ element
        distances = np.abs(products[:, None] - group[None]).max(axis=(2, 3))
        # closed, and multiplication permutes the group: so all elements differ
        assert sorted(distances.argmin(axis=1)) == list(range(order))
        assert distances.min(axis=1).max() < 1e-9


def test_octahedral_rotations_permute_the_axes_exactly():
    group = rotations("O")
    assert set(np.unique(group)) == {-1.0, 0.0, 1.0}
    assert np.array_equal(np.abs(group).sum(axis=1), np.ones((24, 3)))
    assert not np.signbit(group[group == 0]).any()


@pytest.mark.parametrize("name", ["C4", "D4", "D2", "C2"])
def test_quarter_turns_are_exact(name):
    assert set(np.unique(rotations(name))) <= {-1.0, 0.0, 1.0}


def test_axes_are_those_of_relion():
    assert contains(rotations("C5"), rotation_z(72.0))
    assert contains(rotations("D5"), rotation_z(72.0))
    assert contains(rotations("D5"), rotation_x(180.0))
    assert contains(rotations("T"), rotation_z(120.0))
    assert contains(rotations("T"), about(2, (0.0, 0.816496580927726, 0.577350269189626)))
    for fold, axis in (2, (0, 0, 1)), (5, (0.525731114, 0, 0.850650807)), (3, (0, 0.356822076, 0.934172364)):
        assert contains(rotations("I2"), about(fold, axis))
    for fold, axis in (2, (1, 0, 0)), (5, (0.850650808, 0, -0.525731114)), (3, (0.934172364, 0.3568220765, 0)):
        assert contains(rotations("I1"), about(fold, axis))
    for fold, axis in (2, (-0.5257311143, 0, 0.850650807)), (5, (0, 0, 1)), (3, (-0.49112348, 0.35682208, 0.79465448)):
        assert contains(rotations("I3"), about(fold, axis))
    for fold, axis in (2, (0.5257311143, 0, 0.850650807)), (5, (2, 0, 1)), (3, (0.49112348, 0.35682208, 0.79465448)):
        assert contains(rotations("I4"), about(fold, axis))
    half_turn = rotation_z(180.0)
    assert all(contains(rotations("I4"), half_turn @ g @ half_turn.T) for g in rotations("I3"))


def test_order_is_always_the_same_and_names_may_be_lower_case():
    assert rotations("o").tobytes() == rotations("O").tobytes()
    assert rotations("I").tobytes() == rotations("I2").tobytes()


@pytest.mark.parametrize("name", ["", "C0", "D", "X3", "OH", "I5", "C-2"])
def test_an_unknown_name_says_what_exists(name):
    with pytest.raises(InputError, match="C1, C2"):
        rotations(name)
