"""Array types and the conversions between the units that the formats of the field use.

Suffixes used everywhere: ``_A`` angstrom, ``_um`` micrometre, ``_px`` pixel, ``_deg`` degree, ``_kV``, ``_mm``.
Coordinates are ordered x, y, z; voxel arrays are indexed [z, y, x].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
C64 = NDArray[np.complex64]
C128 = NDArray[np.complex128]
I64 = NDArray[np.int64]
I8 = NDArray[np.int8]
Bool = NDArray[np.bool_]

A_PER_UM = 1e4
A_PER_MM = 1e7


def wavelength_A(voltage_kV: float) -> float:
    """Relativistic electron wavelength in A (Warp's and RELION's constants)."""
    volts = 1e3 * voltage_kV
    return float(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))
