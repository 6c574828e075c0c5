"""Optics of a tilt series: everything that shapes its CTFs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpr_dist.model.warp import CubicGrid, _zero
from mpr_dist.units import F64, wavelength_A


def _identity() -> F64:
    return np.eye(2)


@dataclass(frozen=True, eq=False)
class Optics:
    """CTF parameters in Warp's units.

    Attributes:
        defocus_um: spline over the volume and the tilt, positive = underfocus.
        defocus_delta_um, defocus_angle_deg, phase_shift_pi: one value per tilt, read by index, never interpolated.
        magnification: (2, 2), acts on Fourier coordinates: k' = M k.
        zernike_odd: phase coefficients, n = 1, 3, 5; Warp's sign (the data are multiplied by exp(+i phase)).
        zernike_even: added to gamma; starts after the constant term (n = 2, then n = 4).
    """

    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude: float = 0.07
    defocus_um: CubicGrid = field(default_factory=_zero)
    defocus_delta_um: CubicGrid = field(default_factory=_zero)
    defocus_angle_deg: CubicGrid = field(default_factory=_zero)
    phase_shift_pi: CubicGrid = field(default_factory=_zero)
    magnification: F64 = field(default_factory=_identity)
    zernike_odd: tuple[float, ...] = ()
    zernike_even: tuple[float, ...] = ()

    @property
    def wavelength_A(self) -> float:
        return wavelength_A(self.voltage_kV)

    @property
    def log_magnification(self) -> float:
        """Of the part of the magnification that is the same in all directions: half the log of the determinant."""
        return float(0.5 * np.linalg.slogdet(self.magnification)[1])
