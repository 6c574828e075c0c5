"""Random numbers of a simulated project: one seed, and a branch for every purpose.

A setting that does not concern a number does not change it.
"""

from __future__ import annotations

import numpy as np

from mpr_dist.model.warp import CubicGrid
from mpr_dist.units import F64
from mpr_dist.workflow.simulation.simulate_settings import SimulateSettings

# branches of the seed below (0, series); imaging/simulate.py draws from (1, series, ...). Never renumber.
SETUP, WARP, STAGE, DEFOCUS, WEIGHTS, POSES, PERTURB, ORIGINS, HALF_MAPS = range(9)
VOLUME_WARP, TRAJECTORY, ASTIGMATISM, PHASE, CS, ABERRATIONS, MAGNIFICATION, TILTS, MOVIES, FRAMES = range(9, 19)
DECIMALS = 4  # of planted values: short enough that the text of a float32 in Warp's files keeps them exactly


def random_branch(s: SimulateSettings, index: int, purpose: int, part: int = 0) -> np.random.Generator:
    """Numbers for one purpose in series ``index``; ``part`` tells species, or kinds of one thing, apart."""
    return np.random.default_rng(np.random.SeedSequence(s.seed, spawn_key=(0, index, purpose, *(part,) * (part > 0))))


def per_tilt(values: F64) -> CubicGrid:
    """A grid of one node per tilt, rounded to DECIMALS."""
    return CubicGrid.per_tilt(np.round(values, DECIMALS))
