"""Optics of a simulated series: what they were, and what the project believes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from mpr_dist.imaging.ctf import per_tilt as values_per_tilt
from mpr_dist.maths.zernike import even_terms, odd_terms
from mpr_dist.model.optics import Optics
from mpr_dist.model.warp import CubicGrid
from mpr_dist.units import A_PER_MM, A_PER_UM, F64
from mpr_dist.workflow.simulation.random_branches import (
    ABERRATIONS,
    ASTIGMATISM,
    CS,
    DECIMALS,
    DEFOCUS,
    MAGNIFICATION,
    PHASE,
    per_tilt,
    random_branch,
)
from mpr_dist.workflow.simulation.simulate_settings import SimulateSettings

ABERRATION_A = 4.0  # where the phases of planted aberrations are given
_DIGITS = 6  # of Zernike coefficients: a float32 keeps them exactly

# q^n cos(m phi) as a sum of Z_j^m: {n, m: {j: factor}}; Z_3^1 = 3 q^3 - 2 q alone would be mostly a shift
_PURE: dict[tuple[int, int], dict[int, float]] = {
    (3, 1): {3: 1 / 3, 1: 2 / 3},
    (5, 1): {5: 0.1, 3: 0.4, 1: 0.5},
    (5, 3): {5: 0.2, 3: 0.8},
    (4, 2): {4: 0.25, 2: 0.75},
}

Terms = Callable[[int], tuple[tuple[int, int], ...]]


def zernike_of(phases: Mapping[tuple[int, int], float], terms: Terms) -> tuple[float, ...]:
    """Coefficients in Warp's order of a sum of pure powers, value * q^n cos(m phi), sines for m < 0.

    The list ends with the highest order that is not zero; it is empty when there is none.
    """
    total: dict[tuple[int, int], float] = {}
    for (n, m), value in phases.items():
        for order, factor in _PURE.get((n, abs(m)), {n: 1.0}).items():
            total[order, m] = total.get((order, m), 0.0) + factor * value
    used = [n for (n, _), value in total.items() if value]
    names = terms(max(used)) if used else ()
    return tuple(float(f"{total.get(name, 0.0):.{_DIGITS}g}") for name in names)


def planted_optics(optics: Optics, n_tilts: int, s: SimulateSettings, index: int) -> Optics:
    """The true optics: those given, with what the project does not know of them."""
    plant = s.plant
    phase = plant.phase_shift_pi + plant.phase_shift_error_pi * random_branch(s, index, PHASE).standard_normal(n_tilts)
    cs = optics.cs_mm + plant.cs_error_mm * random_branch(s, index, CS).standard_normal()
    matrix = np.eye(2) + plant.magnification * random_branch(s, index, MAGNIFICATION).standard_normal((2, 2))
    odd, even = _aberrations(optics, s, index)
    return replace(
        optics,
        cs_mm=float(np.round(cs, DECIMALS)),
        phase_shift_pi=per_tilt(phase),
        magnification=np.round(matrix, DECIMALS + 2),
        zernike_odd=zernike_of(odd, odd_terms),
        zernike_even=zernike_of(even, even_terms),
    )


def _aberrations(
    optics: Optics, s: SimulateSettings, index: int
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    """Odd and even phases by (n, m), rad A^n."""
    plant, rng = s.plant, random_branch(s, index, ABERRATIONS)
    coma = 2 * np.pi * optics.cs_mm * A_PER_MM * optics.wavelength_A**2 * 1e-3 * plant.beam_tilt_mrad
    third, fifth = plant.trefoil_rad * ABERRATION_A**3, plant.odd5_rad * ABERRATION_A**5
    second, fourth = plant.even2_rad * ABERRATION_A**2, plant.even4_rad * ABERRATION_A**4
    size = {(3, 1): coma, (3, -1): coma, (3, 3): third, (3, -3): third}
    size |= {(5, m): fifth for m in (-5, -3, -1, 1, 3, 5)}
    odd = {term: value * rng.standard_normal() for term, value in size.items()}
    # the round terms are defocus and Cs, and would bring a constant phase that Warp's list cannot take back
    size = {(2, m): second for m in (-2, 2)} | {(4, m): fourth for m in (-4, -2, 2, 4)}
    return odd, {term: value * rng.standard_normal() for term, value in size.items()}


def nominal_optics(true: Optics, n_tilts: int, s: SimulateSettings, index: int) -> Optics:
    """What CTF estimation would have left: defocus and astigmatism a little off, nothing known beyond."""
    error = s.plant.defocus_A / A_PER_UM * random_branch(s, index, DEFOCUS).standard_normal(n_tilts)
    delta, angle = _astigmatism(true, n_tilts, s, index)
    return replace(
        true,
        cs_mm=s.cs_mm,
        defocus_um=per_tilt(true.defocus_um.values.ravel() + error),
        defocus_delta_um=delta,
        defocus_angle_deg=angle,
        phase_shift_pi=per_tilt(np.full(n_tilts, s.plant.phase_shift_pi)),
        magnification=np.eye(2),
        zernike_odd=(),
        zernike_even=(),
    )


def _astigmatism(true: Optics, n: int, s: SimulateSettings, index: int) -> tuple[CubicGrid, CubicGrid]:
    """Delta and angle after a step in delta/2 (cos 2 angle, sin 2 angle), which knows no singularity at zero."""
    if not s.plant.astigmatism_A:
        return true.defocus_delta_um, true.defocus_angle_deg
    half_um = 0.5 * values_per_tilt(true.defocus_delta_um.values, n)
    twice = 2 * np.deg2rad(values_per_tilt(true.defocus_angle_deg.values, n))
    vector: F64 = half_um * np.stack([np.cos(twice), np.sin(twice)])
    vector = vector + s.plant.astigmatism_A / A_PER_UM * random_branch(s, index, ASTIGMATISM).standard_normal((2, n))
    angle = 0.5 * np.rad2deg(np.arctan2(vector[1], vector[0])) % 180.0
    return per_tilt(2 * np.hypot(*vector)), per_tilt(angle)
