"""Zernike polynomials of the aberrations, in the order of Warp and RELION: not normalised, at frequencies in 1/A.

Z_n^m = R_n^|m|(r) cos(m phi) for m >= 0 and R sin(|m| phi) for m < 0 (Zernike 1934; Born and Wolf, section 9.2).
Frequencies and values are arrays of ``device``.
"""

from __future__ import annotations

from functools import lru_cache
from math import factorial

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.units import F64

ODD_ORDERS, EVEN_ORDERS = (1, 3, 5), (2, 4)


def odd_terms(order: int) -> tuple[tuple[int, int], ...]:
    """(n, m) of the odd terms up to an order, as they stand in the list: n = 1, 3, 5, m from -n to n."""
    return tuple((n, m) for n in ODD_ORDERS if n <= order for m in range(-n, n + 1, 2))


def even_terms(order: int) -> tuple[tuple[int, int], ...]:
    """(n, m) of the even terms up to an order, as they stand in Warp's list, which lacks the constant: n = 2, 4."""
    return tuple((n, m) for n in EVEN_ORDERS if n <= order for m in range(-n, n + 1, 2))


def zernike(n: int, m: int, qx: F64, qy: F64, device: Device = HOST) -> F64:
    """Z_n^m at frequencies qx, qy (1/A, any shape)."""
    xp, a = device.xp, abs(m)
    phi = xp.arctan2(qy, qx)
    value: F64 = _radial(n, a, xp.hypot(qx, qy), device) * (xp.cos(a * phi) if m >= 0 else xp.sin(a * phi))
    return value


def _radial(n: int, a: int, r: F64, device: Device = HOST) -> F64:
    radial: F64 = device.xp.zeros_like(r)
    for k in range((n - a) // 2 + 1):
        top = (-1) ** k * factorial(n - k)
        bottom = factorial(k) * factorial((n + a) // 2 - k) * factorial((n - a) // 2 - k)
        radial += top / bottom * r ** (n - 2 * k)
    return radial


def of_mapped_frequencies(coefficients: tuple[float, ...], parity: int, matrix: F64) -> tuple[float, ...]:
    """Coefficients that at q give what these give at M q: polynomials of a degree stay polynomials of that degree.

    Args:
        parity: 1 for lists of odd terms, 0 for lists of even ones; a constant that even ones would bring is dropped.
        matrix: (2, 2) M.
    """
    if not any(coefficients) or np.array_equal(matrix, np.eye(2)):
        return coefficients
    orders, of = (ODD_ORDERS, odd_terms) if parity else (EVEN_ORDERS, even_terms)
    terms = next(of(n) for n in orders if len(of(n)) >= len(coefficients) or n == orders[-1])
    phi, r = np.meshgrid(np.arange(12) * 2.4, np.array([0.3, 0.5, 0.8, 1.0]))
    q = np.stack([(r * np.cos(phi)).ravel(), (r * np.sin(phi)).ravel()])
    basis = np.stack([*(zernike(n, m, *q) for n, m in terms), np.full(q.shape[1], 1.0 - parity)], 1)
    mapped: F64 = matrix @ q
    wanted = _sum(coefficients, terms, mapped[0], mapped[1], HOST)
    return tuple(np.linalg.lstsq(basis, wanted, rcond=1e-14)[0][: len(terms)].tolist())


@lru_cache(maxsize=16)
def disc_basis(terms: tuple[tuple[int, int], ...], radius: float) -> F64:
    """(terms, terms) B with coefficients = B @ p, where the p are hardly correlated inside |q| <= radius (1/A).

    The polynomials are orthogonal on the disc of radius 1, far outside of any image; inside a small disc those of one m
    are nearly the same function (Z_3^1 is a shift with little coma). p of a term adds what comes nearest to the
    polynomial of the disc of ``radius`` from this term and lower ones of the same m, scaled to at most 1 there: p is in
    radians.
    """
    r = np.linspace(0.0, radius, 200)
    out = np.zeros((len(terms), len(terms)))
    for column, (n, m) in enumerate(terms):
        rows = [i for i, (order, same) in enumerate(terms) if same == m and order <= n]
        functions = np.stack([_radial(terms[i][0], abs(m), r) for i in rows], 1)
        wanted = _radial(n, abs(m), r / radius)
        found = np.linalg.lstsq(functions * np.sqrt(r)[:, None], wanted * np.sqrt(r), rcond=1e-14)[0]
        out[rows, column] = found / np.abs(functions @ found).max()
    return out


def odd_phase_rad(coefficients: tuple[float, ...], qx: F64, qy: F64, device: Device = HOST) -> F64:
    """Phase (rad) of the odd aberrations: data times exp(+i phase) are free of them (Warp's sign)."""
    return _sum(coefficients, odd_terms(5), qx, qy, device)


def even_gamma_rad(coefficients: tuple[float, ...], qx: F64, qy: F64, device: Device = HOST) -> F64:
    """What the even aberrations add to gamma (rad)."""
    return _sum(coefficients, even_terms(4), qx, qy, device)


def _sum(coefficients: tuple[float, ...], terms: tuple[tuple[int, int], ...], qx: F64, qy: F64, device: Device) -> F64:
    total: F64 = device.xp.zeros(np.broadcast_shapes(qx.shape, qy.shape))
    for value, (n, m) in zip(coefficients, terms, strict=False):
        if value != 0:
            total += value * zernike(n, m, qx, qy, device)
    return total
