"""Half-maps from particle images: fixed-point accumulation, symmetry, division, inverse transform.

Numerator and denominator are the maximum-likelihood sums of the image model: sum w C X and sum (w C)^2 with
w = scale x envelope / noise amplitude, inserted by trilinear weights on a grid finer than the map's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.errors import MprError, SeriesError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.particle_images import ParticleImages, kernel_tables
from mpr_dist.imaging.passes import insert_images
from mpr_dist.imaging.turned_sums import turned_sums
from mpr_dist.maths.kernels.cards import Seen, shell_sums_on
from mpr_dist.maths.rotations import rotation_z
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import A_PER_UM, F32, F64, I64

OVERSAMPLING = 2
EXPONENT = 28
LARGEST_CONTRIBUTION = 2.0**10
LARGEST_SUM = 2**61


def grid_px(species: Species) -> int:
    """Edge of the accumulators' real-space box."""
    return OVERSAMPLING * species.box_px


def accumulator_shape(species: Species) -> tuple[int, int, int, int, int]:
    """(half-sets, z, y, x, parts): kx >= 0, one spare plane on every side for the trilinear neighbours."""
    n = grid_px(species)
    return (2, n + 3, n + 3, n // 2 + 2, 3)


def backproject(
    accumulators: I64,
    series: TiltSeries,
    species: Species,
    particles: Particles,
    images: ParticleImages,
    exponent: int = EXPONENT,
) -> None:
    """Add the images of one series to the accumulators (in place; order does not matter).

    Images on a card may leave their sums there, until ``settle`` of that device.
    Raises SeriesError when a contribution exceeds the range of the fixed point; nothing else can be trusted then, so
    the caller throws the accumulators away.
    """
    if np.abs(images.xy_A - project(series, particles).xy_A).max() > 1e-6:
        raise MprError("images were cut for other positions than those to reconstruct from")
    seen = there_or_here(images.device, lambda where: _seen(series, species, particles, images, where))
    largest = insert_images(accumulators, particles.half - 1, images, seen, float(2.0**exponent))
    if not largest < LARGEST_CONTRIBUTION * 2.0**exponent:
        raise SeriesError(
            f"series {series.name}: a contribution of {largest / 2.0**exponent:g} to the half-map of "
            f"{species.name} exceeds {LARGEST_CONTRIBUTION:g}; check the scale of its images and weights"
        )


def _seen(series: TiltSeries, species: Species, particles: Particles, images: ParticleImages, where: Device) -> Seen:
    """How the images are seen, on a device."""
    tables = kernel_tables(series, species, images, grid_px(species), particles, where)
    scale = where.put(tilt_scales(series).astype(np.float32)[tables.tilt_of_row])[:, None]
    defocus_um = project(series, particles, where).defocus_um
    return Seen(
        images.active,
        views(series, particles, where).astype(np.float32),
        (A_PER_UM * defocus_um).astype(np.float32),
        tables.astig,
        tables.fixed,
        tables.weight * scale,
        tables.weight_row,
        np.minimum(images.n_samples, images.samples.ring_end[-1]),
        tables.tables,
        tables.is_curved,
    )


@dataclass(frozen=True, eq=False)
class FourierSums:
    """Sums of a half-set after symmetry, on a device: (nz, ny, nx) complex128 numerator and float64 weight, kx >= 0."""

    numerator: Any
    weight: Any
    device: Device = HOST


def fourier_sums(
    accumulator: I64, symmetry: str, exponent: int = EXPONENT, device: Device = HOST, helix: CellHelix | None = None
) -> FourierSums:
    """Fixed point to numbers, the plane kx = 0 made Hermitian, symmetry applied. MemoryError: a card cannot hold it."""
    there = device.put(accumulator)
    least, largest = device.take(device.xp.stack([there.min(), there.max()])).tolist()
    if max(largest, -least) > LARGEST_SUM:
        raise MprError("the sums of a half-map leave the range of the fixed point (2^61)")
    sums = device.xp.multiply(there, 2.0**-exponent, dtype=np.float64)
    del there
    mirrored = sums[::-1, ::-1, 0] * device.put([1.0, -1.0, 1.0])
    sums[:, :, 0] += mirrored
    if helix is not None:
        sums = _along_helix(sums, helix, device)
    matrices = np.ascontiguousarray(rotations(symmetry))
    if len(matrices) > 1:
        sums = turned_sums(sums, matrices, device)
    # not views: those would keep all of the sums in memory
    numerator = device.xp.empty(sums.shape[:3], np.complex128)
    numerator.real, numerator.imag = sums[..., 0], sums[..., 1]
    return FourierSums(numerator, sums[..., 2].copy(), device)


@dataclass(frozen=True)
class CellHelix:
    """A helix in units of a grid: the rise as a share of the grid's box, so that plane k turns by 2 pi k rise."""

    rise: float
    twist_deg: float
    steps: range

    @staticmethod
    def of(species: Species) -> CellHelix | None:
        """In the accumulators of a species; None for one that is no helix."""
        helix = species.helix
        if helix is None:
            return None
        return CellHelix(helix.rise_A / (grid_px(species) * species.pixel_size_A), helix.twist_deg, helix.steps)


def _along_helix(sums: Any, helix: CellHelix, device: Device) -> Any:
    """Sum over the units of a helix: n'(x) = n(Rz(j twist) x + j rise z), its weight turned alike.

    A turn about z leaves planes in place, so the ramp of each is exact: exp(2 pi i k rise j) in plane k.
    """
    planes = np.arange(len(sums)) - len(sums) // 2
    total = None
    for step in helix.steps:
        turned = turned_sums(sums, np.ascontiguousarray(rotation_z(step * helix.twist_deg)[None]), device)
        ramp = 2 * np.pi * step * helix.rise * planes
        cosine, sine = (device.put(f(ramp)[:, None, None]) for f in (np.cos, np.sin))
        real = cosine * turned[..., 0] - sine * turned[..., 1]
        turned[..., 1] = sine * turned[..., 0] + cosine * turned[..., 1]
        turned[..., 0] = real
        if total is None:
            total = turned
        else:
            total += turned
    return total


def _planes(shape: tuple[int, ...], device: Device = HOST) -> Iterator[tuple[int, Any]]:
    """Every plane z of a grid and the distances (y, x) of its cells from the centre; a whole array would be large."""
    c = shape[0] // 2
    in_plane = device.put((np.arange(shape[1]) - c)[:, None] ** 2 + np.arange(shape[2])[None] ** 2.0)
    for z in range(shape[0]):
        yield z, device.xp.sqrt((z - c) ** 2 + in_plane)


def shell_means(values: Any, n_shells: int, device: Device = HOST) -> F64:
    """(shells,) means over spherical shells of the grid, on the host; values where the device has them."""
    if device.is_card:
        total, count = np.moveaxis(device.take(shell_sums_on(device, values, n_shells)), 2, 0).sum(axis=1)
        return np.asarray(total / np.maximum(count, 1))
    total, count = np.zeros(n_shells), np.zeros(n_shells)
    for z, radius in _planes(values.shape):
        index = np.rint(radius).astype(np.int64).ravel()
        total += np.bincount(index, values[z].ravel(), n_shells)[:n_shells]
        count += np.bincount(index, minlength=n_shells)[:n_shells]
    return total / np.maximum(count, 1)


def solve_map(sums: FourierSums, species: Species, ssnr: F64 | None = None, floor: float = 0.05) -> F32:
    """Half-map (box, box, box) float32 from the sums of one half-set.

    Every cell is numerator / (weight + rho), rho = mean weight of the shell / SSNR, multiplied by (1 + 1 / SSNR): cells
    of average weight keep their amplitude, so the map is not low-passed, and cells that hardly any image has seen are
    damped instead of blown up. ssnr (shells of the grid,) defaults to a weak term of ``floor`` times the mean weight.
    """
    n, device = grid_px(species), sums.device
    xp = device.xp
    mean = shell_means(sums.weight, n // 2 + 2, device)
    inverse = np.full(n // 2 + 2, floor) if ssnr is None else 1 / np.maximum(ssnr, 1e-6)
    rho, gain, is_seen = (device.put(a) for a in (np.maximum(inverse * mean, 1e-9), 1 + inverse, mean > 0))
    c, half = sums.weight.shape[0] // 2, n // 2
    inner = slice(c - half, c + half), slice(0, half + 1)
    sign = (-1.0) ** np.abs(np.arange(-half, half))
    signs = device.put(sign[:, None] * (-1.0) ** np.arange(half + 1))
    transform = xp.zeros((n, n, half + 1), np.complex128)
    for z, radius in _planes(sums.weight.shape, device):
        if not -half <= z - c < half:
            continue
        r = radius[inner]
        shell = xp.minimum(xp.rint(r).astype(np.int64), half + 1)
        divided = sums.numerator[z][inner] / (sums.weight[z][inner] + rho[shell]) * gain[shell]
        plane = xp.where((r < half) & is_seen[shell], divided, 0) * (float(sign[z - c + half]) * signs)
        transform[z - c] = xp.fft.ifftshift(plane, axes=0)
    del sums
    return _correct(device.fft.irfftn(transform, s=(n, n, n), overwrite_x=True), species, n, device)


def _correct(volume: Any, species: Species, n: int, device: Device) -> F32:
    """Cut the box, divide by the window of trilinear insertion, soft sphere at the box edge, units of the map."""
    b, xp = species.box_px, device.xp
    lo = n // 2 - b // 2
    cut = volume[lo : lo + b, lo : lo + b, lo : lo + b]
    x = np.arange(b) - b // 2
    window, squared = device.put(np.sinc(x / n) ** 2), device.put(x**2.0)
    cut = cut / (window[:, None, None] * window[None, :, None] * window[None, None])
    r = xp.sqrt(squared[:, None, None] + squared[None, :, None] + squared[None, None])
    edge = xp.clip((r - (b / 2 - 6)) / 5, 0, 1)
    # an image sample is (transform of the projection) / box_px
    cut = (cut * (0.5 + 0.5 * xp.cos(np.pi * edge)) * b).astype(np.float32)
    return np.asarray(device.take(cut))
