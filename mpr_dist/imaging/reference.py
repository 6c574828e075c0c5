"""References: half-maps masked and filtered for comparison with images, as transforms that kernels can sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.fsc import FscCurves, masked_fsc
from mpr_dist.maths.filters import soft_mask
from mpr_dist.maths.fourier import crop_or_pad_real, shells, to_fourier, to_real
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.species import Species
from mpr_dist.units import F32, F64

GRID_OVERSAMPLING = 1
MASK_EDGE_A = 12.0


@dataclass(frozen=True, eq=False)
class Reference:
    """Transforms of both filtered half-maps of one species.

    Attributes:
        volumes: (2, n + 3, n + 3, n/2 + 2, 2) float32, kx >= 0, zero frequency at [(n+3)//2, (n+3)//2, 0]; in units of
            (transform of a projection) / box_px.
        grid_px: n, edge of the real-space box they were transformed in.
        q_max: 1/A, where the half-maps cease to agree; nothing is compared beyond.
        resolution_A: of the half-maps (FSC 0.143), infinite when they share nothing.
    """

    volumes: F32
    grid_px: int
    q_max: float
    resolution_A: float


def use_mask(mask: F32, pixel_size_A: float) -> F32:
    """The binary mask of a species with the soft edge it has in use."""
    return soft_mask(mask > 0.5, 1.0, MASK_EDGE_A / pixel_size_A)


def half_map_fsc(half1: F32, half2: F32, mask: F32, pixel_size_A: float, symmetry: str = "C1") -> FscCurves:
    """FSC of two half-maps (n, n, n) float32, on which a point group was imposed, under the mask as it is used."""
    return masked_fsc(half1, half2, use_mask(mask, pixel_size_A), pixel_size_A, copies=len(rotations(symmetry)))


def species_fsc(half1: F32, half2: F32, mask: F32, species: Species) -> FscCurves:
    """FSC of the half-maps of a species with all of its symmetry."""
    return _fsc_under(half1, half2, use_mask(mask, species.pixel_size_A), species)


def _fsc_under(half1: F32, half2: F32, soft: F32, species: Species) -> FscCurves:
    copies = len(rotations(species.symmetry)) * species.asymmetric_units
    return masked_fsc(half1, half2, soft, species.pixel_size_A, copies=copies)


def wiener_filter(curves: FscCurves) -> F64:
    """(shells,) gain of one half-map: FSC, the share of its power that is signal; 0 from where it first is lost.

    2 FSC / (1 + FSC) would belong to the average of both halves and make the model too strong.
    """
    gain = np.clip(curves.corrected, 0.0, 1.0)
    limit = curves.box_px * curves.pixel_size_A / curves.resolution_A
    gain[np.arange(len(gain)) > np.ceil(limit)] = 0.0
    return np.asarray(gain)


def filter_halves(half1: F32, half2: F32, curves: FscCurves, share_below_A: float) -> tuple[F32, F32]:
    """Both half-maps multiplied by the Wiener factor; frequencies below 1/share_below_A are averaged (none if 0)."""
    n = curves.box_px
    ring = np.minimum(shells(n), n // 2)
    gain = wiener_filter(curves)[ring].astype(np.float32)
    a, b = to_fourier(half1), to_fourier(half2)
    shared = ring < (n * curves.pixel_size_A / share_below_A if share_below_A > 0 else 0.0)
    mean = 0.5 * (a + b)
    out = [to_real((np.where(shared, mean, h) * gain).astype(np.complex64), (n, n, n)) for h in (a, b)]
    return out[0], out[1]


def projector_volume(volume: F32, grid: int) -> F32:
    """Transform of a map in a box of ``grid`` px, ready for trilinear sampling: (grid+3, grid+3, grid/2+2, 2) float32.

    The map is divided by sinc^2 first, which makes up for what trilinear interpolation takes away at the box edge.
    """
    box = volume.shape[0]
    padded = crop_or_pad_real(volume, grid)
    window = np.maximum(np.sinc((np.arange(grid) - grid // 2) / grid) ** 2, 0.05)
    flat = padded / (window[:, None, None] * window[None, :, None] * window[None, None]).astype(np.float32)
    transform = np.fft.fftshift(to_fourier(flat.astype(np.float32)), axes=(0, 1)) / box
    c = (grid + 3) // 2
    out = np.zeros((grid + 3, grid + 3, grid // 2 + 2, 2), np.float32)
    view = out[c - grid // 2 : c + grid // 2, c - grid // 2 : c + grid // 2, : grid // 2 + 1]
    view[..., 0], view[..., 1] = transform.real, transform.imag
    return out


def prepare_reference(
    half1: F32, half2: F32, mask: F32, species: Species, share_below_A: float = 0.0, fraction: float = 1.0
) -> tuple[Reference, FscCurves]:
    """Reference of a species from its half-maps; ``fraction`` of the resolution range is used."""
    soft = use_mask(mask, species.pixel_size_A)
    curves = _fsc_under(half1, half2, soft, species)
    filtered = filter_halves(half1, half2, curves, share_below_A)
    grid = GRID_OVERSAMPLING * species.box_px
    volumes = np.stack([projector_volume(h * soft, grid) for h in filtered])
    q_max = fraction / curves.resolution_A if np.isfinite(curves.resolution_A) else 0.0
    return Reference(volumes, grid, q_max, curves.resolution_A), curves


def map_scale(volume: F32, mask: F32) -> float:
    """Factor that gives a map projections of unit strength: the root mean square, inside the mask, of its z-sum.

    Amplitude scales then are ratios of signal to noise per pixel, of order 0.1, whatever units the map came in.
    """
    inside = mask.max(axis=0) > 0.5
    rms = float(np.sqrt(np.mean((volume * mask).sum(axis=0)[inside] ** 2)))
    return 1.0 / rms if rms > 0 else 1.0
