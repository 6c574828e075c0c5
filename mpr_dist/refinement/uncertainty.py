"""Standard deviations of everything refined: from the normal matrix, and from what the reference itself does not know.

The inverse of the normal matrix holds for a perfect reference. Ours is made of the same images, half by half, so a
parameter can agree with errors that it put into its own half-map. The other half-map has errors of its own: the step
that a parameter would take towards it, in units of its standard deviation, tells what the reference contributes.
Nothing is ever moved by that step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.maths.solve import covariance, solve
from mpr_dist.refinement.layout import POSE_SIZE, Layout
from mpr_dist.refinement.objective import Evaluation
from mpr_dist.units import F64

# exposures on either side over which the contribution of the reference is averaged
NEIGHBOURS = 3


@dataclass(frozen=True, eq=False)
class Sigmas:
    """Standard deviations; empty arrays for what was not refined.

    Attributes:
        image_warp_A: (tilts, 2, height, width); stage_angles_deg: (tilts, 3).
        defocus_A, bfactor_A2, log_scale: (tilts,).
        pose: one (particles, 6) per species: A, then degrees.
        series_covariance: (n_series, n_series) in the order and units of the layout; pose_covariance: (points, 6, 6), A
            and radians, all species behind one another.
        reference_share: class name -> mean variance that the reference adds, in units of that of the normal matrix.
    """

    image_warp_A: F64
    stage_angles_deg: F64
    defocus_A: F64
    bfactor_A2: F64
    log_scale: F64
    pose: tuple[F64, ...]
    series_covariance: F64
    pose_covariance: F64
    reference_share: dict[str, float]


def sigmas(own: Evaluation, cross: Evaluation, layout: Layout, dose: F64, counts: list[int]) -> Sigmas:
    """From evaluations of the final state against its own and the other half-map; counts: particles of each species."""
    blocks = covariance(own.equations)
    steps = [solve(e.equations) for e in (own, cross)]
    away, away_pose = steps[1][0] - steps[0][0], steps[1][1] - steps[0][1]
    growth, share = np.ones(layout.n_series), {}
    for name, where in layout.slices.items():
        added = _along_exposures(away[where], blocks.s[where, where], dose)
        share[name] = float(added.mean())
        growth[where] = np.repeat(np.sqrt(1 + added), layout.widths[name])
    series = blocks.s * np.outer(growth, growth)
    poses = blocks.p
    if layout.poses:
        added_pose = np.ones(POSE_SIZE)
        for name, part in (("position", slice(0, 3)), ("orientation", slice(3, 6))):
            steps_in = away_pose[:, part, None]
            distance = np.swapaxes(steps_in, 1, 2) @ np.linalg.solve(blocks.p[:, part, part], steps_in)
            share[name] = float(distance.mean() / 3)
            added_pose[part] += share[name]
        poses = blocks.p * np.sqrt(np.outer(added_pose, added_pose))
    return _named(layout, series, poses, counts, share)


def _along_exposures(away: F64, covariance: F64, dose: F64) -> F64:
    """(tilts,) squared length of the steps of a tilt and its neighbours in exposure order, in units of covariance.

    The whole block counts, not its diagonal: what distinguishes two tilts is known much better than what they share.
    """
    n = len(dose)
    order, width = np.argsort(dose, kind="stable"), len(away) // n
    out = np.empty(n)
    for place, tilt in enumerate(order):
        near = order[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS + 1]
        index = (near[:, None] * width + np.arange(width)).ravel()
        block = covariance[np.ix_(index, index)]
        out[tilt] = away[index] @ np.linalg.solve(block, away[index]) / len(index)
    return out


def _named(layout: Layout, series: F64, poses: F64, counts: list[int], share: dict[str, float]) -> Sigmas:
    n = layout.n_tilts
    sigma = np.sqrt(np.diag(series))
    part = {name: sigma[where].reshape(n, -1) for name, where in layout.slices.items()}
    empty = np.zeros((n, 0))
    width, height = layout.image_warp or (0, 0)
    warp = [part.get(name, empty).reshape(n, height, width) for name in ("image_warp_x", "image_warp_y")]
    pose = np.sqrt(np.diagonal(poses, axis1=1, axis2=2)) * np.r_[np.ones(3), np.full(3, np.rad2deg(1.0))]
    return Sigmas(
        np.stack(warp, 1),
        part.get("stage_angles", empty),
        part["defocus"][:, 0] if "defocus" in part else np.zeros(0),
        part["bfactor"][:, 0],
        part["log_scale"][:, 0],
        tuple(np.split(pose, np.cumsum(counts)[:-1])) if layout.poses else (),
        series,
        poses,
        share,
    )
