"""Log-likelihood of one tilt series against its references, with gradient and Gauss-Newton matrix.

With whitened data (E|noise|^2 = 1 per complex sample) and model s m, the log-likelihood up to a constant is
    L = sum over images of 2 s <X,m> - s^2 <m,m>
and its Gauss-Newton matrix is the Fisher information. Priors are Gaussian; the sum of both is what is maximised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpr_dist.arrays import Device, there_or_here
from mpr_dist.errors import SeriesError
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.particle_images import KernelTables, ParticleImages, kernel_tables
from mpr_dist.imaging.passes import compare_images
from mpr_dist.imaging.reference import Reference
from mpr_dist.maths.kernels.cards import Seen
from mpr_dist.maths.kernels.compare import Q2_4
from mpr_dist.maths.solve import NormalEquations, covariance
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.base import KernelRow
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import N_BASIC, Layout
from mpr_dist.refinement.linearisation import BFACTOR, Linearisation
from mpr_dist.refinement.occam import Occam
from mpr_dist.refinement.priors import Precision
from mpr_dist.refinement.state import AS_ITS_TILT, POSE_SIZE, State, Strength, offset_derivative, pose_offsets
from mpr_dist.units import A_PER_UM, F32, F64, I64

# of a card's room: normal equations that stay there
SHARE_OF_EQUATIONS = 0.1


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
    """

    xm: F64
    mm: F64
    xd: F64
    md: F64
    dd: F64


def products(
    series: TiltSeries,
    particles: Particles,
    data: SpeciesData,
    layout: Layout | None = None,
    strength: Strength = AS_ITS_TILT,
    *,
    cross_half: bool = False,
    at: Linearisation | None = None,
) -> Products:
    """One pass over the images of one species. cross_half compares with the other half-set's reference.

    strength: of the species, beyond that of the tilts; part of the model at scale 1. at: the geometry, where it is
    known; for a species with frozen optics it is another one.

    The layout says which derivatives are taken besides the basic seven; None: no others.
    """
    if data.frozen is not None:
        series, at = replace(series, optics=data.frozen), None
    projection = at.projection if at else project(series, particles)
    tables: KernelTables = kernel_tables(series, data.species, data.images, data.reference.grid_px, particles)
    half = particles.half.astype(np.int64) - 1
    samples = data.images.samples
    limit = samples.ring_end[samples.ring_of(data.reference.q_max)]
    to_grid = data.reference.grid_px * data.species.pixel_size_A
    extra = layout.kernel_rows(series, samples.qx, samples.qy, to_grid) if layout else ()
    reference = 1 - half if cross_half else half
    shift = (projection.xy_A - data.images.xy_A).astype(np.float32)
    weight = tables.weight
    if strength != AS_ITS_TILT:
        weight = (weight * np.exp(strength[0] + strength[1] * tables.tables[Q2_4])).astype(np.float32)
    seen = Seen(
        data.images.active,
        (at.views if at else views(series, particles)).astype(np.float32),
        (A_PER_UM * projection.defocus_um).astype(np.float32),
        tables.astig,
        tables.fixed,
        weight,
        tables.weight_row,
        np.minimum(data.images.n_samples, limit),
        tables.tables,
        tables.is_curved,
    )
    kinds_and_rows = stacked(extra, len(samples.kx))
    out = compare_images(data.images, data.reference.volumes, reference, shift, seen, *kinds_and_rows)
    if not np.isfinite(out).all():
        raise SeriesError(f"series {series.name}: comparing {data.species.name} with its reference gave NaN")
    return unpacked(out, N_BASIC + len(extra))


def stacked(extra: tuple[KernelRow, ...], n_samples: int) -> tuple[I64, F32]:
    rows = np.zeros((len(extra), n_samples), np.float32)
    for i, each in enumerate(extra):
        rows[i] = each.values
    return np.array([each.kind for each in extra], np.int64), rows


def unpacked(out: F64, k: int) -> Products:
    upper = np.triu_indices(k)
    dd = np.zeros((*out.shape[:2], k, k))
    dd[..., upper[0], upper[1]] = out[..., 2 + 2 * k :]
    dd[..., upper[1], upper[0]] = out[..., 2 + 2 * k :]
    return Products(out[..., 0], out[..., 1 + k], out[..., 1 : 1 + k], out[..., 2 + k : 2 + 2 * k], dd)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Attributes:
    likelihood, objective: log-likelihood, and with the log prior.
    equations: normal equations of the whole problem (prior included).
    xm, mm: (tilts,) sums over particles at scale 1.
    series_information: per tilt, (its parameters, same) what its images say about the parameters they depend on.
    species_information: the same of every species alone; (species, tilts) signal: <m,m> at the scale of the tilt.
    pose_information: (tilts, points, pose size, same) what each tilt adds to the normal matrix of every pose.
    steepness: (tilts,) d log(information) / d B of each tilt, A^-2.
    occam: the cost of amplitude it includes.
    """

    likelihood: float
    objective: float
    equations: NormalEquations
    xm: F64
    mm: F64
    series_information: tuple[F64, ...]
    species_information: tuple[tuple[F64, ...], ...]
    signal: F64
    pose_information: F64
    steepness: F64
    occam: Occam | None


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
    at = tuple(Linearisation.of(state.series, p, i) for i, p in enumerate(state.particles))
    passes = [
        products(state.series, each.particles, d, layout, state.strength(i), cross_half=cross_half, at=each)
        for i, (each, d) in enumerate(zip(at, data, strict=True))
    ]
    return evaluation_of(passes, state, origin, layout, prior, data, occam, at)


def evaluation_of(
    passes: list[Products],
    state: State,
    origin: State,
    layout: Layout,
    prior: Precision,
    data: tuple[SpeciesData, ...],
    occam: Occam | None,
    at: tuple[Linearisation, ...] = (),
) -> Evaluation:
    """The same from products that were taken before, with the local parameters of the layout; at: as in them."""
    at = at or tuple(Linearisation.of(state.series, p, i) for i, p in enumerate(state.particles))
    jacobians = [Jacobian(each, layout, d.frozen is None) for each, d in zip(at, data, strict=True)]
    scale = np.exp(state.log_scale)
    xm = sum((product.xm.sum(0) for product in passes), np.zeros(layout.n_tilts))
    mm = sum((product.mm.sum(0) for product in passes), np.zeros(layout.n_tilts))
    likelihood = float((2 * scale * xm - scale**2 * mm).sum())
    equations, by_species, pose_information = there_or_here(
        data[0].images.device, lambda device: _assemble(scale, passes, jacobians, layout, device)
    )
    equations, log_prior = there_or_here(
        equations.where,
        lambda device: _with_priors(
            equations if device is equations.where else equations.on_host(), state, origin, layout, prior, occam
        ),
    )
    return Evaluation(
        likelihood,
        likelihood + log_prior,
        equations,
        xm,
        mm,
        tuple(sum(of_tilt[1:], of_tilt[0]) for of_tilt in zip(*by_species, strict=True)),
        by_species,
        np.stack([scale**2 * product.mm.sum(0) for product in passes]),
        pose_information,
        _steepness(passes),
        occam,
    )


def _steepness(passes: list[Products]) -> F64:
    # shifts carry information in proportion to q^2 |m|^2, so one more factor of 2 q^2/4 weighs it by <dB,dB> / <m,dB>
    above = sum((p.dd[:, :, BFACTOR, BFACTOR].sum(0) for p in passes), np.zeros(passes[0].xm.shape[1]))
    below = sum((p.md[:, :, BFACTOR].sum(0) for p in passes), np.zeros(passes[0].xm.shape[1]))
    return np.divide(2 * above, below, out=np.zeros_like(above), where=below > 0)


def _with_priors(
    equations: NormalEquations, state: State, origin: State, layout: Layout, prior: Precision, occam: Occam | None
) -> tuple[NormalEquations, float]:
    """What the images say and what is known beforehand, as new equations in the same place; log of the prior."""
    offset = layout.values(state) - layout.values(origin)
    equations, log_prior = _add_prior(equations, offset, prior)
    log_prior += _add_occam(equations, state, layout, occam)
    if layout.poses:
        equations, of_poses = _add_pose_prior(equations, state, origin, layout, prior)
        log_prior += of_poses
    return equations, log_prior


def _add_occam(equations: NormalEquations, state: State, layout: Layout, occam: Occam | None) -> float:
    if occam is None:
        return 0.0
    value, slope, curvature = occam.at(state)
    by_parameter = occam.slopes(layout)
    columns = np.flatnonzero(by_parameter.any(axis=0))
    moved, put = by_parameter[:, columns], equations.where.put
    there = put(columns)
    equations.g[there] += put(slope @ moved)
    equations.s[equations.where.xp.ix_(there, there)] += put((moved.T * curvature) @ moved)
    return value


def occam_at(state: State, evaluation: Evaluation, layout: Layout) -> Occam:
    """Cost of amplitude around a state, from the information its images carry."""
    poses = sum(len(p) * p.n_samples for p in state.particles) * POSE_SIZE if layout.poses else 0
    # two of a tilt's parameters are its amplitudes
    n = np.full(layout.n_tilts, (layout.n_series + poses) / layout.n_tilts - 2)
    d = np.clip(effective_parameters(evaluation, layout), 0.0, 0.95 * n)
    whole = evaluation.signal.sum(axis=0)
    share = np.divide(evaluation.signal, whole, out=np.zeros_like(evaluation.signal), where=whole > 0)
    return Occam(n, d / np.maximum(n - d, 1e-9), evaluation.steepness, share, state)


def effective_parameters(evaluation: Evaluation, layout: Layout) -> F64:
    """(tilts,) how many geometric parameters the images of each tilt determine: trace(covariance x its information)."""
    e = evaluation.equations.on_host()
    geometric = np.ones(layout.n_series, bool)
    for each in layout.classes:
        geometric[layout.slices[each.name]] = not each.is_amplitude
    if not geometric.any() and not e.p.size:
        return np.zeros(layout.n_tilts)
    s, place = e.s[np.ix_(geometric, geometric)], np.cumsum(geometric) - 1
    chain = tuple(place[rows] for rows in e.chain)  # there are no amplitudes in it
    geometry = NormalEquations(s, e.b[geometric], e.p, e.g[geometric], e.h, e.device, chain=chain)
    blocks = covariance(geometry, whole=False)  # of one tilt at a time
    information = evaluation.series_information
    out = np.zeros(layout.n_tilts)
    for t in range(layout.n_tilts):
        columns = layout.tilt_columns[t]
        inside = np.flatnonzero(geometric[columns])
        rows = place[columns[inside]]
        out[t] = np.sum(blocks.s[np.ix_(rows, rows)] * information[t][np.ix_(inside, inside)])
        if layout.poses:
            out[t] += 2 * np.sum(blocks.sp[rows] * e.b[columns[inside]])
            out[t] += np.sum(blocks.p * evaluation.pose_information[t])
    return out


def _add_prior(equations: NormalEquations, offset: F64, prior: Precision) -> tuple[NormalEquations, float]:
    e, device = equations, equations.where
    kept = device.resident(prior.series)
    held = device.put(prior.series) if kept is None else kept
    pull = held @ device.put(offset)
    return replace(e, s=e.s + held, g=e.g - pull, chain=prior.chain), -0.5 * float(offset @ device.take(pull))


def _add_pose_prior(
    equations: NormalEquations, state: State, origin: State, layout: Layout, prior: Precision
) -> tuple[NormalEquations, float]:
    p, h, put = equations.p.copy(), equations.h.copy(), equations.where.put
    value, start = 0.0, 0
    for now, then, precision in zip(state.particles, origin.particles, prior.poses, strict=True):
        part = slice(start, start + len(now))
        offset = pose_offsets(now, then, layout.samples)
        by_step = offset_derivative(offset)
        pull = offset @ precision
        p[part] += put(np.swapaxes(by_step, 1, 2) @ precision @ by_step)
        h[part] -= put(np.einsum("pij,pi->pj", by_step, pull))
        value -= 0.5 * float((pull * offset).sum())
        start += len(now)
    return replace(equations, p=p, h=h), value


def _assemble(
    scale: F64, passes: list[Products], jacobians: list[Jacobian], layout: Layout, device: Device
) -> tuple[NormalEquations, tuple[tuple[F64, ...], ...], F64]:
    """Chain rule: local gradient and information of every image -> normal equations in the model's parameters.

    Also what every tilt says about its parameters, species by species, and about every pose.
    """
    xp, take = device.xp, device.take
    n, k = layout.n_series, layout.pose_size
    n_points = sum(product.xm.shape[0] for product in passes) if layout.poses else 0
    shapes = (n, n), (n, n_points, k), (n_points, k, k), (n,), (n_points, k)
    s, b, p, g, h = (xp.zeros(shape) for shape in shapes)
    out = NormalEquations(s, b, p, g, h, device, where=device)
    by_species = []
    by_pose = xp.zeros((layout.n_tilts, n_points, k, k))
    start = 0
    for product, jac in zip(passes, jacobians, strict=True):
        points = slice(start, start + product.xm.shape[0])
        by_tilt = tuple(xp.zeros((len(columns), len(columns))) for columns in layout.tilt_columns)
        for t in range(layout.n_tilts):
            gradient, information = local_equations(product, scale[t], t)
            _add_tilt(out, t, points, gradient, information, jac, by_tilt[t], by_pose[t])
        by_species.append(by_tilt)
        start += product.xm.shape[0]
    out = replace(out, p=by_pose.sum(0))
    # those of a step and of the next one stay where they were made, if most of the room is left to images
    if sum(each.nbytes for each in out.arrays) > SHARE_OF_EQUATIONS * device.room_bytes():
        out = out.on_host()
    return out, tuple(_on_host(by_tilt, device) for by_tilt in by_species), take(by_pose)


def _on_host(blocks: tuple[Any, ...], device: Device) -> tuple[F64, ...]:
    """Square blocks, fetched from a card at once."""
    if not device.is_card:
        return blocks
    ends = np.cumsum([each.size for each in blocks])
    flat = device.take(device.xp.concatenate([each.ravel() for each in blocks]))
    return tuple(f.reshape(each.shape) for f, each in zip(np.split(flat, ends[:-1]), blocks, strict=True))


def local_equations(product: Products, s: float, t: int) -> tuple[F64, F64]:
    """Gradient (particles, local) and information (particles, local, local) of one tilt in its local parameters."""
    count, k = product.xm.shape[0], product.xd.shape[-1]
    gradient = np.empty((count, k + 1))
    gradient[:, :k] = 2 * (s * product.xd[:, t] - s * s * product.md[:, t])
    gradient[:, k] = 2 * (s * product.xm[:, t] - s * s * product.mm[:, t])
    information = np.empty((count, k + 1, k + 1))
    information[:, :k, :k] = product.dd[:, t]
    information[:, :k, k] = product.md[:, t]
    information[:, k, :k] = product.md[:, t]
    information[:, k, k] = product.mm[:, t]
    return gradient, 2 * s * s * information


def _add_tilt(
    out: NormalEquations,
    t: int,
    points: slice,
    gradient: F64,
    information: F64,
    jac: Jacobian,
    by_tilt: F64,
    by_pose: F64,
) -> None:
    put, xp = out.device.put, out.device.xp
    columns, j = put(jac.layout.tilt_columns[t]), put(jac.series(t))
    gradient, information = put(gradient), put(information)
    weighted = information @ j
    own = xp.tensordot(j, weighted, axes=([0, 1], [0, 1]))
    by_tilt += own
    out.s[xp.ix_(columns, columns)] += own
    out.g[columns] += xp.tensordot(j, gradient, axes=([0, 1], [0, 1]))
    if jac.layout.poses:
        k = put(jac.pose(t))
        out.b[columns, points] += xp.moveaxis(xp.swapaxes(weighted, 1, 2) @ k, 1, 0)
        by_pose[points] = xp.swapaxes(k, 1, 2) @ information @ k
        out.h[points] += xp.einsum("plk,pl->pk", k, gradient)
