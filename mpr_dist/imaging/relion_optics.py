"""Defocus where images are stretched: RELION takes CTFs at M q, Warp at q, with M the matrix of the magnification."""

from __future__ import annotations

import numpy as np

from mpr_dist.units import F64


def mapped_defocus(u: F64, v: F64, angle_deg: F64, matrix: F64) -> tuple[F64, F64, F64]:
    """Defocus U, V and angle (tilts,) that at q give the defocus term that these give at M q, exactly.

    Defocus is the quadratic form q' D q with U along the angle and V across; the other one is M' D M. The term of the
    spherical aberration is left as it is: of its change with M by 1 %, 4 %, most is a defocus, which is refined.
    """
    if np.array_equal(matrix, np.eye(2)):
        return u, v, angle_deg
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    axes = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    form = np.einsum("ki,tka,ta,tla,lj->tij", matrix, axes, np.stack([u, v], -1), axes, matrix)
    values, vectors = np.linalg.eigh(form)
    # eigenvalues ascend; U stays the one that it was, greater or less
    first = np.where(np.asarray(u) >= v, 1, 0)
    rows = np.arange(len(first))
    turned = np.rad2deg(np.arctan2(vectors[rows, 1, first], vectors[rows, 0, first]))
    return values[rows, first], values[rows, 1 - first], angle_deg + (turned - angle_deg + 90) % 180 - 90
