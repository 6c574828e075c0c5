"""The point group of a map: a forgotten one is found, a wrong one is told, one without any is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.imaging.map_symmetry import map_symmetry
from mpr_dist.imaging.phantom import Atoms, asymmetric_phantom, density, octahedral_phantom
from mpr_dist.maths.rotations import rotation_z
from mpr_dist.maths.symmetry import generators, is_subset, rotations
from mpr_dist.model.species import Species

BOX, PIXEL = 64, 5.0


def _copies(symmetry: str) -> Atoms:
    """Of a few atoms at random places: the group and nothing more."""
    rng = np.random.default_rng(3)
    place = rng.uniform(-50, 50, (60, 3))
    turned = np.concatenate([place @ g.T for g in rotations(symmetry)])
    return Atoms(turned, np.tile(rng.uniform(50, 200, len(place)), len(rotations(symmetry))), 2.0)


def _halves(atoms: Atoms, noise: float = 0.3) -> list[np.ndarray]:
    """With independent noise: ``noise`` times the map's own standard deviation; no group is imposed on it."""
    truth = density(atoms, BOX, PIXEL)
    rng = np.random.default_rng(1)
    return [(truth + rng.normal(0, noise * truth.std(), truth.shape)).astype(np.float32) for _ in range(2)]


def _found(halves: list[np.ndarray], given: str):
    return map_symmetry(*halves, Species("one", PIXEL, BOX, 160.0, given))


@pytest.mark.parametrize("name", ["C3", "C6", "D5", "T", "O", "I1", "I4"])
def test_a_forgotten_group_is_found_and_the_right_one_is_left_alone(name):
    halves = _halves(_copies(name))
    assert _found(halves, "C1").higher == name
    right = _found(halves, name)
    assert right.is_right
    assert right.share == pytest.approx(1.0, abs=0.1)  # noise of the maps is the same before and after turning


def test_a_part_of_the_group_is_told_and_what_is_no_part_of_it_is_refused():
    halves = _halves(octahedral_phantom())
    assert _found(halves, "C4").sentence == "its map looks like O, the symmetry it was given is C4"
    wrong = _found(halves, "I")
    assert "does not have the symmetry I it was given" in wrong.sentence
    assert "species rotate" in wrong.advice


def test_a_map_without_symmetry_has_none():
    halves = _halves(asymmetric_phantom())
    assert _found(halves, "C1").is_right
    assert all(not _found(halves, name).is_right for name in ("C2", "C6", "D3", "O", "I"))


def test_a_ball_or_noise_says_nothing():
    """A hollow ball has every group: none is worth a word. Maps that share nothing cannot be judged."""
    at = np.indices((BOX,) * 3) - BOX // 2
    ball = np.exp(-((np.sqrt((at**2).sum(0)) - 9) ** 2) / 8).astype(np.float32)
    rng = np.random.default_rng(2)
    noisy = [(ball + rng.normal(0, 0.05, ball.shape)).astype(np.float32) for _ in range(2)]
    assert _found(noisy, "C1").is_right
    noise = [rng.normal(0, 1, ball.shape).astype(np.float32) for _ in range(2)]
    assert np.isnan(_found(noise, "O").share)
    assert _found(noise, "O").is_right


def test_a_map_turned_about_its_axis_keeps_a_cyclic_group_only():
    atoms = _copies("D4")
    turned = Atoms(atoms.position_A @ rotation_z(20.0).T, atoms.weight, atoms.sigma_A)
    halves = _halves(turned)
    assert _found(halves, "C4").is_right
    assert not _found(halves, "D4").is_right


@pytest.mark.parametrize("name", ["C1", "C2", "C7", "D1", "D2", "D6", "T", "O", "I", "I1", "I3", "I4"])
def test_products_of_the_generators_are_the_group(name):
    group = [np.eye(3)]
    for element in group:
        for step in generators(name):
            if all(np.abs(element @ step - other).max() > 1e-6 for other in group):
                group.append(element @ step)
    assert len(group) == len(rotations(name))
    assert is_subset(np.stack(group), rotations(name))
