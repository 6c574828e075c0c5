"""What keeps orientations from swinging about their summit while the parameters of a series settle.

The slope of a trilinear reference jumps wherever a sample enters another cell, and images are mostly noise: as a
particle turns, the slope of its likelihood wanders like a random walk of about half a standard deviation, around the
line that the Gauss-Newton matrix predicts. Full steps then never come to rest, and two starts that differ by nothing
to speak of end half a standard deviation apart. So a particle's turn is held back in two ways: as much as its last
step overshot (the secant), and more with every step near the summit, so that the wandering is averaged as in
stochastic approximation (Robbins and Monro 1951: steps of 1, 1/2, 1/3, ...).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.maths.solve import NormalEquations
from mpr_dist.refinement.state import POSE_SIZE
from mpr_dist.units import F64

# a step that brings less than this share of what was gained altogether is one near the summit
NEAR = 0.2
# of what a step overshot, the next one remembers so much; one step alone does not hold back by more than MOST
MEMORY, MOST = 0.7, 30.0


@dataclass(frozen=True, eq=False)
class Braking:
    """How much every particle's next turn is held back; a value, made anew by every step.

    Attributes:
    overshot: (points,) slope that was lost beyond what the step should have cost, as a share of the latter.
    near: steps that were taken near the summit.
    """

    overshot: F64
    near: int = 0

    @staticmethod
    def none(points: int) -> Braking:
        return Braking(np.zeros(points))

    def braked(self, equations: NormalEquations) -> NormalEquations:
        """Equations whose solution turns every point by a share of 1 / (1 + h) of what it otherwise would."""
        if not equations.p.size:
            return equations
        turns, put = np.arange(equations.p.shape[-1]) % POSE_SIZE >= POSE_SIZE // 2, equations.where.put
        factor = put(np.maximum(self.overshot, self.near))[:, None, None] * put(np.outer(turns, turns), np.float64)
        return replace(equations, p=equations.p * (1.0 + factor))

    def after(self, before: NormalEquations, then: NormalEquations, step: F64, poses: F64) -> Braking:
        """After a step (n,), (points, k) from the one to the other, whether it was taken or only tried."""
        if not before.p.size:
            return self
        there, moved = before.where, before.where.put(poses)
        xp, slope = there.xp, then.h if then.where is there else there.put(then.where.take(then.h))
        shared = (there.put(step) @ before.b.reshape(len(step), poses.size)).reshape(poses.shape)
        lost = xp.einsum("pk,pk->p", before.h - slope - shared, moved)
        expected = xp.einsum("pk,pkl,pl->p", moved, before.p, moved)
        counts = expected > 0
        ratio = there.take(xp.where(counts, lost / xp.where(counts, expected, 1.0), 1.0))
        return replace(self, overshot=np.maximum(MEMORY * self.overshot, np.clip(ratio - 1.0, 0.0, MOST)))

    def taken(self, gain: float, altogether: float) -> Braking:
        """After a step that was taken: what it gained of the objective, and all steps of this climb."""
        return replace(self, near=self.near + (self.near > 0 or gain < NEAR * altogether))
