"""What shapes the CTF: defocus, astigmatism and phase shift of every tilt, Cs of the series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.ctf import astigmatism_A, per_tilt
from mpr_dist.maths.kernels.compare import GAMMA
from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.classes.base import KernelRow, Local, OwnPerTilt, PerSeries, PerTilt
from mpr_dist.refinement.linearisation import DEFOCUS, Linearisation
from mpr_dist.refinement.state import State, resample
from mpr_dist.units import A_PER_MM, A_PER_UM, F64, I64

# astigmatism and phase shift hardly change during a series: share of their variance that all tilts have in common
COMMON_SHARE = 0.8


def _mostly_common(n_tilts: int) -> F64:
    return np.asarray(COMMON_SHARE * np.ones((n_tilts, n_tilts)) + (1 - COMMON_SHARE) * np.eye(n_tilts))


@dataclass(frozen=True)
class DefocusClass(PerTilt):
    """Defocus at the centre of the volume in every tilt, A."""

    name = "defocus"
    prior = "defocus_A"
    words = "defocus"
    unit = "A"
    is_optics = True

    def shaped(self, state: State) -> State:
        grid = resample(state.series.optics.defocus_um, (state.series.n_tilts, 1, 1))
        return state.with_optics(defocus_um=grid)

    def values(self, state: State) -> F64:
        return A_PER_UM * state.series.optics.defocus_um.values.ravel()

    def placed(self, state: State, values: F64) -> State:
        return state.with_optics(defocus_um=CubicGrid.per_tilt(values / A_PER_UM))

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        return Local(np.array([DEFOCUS]), at.device.xp.ones((1, 1, 1, 1)))

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.asarray(priors.defocus_A**2 * np.eye(series.n_tilts))


@dataclass(frozen=True)
class AstigmatismClass(OwnPerTilt):
    """delta/2 (cos 2 angle, sin 2 angle) of every tilt, A: without a singularity where there is none."""

    name = "astigmatism"
    prior = "astigmatism_A"
    words = "astigmatism"
    unit = "A"
    axes = ("Cos", "Sin")
    is_optics = True

    def shaped(self, state: State) -> State:
        return self.placed(state, astigmatism_A(state.series).ravel())

    def values(self, state: State) -> F64:
        return astigmatism_A(state.series).ravel()

    def placed(self, state: State, values: F64) -> State:
        cos, sin = values.reshape(-1, 2).T
        delta_um, angle = 2 * np.hypot(cos, sin) / A_PER_UM, np.rad2deg(0.5 * np.arctan2(sin, cos))
        grids = (CubicGrid.per_tilt(each) for each in (delta_um, angle))
        return state.with_optics(**dict(zip(("defocus_delta_um", "defocus_angle_deg"), grids, strict=True)))

    def kernel_rows(self, wavelength_A: float, qx: F64, qy: F64, to_grid: float) -> tuple[KernelRow, ...]:
        # a2 q^2-wise: q^2 cos 2 theta = qx^2 - qy^2, q^2 sin 2 theta = 2 qx qy
        wave = -0.5 * wavelength_A
        return KernelRow(GAMMA, wave * (qx**2 - qy**2)), KernelRow(GAMMA, wave * 2 * qx * qy)

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.asarray(priors.astigmatism_A**2 * np.kron(_mostly_common(series.n_tilts), np.eye(2)))


@dataclass(frozen=True)
class PhaseShiftClass(OwnPerTilt):
    """Phase shift of every tilt, in units of pi."""

    name = "phase_shift"
    prior = "phase_shift_pi"
    words = "phase shift"
    unit = "pi"
    is_optics = True

    def shaped(self, state: State) -> State:
        return self.placed(state, per_tilt(state.series.optics.phase_shift_pi.values, state.series.n_tilts))

    def values(self, state: State) -> F64:
        return state.series.optics.phase_shift_pi.values.ravel()

    def placed(self, state: State, values: F64) -> State:
        return state.with_optics(phase_shift_pi=CubicGrid.per_tilt(values))

    def kernel_rows(self, wavelength_A: float, qx: F64, qy: F64, to_grid: float) -> tuple[KernelRow, ...]:
        return (KernelRow(GAMMA, np.full(len(qx), -0.5)),)

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.asarray(priors.phase_shift_pi**2 * _mostly_common(series.n_tilts))


@dataclass(frozen=True)
class CsClass(PerSeries):
    """Spherical aberration, mm."""

    name = "cs"
    prior = "cs_mm"
    words = "Cs"
    unit = "mm"
    names = ("Cs",)
    is_optics = True

    def values(self, state: State) -> F64:
        return np.array([state.series.optics.cs_mm])

    def placed(self, state: State, values: F64) -> State:
        return state.with_optics(cs_mm=float(values[0]))

    def kernel_rows(self, wavelength_A: float, qx: F64, qy: F64, to_grid: float) -> tuple[KernelRow, ...]:
        return (KernelRow(GAMMA, 0.25 * A_PER_MM * wavelength_A**3 * (qx**2 + qy**2) ** 2),)

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.array([[priors.cs_mm**2]])
