"""What is in the tomograms: a species and its atoms, from a procedural phantom or from a model."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from mpr_dist.errors import InputError
from mpr_dist.imaging.phantom import Atoms, asymmetric_phantom, dihedral_phantom, octahedral_phantom
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.species import Species
from mpr_dist.storage.atomic_model import read_model
from mpr_dist.workflow.simulate_settings import SimulateSettings, SpeciesPlan

# One width for all atoms: the median B-factor, and 12 A^2 for the atom's own size (carbon), in sensible bounds.
_OWN_B_A2, _B_RANGE_A2 = 12.0, (40.0, 200.0)
_SYMMETRIC_A = 1.5  # median distance between atoms and their rotated copies, at most
_BOX_PER_DIAMETER = 1.4

_PHANTOMS = {"octahedral": octahedral_phantom, "dihedral": dihedral_phantom, "asymmetric": asymmetric_phantom}


def specimen(s: SimulateSettings, number: int) -> tuple[Species, Atoms]:
    """The atoms of a planned species, and the species that its maps need.

    Raises:
        InputError: a model cannot be read, does not have the symmetry it should, or does not fit the box.
    """
    plan = s.species[number]
    # phantoms of one kind differ from each other
    atoms = _model(plan) if plan.model else _PHANTOMS[plan.phantom](s.seed + 1000 * number)
    diameter = 2.0 * np.ceil(atoms.radius_A + 1.5)
    pixel = plan.pixel_A or s.pixel_A
    fits = 2 * int(np.ceil(0.5 * _BOX_PER_DIAMETER * diameter / pixel))
    is_usual = plan.model is None and plan.phantom == "octahedral" and plan.pixel_A is None
    return Species(plan.name, pixel, plan.box_px or (s.box_px if is_usual else fits), diameter, plan.point_group), atoms


def _model(plan: SpeciesPlan) -> Atoms:
    """Blobs of one width at the atoms of a file, centred on their mean weighted by the potential."""
    assert plan.model is not None
    read = read_model(plan.model)
    b = np.clip(np.median(read.bfactor_A2) + _OWN_B_A2, *_B_RANGE_A2)
    position = read.position_A - read.weight @ read.position_A / read.weight.sum()
    tree = cKDTree(position)
    for operator in rotations(plan.symmetry):
        distance, _ = tree.query(position @ operator.T)
        if np.median(distance) > _SYMMETRIC_A:
            raise InputError(
                f"{plan.model}: does not look the same after a turn of {plan.symmetry} about RELION's axes (atoms are "
                f"{np.median(distance):.1f} A apart); turn the model, or give --model-symmetry C1"
            )
    return Atoms(position, read.weight, float(np.sqrt(b / (8 * np.pi**2))))
