"""What is in the tomograms: a species and its atoms, from a procedural phantom or from a model."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from mpr_dist.errors import InputError
from mpr_dist.imaging.phantom import (
    FILAMENT_RISE_A,
    FILAMENT_TWIST_DEG,
    Atoms,
    asymmetric_phantom,
    dihedral_phantom,
    filament_phantom,
    octahedral_phantom,
)
from mpr_dist.maths.rotations import rotation_z
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.species import Helix, Species
from mpr_dist.storage.atomic_model import read_model
from mpr_dist.units import F64
from mpr_dist.workflow.simulation.simulate_settings import SimulateSettings, SpeciesPlan

# One width for all atoms: the median B-factor, and 12 A^2 for the atom's own size (carbon), in sensible bounds.
_OWN_B_A2, _B_RANGE_A2 = 12.0, (40.0, 200.0)
_SYMMETRIC_A = 1.0  # median distance between atoms and their rotated copies, at most; by chance it is about 2 A
_BOX_PER_DIAMETER = 1.4

_PHANTOMS = {
    "octahedral": octahedral_phantom,
    "dihedral": dihedral_phantom,
    "asymmetric": asymmetric_phantom,
    "filament": filament_phantom,
}


def specimen(s: SimulateSettings, number: int) -> tuple[Species, Atoms]:
    """The atoms of a planned species, and the species that its maps need.

    Raises:
        InputError: a model cannot be read, does not have the symmetry it should, or does not fit the box.
    """
    plan = s.species[number]
    # phantoms of one kind differ from each other
    atoms = _model(plan) if plan.model else _PHANTOMS[plan.phantom](s.seed + 1000 * number)
    diameter = float(2.0 * np.ceil(atoms.radius_A + 1.5))
    pixel = plan.pixel_A or s.pixel_A
    fits = 2 * int(np.ceil(0.5 * _BOX_PER_DIAMETER * diameter / pixel))
    is_usual = plan.model is None and plan.phantom == "octahedral" and plan.pixel_A is None
    box = plan.box_px or (s.box_px if is_usual else fits)
    is_helix = plan.model is None and plan.phantom == "filament"
    # the ends of a box must not count
    helix = Helix(FILAMENT_RISE_A, FILAMENT_TWIST_DEG, int(box * pixel / 2 // FILAMENT_RISE_A)) if is_helix else None
    return Species(plan.name, pixel, box, diameter, plan.point_group, helix=helix), atoms


def _model(plan: SpeciesPlan) -> Atoms:
    """Blobs of one width at the atoms of a file, centred on their mean weighted by the potential.

    A cyclic or dihedral model whose axes lie elsewhere is turned to RELION's.
    """
    assert plan.model is not None
    read = read_model(plan.model)
    b = np.clip(np.median(read.bfactor_A2) + _OWN_B_A2, *_B_RANGE_A2)
    position = read.position_A - read.weight @ read.position_A / read.weight.sum()
    operators = rotations(plan.symmetry)
    apart = _apart_A(position, operators)
    if apart > _SYMMETRIC_A and plan.point_group.strip().upper()[0] in "CD":
        position = _upright(position, operators, plan.point_group)
        apart = _apart_A(position, operators)
    if apart > _SYMMETRIC_A:
        raise InputError(
            f"{plan.model}: has no symmetry {plan.symmetry} about RELION's axes (atoms are {apart:.1f} A from their "
            "copies); turn the model, or give --model-symmetry C1"
        )
    return Atoms(position, read.weight, float(np.sqrt(b / (8 * np.pi**2))))


def _apart_A(position: F64, operators: F64) -> float:
    """How far atoms are from the rotated particle: the median of the worst operator, over a thousand atoms."""
    tree, some = cKDTree(position), position[:: max(1, len(position) // 1000)]
    return max(float(np.median(tree.query(some @ operator.T)[0])) for operator in operators)


def _upright(position: F64, operators: F64, point_group: str) -> F64:
    """The model with a principal axis of inertia along z and, if dihedral, a two-fold one along x: what fits best."""
    # a rotation about z and, if there is one, the turn about x: all others are their products
    few = operators[[min(1, len(operators) - 1), len(operators) // 2]]
    _, axes = np.linalg.eigh(position.T @ position)
    frames = [np.roll(axes.T, shift, axis=0) for shift in range(3)]
    upright = [position @ (frame * np.linalg.det(frame)).T for frame in frames]
    is_dihedral, fold = point_group.strip().upper()[0] == "D", int(point_group.strip()[1:])
    for span, steps in ((180.0 / fold, 2 * 180 // fold), (1.0, 21)) if is_dihedral else ():
        turns = np.linspace(-span / 2, span / 2, steps)
        turned = [each @ rotation_z(turn).T for each in upright for turn in turns]
        upright = [min(turned, key=lambda each: _apart_A(each, few))]
    return min(upright, key=lambda each: _apart_A(each, few))
