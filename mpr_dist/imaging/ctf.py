"""Contrast transfer: phase, CTF, and damping of an image, in Warp's conventions.

gamma(q) = pi lambda z q^2 + (pi/2) Cs lambda^3 q^4 - pi phase - atan(a / sqrt(1 - a^2)) + even Zernikes
z(theta) = -(defocus + delta/2 cos(2 (theta - angle)))      CTF = -sin(gamma) scale exp(B q^2 / 4)

What takes a ``device`` takes and gives its arrays, but for what belongs to a series.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.imaging.geometry import grid_at
from mpr_dist.maths.zernike import even_gamma_rad, odd_phase_rad
from mpr_dist.model.optics import Optics
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.units import A_PER_MM, A_PER_UM, F64, I64

# weights by location come in so many steps of scale and of B-factor, none finer than these
LOCATION_STEPS = 4
LOCATION_SCALE_STEP = 0.01
LOCATION_BFACTOR_STEP_A2 = 2.0
LEAST_LOCATION_SCALE = 0.01


@dataclass(frozen=True, eq=False)
class CtfTerms:
    """gamma / 2 pi = defocus_A * a2 + astig_A . (cos 2 theta, sin 2 theta) * a2 + fixed, per sample.

    Attributes:
        a2: (samples,) 1/A: -lambda q^2 / 2, turns per A of underfocus.
        cos2, sin2: (samples,) of twice the polar angle of q.
        fixed: (tilts, samples) turns that do not depend on defocus or astigmatism.
        astig_A: (tilts, 2) delta/2 (cos 2 angle, sin 2 angle).
        odd: (samples,) turns of the odd aberrations: the image is the ideal one times exp(-2 pi i odd).
    """

    a2: F64
    cos2: F64
    sin2: F64
    fixed: F64
    astig_A: F64
    odd: F64


def per_tilt(grid_values: F64, n_tilts: int) -> F64:
    """Flat values of a per-tilt grid; one node means the same value for every tilt."""
    flat = grid_values.ravel()
    return np.full(n_tilts, flat[0]) if flat.size == 1 else flat[:n_tilts]


def ctf_terms(series: TiltSeries, qx: F64, qy: F64, device: Device = HOST) -> CtfTerms:
    """Terms of gamma at frequencies qx, qy (samples,) in 1/A for every tilt of a series."""
    xp, o, n = device.xp, series.optics, series.n_tilts
    q2, theta = qx**2 + qy**2, xp.arctan2(qy, qx)
    phase = device.put(per_tilt(o.phase_shift_pi.values, n))
    even = even_gamma_rad(o.zernike_even, qx, qy, device) / (2 * np.pi)
    fixed = (fixed_turns(o, q2) + even)[None] - 0.5 * phase[:, None]
    odd = odd_phase_rad(o.zernike_odd, qx, qy, device) / (2 * np.pi)
    astig = device.put(astigmatism_A(series))
    return CtfTerms(-0.5 * o.wavelength_A * q2, xp.cos(2 * theta), xp.sin(2 * theta), fixed, astig, odd)


def astigmatism_A(series: TiltSeries) -> F64:
    """(tilts, 2) astigmatism without a singularity at zero: delta/2 (cos 2 angle, sin 2 angle), A."""
    o, n = series.optics, series.n_tilts
    half_delta = 0.5 * A_PER_UM * per_tilt(o.defocus_delta_um.values, n)
    twice = 2 * np.deg2rad(per_tilt(o.defocus_angle_deg.values, n))
    return np.asarray(half_delta[:, None] * np.stack([np.cos(twice), np.sin(twice)], -1))


def fixed_turns(optics: Optics, q2: F64) -> F64:
    """Turns from spherical aberration and amplitude contrast at squared frequencies q2, of any device."""
    a = optics.amplitude
    cs_A = optics.cs_mm * A_PER_MM
    turns: F64 = 0.25 * cs_A * optics.wavelength_A**3 * q2**2 - np.arctan(a / np.sqrt(1 - a * a)) / (2 * np.pi)
    return turns


def ctf(optics: Optics, qx: F64, qy: F64, defocus_um: float, delta_um: float, angle_deg: float, phase_pi: float) -> F64:
    """-sin(gamma) without damping at frequencies qx, qy in 1/A (any shape)."""
    q2, theta = qx**2 + qy**2, np.arctan2(qy, qx)
    z = A_PER_UM * (defocus_um + 0.5 * delta_um * np.cos(2 * (theta - np.deg2rad(angle_deg))))
    turns = -0.5 * optics.wavelength_A * q2 * z + fixed_turns(optics, q2) - 0.5 * phase_pi
    return np.asarray(-np.sin(2 * np.pi * turns))


def tilt_bfactors_A2(series: TiltSeries) -> F64:
    """(tilts,) B-factors: -4 dose, or the fitted ones as they are stored; without that of the series.

    M damps by at least -3 dose whatever was fitted; a fit with a prior and an error bar needs no such clamp.
    """
    w = series.weights
    return np.asarray(-4.0 * series.dose if w.bfactor.is_trivial else _at_centre(series, w.bfactor))


def tilt_scales(series: TiltSeries) -> F64:
    """(tilts,) amplitude scales: cos(tilt), or the fitted ones; times the series' weight."""
    w = series.weights
    scale = np.cos(np.deg2rad(series.angle_deg)) if w.weight.is_trivial else _at_centre(series, w.weight)
    return scale * w.series_weight


def envelope(series: TiltSeries, qx: F64, qy: F64, device: Device = HOST) -> F64:
    """(tilts, samples) damping at frequencies qx, qy (samples,) in 1/A, at amplitude scale 1.

    exp((B + delta cos 2 (theta - angle)) q^2 / 4): per tilt, and the B-factor of the series for all.
    """
    q2, theta = qx**2 + qy**2, device.xp.arctan2(qy, qx)
    b = device.put(tilt_bfactors_A2(series) + series.weights.series_bfactor)
    damping: F64 = device.xp.exp(0.25 * q2 * (b[:, None] + anisotropy_A2(series, theta, device)))
    return damping


def least_damped_A2(series: TiltSeries) -> F64:
    """(tilts,) B-factor of every tilt in the direction in which it is damped least."""
    w = series.weights
    return np.asarray(tilt_bfactors_A2(series) + w.series_bfactor + np.abs(_at_centre(series, w.bfactor_delta)))


def location_terms(series: TiltSeries, position_A: F64) -> tuple[F64, F64]:
    """(points,) scale and B-factor (A^2) that belong to places in the volume, at positions (points, 3)."""
    w, u = series.weights, np.asarray(position_A, np.float64) / series.volume_size_A
    at = u[:, 0], u[:, 1], np.full(len(u), 0.5)
    return grid_at(w.location_weight, *at), grid_at(w.location_bfactor, *at)


def location_levels(series: TiltSeries, position_A: F64, q2: F64, device: Device = HOST) -> tuple[F64, I64]:
    """(levels, samples) scale and damping by location at squared frequencies q2 (samples,); (points,) level of each.

    Positions (points, 3) and levels are on the host: there are few.

    Points with about the same scale and B-factor share a level, and their means, so that the tables of a series with
    many particles stay small.
    """
    w, exp = series.weights, device.xp.exp
    if most_levels(series) == 1:
        constant = float(w.location_weight.values[0, 0, 0]), float(w.location_bfactor.values[0, 0, 0])
        return (constant[0] * exp(0.25 * constant[1] * q2))[None], np.zeros(len(position_A), np.int64)
    scale, b = location_terms(series, position_A)
    scale = np.maximum(scale, LEAST_LOCATION_SCALE)
    steps = _steps(np.log(scale), LOCATION_SCALE_STEP), _steps(b, LOCATION_BFACTOR_STEP_A2)
    step = np.ravel_multi_index(steps, (LOCATION_STEPS, LOCATION_STEPS))
    _, level, count = np.unique(step, return_inverse=True, return_counts=True)
    means = [device.put(np.bincount(level, each) / count)[:, None] for each in (scale, b)]
    return means[0] * exp(0.25 * means[1] * q2), level


def most_levels(series: TiltSeries) -> int:
    """How many levels ``location_levels`` may come to."""
    w = series.weights
    return 1 if w.location_weight.is_trivial and w.location_bfactor.is_trivial else LOCATION_STEPS**2


def _steps(values: F64, least: float) -> I64:
    """(points,) 0..LOCATION_STEPS - 1: steps of equal width, at least ``least``, over the range of the values."""
    width = max(float(np.ptp(values)) / LOCATION_STEPS, least)
    return np.asarray(np.minimum((values - values.min()) / width, LOCATION_STEPS - 1), np.int64)


def warp_damping(series: TiltSeries, position_A: F64, qx: F64, qy: F64) -> F64:
    """(points, tilts, samples) scale and damping that Warp and M give to particles at positions (points, 3).

    Everything counts: location grids, the clamp of fitted B-factors at -3 dose, deselected tilts at a ten thousandth,
    weight and B-factor of the series. Refinement and reconstruction leave out the clamp and what is deselected:
    ``tilt_scales``, ``envelope`` and ``location_levels`` are what they use.
    """
    fitted = not series.weights.bfactor.is_trivial
    clamp = np.minimum(-3.0 * series.dose - tilt_bfactors_A2(series), 0.0) if fitted else np.zeros(series.n_tilts)
    scale, b = location_terms(series, position_A)
    q2 = qx**2 + qy**2
    tilts = (tilt_scales(series) * np.where(series.use_tilt, 1.0, 1e-4))[:, None] * envelope(series, qx, qy)
    beyond = np.exp(0.25 * q2 * (b[:, None, None] + clamp[:, None]))
    return np.asarray(scale[:, None, None] * tilts * beyond)


def anisotropy_A2(series: TiltSeries, theta: F64, device: Device = HOST) -> F64:
    """(tilts, samples) what the B-factors add at polar angles theta (samples,)."""
    grids = series.weights.bfactor_delta, series.weights.bfactor_angle
    delta, angle = (device.put(_at_centre(series, grid))[:, None] for grid in grids)
    added: F64 = delta * device.xp.cos(2 * (theta - device.xp.deg2rad(angle)))
    return added


def _at_centre(series: TiltSeries, grid: CubicGrid) -> F64:
    half = np.full(series.n_tilts, 0.5)
    return grid_at(grid, half, half, series.tilt_position)


def delocalisation_A(optics: Optics, defocus_um: float, q_max: float) -> float:
    """How far (A) the CTF carries information of frequency up to q_max: max |d gamma / d q| / 2 pi."""
    q = np.linspace(0, q_max, 256)
    lam, cs_A = optics.wavelength_A, optics.cs_mm * A_PER_MM
    return float(np.abs(-lam * A_PER_UM * defocus_um * q + cs_A * lam**3 * q**3).max())


def ewald_height(series: TiltSeries, q2: F64) -> F64:
    """Height (1/A) above the central slice of what multiplies exp(i gamma), at squared frequencies q2 (1/A^2).

    On any device.

    lambda q^2 / 2 along the direction of growing underfocus: a slab at height z has the defocus of its own height, and
    exp(i pi lambda (-z) q^2) is a Fourier factor of that height. So the sign follows from what the file says about
    depth: are_angles_inverted turns it.
    """
    height: F64 = 0.5 * series.optics.wavelength_A * q2
    return -height if series.are_angles_inverted else height


def sideband_overlap(height: F64, diameter_A: float, device: Device = HOST) -> F64:
    """(samples,) 0..1: correlation of the transform of a ball between the two sidebands, 2 |height| apart."""
    xp = device.xp
    x = 2 * np.pi * xp.abs(height) * diameter_A
    small = x < 1e-3
    safe = xp.where(small, 1.0, x)
    overlap = xp.where(small, 1.0, 3 * (xp.sin(safe) - safe * xp.cos(safe)) / safe**3)
    clipped: F64 = xp.clip(overlap, 0.0, 1.0)
    return clipped
