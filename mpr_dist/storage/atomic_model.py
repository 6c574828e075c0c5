"""Atomic models from PDB and mmCIF files, as they stand in the microscope: the assembly, potentials, B-factors.

Read with gemmi, an optional dependency.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.units import F64

# Integral of the potential of an atom per scattering amplitude at zero angle, h^2 / (2 pi m e).
_VA2 = 47.878
# Proteins displace 1.21 A^3 of ice per dalton (0.73 cm^3/g), which has a mean inner potential of 4.5 V.
_A3_PER_DALTON, _ICE_V = 1.21, 4.5
# Atoms that carry one hydrogen each, the mean in proteins, where the file has none.
_BONDED = ("C", "N", "O", "S")


@dataclass(frozen=True, eq=False)
class AtomicModel:
    """Atoms of the biological assembly.

    Attributes:
        position_A: (atoms, 3) as in the file.
        weight: (atoms,) integral of the potential in V A^3, net of the ice that the atom displaces.
        bfactor_A2: (atoms,) as in the file.
    """

    position_A: F64
    weight: F64
    bfactor_A2: F64


def read_model(path: Path) -> AtomicModel:
    """Read a PDB or mmCIF file (.gz, too): its first model, its first biological assembly, without water.

    Potentials are the sums of the scattering factors in the International Tables, volume C, table 4.3.2.2.

    Raises:
        InputError: gemmi is not installed, or the file cannot be read or has no atoms.
    """
    try:
        import gemmi
    except ImportError as error:
        raise InputError(f"{path}: reading models needs gemmi: pip install 'mpr_dist[models]'") from error
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file; give a PDB or mmCIF file")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: is not a PDB or mmCIF file that can be read ({error})") from error
    structure.remove_waters()
    if structure.assemblies:
        structure.transform_to_assembly(structure.assemblies[0].name, gemmi.HowToNameCopiedChain.AddNumber)
    found = [each.atom for each in structure[0].all()] if len(structure) else []
    if not found:
        raise InputError(f"{path}: holds no atoms")
    hydrogen = 0.0 if structure[0].has_hydrogen() else 1.0
    kinds = {atom.element.name: atom.element for atom in found}
    potential = {name: _net_potential_VA3(path, element, hydrogen, gemmi) for name, element in kinds.items()}
    return AtomicModel(
        np.array([atom.pos.tolist() for atom in found]),
        np.array([potential[atom.element.name] * atom.occ for atom in found]),
        np.array([atom.b_iso for atom in found]),
    )


def _net_potential_VA3(path: Path, element, hydrogens: float, gemmi) -> float:  # type: ignore[no-untyped-def]
    """Of one atom, and the hydrogens that it is taken to carry."""
    factor = element.c4322
    if factor is None or element.atomic_number == 0:
        raise InputError(f"{path}: has atoms of unknown element {element.name!r}; remove them")
    amplitude_A, mass = sum(factor.a), element.weight
    if element.name in _BONDED:
        light = gemmi.Element("H")
        amplitude_A, mass = amplitude_A + hydrogens * sum(light.c4322.a), mass + hydrogens * light.weight
    return float(_VA2 * amplitude_A - _ICE_V * _A3_PER_DALTON * mass)
