"""One pass over the images of a species: their inner products with the model and its local derivatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.errors import SeriesError
from mpr_dist.imaging.particle_images import KernelTables, ParticleImages, kernel_tables
from mpr_dist.imaging.passes import compare_images
from mpr_dist.imaging.reference import Reference
from mpr_dist.imaging.samples import Samples
from mpr_dist.maths.kernels.cards import Seen
from mpr_dist.maths.kernels.compare import Q2_4
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.base import KernelRow, ParameterClass
from mpr_dist.refinement.layout import N_BASIC, Layout
from mpr_dist.refinement.linearisation import Linearisation
from mpr_dist.refinement.state import AS_ITS_TILT, Strength
from mpr_dist.units import A_PER_UM, F32, F64, I64


@dataclass(frozen=True, eq=False)
class SpeciesData:
    """One species in one series: its images and what they are compared with.

    frozen: the optics that it is compared with throughout, for a species too coarse to refine them; None otherwise.
    """

    species: Species
    images: ParticleImages
    reference: Reference
    frozen: Optics | None = None


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of the images with the model at scale 1 and its local derivatives (kernels/compare.py).

    Attributes:
        xm, mm: (particles, tilts); xd, md: (particles, tilts, k); dd: (particles, tilts, k, k) for k local parameters.
        where: the device that has them; finite: whether all are, a single truth there.
    """

    xm: Any
    mm: Any
    xd: Any
    md: Any
    dd: Any
    where: Device = HOST
    finite: Any = np.True_

    def on(self, device: Device) -> Products:
        """The same on a device."""
        if device is self.where:
            return self
        names = ("xm", "mm", "xd", "md", "dd", "finite")
        moved = {name: device.put(self.where.take(getattr(self, name))) for name in names}
        return Products(**moved, where=device)

    def of(self, own: I64) -> Products:
        """The same for some of the local parameters."""
        place = self.where.put(own)
        dd = self.dd[..., place[:, None], place]
        return replace(self, xd=self.xd[..., place], md=self.md[..., place], dd=dd)


def products(
    series: TiltSeries,
    particles: Particles,
    data: SpeciesData,
    layout: Layout | None = None,
    strength: Strength = AS_ITS_TILT,
    *,
    cross_half: bool = False,
    at: Linearisation | None = None,
    stay: bool = False,
) -> Products:
    """One pass over the images of one species. cross_half compares with the other half-set's reference.

    strength: of the species, beyond that of the tilts; part of the model at scale 1. at: the geometry, where it is
    known; for a species with frozen optics it is another one. stay: leave them on the card that has the images, if
    there is room, and whether they are finite for later (``refuse``).

    The layout says which derivatives are taken besides the basic seven; None: no others.
    """
    if data.frozen is not None:
        series, at = replace(series, optics=data.frozen), None
    device = data.images.device
    seen, shift = there_or_here(device, lambda where: _seen(series, particles, data, strength, at, where))
    to_grid = data.reference.grid_px * data.species.pixel_size_A
    classes = layout.classes if layout else ()
    kinds, rows = _extra_rows(classes, series.optics.wavelength_A, data.images.samples, to_grid)
    half = particles.half.astype(np.int64) - 1
    how = (1 - half if cross_half else half), shift, seen, kinds, device.kept(rows)
    found, where = there_or_here(
        device if stay else HOST,
        lambda where: (compare_images(data.images, data.reference.volumes, *how, where=where), where),
    )
    finite = where.xp.isfinite(found).all()
    if not stay and not finite:
        refuse(series, data)
    return replace(unpacked(found, N_BASIC + len(kinds), where), finite=finite)


def refuse(series: TiltSeries, data: SpeciesData) -> None:
    """
    Raises:
        SeriesError: products are not finite.
    """
    raise SeriesError(f"series {series.name}: comparing {data.species.name} with its reference gave NaN")


def _seen(
    series: TiltSeries,
    particles: Particles,
    data: SpeciesData,
    strength: Strength,
    at: Linearisation | None,
    where: Device,
) -> tuple[Seen, F32]:
    """How the images are seen, and the shifts (particles, tilts, 2) from where they were cut; on a device."""
    at = at.on(where) if at else Linearisation.of(series, particles, device=where)
    projection, images = at.projection, data.images
    tables: KernelTables = kernel_tables(series, data.species, images, data.reference.grid_px, particles, where)
    limit = images.samples.ring_end[images.samples.ring_of(data.reference.q_max)]
    weight = tables.weight
    if strength != AS_ITS_TILT:
        weight = (weight * where.xp.exp(strength[0] + strength[1] * tables.tables[Q2_4])).astype(np.float32)
    seen = Seen(
        images.active,
        at.views.astype(np.float32),
        (A_PER_UM * projection.defocus_um).astype(np.float32),
        tables.astig,
        tables.fixed,
        weight,
        tables.weight_row,
        np.minimum(images.n_samples, limit),
        tables.tables,
        tables.is_curved,
    )
    return seen, (projection.xy_A - where.kept(images.xy_A)).astype(np.float32)


@lru_cache(maxsize=4)
def _extra_rows(
    classes: tuple[ParameterClass, ...], wavelength_A: float, samples: Samples, to_grid: float
) -> tuple[I64, F32]:
    """What the kernel takes for derivatives beyond the basic seven, in the order of the local parameters; made once."""
    qx, qy = samples.frequencies()
    extra = tuple(row for each in classes for row in each.kernel_rows(wavelength_A, qx, qy, to_grid))
    return stacked(extra, len(qx))


def stacked(extra: tuple[KernelRow, ...], n_samples: int) -> tuple[I64, F32]:
    rows = np.zeros((len(extra), n_samples), np.float32)
    for i, each in enumerate(extra):
        rows[i] = each.values
    return np.array([each.kind for each in extra], np.int64), rows


def unpacked(out: Any, k: int, where: Device = HOST) -> Products:
    first, second = (where.put(each) for each in np.triu_indices(k))
    dd = where.xp.zeros((*out.shape[:2], k, k))
    dd[..., first, second] = out[..., 2 + 2 * k :]
    dd[..., second, first] = out[..., 2 + 2 * k :]
    return Products(out[..., 0], out[..., 1 + k], out[..., 1 : 1 + k], out[..., 2 + k : 2 + 2 * k], dd, where)


def local_equations(product: Products, scale: F64, tilts: slice) -> tuple[Any, Any]:
    """Gradient (tilts, particles, local) and information (tilts, particles, local, local) in the local parameters.

    scale: (all tilts,) on the host; the results are where the products are.
    """
    xp, s = product.where.xp, product.where.put(scale[tilts])[:, None]
    xm, mm, xd, md, dd = (
        xp.swapaxes(each[:, tilts], 0, 1) for each in (product.xm, product.mm, product.xd, product.md, product.dd)
    )
    (n_t, count), k = xm.shape, xd.shape[-1]
    gradient = xp.empty((n_t, count, k + 1))
    gradient[..., :k] = 2 * (s[..., None] * xd - s[..., None] * s[..., None] * md)
    gradient[..., k] = 2 * (s * xm - s * s * mm)
    information = xp.empty((n_t, count, k + 1, k + 1))
    information[..., :k, :k] = dd
    information[..., :k, k] = md
    information[..., k, :k] = md
    information[..., k, k] = mm
    return gradient, (2 * s * s)[..., None, None] * information
