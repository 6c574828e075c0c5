"""Log-likelihood of one tilt series against its references, with gradient and Gauss-Newton matrix.

With whitened data (E|noise|^2 = 1 per complex sample) and model s m, the log-likelihood up to a constant is
    L = sum over images of 2 s <X,m> - s^2 <m,m>
and its Gauss-Newton matrix is the Fisher information. Priors are Gaussian; the sum of both is what is maximised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.geometry import Projection, project, views
from mpr_dist.imaging.particle_images import KernelTables, ParticleImages, kernel_tables
from mpr_dist.imaging.reference import Reference
from mpr_dist.maths.kernels.compare import N_LOCAL as N_KERNEL
from mpr_dist.maths.kernels.compare import N_OUT, compare
from mpr_dist.maths.solve import NormalEquations, covariance
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.jacobian import N_LOCAL, Jacobian, jacobian
from mpr_dist.refinement.layout import POSE_SIZE, Layout
from mpr_dist.refinement.priors import Precision
from mpr_dist.refinement.state import State, pose_offsets, series_offsets
from mpr_dist.units import A_PER_UM, F64

_UPPER = np.triu_indices(N_KERNEL)
BFACTOR = 6


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
        xm, mm: (particles, tilts); xd, md: (particles, tilts, 7); dd: (particles, tilts, 7, 7).
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
    projection = project(series, particles)
    tables: KernelTables = kernel_tables(series, data.species, data.images, data.reference.grid_px)
    half = particles.half.astype(np.int64) - 1
    limit = data.images.samples.ring_end[data.images.samples.ring_of(data.reference.q_max)]
    out = np.empty((*data.images.active.shape, N_OUT))
    compare(
        data.reference.volumes,
        1 - half if cross_half else half,
        data.images.values,
        data.images.active,
        views(series, particles).astype(np.float32),
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
    series_information: (tilts, parameters per tilt, same) what the images of each tilt say about its own parameters.
    pose_information: (tilts, points, 6, 6) what each tilt adds to the normal matrix of every pose.
    steepness: (tilts,) d log(information) / d B of each tilt, A^-2.
    occam: the cost of amplitude it includes.
    """

    likelihood: float
    objective: float
    equations: NormalEquations
    xm: F64
    mm: F64
    series_information: F64
    pose_information: F64
    steepness: F64
    occam: Occam | None


@dataclass(frozen=True, eq=False)
class Occam:
    """Cost of amplitude in tilts whose geometry is fitted to the same images.

    The marginal likelihood of scale and B-factor (Laplace's approximation over the geometry) differs from the joint one
    by -1/2 log det H. A tilt that determines d of its n geometric parameters at (s0, B0) contributes about
        -n/2 log(1 + r x),   x = (s / s0)^2 exp(steepness (B - B0)),   r = d / (n - d)
    which has the right slope, -d/2 per unit of log x, and vanishes with the signal. Without it weak tilts look stronger
    the more is fitted to their noise, and every standard deviation comes out too small.

    Attributes:
        n: (tilts,) parameters; r: (tilts,); steepness: (tilts,) d log(information) / d B, A^-2.
        log_scale, bfactor: (tilts,) where they were taken.
    """

    n: F64
    r: F64
    steepness: F64
    log_scale: F64
    bfactor: F64

    def at(self, state: State) -> tuple[float, F64, F64]:
        """Value, and per tilt the slope and curvature with respect to log x."""
        change = state.series.weights.bfactor.values.ravel() - self.bfactor
        rx = self.r * np.exp(np.minimum(2 * (state.log_scale - self.log_scale) + self.steepness * change, 50.0))
        return (
            -0.5 * float((self.n * np.log1p(rx)).sum()),
            -0.5 * self.n * rx / (1 + rx),
            0.5 * self.n * rx / (1 + rx) ** 2,
        )


def evaluate(
    state: State,
    origin: State,
    layout: Layout,
    prior: Precision,
    data: tuple[SpeciesData, ...],
    occam: Occam | None,
    *,
    cross_half: bool = False,
) -> Evaluation:
    """Value, gradient and normal matrix at a state; one pass over the images. origin: the prior's centre."""
    pairs = zip(state.particles, data, strict=True)
    passes = [products(state.series, p, d, cross_half=cross_half) for p, d in pairs]
    jacobians = [
        jacobian(state.series, p, projection, layout)
        for p, (_, projection) in zip(state.particles, passes, strict=True)
    ]
    scale = np.exp(state.log_scale)
    xm = sum((product.xm.sum(0) for product, _ in passes), np.zeros(layout.n_tilts))
    mm = sum((product.mm.sum(0) for product, _ in passes), np.zeros(layout.n_tilts))
    likelihood = float((2 * scale * xm - scale**2 * mm).sum())
    equations, series_information, pose_information = _assemble(
        scale, [product for product, _ in passes], jacobians, layout
    )
    offset = series_offsets(state, origin, layout)
    equations, log_prior = _add_prior(equations, offset, prior)
    log_prior += _add_occam(equations, state, layout, occam)
    if layout.poses:
        moved = zip(state.particles, origin.particles, strict=True)
        poses = np.concatenate([pose_offsets(p, q) for p, q in moved])
        log_prior -= 0.5 * float((poses**2 * prior.pose).sum())
        p = equations.p + np.diag(prior.pose)
        equations = NormalEquations(equations.s, equations.b, p, equations.g, equations.h - poses * prior.pose)
    return Evaluation(
        likelihood,
        likelihood + log_prior,
        equations,
        xm,
        mm,
        series_information,
        pose_information,
        _steepness([p for p, _ in passes]),
        occam,
    )


def _steepness(passes: list[Products]) -> F64:
    # shifts carry information in proportion to q^2 |m|^2, so one more factor of 2 q^2/4 weighs it by <dB,dB> / <m,dB>
    above = sum((p.dd[:, :, BFACTOR, BFACTOR].sum(0) for p in passes), np.zeros(passes[0].xm.shape[1]))
    below = sum((p.md[:, :, BFACTOR].sum(0) for p in passes), np.zeros(passes[0].xm.shape[1]))
    return np.divide(2 * above, below, out=np.zeros_like(above), where=below > 0)


def _add_occam(equations: NormalEquations, state: State, layout: Layout, occam: Occam | None) -> float:
    if occam is None:
        return 0.0
    value, slope, curvature = occam.at(state)
    scale = np.arange(*layout.slices["log_scale"].indices(layout.n_series))
    bfactor = np.arange(*layout.slices["bfactor"].indices(layout.n_series))
    equations.g[scale] += 2 * slope
    equations.g[bfactor] += occam.steepness * slope
    equations.s[scale, scale] += 4 * curvature
    equations.s[bfactor, bfactor] += occam.steepness**2 * curvature
    equations.s[scale, bfactor] += 2 * occam.steepness * curvature
    equations.s[bfactor, scale] += 2 * occam.steepness * curvature
    return value


def occam_at(state: State, evaluation: Evaluation, layout: Layout) -> Occam:
    """Cost of amplitude around a state, from the information its images carry."""
    poses = sum(len(p) for p in state.particles) * POSE_SIZE if layout.poses else 0
    n = np.full(layout.n_tilts, sum(layout.widths.values()) - 2 + poses / layout.n_tilts)
    d = np.clip(effective_parameters(evaluation, layout), 0.0, 0.95 * n)
    bfactor = state.series.weights.bfactor.values.ravel()
    return Occam(n, d / np.maximum(n - d, 1e-9), evaluation.steepness, state.log_scale, bfactor)


def effective_parameters(evaluation: Evaluation, layout: Layout) -> F64:
    """(tilts,) how many geometric parameters the images of each tilt determine: trace(covariance x its information)."""
    e = evaluation.equations
    geometric = np.ones(layout.n_series, bool)
    for name in ("bfactor", "log_scale"):
        geometric[layout.slices[name]] = False
    if not geometric.any() and not e.p.size:
        return np.zeros(layout.n_tilts)
    blocks = covariance(NormalEquations(e.s[np.ix_(geometric, geometric)], e.b[geometric], e.p, e.g[geometric], e.h))
    information = evaluation.series_information
    place = np.cumsum(geometric) - 1
    out = np.zeros(layout.n_tilts)
    for t in range(layout.n_tilts):
        columns = layout.columns(t)
        inside = np.flatnonzero(geometric[columns])
        rows = place[columns[inside]]
        out[t] = np.sum(blocks.s[np.ix_(rows, rows)] * information[t][np.ix_(inside, inside)])
        if layout.poses:
            out[t] += 2 * np.sum(blocks.sp[rows] * e.b[columns[inside]])
            out[t] += np.sum(blocks.p * evaluation.pose_information[t])
    return out


def _add_prior(equations: NormalEquations, offset: F64, prior: Precision) -> tuple[NormalEquations, float]:
    pull = prior.series @ offset
    e = equations
    return NormalEquations(e.s + prior.series, e.b, e.p, e.g - pull, e.h), -0.5 * float(offset @ pull)


def _assemble(
    scale: F64, passes: list[Products], jacobians: list[Jacobian], layout: Layout
) -> tuple[NormalEquations, F64, F64]:
    """Chain rule: local gradient and information of every image -> normal equations in the model's parameters."""
    n, n_points = layout.n_series, sum(p.xm.shape[0] for p in passes) if layout.poses else 0
    out = NormalEquations(
        np.zeros((n, n)),
        np.zeros((n, n_points, POSE_SIZE)),
        np.zeros((n_points, POSE_SIZE, POSE_SIZE)),
        np.zeros(n),
        np.zeros((n_points, POSE_SIZE)),
    )
    width = sum(layout.widths.values())
    by_tilt = np.zeros((layout.n_tilts, width, width))
    by_pose = np.zeros((layout.n_tilts, n_points, POSE_SIZE, POSE_SIZE))
    first = 0
    for product, jac in zip(passes, jacobians, strict=True):
        count = product.xm.shape[0]
        points = slice(first, first + count)
        for t in range(layout.n_tilts):
            gradient, information = _local(product, scale[t], t)
            _add_tilt(out, layout, t, points, gradient, information, jac, by_tilt, by_pose)
        first += count
    return replace(out, p=by_pose.sum(0)), by_tilt, by_pose


def _local(product: Products, s: float, t: int) -> tuple[F64, F64]:
    """Gradient (particles, 8) and information (particles, 8, 8) of one tilt in its local parameters."""
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
    out: NormalEquations,
    layout: Layout,
    t: int,
    points: slice,
    gradient: F64,
    information: F64,
    jac: Jacobian,
    by_tilt: F64,
    by_pose: F64,
) -> None:
    columns = layout.columns(t)
    j = jac.series[t]
    weighted = information @ j
    own = np.tensordot(j, weighted, axes=([0, 1], [0, 1]))
    by_tilt[t] += own
    out.s[np.ix_(columns, columns)] += own
    out.g[columns] += np.tensordot(j, gradient, axes=([0, 1], [0, 1]))
    if layout.poses:
        k = jac.pose[t]
        out.b[columns, points] += np.einsum("plc,plk->cpk", weighted, k)
        by_pose[t, points] = np.swapaxes(k, 1, 2) @ information @ k
        out.h[points] += np.einsum("plk,pl->pk", k, gradient)
