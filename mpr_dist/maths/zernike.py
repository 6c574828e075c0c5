"""Zernike polynomials of the aberrations, in the order of Warp and RELION: not normalised, at frequencies in 1/A.

Z_n^m = R_n^|m|(r) cos(m phi) for m >= 0 and R sin(|m| phi) for m < 0 (Zernike 1934; Born and Wolf, section 9.2).
"""

from __future__ import annotations

from math import factorial

import numpy as np

from mpr_dist.units import F64

ODD_ORDERS, EVEN_ORDERS = (1, 3, 5), (2, 4)


def odd_terms(order: int) -> tuple[tuple[int, int], ...]:
    """(n, m) of the odd terms up to an order, as they stand in the list: n = 1, 3, 5, m from -n to n."""
    return tuple((n, m) for n in ODD_ORDERS if n <= order for m in range(-n, n + 1, 2))


def even_terms(order: int) -> tuple[tuple[int, int], ...]:
    """(n, m) of the even terms up to an order, as they stand in Warp's list, which lacks the constant: n = 2, 4."""
    return tuple((n, m) for n in EVEN_ORDERS if n <= order for m in range(-n, n + 1, 2))


def zernike(n: int, m: int, qx: F64, qy: F64) -> F64:
    """Z_n^m at frequencies qx, qy (1/A, any shape)."""
    r, phi, a = np.hypot(qx, qy), np.arctan2(qy, qx), abs(m)
    radial = np.zeros_like(r)
    for k in range((n - a) // 2 + 1):
        top = (-1) ** k * factorial(n - k)
        bottom = factorial(k) * factorial((n + a) // 2 - k) * factorial((n - a) // 2 - k)
        radial += top / bottom * r ** (n - 2 * k)
    return np.asarray(radial * (np.cos(a * phi) if m >= 0 else np.sin(a * phi)))


def odd_phase_rad(coefficients: tuple[float, ...], qx: F64, qy: F64) -> F64:
    """Phase (rad) of the odd aberrations: data times exp(+i phase) are free of them (Warp's sign)."""
    return _sum(coefficients, odd_terms(5), qx, qy)


def even_gamma_rad(coefficients: tuple[float, ...], qx: F64, qy: F64) -> F64:
    """What the even aberrations add to gamma (rad)."""
    return _sum(coefficients, even_terms(4), qx, qy)


def _sum(coefficients: tuple[float, ...], terms: tuple[tuple[int, int], ...], qx: F64, qy: F64) -> F64:
    total = np.zeros(np.broadcast(qx, qy).shape)
    for value, (n, m) in zip(coefficients, terms, strict=False):
        if value != 0:
            total += value * zernike(n, m, qx, qy)
    return total
