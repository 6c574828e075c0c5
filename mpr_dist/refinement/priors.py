"""Gaussian priors on the offsets of all parameters from their imported values.

They keep weak tilts in place and fix the gauge. What neighbours have in common is said by the classes themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.base import PerTilt
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.state import POSE_SIZE
from mpr_dist.units import F64, I64

# of what inverting a prior leaves where there is nothing, in units of the diagonal
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Precision:
    """Inverse covariances: (n_series, n_series) for the series; per species (pose_size, pose_size) for every pose.

    chain: series parameters of the tilts in exposure order, as far as they are coupled to the next exposures only.
    """

    series: F64
    poses: tuple[F64, ...]
    chain: tuple[I64, ...] = ()


def precision(layout: Layout, series: TiltSeries, particles: tuple[Particles, ...], priors: Priors) -> Precision:
    """Prior precision in the units of the layout (radians for poses). series: of the imported state, in shape."""
    out, links = np.zeros((layout.n_series, layout.n_series)), []
    for each in layout.classes:
        part = layout.slices[each.name]
        out[part, part] = np.linalg.inv(each.covariance(series, priors))
        if isinstance(each, PerTilt) and not each.is_amplitude and _cut_to_neighbours(out[part, part], series):
            links.append(np.arange(part.start, part.stop).reshape(series.n_tilts, each.width))
    chain = np.concatenate(links, axis=1)[np.argsort(series.dose, kind="stable")] if links else ()
    poses = tuple(_pose_precision(layout, each.n_samples, priors) for each in particles)
    return Precision(out, poses, tuple(chain))


def _cut_to_neighbours(inverse: F64, series: TiltSeries) -> bool:
    """Whether a precision of tilts, one behind the other, couples successive exposures only; then with zeros elsewhere.

    So it is with correlations that are powers of the distance (Markov chains), but for rounding.
    """
    rank = np.argsort(np.argsort(series.dose, kind="stable"), kind="stable")
    place = np.repeat(rank, len(inverse) // len(rank))
    apart = np.abs(place[:, None] - place) > 1
    sigma = np.sqrt(np.diag(inverse))
    if np.any(np.abs(inverse[apart]) > ROUNDING * np.outer(sigma, sigma)[apart]):
        return False
    inverse[apart] = 0.0
    return True


def pose_covariance(samples: int, priors: Priors) -> F64:
    """(6 samples, 6 samples) A and radians: an offset that all samples share, and a random walk from the first one."""
    dose = np.linspace(0, 1, samples) if samples > 1 else np.zeros(1)
    walk = np.minimum(dose[:, None], dose[None])
    steady = np.repeat([priors.position_A, np.deg2rad(priors.orientation_deg)], 3) ** 2
    moving = np.repeat([priors.trajectory_A, np.deg2rad(priors.trajectory_deg)], 3) ** 2
    return np.asarray(np.kron(np.ones_like(walk), np.diag(steady)) + np.kron(walk, np.diag(moving)))


def _pose_precision(layout: Layout, samples: int, priors: Priors) -> F64:
    """Samples that a species does not have are held by a prior of their own; nothing else knows about them."""
    out = np.eye(layout.pose_size)
    own = POSE_SIZE * samples
    out[:own, :own] = np.linalg.inv(pose_covariance(samples, priors))
    return out


# what is held moves by next to nothing: log of the scale, B-factor (A^2)
_HELD = {"log_scale": 1e-4, "bfactor": 1e-2}


def holding_amplitudes(prior: Precision, layout: Layout) -> Precision:
    """The same priors, but scales and B-factors stay where the prior is centred."""
    held = prior.series.copy()
    for name, sigma in _HELD.items():
        part = layout.slices[name]
        held[part, part] = np.eye(part.stop - part.start) / sigma**2
    return replace(prior, series=held)
