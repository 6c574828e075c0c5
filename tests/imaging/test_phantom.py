"""Laws of the particle to simulate with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from mpr_dist.errors import InputError
from mpr_dist.imaging.phantom import (
    Atoms,
    asymmetric_phantom,
    density,
    dihedral_phantom,
    filament_phantom,
    octahedral_phantom,
    oversampling,
)
from mpr_dist.maths.rotations import rotation_z
from mpr_dist.maths.symmetry import rotations


@pytest.fixture(scope="module")
def phantom() -> Atoms:
    return octahedral_phantom(seed=3)


def test_phantom_is_octahedral(phantom):
    """Every rotation of O maps the atoms, with their weights, onto themselves."""
    tree = cKDTree(phantom.position_A)
    for rotation in rotations("O"):
        distance, partner = tree.query(phantom.position_A @ rotation.T)
        assert distance.max() < 1e-9
        np.testing.assert_allclose(phantom.weight[partner], phantom.weight)


def test_phantom_has_no_mirror(phantom):
    """A mirror image does not fit: the hand of a reconstruction can be told."""
    distance, _ = cKDTree(phantom.position_A).query(phantom.position_A * [1, 1, -1])
    assert np.median(distance) > 1.0


def test_phantom_is_a_hollow_shell(phantom):
    """Atoms lie between the radii of ferritin's cage, a few hundred per unit."""
    radius = np.linalg.norm(phantom.position_A, axis=1)
    assert 35 < radius.min() < radius.max() == phantom.radius_A < 66
    assert 200 < len(phantom.weight) / 24 < 600


def test_seed_decides_the_side_chains():
    """One seed always gives the same atoms, another one gives others."""
    a, b, c = (octahedral_phantom(seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.position_A, b.position_A)
    assert a.position_A.shape != c.position_A.shape or not np.array_equal(a.position_A, c.position_A)


def test_density_integrates_to_the_weights(phantom):
    """The sum of the map times the voxel volume is the sum of the weights."""
    total = density(phantom, 64, 2.5).sum(dtype=np.float64) * 2.5**3
    assert total == pytest.approx(phantom.weight.sum(), rel=1e-5)  # float32 voxels


def test_density_is_octahedral(phantom):
    """Quarter turns of the map about x, y, z through voxel n // 2 leave it as it is."""
    inner = density(phantom, 64, 2.5)[1:, 1:, 1:]  # now the centre is the middle voxel
    for axes in ((0, 1), (1, 2), (2, 0)):
        np.testing.assert_allclose(np.rot90(inner, axes=axes), inner, atol=2e-6 * inner.max())


def test_density_of_one_wide_blob_is_the_gaussian():
    """Where the grid resolves the blob, the map holds plain samples of it, at its place in x, y, z."""
    atom = Atoms(np.array([[4.0, -2.5, 1.0]]), np.array([7.0]), 4.0)
    x = 2.0 * (np.arange(32) - 16)
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    r2 = (x - 4) ** 2 + (y + 2.5) ** 2 + (z - 1) ** 2
    expected = 7.0 * (2 * np.pi * 16) ** -1.5 * np.exp(-r2 / 32)
    # the blob's transform at Nyquist is exp(-2 pi^2 (4 / 4)^2) = 2.7e-9, and it is cut off at 6 sigma
    np.testing.assert_allclose(density(atom, 32, 2.0), expected, atol=2e-6 * expected.max())


def test_density_has_features_at_4_5_A(phantom):
    """The power left at 4.8 A is a tenth or more of that at 8 A: there is something to resolve."""
    transform = np.fft.fftn(density(phantom, 72, 2.2).astype(np.float64))
    k = np.fft.fftfreq(72, 2.2)
    q = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    power = [np.mean(np.abs(transform[np.abs(q - 1 / d) < 0.004]) ** 2) for d in (4.8, 8.0)]
    assert power[0] > 0.1 * power[1]


def test_finer_grid_where_blobs_are_sharp():
    """Sharper blobs or larger pixels need a finer grid; blobs wider than the pixel need none."""
    assert [oversampling(1.1, p) for p in (0.5, 2.4, 4.0)] == [2, 2, 3]
    assert oversampling(4.0, 2.0) <= 2


def test_wrong_atoms_are_refused():
    """Atoms whose lists differ in length are an error that says so."""
    with pytest.raises(InputError, match="3 weights"):
        Atoms(np.zeros((2, 3)), np.ones(3), 1.0)


@pytest.mark.parametrize(("make", "bundles"), [(dihedral_phantom, 8), (asymmetric_phantom, 7)])
@pytest.mark.parametrize("seed", range(4))
def test_scattered_bundles_keep_apart(make, bundles, seed):
    """Blobs of different bundles come no closer than contact; the whole stays within 85 A, centred."""
    atoms = make(seed)
    assert atoms.radius_A < 85
    assert np.linalg.norm(atoms.weight @ atoms.position_A / atoms.weight.sum()) < 1e-9
    assert 150 < len(atoms.weight) / bundles < 600
    assert parts(atoms) == bundles


@pytest.mark.parametrize("seed", range(4))
def test_bundles_of_a_filament_follow_its_helix(seed):
    """Seven bundles that do not touch; the screw takes all but the last to the one above."""
    atoms = filament_phantom(seed)
    assert parts(atoms) == 7
    moved = atoms.position_A @ rotation_z(80.0).T + [0.0, 0.0, 24.0]
    distance, _ = cKDTree(atoms.position_A).query(moved)
    assert np.count_nonzero(distance < 1e-9) * 7 == len(moved) * 6
    assert distance.max() > 4.5


def parts(atoms: Atoms) -> int:
    """Bundles by their contacts: blobs closer than contact belong to one."""
    pairs = cKDTree(atoms.position_A).query_pairs(4.49, output_type="ndarray")
    n = len(atoms.weight)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return int(connected_components(graph, directed=False)[0])
