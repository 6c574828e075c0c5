"""Helical symmetry of a map in real space.

The sums of a helix are averaged in Fourier space, where every particle lends its neighbours along the axis what it saw.
Towards the ends of the box that runs out. Here the middle of the map, where it does not, is continued to both ends.
"""

from __future__ import annotations

import numpy as np
import scipy.ndimage

from mpr_dist.imaging.moved_maps import FINER
from mpr_dist.maths.filters import soft_sphere
from mpr_dist.maths.fourier import fourier_resample
from mpr_dist.model.species import Helix, Species
from mpr_dist.units import F32

# as the soft sphere that every half-map ends with
EDGE_PX = 5.0


def helical_map(volume: F32, species: Species) -> F32:
    """The half-map of a helix, each plane taken from the unit in the middle; that of any other species as it is."""
    if species.helix is None:
        return volume
    continued = continue_helix(volume, species.helix, species.pixel_size_A)
    return continued * soft_sphere(len(volume), len(volume) / 2 - 6, EDGE_PX)


def continue_helix(volume: F32, helix: Helix, pixel_size_A: float) -> F32:
    """The cube (n, n, n) with plane z replaced by what helical symmetry makes of the middle: |z| <= rise / 2.

    rho(x) = rho(Rz(j twist) x + j rise z) with the j that leads closest to the middle; cubic splines on a grid twice as
    fine. Where the middle has nothing (outside the box), the result is 0.
    """
    n = len(volume)
    fine = scipy.ndimage.spline_filter(fourier_resample(volume, FINER * n), order=3, output=np.float32)
    c, rise = n // 2, helix.rise_A / pixel_size_A
    y, x = np.indices((n, n), dtype=np.float64) - c
    out = np.empty(volume.shape, np.float32)
    for z in range(n):
        step = -round((z - c) / rise)
        angle = np.deg2rad(step * helix.twist_deg)
        at_x, at_y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
        place = np.stack([np.full((n, n), z - c + step * rise), at_y, at_x]) + c
        out[z] = scipy.ndimage.map_coordinates(fine, FINER * place, order=3, mode="constant", prefilter=False)
    return out
