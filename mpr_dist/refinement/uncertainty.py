"""Standard deviations of everything refined: from the normal matrix, and from what the reference itself does not know.

The inverse of the normal matrix holds for a perfect reference. Ours is made of the same images, half by half, so a
parameter can agree with errors that it put into its own half-map. The other half-map has errors of its own: the step
that a parameter would take towards it, in units of its standard deviation, tells what the reference contributes.
Nothing is ever moved by that step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpr_dist.maths.solve import Covariance, posterior, solve
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.base import ParameterClass, PerTilt
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import Evaluation
from mpr_dist.refinement.priors import Precision
from mpr_dist.refinement.state import POSE_SIZE
from mpr_dist.units import F64

# exposures on either side over which the contribution of the reference is averaged
NEIGHBOURS = 3


@dataclass(frozen=True, eq=False)
class Sigmas:
    """Standard deviations of everything that was refined.

    Attributes:
        layout: which says what each series parameter is.
        series: class name -> (size,) in the unit of the class.
        pose: one (particles, samples, 6) per species: A, then degrees; empty when poses were not refined.
        series_covariance: (n_series, n_series) in the order and units of the layout; pose_covariance: (points, pose
            size, pose size), A and radians, all species behind one another.
        determined: class name, and position and orientation when poses were refined -> share of its parameters that the
            images determine, the rest being held by the prior; parameters of tilts that are not in use do not count.
        reference_share: class name -> mean variance that the reference adds, in units of that of the normal matrix.
        species_share: (species,) of what the images say about the parameters of the series; adds up to 1.
        series_added, pose_added: (n_series,), (points, pose size) variance that the reference adds to every parameter,
            in units of that of the normal matrix; part of the covariances.
    """

    layout: Layout
    series: dict[str, F64]
    pose: tuple[F64, ...]
    series_covariance: F64
    pose_covariance: F64
    determined: dict[str, float]
    reference_share: dict[str, float]
    species_share: tuple[float, ...] = ()
    series_added: F64 = field(default_factory=lambda: np.zeros(0))
    pose_added: F64 = field(default_factory=lambda: np.zeros(0))


def sigmas(
    own: Evaluation,
    cross: Evaluation,
    layout: Layout,
    prior: Precision,
    series: TiltSeries,
    particles: tuple[Particles, ...],
) -> Sigmas:
    """From evaluations of the final state against its own and the other half-map."""
    blocks, (step, step_pose) = posterior(own.equations)
    away, away_pose = (b - a for a, b in zip((step, step_pose), solve(cross.equations), strict=True))
    series_added, share = np.zeros(layout.n_series), {}
    for each in layout.classes:
        where = layout.slices[each.name]
        added = _added(each, away[where], blocks.s[where, where], series.dose)
        share[each.name] = float(added.mean())
        series_added[where] = added
    growth = np.sqrt(1 + series_added)
    covariances = blocks.s * np.outer(growth, growth)
    poses, pose_added = blocks.p, np.zeros(blocks.p.shape[:2])
    if layout.poses:
        pose_added, of_reference = _added_to_poses(blocks.p, away_pose, particles, layout)
        growth = np.sqrt(1 + pose_added)
        poses = blocks.p * growth[:, :, None] * growth[:, None]
        share |= of_reference
    sigma = np.sqrt(np.diag(covariances))
    named = {each.name: sigma[layout.slices[each.name]] for each in layout.classes}
    by_species = _species_share(own, layout, blocks.s)
    of_poses = _pose_sigmas(poses, particles, layout)
    known = determined(blocks, layout, prior, series, particles)
    return Sigmas(layout, named, of_poses, covariances, poses, known, share, by_species, series_added, pose_added)


def determined(
    blocks: Covariance, layout: Layout, prior: Precision, series: TiltSeries, particles: tuple[Particles, ...]
) -> dict[str, float]:
    """Share of the parameters of every class that the images determine (``Sigmas.determined``), from the covariance."""
    found = {}
    for each in layout.classes:
        where = layout.slices[each.name]
        held = np.sum(prior.series[where, where] * blocks.s[where, where], axis=1)[each.seen(series)]
        found[each.name] = float(np.clip(1 - held.mean(), 0.0, 1.0)) if held.size else 0.0
    return found | (_determined_poses(blocks.p, prior, particles, layout) if layout.poses else {})


def _species_share(own: Evaluation, layout: Layout, covariance: F64) -> tuple[float, ...]:
    """Trace of each one's information in units of the covariance, over all geometric parameters of the series.

    Amplitudes count only where there is nothing else.
    """
    counts = np.zeros(layout.n_series, bool)
    for each in layout.classes:
        counts[layout.slices[each.name]] = not each.is_amplitude
    counts |= not counts.any()
    found = np.zeros(len(own.species_information))
    for k, by_tilt in enumerate(own.species_information):
        for columns, information in zip(layout.tilt_columns, by_tilt, strict=True):
            inside = np.flatnonzero(counts[columns])
            place = columns[inside]
            found[k] += np.sum(covariance[np.ix_(place, place)] * information[np.ix_(inside, inside)])
    return tuple((found / max(found.sum(), 1e-30)).tolist())


def _added(each: ParameterClass, away: F64, covariance: F64, dose: F64) -> F64:
    """(size,) variance that the reference adds to every parameter of a class, in units of its own."""
    if isinstance(each, PerTilt):
        return np.repeat(_along_exposures(away, covariance, dose), each.width)
    return np.full(len(away), away @ np.linalg.solve(covariance, away) / len(away))


def _added_to_poses(
    blocks: F64, away: F64, particles: tuple[Particles, ...], layout: Layout
) -> tuple[F64, dict[str, float]]:
    """(points, pose size) variance that the reference adds, in units of its own; its mean by kind.

    Species by species: every reference has errors of its own.
    """
    sample = np.arange(layout.pose_size) // POSE_SIZE
    added, share = np.zeros((len(blocks), layout.pose_size)), {}
    for name, first in (("position", 0), ("orientation", 3)):
        kind = (np.arange(layout.pose_size) % POSE_SIZE) // 3 == first // 3
        total, start = 0.0, 0
        for one in particles:
            if not len(one):
                continue
            columns, rows = np.flatnonzero(kind & (sample < one.n_samples)), np.arange(start, start + len(one))
            step = away[np.ix_(rows, columns)][..., None]
            inside = blocks[np.ix_(rows, columns, columns)]
            distance = (np.swapaxes(step, 1, 2) @ np.linalg.solve(inside, step)).ravel() / len(columns)
            added[np.ix_(rows, columns)] = distance.mean()
            total += float(distance.sum())
            start += len(one)
        share[name] = total / max(len(blocks), 1)
    return added, share


def _determined_poses(
    blocks: F64, prior: Precision, particles: tuple[Particles, ...], layout: Layout
) -> dict[str, float]:
    """What is not held by the prior, of positions and of orientations of all particles."""
    held, start = np.zeros((2, 2)), 0
    kind = (np.arange(layout.pose_size) % POSE_SIZE) // 3
    for one, precision in zip(particles, prior.poses, strict=True):
        own = POSE_SIZE * one.n_samples
        part = np.einsum("ij,pji->i", precision[:own, :own], blocks[start : start + len(one), :own, :own])
        held += [[part[kind[:own] == k].sum(), 3 * one.n_samples * len(one)] for k in (0, 1)]
        start += len(one)
    shares = np.clip(1 - held[:, 0] / held[:, 1], 0.0, 1.0)
    return dict(zip(("position", "orientation"), shares.tolist(), strict=True))


def _pose_sigmas(blocks: F64, particles: tuple[Particles, ...], layout: Layout) -> tuple[F64, ...]:
    if not layout.poses:
        return ()
    sigma = np.sqrt(np.diagonal(blocks, axis1=1, axis2=2)).reshape(len(blocks), layout.samples, POSE_SIZE)
    sigma = sigma * np.r_[np.ones(3), np.full(3, np.rad2deg(1.0))]
    parts = np.split(sigma, np.cumsum([len(p) for p in particles])[:-1])
    return tuple(part[:, : p.n_samples] for part, p in zip(parts, particles, strict=True))


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
