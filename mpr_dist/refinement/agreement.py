"""How well images agree with the opposite half-map, ring by ring, and how well they would at amplitude scale 1."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.particle_images import kernel_tables
from mpr_dist.maths.kernels.correlate import MM, MM_BLURRED, XM, correlate
from mpr_dist.maths.rotations import exp_rotation
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.cavity import Cavity
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.state import AS_ITS_TILT, Strength
from mpr_dist.units import A_PER_UM, F64, I64

RING_WIDTH = 0.01  # 1/A
FEWEST_RINGS = 8


@dataclass(frozen=True, eq=False)
class Rings:
    """Bins of spatial frequency, each cut into sectors of the polar angle (modulo 180 degrees).

    Attributes:
        width: 1/A; count: rings; sectors: of each ring.
    """

    width: float
    count: int
    sectors: int = 1

    @staticmethod
    def up_to(q_max: float, sectors: int = 1) -> Rings:
        width = min(RING_WIDTH, q_max / FEWEST_RINGS)
        return Rings(width, int(q_max / width) + 1, sectors)

    @property
    def size(self) -> int:
        """Number of bins; ring by ring."""
        return self.count * self.sectors

    def bins(self, qx: F64, qy: F64) -> I64:
        """(samples,) bin of each sample."""
        ring = np.minimum((np.hypot(qx, qy) / self.width).astype(np.int64), self.count - 1)
        turn = np.mod(np.arctan2(qy, qx) / np.pi + 0.5 / self.sectors, 1.0)
        return ring * self.sectors + np.minimum((turn * self.sectors).astype(np.int64), self.sectors - 1)

    @property
    def ring(self) -> I64:
        """(bins,) the ring of each bin."""
        return np.repeat(np.arange(self.count), self.sectors)

    @property
    def q2(self) -> F64:
        """(bins,) mean square frequency, 1/A^2."""
        low, high = self.ring * self.width, (self.ring + 1) * self.width
        return np.asarray((low**2 + high**2) / 2)

    @property
    def theta(self) -> F64:
        """(bins,) polar angle of the middle of each sector, radians."""
        return np.tile(np.arange(self.sectors) * np.pi / self.sectors, self.count)


@dataclass(frozen=True, eq=False)
class Agreement:
    """Sums over the samples of every bin, (particles, tilts, bins) or sums of these.

    Attributes:
        xm: <X,m> of whitened images with slices without envelope at scale 1.
        expected: what that is on average when scale and envelope are 1, their places uncertain.
        variance: of xm, by noise; scatter: by the places, for scale and envelope 1.
    """

    xm: F64
    expected: F64
    variance: F64
    scatter: F64


def agreement(
    series: TiltSeries,
    particles: Particles,
    data: SpeciesData,
    at: Cavity,
    rings: Rings,
    strength: Strength = AS_ITS_TILT,
) -> Agreement:
    """Of the images of one species with the opposite half-map, each where everything but itself places it.

    The scales of the tilts, and their B-factors, do not enter; weights by location do, and the strength of the species.
    One light pass over the images.
    """
    if data.frozen is not None:
        series = replace(series, optics=data.frozen)
    tables = kernel_tables(_bare(series), data.species, data.images, data.reference.grid_px, particles)
    samples, projection = data.images.samples, project(series, particles)
    limit = samples.ring_end[samples.ring_of(data.reference.q_max)]
    other = 1 - (particles.half.astype(np.int64) - 1)
    shift = (projection.xy_A - data.images.xy_A + at.mean[..., :2]).astype(np.float32)
    view = (exp_rotation(at.mean[..., 2:5]) @ views(series, particles)).astype(np.float32)
    defocus = (A_PER_UM * projection.defocus_um + at.mean[..., 5]).astype(np.float32)
    blur, bins = at.blur.astype(np.float32), rings.bins(samples.qx, samples.qy)
    out = np.empty((*data.images.active.shape, rings.size, 3))
    take = data.images.device.take  # a light pass: it is taken on the host, wherever the images are
    for part, values in data.images.blocks():
        correlate(
            data.reference.volumes,
            other[part],
            take(values),
            data.images.active[part],
            view[part],
            shift[part],
            defocus[part],
            blur[part],
            tables.astig,
            tables.fixed,
            tables.weight,
            tables.weight_row[part],
            np.full(series.n_tilts, limit),
            tables.tables,
            tables.is_curved,
            bins,
            out[part],
        )
    factor = np.exp(strength[0] + strength[1] * rings.q2 / 4)
    power, expected = out[..., MM], out[..., MM_BLURRED]
    kept = np.divide(expected, power, out=np.ones_like(power), where=power > 0)
    # a phase of variance v: its cosine has mean exp(-v/2) and variance (1 - exp(-v))^2 / 2
    scatter = 0.5 * (factor * power * (1 - kept**2)) ** 2
    return Agreement(out[..., XM], factor * expected, 0.5 * power, scatter)


def _bare(series: TiltSeries) -> TiltSeries:
    zero = CubicGrid.constant(0.0)
    none = CubicGrid.per_tilt(np.zeros(max(series.n_tilts, 2)))
    weights = replace(series.weights, bfactor=none, bfactor_delta=zero, bfactor_angle=zero, series_bfactor=0.0)
    return replace(series, weights=weights)
