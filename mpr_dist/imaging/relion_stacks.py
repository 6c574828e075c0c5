"""Half-maps straight from 2D particle stacks of RELION 5 and Warp: numerators as they come, weights from the tables.

A stack that was premultiplied holds C D X, with the CTF C, the filter against dose D and the image X (protein bright);
the others hold X. Both give the sums C D X and (C D)^2 of a reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.ctf import ctf
from mpr_dist.imaging.reconstruct import EXPONENT, LARGEST_CONTRIBUTION, grid_px
from mpr_dist.imaging.samples import Samples, box_samples
from mpr_dist.maths.kernels.insert import insert_products
from mpr_dist.model.optics import Optics
from mpr_dist.model.relion import RelionTilts
from mpr_dist.model.species import Species
from mpr_dist.units import A_PER_UM, F32, F64, I64, Bool

# Grant and Grigorieff 2015: critical dose of a frequency, e/A^2
_A, _B, _C = 0.245, -1.665, 2.81


@dataclass(frozen=True, eq=False)
class StackOptics:
    """What the images of one tilt series have in common.

    Attributes:
        relion: its tilts; rotation: (tilts, 3, 3) from the tomogram to the image.
        is_warp: doses and tilts weigh as in Warp, exp(-dose q^2), instead of RELION's filter.
        hand: sign of the depth in the defocus.
    """

    relion: RelionTilts
    rotation: F64
    is_warp: bool
    hand: float


def samples_of(species: Species) -> Samples:
    """All samples of a stack's images within the last full ring."""
    return box_samples(species.box_px, species.pixel_size_A, 0.5 / species.pixel_size_A)


def dose_filter(optics: StackOptics, t: int, q: F64) -> F64:
    """(samples,) what damps tilt t at frequencies q (1/A), its scale included."""
    relion = optics.relion
    dose = float(relion.dose[t])
    scale = 1.0 if relion.scale is None else float(relion.scale[t])
    own = 0.0 if relion.bfactor_A2 is None else float(relion.bfactor_A2[t])
    if optics.is_warp:
        return np.asarray(scale * np.exp(-dose * q**2))
    if relion.bfactor_per_dose is not None:
        damping = np.exp(-0.25 * relion.bfactor_per_dose * dose * q**2)
    else:
        damping = np.exp(-0.5 * dose / (_A * np.maximum(q, 1e-6) ** _B + _C))
    return np.asarray(scale * np.exp(-0.25 * own * q**2) * damping)


def model_of(optics: StackOptics, tilts: I64, centred_A: F64, samples: Samples) -> F32:
    """(tilts, samples) C D of the images of a particle at ``centred_A`` (3,) from the centre of its tomogram."""
    relion = optics.relion
    common = Optics(relion.voltage_kV, relion.cs_mm, relion.amplitude)
    q = np.hypot(samples.qx, samples.qy)
    out = np.empty((len(tilts), len(q)), np.float32)
    for row, t in enumerate(tilts.tolist()):
        depth = optics.hand * float(optics.rotation[t, 2] @ centred_A)
        u, v = relion.defocus_u_A[t], relion.defocus_v_A[t]
        value = ctf(
            common,
            samples.qx,
            samples.qy,
            ((u + v) / 2 + depth) / A_PER_UM,
            (u - v) / A_PER_UM,
            float(relion.defocus_angle_deg[t]),
            float(relion.phase_deg[t]) / 180,
        )
        out[row] = value * dose_filter(optics, t, q)
    return out


def slices_of(visible: Bool, n_slices: int) -> I64 | None:
    """(visible tilts,) index in the stack of every visible tilt; None when the stack is of neither layout.

    RELION, and Warp since July 2026, store visible tilts alone; Warp before that stored all of them.
    """
    shown = np.flatnonzero(visible)
    if n_slices == len(shown):
        return np.arange(n_slices)
    return shown if n_slices == len(visible) else None


def add_particle(
    accumulators: I64,
    species: Species,
    samples: Samples,
    images: F32,
    model: F32,
    views: F64,
    shift_A: F64,
    half: int,
    is_premultiplied: bool,
) -> None:
    """Add the images (tilts, y, x) of one particle, seen by views (tilts, 3, 3), to the sums of its half-set, in place.

    shift_A: (tilts, 2) of the particle from the centre of the images, which is pixel box / 2.

    Raises:
        SeriesError: values that are far too large, or not finite.
    """
    values = _transforms(images, shift_A / species.pixel_size_A, samples)
    if not is_premultiplied:
        values *= model[..., None]
    to_grid = grid_px(species) * species.pixel_size_A
    u, v = (np.asarray(q * to_grid, np.float32) for q in (samples.qx, samples.qy))
    halves = np.full(len(images), half - 1, np.int64)
    largest = insert_products(
        accumulators, halves, values, model**2, views.astype(np.float32), u, v, float(2.0**EXPONENT)
    ).max()
    if not largest < LARGEST_CONTRIBUTION * 2.0**EXPONENT:
        raise SeriesError("its values are not finite, or far larger than those of the first stack")


def _transforms(images: F32, shift_px: F64, samples: Samples) -> F32:
    """(images, samples, 2) transforms referred to points ``shift_px`` (images, 2) off the centre of each image."""
    n = samples.box_px
    x, y = (n / 2 + shift_px).T
    transforms = fft.rfft2(images.astype(np.float64))[:, samples.ky % n, samples.kx] / n
    transforms *= np.exp((2j * np.pi / n) * (x[:, None] * samples.kx + y[:, None] * samples.ky))
    return np.ascontiguousarray(np.stack([transforms.real, transforms.imag], -1), np.float32)
