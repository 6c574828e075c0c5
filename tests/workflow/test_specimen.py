"""Species to simulate: phantoms, models from files, and several of them in one project."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.phantom import Atoms
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.maths.symmetry import rotations
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.star import read_blocks
from mpr_dist.workflow.simulation.plant_particles import place_particles
from mpr_dist.workflow.simulation.simulate import (
    SimulateSettings,
    SpeciesPlan,
    half_maps_from,
    simulate_project,
    species_plan,
)
from mpr_dist.workflow.simulation.specimen import specimen


def atoms_of(plan: SpeciesPlan) -> Atoms:
    return specimen(replace(SimulateSettings.fixture(), species=(plan,)), 0)[1]


def pdb(position: np.ndarray) -> str:
    rows = [
        f"ATOM  {i + 1:5d}  CA  GLY A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 40.00           C  "
        for i, (x, y, z) in enumerate(position)
    ]
    return "\n".join([*rows, "END", ""])


@pytest.fixture
def ring(tmp_path):
    """A file with D3 symmetry about axes that are not RELION's, off the origin; gzipped."""
    pytest.importorskip("gemmi")
    rng = np.random.default_rng(0)
    unit = np.array([22.0, 3.0, 12.0]) + rng.uniform(-8, 8, (60, 3))
    whole = np.einsum("rij,aj->rai", rotations("D3"), unit).reshape(-1, 3)
    turned = whole @ euler_to_matrix([40.0, 65.0, -20.0]).T + [30.0, -20.0, 10.0]
    path = tmp_path / "ring.pdb.gz"
    path.write_bytes(gzip.compress(pdb(turned).encode()))
    return path, whole


def test_a_dihedral_model_is_centred_and_turned_upright(ring):
    """After reading, every operator of D3 maps the atoms onto themselves (the angle is searched to 0.1 degree)."""
    path, whole = ring
    atoms = atoms_of(SpeciesPlan("ring", model=path, symmetry="D3"))
    for operator in rotations("D3"):
        distance = np.linalg.norm(atoms.position_A[:, None] - atoms.position_A @ operator.T, axis=-1).min(1)
        assert distance.max() < 0.2
    radius = np.linalg.norm(atoms.position_A, axis=1)
    np.testing.assert_allclose(np.sort(radius), np.sort(np.linalg.norm(whole, axis=1)), atol=0.01)
    # the hand is kept: distances are, and so is the sign of the volume that four atoms span
    before, after = (np.linalg.det(x[1:4] - x[0]) for x in (whole, atoms.position_A))
    assert after == pytest.approx(before, rel=0.01)


def test_a_model_without_the_symmetry_is_refused(ring):
    with pytest.raises(InputError, match="no symmetry D5"):
        atoms_of(SpeciesPlan("ring", model=ring[0], symmetry="D5"))
    with pytest.raises(InputError, match="no symmetry O"):
        atoms_of(SpeciesPlan("ring", model=ring[0], symmetry="O"))


def test_a_real_octahedral_model(shared):
    """Apoferritin 6Z6U: symmetric as it stands, of the known size, two million V A^3 of net potential."""
    pytest.importorskip("gemmi")
    plan = species_plan(f"{shared}/data/models/6z6u.pdb.gz:7", "O")
    assert (plan.name, plan.particles) == ("6z6u", 7)
    species, atoms = specimen(replace(SimulateSettings.fixture(), species=(plan,)), 0)
    assert 32_000 < len(atoms.weight) < 33_000
    assert species.symmetry == "O"
    assert 120 < species.diameter_A < 140
    assert species.box_px * species.pixel_size_A > 1.3 * species.diameter_A
    # 24 x 20 kDa of protein; scattering less displaced ice comes to about 4 V A^3 per dalton
    assert atoms.weight.sum() / (24 * 20_000) == pytest.approx(4.0, rel=0.2)


def test_phantoms_have_their_symmetry_and_no_other():
    for kind, group in (("dihedral", "D2"), ("asymmetric", "C1")):
        species, atoms = specimen(replace(SimulateSettings.fixture(), species=(species_plan(kind),)), 0)
        assert species.symmetry == group
        for operator in [*rotations("O"), np.diag([-1.0, 1.0, 1.0])]:
            found = np.linalg.norm(atoms.position_A[:200, None] - atoms.position_A @ operator.T, axis=-1).min(1)
            is_own = any(np.allclose(operator, own) for own in rotations(group))
            assert (np.median(found) < 1e-9) if is_own else (np.median(found) > 0.5)


def test_plans_are_read_from_words():
    assert species_plan("dihedral:20:3.2:64") == SpeciesPlan("dihedral", "dihedral", None, "C1", 20, 3.2, 64)
    assert species_plan("octahedral::3.2").particles is None
    with pytest.raises(InputError, match="KIND:PARTICLES"):
        species_plan("dihedral:many")
    with pytest.raises(InputError, match="KIND:PARTICLES"):
        species_plan("dihedral:1:2:3:4")
    with pytest.raises(InputError, match="names of their own"):
        replace(SimulateSettings.fixture(), species=(SpeciesPlan(), SpeciesPlan()))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    species = (species_plan("octahedral"), species_plan("dihedral:6:5.0"))
    settings = replace(SimulateSettings.fixture(), n_series=2, image_px=(260, 250), species=species)
    return simulate_project(tmp_path_factory.mktemp("two") / "project", settings)


def test_each_species_has_its_files(two):
    """Table, half-maps, mask and truth in folders of their own, maps with pixels and boxes of their own."""
    first, second = two.every_species
    assert [each.species.name for each in two.every_species] == ["octahedral", "dihedral"]
    for each, count in ((first, 8), (second, 6)):
        table = read_blocks(each.run_data)["particles"]
        assert len(table) == 2 * count
        assert [p.row.tolist() for p in each.particles.values()] == [[*range(count)], [*range(count, 2 * count)]]
        for path in (*each.half_maps, each.mask, each.truth / "density.mrc"):
            volume, pixel = read_volume(path)
            assert volume.shape == (each.species.box_px,) * 3
            assert pixel == pytest.approx(each.species.pixel_size_A)
        assert {p.name for p in each.truth.iterdir()} == {
            "density.mrc",
            *(f"TS_0{i}{end}" for i in (1, 2) for end in (".xml", "_particles.star", "_projections.npz")),
        }
    assert (first.species.pixel_size_A, second.species.pixel_size_A) == (4.0, 5.0)
    assert not (two.files.root / "relion" / "half1.mrc").exists()


def test_species_keep_apart(two):
    for name in two.series:
        a, b = (each.true_particles[name].position_A[:, 0] for each in two.every_species)
        least = sum(each.species.diameter_A for each in two.every_species) / 2
        assert np.linalg.norm(a[:, None] - b, axis=-1).min() > least


def test_both_species_are_in_the_images(two):
    """From the true geometry each half-map agrees with its own density, and hardly with the other's."""
    for each in two.every_species:
        mask = read_volume(each.mask)[0]
        maps = half_maps_from(two, two.true_series, each.true_particles, each.species)
        score = fsc((maps[0] + maps[1]) * mask, each.density() * mask)[1 : each.species.box_px // 2].mean()
        assert score > 0.6


def test_adding_a_species_leaves_the_first_alone(two):
    """The first species' particles are where they are without the second."""
    alone = replace(two.settings, species=two.settings.species[:1])
    for i, (name, series) in enumerate(two.true_series.items()):
        poses = place_particles(series, 0, two.species.diameter_A, alone, i)
        np.testing.assert_array_equal(poses.position_A, two.true_particles[name].position_A)
