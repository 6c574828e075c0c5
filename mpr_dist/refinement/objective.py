"""Log-likelihood of one tilt series against its references, with gradient and Gauss-Newton matrix.

With whitened data (E|noise|^2 = 1 per complex sample) and model s m, the log-likelihood up to a constant is
    L = sum over images of 2 s <X,m> - s^2 <m,m>
and its Gauss-Newton matrix is the Fisher information. Priors are Gaussian; the sum of both is what is maximised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.geometry import Projection, project, views
from mpr_dist.imaging.particle_images import KernelTables, ParticleImages, kernel_tables
from mpr_dist.imaging.reference import Reference
from mpr_dist.maths.kernels.compare import N_LOCAL as N_KERNEL
from mpr_dist.maths.kernels.compare import N_OUT, compare
from mpr_dist.maths.solve import NormalEquations
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.jacobian import N_LOCAL, Jacobian, jacobian
from mpr_dist.refinement.layout import POSE_SIZE, Layout
from mpr_dist.refinement.priors import Precision
from mpr_dist.refinement.state import State, pose_offsets, series_offsets
from mpr_dist.units import A_PER_UM, F64

_UPPER = np.triu_indices(N_KERNEL)


@dataclass(frozen=True, eq=False)
class SpeciesData:
    """One species in one series: its images and what they are compared with."""

    species: Species
    images: ParticleImages
    reference: Reference


@dataclass(frozen=True, eq=False)
class Products:
    """Inner products of the images with the model at scale 1 and its local derivatives (kernels/compare.py).

    Attributes:
        xm, mm: (particles, tilts); xd, md: (particles, tilts, 6); dd: (particles, tilts, 6, 6).
    """

    xm: F64
    mm: F64
    xd: F64
    md: F64
    dd: F64


def products(
    series: TiltSeries, particles: Particles, data: SpeciesData, *, cross_half: bool = False
) -> tuple[Products, Projection]:
    """One pass over the images of one species. cross_half compares with the other half-set's reference."""
    projection = project(series, particles.position_A)
    tables: KernelTables = kernel_tables(series, data.species, data.images, data.reference.grid_px)
    half = particles.half.astype(np.int64) - 1
    limit = data.images.samples.ring_end[data.images.samples.ring_of(data.reference.q_max)]
    out = np.empty((*data.images.active.shape, N_OUT))
    compare(
        data.reference.volumes,
        1 - half if cross_half else half,
        data.images.values,
        data.images.active,
        views(series, particles.position_A, particles.angles_deg).astype(np.float32),
        (projection.xy_A - data.images.xy_A).astype(np.float32),
        (A_PER_UM * projection.defocus_um).astype(np.float32),
        tables.astig,
        tables.fixed,
        tables.weight,
        np.minimum(data.images.n_samples, limit),
        tables.tables,
        out,
    )
    if not np.isfinite(out).all():
        raise SeriesError(f"series {series.name}: comparing {data.species.name} with its reference gave NaN")
    k = N_KERNEL
    dd = np.zeros((*out.shape[:2], k, k))
    dd[..., _UPPER[0], _UPPER[1]] = out[..., 2 + 2 * k :]
    dd[..., _UPPER[1], _UPPER[0]] = out[..., 2 + 2 * k :]
    return Products(out[..., 0], out[..., 1 + k], out[..., 1 : 1 + k], out[..., 2 + k : 2 + 2 * k], dd), projection


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Attributes:
    likelihood, objective: log-likelihood, and with the log prior.
    equations: normal equations of the whole problem (prior included).
    xm, mm: (tilts,) sums over particles at scale 1.
    """

    likelihood: float
    objective: float
    equations: NormalEquations
    xm: F64
    mm: F64


def evaluate(
    state: State, origin: State, layout: Layout, prior: Precision, data: tuple[SpeciesData, ...]
) -> Evaluation:
    """Value, gradient and normal matrix at a state; one pass over the images. origin: the prior's centre."""
    passes = [products(state.series, p, d) for p, d in zip(state.particles, data, strict=True)]
    jacobians = [
        jacobian(state.series, p, projection, layout)
        for p, (_, projection) in zip(state.particles, passes, strict=True)
    ]
    scale = np.exp(state.log_scale)
    xm = sum((product.xm.sum(0) for product, _ in passes), np.zeros(layout.n_tilts))
    mm = sum((product.mm.sum(0) for product, _ in passes), np.zeros(layout.n_tilts))
    likelihood = float((2 * scale * xm - scale**2 * mm).sum())
    equations = _assemble(scale, [product for product, _ in passes], jacobians, layout)
    offset = series_offsets(state, origin, layout)
    equations, log_prior = _add_prior(equations, offset, prior)
    if layout.poses:
        pairs = zip(state.particles, origin.particles, strict=True)
        poses = np.concatenate([pose_offsets(p, q) for p, q in pairs])
        log_prior -= 0.5 * float((poses**2 * prior.pose).sum())
        p = equations.p + np.diag(prior.pose)
        equations = NormalEquations(equations.s, equations.b, p, equations.g, equations.h - poses * prior.pose)
    return Evaluation(likelihood, likelihood + log_prior, equations, xm, mm)


def _add_prior(equations: NormalEquations, offset: F64, prior: Precision) -> tuple[NormalEquations, float]:
    pull = prior.series @ offset
    e = equations
    return NormalEquations(e.s + prior.series, e.b, e.p, e.g - pull, e.h), -0.5 * float(offset @ pull)


def _assemble(scale: F64, passes: list[Products], jacobians: list[Jacobian], layout: Layout) -> NormalEquations:
    """Chain rule: local gradient and information of every image -> normal equations in the model's parameters."""
    n, n_points = layout.n_series, sum(p.xm.shape[0] for p in passes) if layout.poses else 0
    out = NormalEquations(
        np.zeros((n, n)),
        np.zeros((n, n_points, POSE_SIZE)),
        np.zeros((n_points, POSE_SIZE, POSE_SIZE)),
        np.zeros(n),
        np.zeros((n_points, POSE_SIZE)),
    )
    first = 0
    for product, jac in zip(passes, jacobians, strict=True):
        count = product.xm.shape[0]
        points = slice(first, first + count)
        for t in range(layout.n_tilts):
            gradient, information = _local(product, scale[t], t)
            _add_tilt(out, layout, t, points, gradient, information, jac)
        first += count
    return out


def _local(product: Products, s: float, t: int) -> tuple[F64, F64]:
    """Gradient (particles, 7) and information (particles, 7, 7) of one tilt in its local parameters."""
    count = product.xm.shape[0]
    gradient = np.empty((count, N_LOCAL))
    gradient[:, :N_KERNEL] = 2 * (s * product.xd[:, t] - s * s * product.md[:, t])
    gradient[:, N_KERNEL] = 2 * (s * product.xm[:, t] - s * s * product.mm[:, t])
    information = np.empty((count, N_LOCAL, N_LOCAL))
    information[:, :N_KERNEL, :N_KERNEL] = product.dd[:, t]
    information[:, :N_KERNEL, N_KERNEL] = product.md[:, t]
    information[:, N_KERNEL, :N_KERNEL] = product.md[:, t]
    information[:, N_KERNEL, N_KERNEL] = product.mm[:, t]
    return gradient, 2 * s * s * information


def _add_tilt(
    out: NormalEquations, layout: Layout, t: int, points: slice, gradient: F64, information: F64, jac: Jacobian
) -> None:
    columns = layout.columns(t)
    j = jac.series[t]
    weighted = information @ j
    out.s[np.ix_(columns, columns)] += np.tensordot(j, weighted, axes=([0, 1], [0, 1]))
    out.g[columns] += np.tensordot(j, gradient, axes=([0, 1], [0, 1]))
    if layout.poses:
        k = jac.pose[t]
        out.b[columns, points] += np.einsum("plc,plk->cpk", weighted, k)
        out.p[points] += np.swapaxes(k, 1, 2) @ information @ k
        out.h[points] += np.einsum("plk,pl->pk", k, gradient)
