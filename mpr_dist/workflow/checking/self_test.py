"""A small problem with a known answer for every kernel, on the host or a card: does this machine compute right?

The reference is 1 everywhere and the CTF too, so models are known without any program: each sample of an image is its
weight.
"""

from __future__ import annotations

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.imaging.extract import noise_of_rings
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.image_store import CardValues
from mpr_dist.imaging.particle_images import ParticleImages
from mpr_dist.imaging.passes import compare_images, insert_images
from mpr_dist.imaging.reconstruct import shell_means
from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.kernels.cards import Seen
from mpr_dist.maths.kernels.compare import KX, KY, N_LOCAL, N_TABLES, QX, QY
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.maths.solve import NormalEquations, solve

BOX, PARTICLES, TILTS = 32, 3, 2
SCALE = 2.0**28


def failed_parts(device: Device = HOST) -> dict[str, str]:
    """What does not work, and how: empty when all is well. Exceptions of a card go through."""
    found = {"fused pass": _fused(device), "insertion": _inserted(device), "transforms": _transformed(device)}
    found |= {"averages": _averaged(device), "FSC": _correlated(device), "solver": _solved(device)}
    return {name: text for name, text in found.items() if text}


def _problem(device: Device) -> tuple[ParticleImages, Seen]:
    rng = np.random.default_rng(0)
    samples, images = box_samples(BOX, 1.0, 0.5), (PARTICLES, TILTS)
    n = len(samples.kx)
    tables = np.zeros((N_TABLES, n), np.float32)
    tables[QX], tables[QY], tables[KX], tables[KY] = samples.qx, samples.qy, samples.kx, samples.ky
    weight = rng.uniform(0.5, 1.5, (TILTS, n)).astype(np.float32)
    values = np.zeros((*images, n, 2), np.float32)
    values[..., 0] = 1.0
    seen = Seen(
        active=np.ones(images, bool),
        views=euler_to_matrix(rng.uniform(-180, 180, (*images, 3))).astype(np.float32),
        defocus=np.zeros(images, np.float32),
        astig=np.zeros((TILTS, 2), np.float32),
        fixed=np.full((TILTS, n), -0.25, np.float32),  # -sin(-90 degrees) = 1
        weight=weight,
        weight_row=np.tile(np.arange(TILTS), (PARTICLES, 1)),
        n_samples=np.full(TILTS, n, np.int64),
        tables=tables,
        is_curved=False,
    )
    kept: CardValues | np.ndarray = values
    if device.is_card:
        kept = CardValues(values.shape, device)
        for t in range(TILTS):
            kept[np.arange(PARTICLES), t] = device.put(values[:, t])
    noise, xy_A = np.ones((TILTS, samples.n_rings)), np.zeros((*images, 2))
    return ParticleImages(samples, kept, seen.active, xy_A, noise, seen.n_samples), seen


def _fused(device: Device) -> str:
    images, seen = _problem(device)
    edge = BOX + 3
    volumes = np.zeros((2, edge, edge, BOX // 2 + 2, 2), np.float32)
    volumes[..., 0] = 1.0
    half, shift = np.arange(PARTICLES) % 2, np.zeros((PARTICLES, TILTS, 2), np.float32)
    none = np.zeros(0, np.int64), np.zeros((0, seen.tables.shape[1]), np.float32)
    out = compare_images(images, volumes, half, shift, seen, *none)
    w = seen.weight.astype(np.float64)
    return _off(out[..., 0], w.sum(1), "<X,m>") or _off(out[..., 1 + N_LOCAL], (w**2).sum(1), "<m,m>")


def _inserted(device: Device) -> str:
    images, seen = _problem(device)
    edge = BOX + 3
    sums = np.zeros((2, edge, edge, BOX // 2 + 2, 3), np.int64)
    insert_images(sums, (np.arange(PARTICLES) % 2).astype(np.int8), images, seen, SCALE)
    device.settle()
    w = seen.weight.astype(np.float64)
    expected = np.array([2, 1]) * (w**2).sum()  # particles of each half
    if sums[..., 0].sum() < 0.9 * SCALE * PARTICLES * w.sum():
        return "sums of the data are too small"
    return _off(sums[..., 2].sum((1, 2, 3)) / SCALE, expected, "sums of the weights")


def _transformed(device: Device) -> str:
    values = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32)
    back = device.fft.irfft2(device.fft.rfft2(device.put(values)), s=values.shape)
    return "there and back is not the same" if np.abs(device.take(back) - values).max() > 1e-5 else ""


def _averaged(device: Device) -> str:
    samples, edge = box_samples(BOX, 1.0, 0.5), BOX + 3
    noise = device.take(noise_of_rings(device, device.put(np.full(len(samples.kx), 6.0)), PARTICLES, samples))
    means = shell_means(device.put(np.full((edge, edge, BOX // 2 + 2), 2.0)), BOX // 2, device)
    return _off(noise, 6.0 / PARTICLES, "noise of rings") or _off(means, 2.0, "mean of shells")


def _correlated(device: Device) -> str:
    volume = np.random.default_rng(3).standard_normal((BOX, BOX, BOX)).astype(np.float32)
    return _off(fsc(volume, volume, device), 1.0, "FSC of equals") or _off(fsc(volume, -volume, device), -1.0, "sign")


def _solved(device: Device) -> str:
    rng = np.random.default_rng(2)
    n, points, k = 6, 4, 3
    whole = rng.standard_normal((n + points * k, 40))
    matrix = whole @ whole.T
    b = np.stack([matrix[:n, n + k * i : n + k * (i + 1)] for i in range(points)], 1)
    p = np.stack([matrix[n + k * i : n + k * (i + 1), n + k * i : n + k * (i + 1)] for i in range(points)])
    x, y = rng.standard_normal(n), rng.standard_normal((points, k))
    s = matrix[:n, :n] + n * 40 * np.eye(n)
    g = s @ x + np.einsum("npk,pk->n", b, y)
    h = np.einsum("npk,n->pk", b, x) + np.einsum("pkl,pl->pk", p, y)
    found, _ = solve(NormalEquations(s, b, p, g, h, device))
    return "the solution is not the one that was put in" if np.abs(found - x).max() > 1e-8 else ""


def _off(found: np.ndarray, expected: np.ndarray | float, what: str) -> str:
    """1e-5: sums of hundreds of float32 products."""
    error = float(np.max(np.abs(found / expected - 1)))
    return "" if error < 1e-5 else f"{what} is off by {error:.1g}"
