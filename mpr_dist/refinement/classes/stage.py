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

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        xp, axes = at.device.xp, at.device.put(turn_axes(at.series, tilts))
        turn = np.arange(TURN.start, TURN.stop)
        if not at.series.is_stage_rigid:
            return Local(turn, axes[None])
        # a turn by omega carries the position by omega x position
        moved = at.by_carried(tilts) @ -skew(at.carried_A[:, tilts], at.device) @ axes
        place = np.array([SHIFT.start, SHIFT.start + 1, DEFOCUS])
        both = xp.concatenate([moved, xp.broadcast_to(axes, moved.shape)], axis=2)
        return Local(np.r_[place, turn], both)

    def prior_of(self, series: TiltSeries) -> str:
        return "rigid_stage_deg" if series.is_stage_rigid else "stage_angle_deg"

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        sigma: float = getattr(priors, self.prior_of(series))
        return np.asarray(sigma**2 * np.kron(exposure_correlation(series), np.eye(3)))


def turn_axes(series: TiltSeries, tilts: slice = slice(None)) -> F64:
    """(tilts, 3, 3): columns are the rotation vectors (rad) of a degree of the x, y and z angle."""
    _, ay, az = (g.values.reshape(-1)[tilts] for g in stage_grids(series))
    rz = rotation_z(az)
    about_z = np.broadcast_to([0.0, 0.0, 1.0], (len(rz), 3))
    return np.asarray(np.deg2rad(np.stack([(rz @ rotation_y(ay))[:, :, 0], rz[:, :, 1], about_z], 2)))
