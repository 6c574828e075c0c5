"""How widely parameters really spread, from posteriors under whatever prior they had: widths for the next priors.

A prior has a known form (how parameters of a class correlate) and a width. Over all series, the width that makes the
data most probable is the fixed point of expectation and maximisation: the mean square that is expected of the
parameters, squared offset and remaining variance, equals the variance of the prior. That mean square depends on the
width itself, by as much as the images leave open. So every series publishes it for a range of widths; sums over series
decide. Directions that the images say nothing about expect exactly what the prior says, and so have no say.

C. M. Bishop, Pattern Recognition and Machine Learning (2006), 9.3.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from mpr_dist.model.settings import Priors
from mpr_dist.refinement.classes.base import PerTilt
from mpr_dist.refinement.priors import pose_covariance
from mpr_dist.refinement.state import POSE_SIZE, State, pose_offsets
from mpr_dist.refinement.uncertainty import Sigmas
from mpr_dist.units import F64

# variances in units of that of the prior for which a series says what it expects: widths from 1/32 to 16 of it
RATIOS = 2.0 ** (np.arange(-20, 17) / 2)
# posterior over prior variance: 1 is a direction that the images know nothing of, 0 one they know exactly
SHARES = 1e-9, 1 - 1e-6
# so many independent numbers, as wide as the default prior says, count as known before any was measured
BEFOREHAND = 8.0


@dataclass(frozen=True, eq=False)
class Spread:
    """What one or several series say about the width of one prior.

    Attributes:
        width: of the prior they were refined with, in its own unit; count: of independent numbers behind it.
        excess: for each of RATIOS, the mean square expected of the parameters under a prior of so many times the
            variance, in units of that variance, less 1; times count. Positive where they spread wider than that prior.
    """

    width: float
    count: float
    excess: F64


def spreads(end: State, origin: State, sigmas: Sigmas, priors: Priors) -> dict[str, Spread]:
    """Field of ``Priors`` -> what this series says about it, from its final state; origin: the centre of the priors."""
    found: dict[str, list[Spread]] = {}
    for field, spread in (*_of_series(end, origin, sigmas, priors), *_of_poses(end, origin, sigmas, priors)):
        found.setdefault(field, []).append(spread)
    return {field: together(many) for field, many in found.items()}


def together(many: Iterable[Spread]) -> Spread:
    """The sum over series that had the same prior."""
    listed = list(many)
    return Spread(listed[0].width, sum(s.count for s in listed), np.sum([s.excess for s in listed], axis=0))


def estimated(spread: Spread, default: float) -> float:
    """The width at which what is expected of the parameters and what the prior says agree.

    default: the width that ``BEFOREHAND`` independent numbers speak for. Within the range of RATIOS.
    """
    pull = BEFOREHAND * ((default / spread.width) ** 2 / RATIOS - 1)
    excess, at = spread.excess + pull, 1 / RATIOS
    above = np.flatnonzero(excess > 0)
    if not len(above):
        return float(spread.width * np.sqrt(RATIOS[0]))
    last = int(above[-1])
    if last == len(RATIOS) - 1:
        return float(spread.width * np.sqrt(RATIOS[-1]))
    # of parameters that are known the excess is a straight line in 1 / ratio
    share = excess[last] / (excess[last] - excess[last + 1])
    return float(spread.width / np.sqrt(at[last] + share * (at[last + 1] - at[last])))


def widths(sums: Mapping[str, Spread], defaults: Priors, now: Priors) -> Priors:
    """``now`` with the widths that the data speak for; those nothing was measured of stay."""
    found = {field: estimated(spread, getattr(defaults, field)) for field, spread in sums.items()}
    return Priors(**(vars(now) | found))


def profile(offset: F64, covariance: F64, prior: F64, added: F64) -> F64:
    """(RATIOS,) excess, summed over parameters (see ``Spread``).

    offset (..., n): from the centre of the prior; covariance, prior (..., n, n): of posterior and prior; added (...):
    variance that errors of the reference add to every parameter, in units of the posterior's.
    """
    half = np.linalg.cholesky(prior)
    inside = np.linalg.solve(half, np.swapaxes(np.linalg.solve(half, covariance), -1, -2))
    share, turn = np.linalg.eigh(0.5 * (inside + np.swapaxes(inside, -1, -2)))
    share = np.clip(share, *SHARES)
    gain = 1 - share
    seen = np.squeeze(np.swapaxes(turn, -1, -2) @ np.linalg.solve(half, offset[..., None]), -1) / gain
    noise = share / gain + added[..., None] * share / gain**2
    root, size = half @ turn, np.diagonal(prior, axis1=-2, axis2=-1)
    excess = np.empty(len(RATIOS))
    for k, ratio in enumerate(RATIOS):
        trust = ratio / (ratio + noise)
        mean = np.squeeze(root @ (trust * seen)[..., None], -1)
        left = np.sum(root**2 * (noise * trust)[..., None, :], axis=-1)
        excess[k] = np.sum((mean**2 + left) / (ratio * size) - 1)
    return excess


def independent(covariance: F64) -> float:
    """Number of independent variables whose mean square scatters as much as that of these, each over its own sigma."""
    if not covariance.size:
        return 0.0
    sigma = np.sqrt(np.diag(covariance))
    return float(len(sigma) ** 2 / np.sum((covariance / np.outer(sigma, sigma)) ** 2))


def _of_series(end: State, origin: State, sigmas: Sigmas, priors: Priors) -> Iterator[tuple[str, Spread]]:
    layout, series = sigmas.layout, origin.series
    growth = np.sqrt(1 + sigmas.series_added)
    posterior = sigmas.series_covariance / np.outer(growth, growth)
    for each in layout.classes:
        field = each.prior_of(series)
        used = each.seen(series)
        if not field or not used.any():
            continue
        where = np.arange(layout.n_series)[layout.slices[each.name]]
        offset = np.asarray(each.values(end), np.float64) - each.values(origin)
        prior = each.covariance(series, priors)
        # what a tilt's neighbours know of it is part of its own posterior, so tilt by tilt will do
        blocks = np.flatnonzero(used).reshape(-1, each.width if isinstance(each, PerTilt) else int(used.sum()))
        inside = blocks[:, :, None], blocks[:, None, :]
        at = where[blocks]
        added = sigmas.series_added[at].mean(1)
        excess = profile(offset[blocks], posterior[at[:, :, None], at[:, None, :]], prior[inside], added)
        count = independent(prior[np.ix_(used, used)])
        yield field, Spread(getattr(priors, field), count, excess * (count / blocks.size))


def _of_poses(end: State, origin: State, sigmas: Sigmas, priors: Priors) -> Iterator[tuple[str, Spread]]:
    start = 0
    for particles, first in zip(end.particles, origin.particles, strict=True) if sigmas.pose else ():
        rows, samples = slice(start, start + len(particles)), particles.n_samples
        start += len(particles)
        if not len(particles):
            continue
        own = POSE_SIZE * samples
        added = sigmas.pose_added[rows, :own]
        growth = np.sqrt(1 + added)
        posterior = sigmas.pose_covariance[rows, :own, :own] / (growth[:, :, None] * growth[:, None])
        offset, prior = pose_offsets(particles, first), pose_covariance(samples, priors)
        # the first sample, and the steps from one to the next
        steps = np.kron(np.eye(samples) - np.eye(samples, k=-1), np.eye(POSE_SIZE))
        offset, posterior, prior = offset @ steps.T, steps @ posterior @ steps.T, steps @ prior @ steps.T
        fields = [("position_A", 0, 0), ("orientation_deg", 0, 3)]
        fields += [("trajectory_A", 1, 0), ("trajectory_deg", 1, 3)] if samples > 1 else []
        for field, later, kind in fields:
            sample = np.arange(1, samples) if later else np.zeros(1, int)
            index = (sample[:, None] * POSE_SIZE + kind + np.arange(3)).ravel()
            block = np.broadcast_to(prior[np.ix_(index, index)], (len(particles), len(index), len(index)))
            excess = profile(offset[:, index], posterior[:, index[:, None], index], block, added[:, index].mean(1))
            yield field, Spread(getattr(priors, field), float(len(particles) * len(index)), excess)
