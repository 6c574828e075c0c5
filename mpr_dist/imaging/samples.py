"""The Fourier samples of a square box that count: half the plane, every Hermitian pair once, ordered by ring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.errors import InputError
from mpr_dist.units import F64, I64


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a box, sorted by ring and by angle within it, so that a resolution limit is a prefix.

    Attributes:
        box_px, pixel_A: of the box that was transformed.
        kx, ky: (samples,) int64 Fourier pixels; kx > 0, or kx = 0 and ky > 0. The zero frequency is left out.
        ring: (samples,) rounded |k|.
        ring_end: (rings,) number of samples with ring <= r.
    """

    box_px: int
    pixel_A: float
    kx: I64
    ky: I64
    ring: I64
    ring_end: I64

    @property
    def qx(self) -> F64:
        """(samples,) in 1/A."""
        return self.frequencies()[0]

    @property
    def qy(self) -> F64:
        """(samples,) in 1/A."""
        return self.frequencies()[1]

    def frequencies(self, device: Device = HOST) -> tuple[F64, F64]:
        """qx, qy (samples,) in 1/A on a device."""
        edge_A = self.box_px * self.pixel_A
        return device.kept(self.kx) / edge_A, device.kept(self.ky) / edge_A

    @property
    def n_rings(self) -> int:
        return len(self.ring_end)

    def ring_of(self, q: F64 | float) -> I64:
        """Last ring wholly inside spatial frequency q (1/A), at most the outermost one."""
        r = np.floor(np.asarray(q) * self.box_px * self.pixel_A - 0.5 + 1e-6)
        return np.clip(r, 0, self.n_rings - 1).astype(np.int64)


def box_samples(box_px: int, pixel_A: float, q_max: float) -> Samples:
    """Samples of a box up to spatial frequency q_max (1/A), never beyond the last full ring inside Nyquist."""
    if box_px % 2:
        raise InputError(f"boxes must be even, got {box_px} px")
    r_max = int(min(np.floor(q_max * box_px * pixel_A + 1e-6), box_px // 2 - 1))
    k = np.arange(-r_max, r_max + 1)
    ky, kx = (a.ravel() for a in np.meshgrid(k, k, indexing="ij"))
    ring = np.rint(np.hypot(kx, ky)).astype(np.int64)
    keep = (ring > 0) & (ring <= r_max) & ((kx > 0) | ((kx == 0) & (ky > 0)))
    kx, ky, ring = kx[keep], ky[keep], ring[keep]
    order = np.lexsort((np.arctan2(ky, kx), ring))
    ring = ring[order]
    ends = np.searchsorted(ring, np.arange(r_max + 1), side="right")
    return Samples(box_px, pixel_A, kx[order], ky[order], ring, ends)
