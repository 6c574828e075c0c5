"""Models from PDB and mmCIF files."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.storage.atomic_model import read_model

gemmi = pytest.importorskip("gemmi")

ATOMS = """\
ATOM      1  CA  GLY A   1      10.000   2.000   3.000  1.00 20.00           C
ATOM      2  O   GLY A   1      11.000   2.500   3.500  0.50 30.00           O
HETATM    3  O   HOH A 101       0.000   0.000   0.000  1.00 40.00           O
END
"""
ASSEMBLY = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        4.00000
"""


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain.pdb"
    path.write_text(ATOMS)
    return path


def test_atoms_without_water(plain):
    read = read_model(plain)
    np.testing.assert_allclose(read.position_A, [[10.0, 2.0, 3.0], [11.0, 2.5, 3.5]])
    np.testing.assert_allclose(read.bfactor_A2, [20.0, 30.0])


def test_potentials_are_those_of_the_tables(plain):
    """Scattering amplitudes at zero angle: C 2.509 A, O 1.984 A, H 0.529 A (International Tables C, 4.3.2.2).

    Each carries a hydrogen, and displaces 1.21 A^3 of ice at 4.5 V per dalton; the second is half occupied.
    """
    carbon = 47.878 * (2.509 + 0.529) - 4.5 * 1.21 * (12.011 + 1.008)
    oxygen = 0.5 * (47.878 * (1.984 + 0.529) - 4.5 * 1.21 * (15.999 + 1.008))
    np.testing.assert_allclose(read_model(plain).weight, [carbon, oxygen], rtol=2e-3)


def test_the_assembly_is_built(tmp_path):
    """BIOMT says: a copy turned by half a turn about z and lifted by 4 A."""
    path = tmp_path / "two.pdb"
    path.write_text(ASSEMBLY + ATOMS)
    read = read_model(path)
    np.testing.assert_allclose(read.position_A[2:], read.position_A[:2] * [-1, -1, 1] + [0, 0, 4], atol=1e-6)


def test_mmcif_reads_as_pdb(plain, tmp_path):
    path = tmp_path / "plain.cif"
    gemmi.read_structure(str(plain)).make_mmcif_document().write_file(str(path))
    a, b = read_model(plain), read_model(path)
    np.testing.assert_allclose(a.position_A, b.position_A)
    np.testing.assert_allclose(a.weight, b.weight)


def test_hydrogens_of_the_file_are_taken_as_they_are(tmp_path):
    """Where a file has hydrogens, no atom is given another."""
    path = tmp_path / "h.pdb"
    line = "ATOM      3  HA2 GLY A   1      10.500   2.900   3.500  1.00 20.00           H"
    path.write_text(ATOMS.replace("HETATM", line + "\nHETATM"))
    carbon, _, hydrogen = read_model(path).weight
    assert carbon == pytest.approx(47.878 * 2.509 - 4.5 * 1.21 * 12.011, rel=2e-3)
    assert hydrogen == pytest.approx(47.878 * 0.529 - 4.5 * 1.21 * 1.008, rel=2e-3)


def test_without_gemmi_the_message_names_the_extra(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemmi", None)
    with pytest.raises(InputError, match=r"pip install 'mpr_dist\[models\]'"):
        read_model(plain)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "no such file"), ("", "holds no atoms"), ("nonsense\n" * 5, "holds no atoms")]
)
def test_bad_files_are_refused(content, words, tmp_path):
    path = tmp_path / "bad.pdb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_model(path)


def test_a_damaged_mmcif_is_refused(tmp_path):
    path = tmp_path / "bad.cif"
    path.write_text("data_x\nloop_\n_atom_site.id\n'unfinished\n")
    with pytest.raises(InputError, match=r"bad\.cif"):
        read_model(path)


def test_an_unknown_element_is_refused(tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text(ATOMS.replace("C\n", "X\n", 1))
    with pytest.raises(InputError, match="unknown element"):
        read_model(path)
