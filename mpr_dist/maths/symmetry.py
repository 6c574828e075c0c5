"""Point groups as rotation matrices, with RELION's names and axes.

C_n: n-fold on z. D_n: n-fold on z, 2-fold on x. T: 3-fold on z, 2-fold in the y-z plane. O: 4-fold on x, y and z.
I = I2: 2-fold on x, y and z, 5-fold at (1, 0, phi); I1: I2 with a 5-fold at (phi, 0, -1) instead; I3: 5-fold on z,
2-fold at (-1, 0, phi); I4: I3 turned by 180 degrees about z. The axes are those of RELION's ``symmetries.cpp``.
"""

from __future__ import annotations

import re

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.maths.rotations import exp_rotation
from mpr_dist.units import F64

_PHI = (1.0 + 5.0**0.5) / 2.0
_TAN36 = float(np.tan(np.pi / 5.0))

Axis = tuple[int, tuple[float, float, float]]

# (fold, axis): the rotations that generate each group
_POLYHEDRAL: dict[str, tuple[Axis, ...]] = {
    "T": ((3, (0.0, 0.0, 1.0)), (2, (0.0, 2.0**0.5, 1.0))),
    "O": ((3, (1.0, 1.0, 1.0)), (4, (0.0, 0.0, 1.0))),
    "I1": ((2, (1.0, 0.0, 0.0)), (5, (_PHI, 0.0, -1.0)), (3, (_PHI**2, 1.0, 0.0))),
    "I2": ((2, (0.0, 0.0, 1.0)), (5, (1.0, 0.0, _PHI)), (3, (0.0, 1.0, _PHI**2))),
    "I3": ((2, (-1.0, 0.0, _PHI)), (5, (0.0, 0.0, 1.0)), (3, (-1.0, _TAN36, _PHI))),
    "I4": ((2, (1.0, 0.0, _PHI)), (5, (2.0, 0.0, 1.0)), (3, (1.0, _TAN36, _PHI))),
}
_ORDER = {"T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def _rotation(fold: int, axis: tuple[float, float, float]) -> F64:
    direction = np.asarray(axis, np.float64)
    return _snap(exp_rotation(direction / np.linalg.norm(direction) * (2.0 * np.pi / fold)))


def _snap(matrix: F64) -> F64:
    """Entries that are 0, +-1/2 or +-1 but for rounding become exactly that."""
    halves = np.round(2.0 * matrix) / 2.0
    # adding zero turns -0 into 0, so that equal matrices have equal bytes
    return np.where(np.abs(matrix - halves) < 1e-12, halves, matrix) + 0.0


def _close(generators: tuple[Axis, ...], order: int) -> F64:
    """(order, 3, 3) all products of the generators, in the order in which breadth-first search meets them."""
    steps = [_rotation(fold, axis) for fold, axis in generators]
    found = [np.eye(3)]
    for element in found:  # grows while it is walked
        for step in steps:
            product = _snap(element @ step)
            if all(np.abs(product - other).max() > 1e-6 for other in found):
                found.append(product)
        if len(found) > order:
            break
    if len(found) != order:
        raise AssertionError(f"symmetry generators close to {len(found)} rotations, expected {order}")
    return np.stack(found)


def rotations(symmetry: str) -> F64:
    """All rotations of a point group, (n, 3, 3) float64, identity first, always in the same order.

    ``symmetry`` is "C<n>", "D<n>", "T", "O", "I", "I1" to "I4", in either case. Axes: see the module. A rotation that
    permutes the coordinate axes has entries of exactly 0, 1 and -1. Raises InputError for any other name.
    """
    name = symmetry.strip().upper()
    name = "I2" if name == "I" else name
    if name in _POLYHEDRAL:
        return _close(_POLYHEDRAL[name], _ORDER[name])
    match = re.fullmatch(r"([CD])([1-9][0-9]{0,2})", name)
    if match is None:
        raise InputError(
            f"symmetry {symmetry!r} is not known; expected C1, C2, ... (n-fold), D1, D2, ... (dihedral), T, O, "
            "I (= I2), I1, I2, I3 or I4"
        )
    fold = int(match[2])
    angles = 2.0 * np.pi / fold * np.arange(fold)
    cyclic = _snap(exp_rotation(angles[:, None] * np.array([0.0, 0.0, 1.0])))
    if match[1] == "C":
        return cyclic
    return np.concatenate([cyclic, _snap(cyclic @ np.diag([1.0, -1.0, -1.0]))])


def generators(symmetry: str) -> F64:
    """A few rotations (n, 3, 3) whose products are the whole group ``rotations(symmetry)``; none for C1."""
    name = symmetry.strip().upper()
    name = "I2" if name == "I" else name
    if name in _POLYHEDRAL:
        return np.stack([_rotation(fold, axis) for fold, axis in _POLYHEDRAL[name]])
    group, fold = rotations(name), int(name[1:])
    wanted = ([1] if fold > 1 else []) + ([fold] if name[0] == "D" else [])
    return group[wanted]


def cosets(whole: str, part: str) -> F64:
    """One rotation for each coset g H of the group ``part`` H in the group ``whole``: (n, 3, 3), identity first.

    A particle with the symmetry of the whole, seen as one of the part, is so many particles A g. Raises InputError when
    a rotation of the part is none of the whole.
    """
    group, subgroup = rotations(whole), rotations(part)
    if not is_subset(subgroup, group):
        raise InputError(
            f"symmetry {part} is not contained in {whole}: some of its axes are none of {whole}'s (the axes are "
            "RELION's); C1 always is"
        )
    found: list[F64] = []
    for element in group:
        if not any(_among(np.linalg.inv(known) @ element, subgroup) for known in found):
            found.append(element)
    return np.stack(found)


def is_subset(some: F64, all_of: F64) -> bool:
    """Whether every rotation of ``some`` (n, 3, 3) is one of ``all_of`` (m, 3, 3)."""
    return all(_among(each, all_of) for each in some)


def turned_group(symmetry: str, rotation: F64) -> str | None:
    """Name of the point group of a map that was turned by ``rotation`` (3, 3); None if its axes have no name then."""
    conjugate = rotation @ rotations(symmetry) @ np.asarray(rotation).T
    name = symmetry.strip().upper()
    others = ("I2", "I1", "I3", "I4") if name.startswith("I") else ()
    # the name that it has, as long as that is right
    return next((each for each in (name, *others) if is_subset(conjugate, rotations(each))), None)


def fixed_part(symmetry: str, point: F64) -> F64:
    """(3,) mean of a point over the group: the point itself if it lies on an axis that all rotations leave alone."""
    return np.asarray((rotations(symmetry) @ np.asarray(point, np.float64)).mean(axis=0))


def _among(matrix: F64, group: F64) -> bool:
    return bool((np.abs(group - matrix).max(axis=(1, 2)) < 1e-6).any())
