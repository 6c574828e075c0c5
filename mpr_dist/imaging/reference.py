"""References: half-maps masked and filtered for comparison with images, as transforms that kernels can sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.imaging.fsc import FscCurves, masked_fsc
from mpr_dist.maths.filters import soft_mask
from mpr_dist.maths.fourier import crop_or_pad_real, shells, to_fourier_on, to_real_on
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


def use_mask(mask: F32, pixel_size_A: float, device: Device = HOST) -> Any:
    """The binary mask of a species with the soft edge it has in use, on a device."""
    return soft_mask(mask > 0.5, 1.0, MASK_EDGE_A / pixel_size_A, device)


def half_map_fsc(half1: F32, half2: F32, mask: F32, pixel_size_A: float, symmetry: str = "C1") -> FscCurves:
    """FSC of two half-maps (n, n, n) float32, on which a point group was imposed, under the mask as it is used."""
    return masked_fsc(half1, half2, use_mask(mask, pixel_size_A), pixel_size_A, copies=len(rotations(symmetry)))


def species_fsc(half1: Any, half2: Any, mask: F32, species: Species, device: Device = HOST) -> FscCurves:
    """FSC of the half-maps of a species with all of its symmetry; computed on a device, where they may lie."""
    return _fsc_under(half1, half2, use_mask(mask, species.pixel_size_A, device), species, device)


def _fsc_under(half1: Any, half2: Any, soft: Any, species: Species, device: Device) -> FscCurves:
    copies = len(rotations(species.symmetry)) * species.asymmetric_units
    return masked_fsc(half1, half2, soft, species.pixel_size_A, copies=copies, device=device)


def wiener_filter(curves: FscCurves) -> F64:
    """(shells,) gain of one half-map: FSC, the share of its power that is signal; 0 from where it first is lost.

    2 FSC / (1 + FSC) would belong to the average of both halves and make the model too strong.
    """
    gain = np.clip(curves.corrected, 0.0, 1.0)
    limit = curves.box_px * curves.pixel_size_A / curves.resolution_A
    gain[np.arange(len(gain)) > np.ceil(limit)] = 0.0
    return np.asarray(gain)


def filter_halves(
    half1: Any, half2: Any, curves: FscCurves, share_below_A: float, device: Device = HOST
) -> tuple[Any, Any]:
    """Both half-maps multiplied by the Wiener factor, on a device; frequencies below 1/share_below_A are averaged (none
    if 0)."""
    n, xp = curves.box_px, device.xp
    ring = xp.minimum(shells(n, device=device), n // 2)
    gain = device.put(wiener_filter(curves), np.float32)[ring]
    a, b = (to_fourier_on(device, device.put(half)) for half in (half1, half2))
    shared = ring < (n * curves.pixel_size_A / share_below_A if share_below_A > 0 else 0.0)
    mean = 0.5 * (a + b)
    out = [to_real_on(device, (xp.where(shared, mean, h) * gain).astype(np.complex64), (n, n, n)) for h in (a, b)]
    return out[0], out[1]


def projector_volume(volume: Any, grid: int, device: Device = HOST) -> Any:
    """Transform of a map in a box of ``grid`` px, ready for trilinear sampling: (grid+3, grid+3, grid/2+2, 2) float32.

    The map, and what comes of it, lie on the device. It is divided by sinc^2 first, which makes up for what trilinear
    interpolation takes away at the box edge.
    """
    box, xp = volume.shape[0], device.xp
    padded = crop_or_pad_real(volume, grid, device)
    window = device.put(np.maximum(np.sinc((np.arange(grid) - grid // 2) / grid) ** 2, 0.05))
    flat = padded / (window[:, None, None] * window[None, :, None] * window[None, None]).astype(np.float32)
    transform = xp.fft.fftshift(to_fourier_on(device, flat.astype(np.float32)), axes=(0, 1)) / box
    c = (grid + 3) // 2
    out = xp.zeros((grid + 3, grid + 3, grid // 2 + 2, 2), np.float32)
    view = out[c - grid // 2 : c + grid // 2, c - grid // 2 : c + grid // 2, : grid // 2 + 1]
    view[..., 0], view[..., 1] = transform.real, transform.imag
    return out


def prepare_reference(
    half1: F32,
    half2: F32,
    mask: F32,
    species: Species,
    share_below_A: float = 0.0,
    fraction: float = 1.0,
    device: Device = HOST,
) -> tuple[Reference, FscCurves]:
    """Reference of a species from its half-maps; ``fraction`` of the resolution range is used.

    A card on which it is made keeps the transforms as long as the host does, for the images that come there.
    """
    soft = use_mask(mask, species.pixel_size_A, device)
    first, second = device.put(half1), device.put(half2)
    curves = _fsc_under(first, second, soft, species, device)
    filtered = filter_halves(first, second, curves, share_below_A, device)
    grid = GRID_OVERSAMPLING * species.box_px
    made = device.xp.stack([projector_volume(h * soft, grid, device) for h in filtered])
    volumes: F32 = device.take(made)
    device.adopt(volumes, made)
    q_max = fraction / curves.resolution_A if np.isfinite(curves.resolution_A) else 0.0
    return Reference(volumes, grid, q_max, curves.resolution_A), curves


def map_scale(volume: F32, mask: F32) -> float:
    """Factor that gives a map projections of unit strength: the root mean square, inside the mask, of its z-sum.

    Amplitude scales then are ratios of signal to noise per pixel, of order 0.1, whatever units the map came in.
    """
    inside = mask.max(axis=0) > 0.5
    rms = float(np.sqrt(np.mean((volume * mask).sum(axis=0)[inside] ** 2)))
    return 1.0 / rms if rms > 0 else 1.0
