"""How the local parameters of every image depend on the parameters of the model.

Local: shift of the particle in the image (A), rotation vector of its view in the image frame (rad), defocus (A),
B-factor (A^2), those of the classes that have their own, and the log of the amplitude scale. Derivatives are exact at
the state they are taken at, but for the slopes over the volume of grids of defocus and stage angles that came with more
than one node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import DEFOCUS, SHIFT, TURN, Linearisation
from mpr_dist.refinement.state import POSE_SIZE
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class Jacobian:
    """Derivatives of one species, tilt by tilt: all tilts at once would not fit into memory.

    moves_optics: whether the optics it is compared with are those being refined.
    """

    at: Linearisation
    layout: Layout
    moves_optics: bool = True

    def series(self, t: int) -> F64:
        """(particles, local parameters, parameters of tilt t), columns in the order of ``Layout.tilt_columns``."""
        n_p = len(self.at.particles)
        blocks = []
        for each in self.layout.classes:
            local = each.local(self.at, t, self.layout.own[each.name])
            block = np.zeros((n_p, self.layout.n_local, local.values.shape[-1]))
            if self.moves_optics or not each.is_optics:
                block[:, local.rows] = local.values
            blocks.append(block)
        return np.concatenate(blocks, axis=-1)

    def pose(self, t: int) -> F64:
        """(particles, local parameters, pose parameters), zero for samples that the species does not have."""
        at, layout = self.at, self.layout
        n_p, own = len(at.particles), at.particles.n_samples
        block = np.zeros((n_p, layout.n_local, layout.samples, POSE_SIZE))
        moved = at.by_position(t)[:, :, None] * np.swapaxes(at.position_weights[:, t], 1, 2)[:, None]
        block[:, SHIFT, :own, :3] = moved[:, :2]
        block[:, DEFOCUS, :own, :3] = moved[:, 2]
        block[:, TURN, :own, 3:] = np.einsum("pij,pjsk->pisk", at.to_image[:, t], at.turn_weights[:, t])
        return block.reshape(n_p, layout.n_local, layout.pose_size)
