"""How the local parameters of every image depend on the parameters of the model.

Local: shift of the particle in the image (A), rotation vector of its view in the image frame (rad), defocus (A),
B-factor (A^2), those of the classes that have their own, and the log of the amplitude scale. Derivatives are exact at
the state they are taken at, but for the slopes over the volume of grids of defocus and stage angles that came with more
than one node.
"""

from __future__ import annotations

from dataclasses import dataclass

from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import DEFOCUS, SHIFT, TURN, Linearisation
from mpr_dist.refinement.state import POSE_SIZE
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class Jacobian:
    """Derivatives of one species in some tilts, on the device of the geometry: all tilts at once may not fit there.

    moves_optics: whether the optics it is compared with are those being refined.
    """

    at: Linearisation
    layout: Layout
    moves_optics: bool = True

    def series(self, tilts: slice) -> F64:
        """(tilts, particles, local parameters, parameters of a tilt), columns as in ``Layout.tilt_columns``.

        Of tilts that depend on equally many parameters.
        """
        xp, layout = self.at.device.xp, self.layout
        n_t, n_p = len(range(*tilts.indices(layout.n_tilts))), len(self.at.particles)
        blocks = []
        for each in layout.classes:
            local = each.local(self.at, tilts, layout.own[each.name])
            block: F64 = xp.zeros((n_t, n_p, layout.n_local, local.values.shape[-1]))
            if self.moves_optics or not each.is_optics:
                for i, row in enumerate(local.rows.tolist()):
                    block[:, :, row] = xp.swapaxes(local.values[:, :, i], 0, 1)
            blocks.append(block)
        out: F64 = xp.concatenate(blocks, axis=-1)
        return out

    def pose(self, tilts: slice) -> F64:
        """(tilts, particles, local parameters, pose parameters), zero for samples that the species does not have."""
        at, layout, xp = self.at, self.layout, self.at.device.xp
        n_p, own = len(at.particles), at.particles.n_samples
        moved = at.by_position(tilts)[:, :, :, None] * xp.swapaxes(at.position_weights[:, tilts], 2, 3)[:, :, None]
        turned = xp.einsum("ptij,ptjsk->ptisk", at.to_image[:, tilts], at.turn_weights[:, tilts])
        moved, turned = xp.swapaxes(moved, 0, 1), xp.swapaxes(turned, 0, 1)
        block: F64 = xp.zeros((len(moved), n_p, layout.n_local, layout.samples, POSE_SIZE))
        block[:, :, SHIFT, :own, :3] = moved[:, :, :2]
        block[:, :, DEFOCUS, :own, :3] = moved[:, :, 2]
        block[:, :, TURN, :own, 3:] = turned
        return block.reshape(len(moved), n_p, layout.n_local, layout.pose_size)
