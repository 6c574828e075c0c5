"""How the stage really stood: three angles per tilt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.geometry import stage_grids
from mpr_dist.maths.rotations import rotation_y, rotation_z, skew
from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, StageAngles
from mpr_dist.refinement.classes.base import Local, PerTilt, exposure_correlation
from mpr_dist.refinement.linearisation import DEFOCUS, SHIFT, TURN, Linearisation
from mpr_dist.refinement.state import State, resample
from mpr_dist.units import F64, I64


@dataclass(frozen=True)
class StageAnglesClass(PerTilt):
    """Rotations about image x, y and z in every tilt, degrees; positions follow where the series says so."""

    name = "stage_angles"
    words = "stage angles"
    unit = "deg"
    axes = ("X", "Y", "Z")

    def shaped(self, state: State) -> State:
        shape = (state.series.n_tilts, 1, 1)
        return state.with_series(stage_angles=StageAngles(*(resample(g, shape) for g in stage_grids(state.series))))

    def values(self, state: State) -> F64:
        return np.stack([g.values.ravel() for g in stage_grids(state.series)], 1).ravel()

    def placed(self, state: State, values: F64) -> State:
        columns = values.reshape(-1, 3).T
        return state.with_series(stage_angles=StageAngles(*(CubicGrid.per_tilt(column) for column in columns)))

    def local(self, at: Linearisation, t: int, own: I64) -> Local:
        axes = turn_axes(at.series, t)
        turn = np.arange(TURN.start, TURN.stop)
        if not at.series.is_stage_rigid:
            return Local(turn, axes[None])
        # a turn by omega carries the position by omega x position
        moved = at.by_carried(t) @ -skew(at.carried_A[:, t]) @ axes
        place = np.array([SHIFT.start, SHIFT.start + 1, DEFOCUS])
        both = np.concatenate([moved, np.broadcast_to(axes, moved.shape)], axis=1)
        return Local(np.r_[place, turn], both)

    def prior_of(self, series: TiltSeries) -> str:
        return "rigid_stage_deg" if series.is_stage_rigid else "stage_angle_deg"

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        sigma: float = getattr(priors, self.prior_of(series))
        return np.asarray(sigma**2 * np.kron(exposure_correlation(series), np.eye(3)))


def turn_axes(series: TiltSeries, t: int) -> F64:
    """(3, 3): columns are the rotation vectors (rad) of a degree of the x, y and z angle in tilt t."""
    _, ay, az = (g.values.reshape(-1)[t] for g in stage_grids(series))
    rz = rotation_z(az)
    return np.asarray(np.deg2rad(np.stack([(rz @ rotation_y(ay))[:, 0], rz[:, 1], np.array([0.0, 0.0, 1.0])], 1)))
