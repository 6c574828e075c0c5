"""How strong each tilt is: its amplitude scale and its B-factor. Always refined: all else is weighed by them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.imaging.ctf import tilt_bfactors_A2
from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.classes.base import Local, OwnPerTilt, PerSeries, PerTilt
from mpr_dist.refinement.linearisation import BFACTOR, Linearisation
from mpr_dist.refinement.state import State
from mpr_dist.units import F64, I64

# amplitude scales: common factor unknown, drift with dose, and scatter of single tilts
LOG_SCALE_COMMON = 3.0
LOG_SCALE_DRIFT_PER_DOSE = 0.02
LOG_SCALE_SCATTER = 0.1
# B-factors: an unknown common offset (how sharp the reference is), and a deviation from -4 dose that grows with dose
# and changes slowly along it
BFACTOR_COMMON_A2 = 200.0
BFACTOR_DEVIATION_A2 = 200.0
BFACTOR_DEVIATION_PER_DOSE = 5.0
BFACTOR_DOSE_LENGTH = 30.0
# species against one another: their first references come from other programs, scaled and sharpened as they please
SPECIES_LOG_SCALE = 1.0
SPECIES_BFACTOR_A2 = 100.0


@dataclass(frozen=True)
class BfactorClass(PerTilt):
    """B-factor of every tilt, A^2."""

    name = "bfactor"
    words = "B-factor"
    unit = "A^2"
    is_amplitude = True

    def shaped(self, state: State) -> State:
        return self.placed(state, tilt_bfactors_A2(state.series))

    def values(self, state: State) -> F64:
        return state.series.weights.bfactor.values.ravel()

    def placed(self, state: State, values: F64) -> State:
        return state.with_series(weights=replace(state.series.weights, bfactor=CubicGrid.per_tilt(values)))

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        return Local(np.array([BFACTOR]), at.device.xp.ones((1, 1, 1, 1)))

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        """A common offset and an exponentially correlated deviation along the dose, A^4."""
        apart = np.abs(series.dose[:, None] - series.dose[None])
        sigma = np.minimum(BFACTOR_DEVIATION_A2, BFACTOR_DEVIATION_PER_DOSE * (series.dose - series.dose.min()))
        smooth = np.outer(sigma, sigma) * np.exp(-apart / BFACTOR_DOSE_LENGTH)
        return np.asarray(BFACTOR_COMMON_A2**2 + smooth + 1.0 * np.eye(len(apart)))


@dataclass(frozen=True)
class LogScaleClass(OwnPerTilt):
    """Log of the amplitude scale of every tilt. Its derivative is the model itself: the last local parameter."""

    name = "log_scale"
    words = "log of the scale"
    unit = ""
    is_amplitude = True

    def shaped(self, state: State) -> State:
        return state

    def values(self, state: State) -> F64:
        return state.log_scale

    def placed(self, state: State, values: F64) -> State:
        return replace(state, log_scale=values)

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        """A common factor, a random walk along the dose, and scatter."""
        dose = series.dose - series.dose.min()
        walk = LOG_SCALE_DRIFT_PER_DOSE * np.minimum(dose[:, None], dose[None])
        return np.asarray(LOG_SCALE_COMMON**2 + walk + LOG_SCALE_SCATTER**2 * np.eye(len(dose)))


@dataclass(frozen=True)
class SpeciesScaleClass(PerSeries):
    """Log of the scale of every species beyond that of the tilts: only so each counts for what its images are worth.

    Maps that were made together have the same unit; those that were imported need not.
    """

    names: tuple[str, ...]
    name = "species_scale"
    words = "log of the scale of a species"
    unit = ""
    is_amplitude = True

    @property
    def n_own(self) -> int:
        return 0

    def shaped(self, state: State) -> State:
        known = len(state.species_log_scale) == len(self.names)
        return state if known else self.placed(state, np.zeros(len(self.names)))

    def values(self, state: State) -> F64:
        return state.species_log_scale

    def placed(self, state: State, values: F64) -> State:
        return replace(state, species_log_scale=values)

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        # the last local parameter is the log of the scale
        return _of_species(-1, at, len(self.names))

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.asarray(SPECIES_LOG_SCALE**2 * np.eye(len(self.names)))


@dataclass(frozen=True)
class SpeciesBfactorClass(SpeciesScaleClass):
    """B-factor of every species beyond that of the tilts, A^2: how much sharper or softer its reference is."""

    name = "species_bfactor"
    words = "B-factor of a species"
    unit = "A^2"

    def shaped(self, state: State) -> State:
        known = len(state.species_bfactor_A2) == len(self.names)
        return state if known else self.placed(state, np.zeros(len(self.names)))

    def values(self, state: State) -> F64:
        return state.species_bfactor_A2

    def placed(self, state: State, values: F64) -> State:
        return replace(state, species_bfactor_A2=values)

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        return _of_species(BFACTOR, at, len(self.names))

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.asarray(SPECIES_BFACTOR_A2**2 * np.eye(len(self.names)))


def _of_species(row: int, at: Linearisation, count: int) -> Local:
    """One local parameter that depends on what belongs to the species alone."""
    return Local(np.array([row]), at.device.xp.eye(count)[at.species][None, None, None])
