"""Motion of particles from tilt to tilt as RELION's tomo_align writes it, as temporal samples of poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.maths.trajectories import position_along
from mpr_dist.units import F64

GOOD_ENOUGH_A = 0.1  # rms of what samples may miss of a motion


@dataclass(frozen=True, eq=False)
class FittedMotion:
    """Samples (particles, samples, 3) A at equal distances along the dose, and what they miss: rms and most, A."""

    samples_A: F64
    rms_A: float
    most_A: float


def fit_motion(displacement_A: F64, dose_position: F64, most_samples: int | None = None) -> FittedMotion:
    """The fewest temporal samples that hold displacements (particles, tilts, 3) well enough.

    A sample is the displacement at its place, on straight lines between tilts in the order of their doses (0..1).
    """
    order = np.argsort(dose_position, kind="stable")
    places, ordered = dose_position[order], displacement_A[:, order]
    most = min(most_samples or len(places), len(places))
    best: FittedMotion | None = None
    for count in range(1, most + 1):
        samples = ordered.mean(axis=1, keepdims=True) if count == 1 else _at(ordered, places, count)
        error = np.linalg.norm(position_along(samples, dose_position) - displacement_A, axis=-1)
        fit = FittedMotion(
            samples, float(np.sqrt((error**2).mean())) if error.size else 0.0, float(error.max(initial=0))
        )
        if best is None or fit.rms_A < best.rms_A:
            best = fit
        if best.rms_A < GOOD_ENOUGH_A:
            break
    assert best is not None
    return best


def _at(ordered: F64, places: F64, count: int) -> F64:
    """(particles, count, 3) by linear interpolation."""
    wanted = np.linspace(0.0, 1.0, count)
    right = np.clip(np.searchsorted(places, wanted), 1, len(places) - 1)
    step = places[right] - places[right - 1]
    share = np.clip((wanted - places[right - 1]) / np.where(step > 0, step, 1.0), 0.0, 1.0)[None, :, None]
    return np.asarray((1 - share) * ordered[:, right - 1] + share * ordered[:, right])
