"""The cost of amplitude: what keeps tilts from looking stronger the more is fitted to their noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.state import State
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class Occam:
    """Cost of amplitude in tilts whose geometry is fitted to the same images.

    The marginal likelihood of scale and B-factor (Laplace's approximation over the geometry) differs from the joint one
    by -1/2 log det H. A tilt that determines d of its n geometric parameters at (s0, B0) contributes about
        -n/2 log(1 + r x),   x = (s / s0)^2 exp(steepness (B - B0)),   r = d / (n - d)
    which has the right slope, -d/2 per unit of log x, and vanishes with the signal. Without it weak tilts look stronger
    the more is fitted to their noise, and every standard deviation comes out too small. Where species have amplitudes
    of their own, each moves log x by its share of the signal.

    Attributes:
        n: (tilts,) parameters; r: (tilts,); steepness: (tilts,) d log(information) / d B, A^2.
        share: (species, tilts) of the signal.
        origin: the state it was taken at.
    """

    n: F64
    r: F64
    steepness: F64
    share: F64
    origin: State

    def at(self, state: State) -> tuple[float, F64, F64]:
        """Value, and per tilt the slope and curvature with respect to log x."""
        rx = self.r * np.exp(np.minimum(self._log_x(state), 50.0))
        return (
            -0.5 * float((self.n * np.log1p(rx)).sum()),
            -0.5 * self.n * rx / (1 + rx),
            0.5 * self.n * rx / (1 + rx) ** 2,
        )

    def slopes(self, layout: Layout) -> F64:
        """(tilts, n_series) how log x of every tilt changes with the parameters of the series."""
        out = np.zeros((layout.n_tilts, layout.n_series))
        tilt = np.arange(layout.n_tilts)
        out[tilt, np.r_[layout.slices["log_scale"]]] = 2.0
        out[tilt, np.r_[layout.slices["bfactor"]]] = self.steepness
        if layout.has("species_scale"):
            out[:, layout.slices["species_scale"]] = 2 * self.share.T
            out[:, layout.slices["species_bfactor"]] = (self.steepness * self.share).T
        return out

    def _log_x(self, state: State) -> F64:
        then = self.origin
        now, before = (each.series.weights.bfactor.values.ravel() for each in (state, then))
        change = 2 * (state.log_scale - then.log_scale) + self.steepness * (now - before)
        if len(state.species_log_scale):
            change = change + 2 * (state.species_log_scale - then.species_log_scale) @ self.share
            change = change + self.steepness * ((state.species_bfactor_A2 - then.species_bfactor_A2) @ self.share)
        return np.asarray(change)
