"""Helices: sums along the axis are those of all copies, and the middle continues to both ends of the box."""

from __future__ import annotations

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.helical import continue_helix, helical_map
from mpr_dist.imaging.reconstruct import CellHelix, accumulator_shape, fourier_sums, grid_px, solve_map
from mpr_dist.maths.filters import soft_sphere
from mpr_dist.maths.rotations import euler_to_matrix, rotation_z
from mpr_dist.model.pose import Particles
from mpr_dist.model.pose_changes import expanded
from mpr_dist.model.species import Helix, Species
from mpr_dist.workflow.changing.species_changes import along_helix

BOX, PIXEL, UNIT = 32, 3.0, 2.0**28
SUBUNIT = np.random.default_rng(5).uniform([3, -3, -2], [8, 3, 2], (6, 3))  # px, off the axis, without symmetry


def _blobs(points: np.ndarray, n: int) -> np.ndarray:
    """Gaussians of 1.3 px at points x, y, z from voxel n//2."""
    axis, out = np.arange(n) - n // 2, np.zeros((n, n, n))
    for i, (x, y, z) in enumerate(points):
        of = [np.exp(-((axis - v) ** 2) / (2 * 1.3**2)) for v in (x, y, z)]
        out += (1 + 0.2 * (i % 6)) * of[2][:, None, None] * of[1][None, :, None] * of[0][None, None]
    return out


def _copies(points: np.ndarray, helix: Helix, steps: range) -> np.ndarray:
    """Where the units of a helix lie: from a unit to the one above it by Rz(twist) and the rise, in px."""
    up = [0.0, 0.0, helix.rise_A / PIXEL]
    return np.concatenate([points @ rotation_z(j * helix.twist_deg).T + j * np.array(up) for j in steps])


def _sums(volume: np.ndarray, species: Species) -> np.ndarray:
    """Accumulators of one half-set in which every Fourier coefficient of a map was seen once."""
    n = grid_px(species)
    padded = np.zeros((n, n, n))
    lo = n // 2 - BOX // 2
    padded[lo : lo + BOX, lo : lo + BOX, lo : lo + BOX] = volume
    transform = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(padded)))
    c, out = (n + 3) // 2, np.zeros(accumulator_shape(species)[1:])
    part = transform[:, :, n // 2 :]
    view = out[c - n // 2 : c + n // 2, c - n // 2 : c + n // 2, : n // 2]
    view[..., 0], view[..., 1], view[..., 2] = part.real, part.imag, 1.0
    out[:, :, 0] /= 2  # the plane is doubled when it is made Hermitian
    return np.rint(out * UNIT).astype(np.int64)


@pytest.mark.parametrize(
    ("twist", "units", "symmetry"), [(37.0, 4, "C1"), (-80.0, 3, "C1"), (37.0, 3, "C2"), (25.0, 3, "D1")]
)
def test_sums_of_a_helix_are_those_of_all_its_units(twist, units, symmetry):
    """One unit was seen: what comes out has all of them, where the helix puts them, with the hand of the twist."""
    helix = Helix(9.0, twist, units)
    species = Species("h", PIXEL, BOX, 60.0, symmetry, helix=helix)
    found = solve_map(
        fourier_sums(_sums(_blobs(SUBUNIT, BOX), species), symmetry, helix=CellHelix.of(species)), species
    )
    steps = [-j for j in helix.steps]  # a map that is moved by -j: n'(x) = n(R^j x + j rise)
    points = np.concatenate([_copies(SUBUNIT, helix, range(j, j + 1)) for j in steps])
    if symmetry == "C2":
        points = np.concatenate([points, points * [-1, -1, 1]])
    if symmetry == "D1":
        points = np.concatenate([points, points * [1, -1, -1]])
    sphere = soft_sphere(BOX, BOX / 2 - 7, 1)
    # turning about z interpolates in the plane: 0.99 in the last shells of blobs of 1.3 px
    agreement = fsc(found * sphere, np.asarray(_blobs(points, BOX), np.float32) * sphere)
    assert agreement[: BOX // 3].min() > 0.98
    mirrored = fsc(found * sphere, np.asarray(_blobs(points * [1, -1, 1], BOX), np.float32) * sphere)
    assert mirrored[2 : BOX // 3].mean() < 0.8


@pytest.mark.parametrize("twist", [37.0, -80.0])
def test_the_middle_continues_to_the_ends(twist):
    """Of a helix only the middle is there; symmetry gives the rest."""
    helix = Helix(9.0, twist, 4)
    whole = np.asarray(_blobs(_copies(SUBUNIT, helix, range(-9, 10)), BOX), np.float32)
    z = np.abs(np.arange(BOX) - BOX // 2)
    middle = whole * (z <= 6)[:, None, None]
    found = continue_helix(middle, helix, PIXEL)
    inner = np.hypot(*(np.indices((BOX, BOX)) - BOX // 2)) < BOX / 2 - 2
    error = np.abs(found - whole)[:, inner].max()
    # planes next to the cut ring a little when they are resampled
    assert error < 0.05 * whole.max()
    species = Species("h", PIXEL, BOX, 60.0, "C1", helix=helix)
    assert helical_map(middle, species)[0, 0, 0] == 0
    other = Species("h", PIXEL, BOX, 60.0, "C1")
    assert helical_map(middle, other) is middle


def test_copies_of_a_particle_see_the_helix_one_unit_on():
    """A copy's unit k lies where unit k + j of the particle lies, and is turned as that."""
    helix, rng = Helix(9.0, 37.0, 3), np.random.default_rng(1)
    one = Particles(
        rng.uniform(0, 300, (1, 3)), rng.uniform(10, 170, (1, 3)), np.ones(1, np.int8), np.zeros(1, np.int64)
    )
    many = expanded(one, *along_helix(helix, np.eye(3)[None]))
    pose, unit = euler_to_matrix(one.angles_deg[0, 0]), SUBUNIT * PIXEL
    for i, step in enumerate(helix.steps):
        there = many.position_A[i, 0] + unit @ euler_to_matrix(many.angles_deg[i, 0]).T
        next_one = unit @ rotation_z(step * helix.twist_deg).T + [0, 0, step * helix.rise_A]
        np.testing.assert_allclose(there, one.position_A[0, 0] + next_one @ pose.T, atol=1e-9)


def test_helices_that_cannot_be():
    with pytest.raises(InputError, match="rise above 0"):
        Helix(0.0, 20.0, 3)
    with pytest.raises(InputError, match="-180 and 180"):
        Helix(5.0, 200.0, 3)
    with pytest.raises(InputError, match="at least 1"):
        Helix(5.0, 20.0, 0)
    with pytest.raises(InputError, match="C or D"):
        Species("h", PIXEL, BOX, 60.0, "O", helix=Helix(5.0, 20.0, 3))
    with pytest.raises(InputError, match="more than half of its box"):
        Species("h", PIXEL, BOX, 60.0, "C1", helix=Helix(20.0, 20.0, 3))
    assert list(Helix(5.0, 1.0, 4).steps) == [-1, 0, 1, 2]
    assert list(Helix(5.0, 1.0, 1).steps) == [0]
