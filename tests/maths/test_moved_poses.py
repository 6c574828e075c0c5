"""Poses under a change of their map: every point of the map stays where it is in the tomogram."""

from __future__ import annotations

import numpy as np

from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.maths.symmetry import cosets
from mpr_dist.model.pose import Particles
from mpr_dist.model.pose_changes import concatenated, expanded, recentred, selected, turned


def _some(n: int = 5, samples: int = 3, seed: int = 0) -> Particles:
    rng = np.random.default_rng(seed)
    half = np.array([1 + i % 2 for i in range(n)], np.int8)
    place, angles = rng.uniform(0, 500, (n, samples, 3)), rng.uniform(5, 170, (n, samples, 3))
    return Particles(place, angles, half, np.arange(n))


def _where(particles: Particles, points: np.ndarray) -> np.ndarray:
    """(particles, samples, points, 3) of points (points, 3) of the map."""
    turn = euler_to_matrix(particles.angles_deg)
    return particles.position_A[:, :, None] + np.einsum("psij,kj->pski", turn, points)


POINTS = np.random.default_rng(7).uniform(-80, 80, (6, 3))


def test_turning_moves_no_density_at_any_sample():
    particles, rotation = _some(), euler_to_matrix([30.0, 70.0, -20.0])
    moved = turned(particles, rotation)
    np.testing.assert_allclose(_where(moved, POINTS @ rotation.T), _where(particles, POINTS), atol=1e-9)
    # between the samples, too: the curve of the turned poses is the turned curve
    at = np.linspace(0, 1, 7)
    np.testing.assert_allclose(moved.rotations_at(at), particles.rotations_at(at) @ rotation.T, atol=1e-9)


def test_a_new_centre_moves_no_density_at_any_sample():
    particles, centre = _some(), np.array([20.0, -35.0, 12.0])
    moved = recentred(particles, centre)
    np.testing.assert_allclose(_where(moved, POINTS - centre), _where(particles, POINTS), atol=1e-9)
    np.testing.assert_array_equal(moved.angles_deg, particles.angles_deg)


def test_copies_see_the_map_from_symmetry_related_sides():
    particles, copies = _some(), cosets("D3", "C1")
    many = expanded(particles, copies)
    assert len(many) == 6 * len(particles)
    np.testing.assert_array_equal(many.half, np.repeat(particles.half, 6))
    for i, rotation in enumerate(copies):
        of_copy = selected(many, np.arange(i, len(many), 6))
        np.testing.assert_allclose(_where(of_copy, POINTS), _where(particles, POINTS @ rotation.T), atol=1e-9)


def test_copies_along_an_axis_lie_where_they_belong():
    particles, places = _some(), np.array([[0, 0, 0], [0, 0, 30.0]])
    many = expanded(particles, np.stack([np.eye(3)] * 2), places)
    second = selected(many, np.arange(1, len(many), 2))
    np.testing.assert_allclose(_where(second, POINTS), _where(particles, POINTS + places[1]), atol=1e-9)


def test_together_they_have_the_samples_of_the_longest():
    one, three = _some(4, 1, 1), _some(5, 3, 2)
    both = concatenated([one, three])
    assert both.n_samples == 3
    np.testing.assert_array_equal(both.position_A[4:], three.position_A)
    np.testing.assert_array_equal(both.position_A[:4], np.repeat(one.position_A, 3, axis=1))
