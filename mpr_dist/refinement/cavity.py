"""Where each particle image would be placed by everything but itself, and how well that is known.

Amplitudes must not be read off images at the places that were fitted to them: noise that was fitted raises the
correlation, an error of the place lowers it, and neither is small in weak tilts. The cavity distribution (expectation
propagation; leave-one-out of a linear model) takes both out: the Gaussian posterior of an image's place divided by the
image's own likelihood. Its mean owes nothing to the noise of the image; its covariance is by how much the true place
scatters about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.maths.solve import Covariance, posterior
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import DEFOCUS, TURN, Linearisation
from mpr_dist.refinement.objective import Evaluation
from mpr_dist.refinement.products import Products, SpeciesData, local_equations, products
from mpr_dist.refinement.state import State
from mpr_dist.units import F64

# shift, rotation vector, defocus: the leading local parameters
PLACE = DEFOCUS + 1


@dataclass(frozen=True, eq=False)
class Cavity:
    """Attributes:
    mean: (particles, tilts, 6) from the state to the place: shift (A), rotation vector (rad), defocus (A).
    blur: (particles, tilts, 4) variances in the image: x, y, covariance of both (A^2), and of the defocus (A^2).
    """

    mean: F64
    blur: F64


def cavities(state: State, evaluation: Evaluation, layout: Layout, data: tuple[SpeciesData, ...]) -> tuple[Cavity, ...]:
    """One per species, at a state and the evaluation of it; one pass over the images."""
    blocks, steps = posterior(evaluation.equations, whole=False)
    found, start = [], 0
    for i, (particles, one) in enumerate(zip(state.particles, data, strict=True)):
        points = slice(start, start + len(particles))
        start += len(particles)
        passed = products(state.series, particles, one, layout, state.strength(i))
        jacobian = Jacobian(Linearisation.of(state.series, particles, i), layout, one.frozen is None)
        found.append(_cavity(passed, np.exp(state.log_scale), _Posterior(jacobian, blocks, steps, points)))
    return tuple(found)


def _cavity(passed: Products, scale: F64, posterior: _Posterior) -> Cavity:
    n_p, n_t = passed.xm.shape
    mean, cov = np.zeros((n_p, n_t, PLACE)), np.zeros((n_p, n_t, PLACE, PLACE))
    for t in range(n_t):
        known, step = posterior.of_tilt(t)
        gradient, information = (each[0] for each in local_equations(passed, scale, slice(t, t + 1)))
        # with all that the image says anything about: of a place alone it would seem to say more than it does
        left = np.eye(known.shape[-1]) - known @ information
        without = np.linalg.solve(left, known)[:, :PLACE, :PLACE]
        cov[:, t] = 0.5 * (without + np.swapaxes(without, 1, 2))
        moved = step - np.einsum("pij,pj->pi", known, gradient)
        mean[:, t] = np.linalg.solve(left, moved[..., None])[:, :PLACE, 0]
    return Cavity(mean, _blur(cov, _mean_square_radius(passed)))


@dataclass(frozen=True, eq=False)
class _Posterior:
    """Of all parameters, and the points that belong to one species.

    steps: from the state to the mean; next to nothing at the end of a refinement, but weights may have changed since.
    """

    jacobian: Jacobian
    blocks: Covariance
    steps: tuple[F64, F64]
    points: slice

    def of_tilt(self, t: int) -> tuple[F64, F64]:
        """Covariance (particles, local, local) of all local parameters in tilt t, and step to their mean."""
        jacobian, blocks, points = self.jacobian, self.blocks, self.points
        columns = jacobian.layout.tilt_columns[t]
        by_series = jacobian.series(slice(t, t + 1))[0]
        out = by_series @ blocks.s[np.ix_(columns, columns)] @ np.swapaxes(by_series, 1, 2)
        step = by_series @ self.steps[0][columns]
        if jacobian.layout.poses:
            by_pose = jacobian.pose(slice(t, t + 1))[0]
            mixed = by_series @ np.moveaxis(blocks.sp[columns, points], 1, 0) @ np.swapaxes(by_pose, 1, 2)
            out = out + mixed + np.swapaxes(mixed, 1, 2)
            out = out + by_pose @ blocks.p[points] @ np.swapaxes(by_pose, 1, 2)
            step = step + np.einsum("pij,pj->pi", by_pose, self.steps[1][points])
        return np.asarray(out), np.asarray(step)


def _mean_square_radius(passed: Products) -> float:
    """A^2 per axis: a turn by 1 rad moves the density as much as a shift by the root of this (power of the slices)."""
    shifted = float(passed.dd[..., 0, 0].sum() + passed.dd[..., 1, 1].sum())
    turned = float(passed.dd[..., 2, 2].sum() + passed.dd[..., 3, 3].sum())
    return turned / shifted if shifted > 0 else 0.0


def _blur(cov: F64, radius2: float) -> F64:
    """Variances in the image; turns count by how far they move the density."""
    turn = cov[..., TURN, TURN]
    xx = np.maximum(cov[..., 0, 0] + radius2 * (turn[..., 1, 1] + turn[..., 2, 2]), 0.0)
    yy = np.maximum(cov[..., 1, 1] + radius2 * (turn[..., 0, 0] + turn[..., 2, 2]), 0.0)
    xy = cov[..., 0, 1] - radius2 * turn[..., 0, 1]
    largest = np.sqrt(xx * yy)  # what is left of it is a covariance, whatever rounding does
    return np.stack([xx, yy, np.clip(xy, -largest, largest), np.maximum(cov[..., DEFOCUS, DEFOCUS], 0.0)], -1)
