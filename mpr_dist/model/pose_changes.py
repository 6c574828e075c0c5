"""Particles under a change of their species' map: it is turned, moved, divided, or put together with others.

A pose A, p says that the point v of the map lies at p + A v in the tomogram. A changed map has changed poses, so that
every density stays where it is in the tomogram; trajectories change sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mpr_dist.maths.rotations import euler_to_matrix, matrix_to_euler
from mpr_dist.model.pose import Particles
from mpr_dist.units import F64, I64


def turned(particles: Particles, rotation: F64) -> Particles:
    """Poses in a map that was turned by ``rotation`` (3, 3): what was at v in the map is at rotation v now."""
    matrices = euler_to_matrix(particles.angles_deg) @ np.asarray(rotation).T
    return replace(particles, angles_deg=matrix_to_euler(matrices))


def recentred(particles: Particles, centre_A: F64) -> Particles:
    """Poses in a map whose new origin is the point ``centre_A`` (3,) of the old one."""
    moved = particles.position_A + euler_to_matrix(particles.angles_deg) @ np.asarray(centre_A, np.float64)
    return replace(particles, position_A=moved)


def expanded(particles: Particles, rotations: F64, places_A: F64 | None = None) -> Particles:
    """Every particle once per rotation (copies, 3, 3) of its map, all copies of one after another, rows numbered anew.

    places_A: (copies, 3) where the centre of each copy lies in the map, for helices; None: all in the centre.
    """
    n, copies = len(particles), len(rotations)
    matrices = euler_to_matrix(particles.angles_deg)[:, None]  # (n, 1, samples, 3, 3)
    angles = matrix_to_euler(matrices @ np.asarray(rotations)[None, :, None])
    position = np.broadcast_to(particles.position_A[:, None], angles.shape)
    if places_A is not None:
        position = position + np.einsum("nasij,cj->ncsi", matrices, places_A)
    shape = (n * copies, particles.n_samples, 3)
    return Particles(
        np.ascontiguousarray(position).reshape(shape),
        angles.reshape(shape),
        np.repeat(particles.half, copies),
        np.arange(n * copies, dtype=np.int64),
    )


def selected(particles: Particles, rows: I64) -> Particles:
    """Those at the indices ``rows`` (or where it is true), with the rows of the table that they have."""
    return Particles(particles.position_A[rows], particles.angles_deg[rows], particles.half[rows], particles.row[rows])


def renumbered(particles: Particles) -> Particles:
    """The same, counted from 0: for a table of their own."""
    return replace(particles, row=np.arange(len(particles), dtype=np.int64))


def concatenated(parts: Sequence[Particles]) -> Particles:
    """All of them, with as many temporal samples as the one that has most."""
    most = max((each.n_samples for each in parts), default=1)
    alike = [each.resampled(most) for each in parts]
    fields = ("position_A", "angles_deg", "half", "row")
    return Particles(*(np.concatenate([getattr(each, name) for each in alike]) for name in fields))
