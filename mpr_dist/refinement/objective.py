"""Log-likelihood of one tilt series against its references, with gradient and Gauss-Newton matrix.

With whitened data (E|noise|^2 = 1 per complex sample) and model s m, the log-likelihood up to a constant is
    L = sum over images of 2 s <X,m> - s^2 <m,m>
and its Gauss-Newton matrix is the Fisher information. Priors are Gaussian; the sum of both is what is maximised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.maths.solve import NormalEquations, covariance
from mpr_dist.refinement.assembly import Information, assemble
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import BFACTOR, Linearisation
from mpr_dist.refinement.occam import Occam
from mpr_dist.refinement.priors import Precision
from mpr_dist.refinement.products import Products, SpeciesData, products, refuse
from mpr_dist.refinement.state import POSE_SIZE, State, offset_derivative, pose_offsets
from mpr_dist.units import F64


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Attributes:
    likelihood, objective: log-likelihood, and with the log prior.
    equations: normal equations of the whole problem (prior included).
    sums: (species, 4, tilts) over particles at scale 1: <X,m>, <m,m>, and for the B-factor <m,dm> and <dm,dm>.
    scale: (tilts,) of the amplitude.
    information: what the images say about the parameters; most evaluations are only steps, and nobody asks.
    occam: the cost of amplitude it includes.
    """

    likelihood: float
    objective: float
    equations: NormalEquations
    sums: F64
    scale: F64
    information: Information
    occam: Occam | None

    @property
    def xm(self) -> F64:
        """(tilts,) <X,m> at scale 1, summed over all images."""
        return np.asarray(self.sums[:, 0].sum(0))

    @property
    def mm(self) -> F64:
        """(tilts,) <m,m> at scale 1, summed over all images."""
        return np.asarray(self.sums[:, 1].sum(0))

    @property
    def species_information(self) -> tuple[tuple[F64, ...], ...]:
        """Per species and tilt, (its parameters, same) what its images say about the parameters they depend on."""
        return self.information.by_species

    @cached_property
    def series_information(self) -> tuple[F64, ...]:
        """The same of all species together."""
        return self.information.on(HOST)[0]

    @property
    def pose_information(self) -> F64:
        """(tilts, points, pose size, same) what each tilt adds to the normal matrix of every pose."""
        return self.information.by_pose

    @property
    def signal(self) -> F64:
        """(species, tilts) <m,m> at the scale of the tilt."""
        return self.scale**2 * self.sums[:, 1]

    @property
    def steepness(self) -> F64:
        """(tilts,) d log(information) / d B of each tilt, A^-2."""
        # shifts carry information in proportion to q^2 |m|^2, so one more factor of 2 q^2/4 weighs it by
        # <dB,dB> / <m,dB>
        below, above = self.sums[:, 2:].sum(0)
        return np.asarray(np.divide(2 * above, below, out=np.zeros_like(above), where=below > 0))


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
    at = _geometry(state, data)
    passes = [
        products(state.series, each.particles, d, layout, state.strength(i), cross_half=cross_half, at=each, stay=True)
        for i, (each, d) in enumerate(zip(at, data, strict=True))
    ]
    return evaluation_of(passes, state, origin, layout, prior, data, occam, at)


def _geometry(state: State, data: tuple[SpeciesData, ...]) -> tuple[Linearisation, ...]:
    """Of every species, where its images are."""
    found = []
    for i, (particles, one) in enumerate(zip(state.particles, data, strict=True)):
        of = partial(Linearisation.of, state.series, particles, i)
        found.append(there_or_here(one.images.device, of))
    return tuple(found)


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
    """The same from products that were taken before, with the local parameters of the layout; at: as in them.

    A card is asked once: for the sums over particles and the share of the prior.

    Raises:
        SeriesError: products are not finite.
    """
    at = at or _geometry(state, data)
    scale = np.exp(state.log_scale)

    def assembled(device: Device) -> tuple[NormalEquations, Information]:
        moving = zip(at, data, strict=True)
        jacobians = [Jacobian(each.on(device), layout, d.frozen is None) for each, d in moving]
        return assemble(scale, [product.on(device) for product in passes], jacobians, layout, device)

    equations, information = there_or_here(data[0].images.device, assembled)
    equations, pull, of_occam, of_poses = there_or_here(
        equations.where,
        lambda device: _with_priors(
            equations if device is equations.where else equations.on_host(), state, origin, layout, prior, occam
        ),
    )
    sums, are_finite, squares = _numbers(passes, equations.where, pull)
    for one, is_finite in zip(data, are_finite, strict=True):
        if not is_finite:
            refuse(state.series, one)
    xm, mm = sums[:, :2].sum(0)
    likelihood = float((2 * scale * xm - scale**2 * mm).sum())
    log_prior = -0.5 * squares + of_occam + of_poses
    return Evaluation(likelihood, likelihood + log_prior, equations, sums, scale, information, occam)


def _numbers(passes: list[Products], where: Device, pull: Any) -> tuple[F64, list[bool], float]:
    """What the host has to know: sums of every species (``Evaluation.sums``), if they are finite; a number.

    pull: that number, where it is.
    """
    asked: list[tuple[Device, Any]] = [(where, pull)]
    for p in passes:
        of_tilts = p.xm, p.mm, p.md[..., BFACTOR], p.dd[..., BFACTOR, BFACTOR]
        asked.append((p.where, p.where.xp.stack([each.sum(0) for each in of_tilts])))
        asked.append((p.where, p.finite.astype(np.float64)))
    found: dict[int, Any] = {}
    for device in dict.fromkeys(device for device, _ in asked):
        which = [i for i, (own, _) in enumerate(asked) if own is device]
        found |= zip(which, device.fetched([asked[i][1] for i in which]), strict=True)
    count = len(passes)
    return (
        np.stack([found[1 + 2 * i] for i in range(count)]),
        [bool(found[2 + 2 * i]) for i in range(count)],
        float(found[0]),
    )


def _with_priors(
    equations: NormalEquations, state: State, origin: State, layout: Layout, prior: Precision, occam: Occam | None
) -> tuple[NormalEquations, Any, float, float]:
    """What the images say and what is known beforehand, as new equations in the same place.

    With it squared offsets of the series in units of its prior (there), cost of amplitude, log prior of the poses.
    """
    offset = layout.values(state) - layout.values(origin)
    equations, squares = _add_prior(equations, offset, prior)
    of_occam, of_poses = _add_occam(equations, state, layout, occam), 0.0
    if layout.poses:
        equations, of_poses = _add_pose_prior(equations, state, origin, layout, prior)
    return equations, squares, of_occam, of_poses


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
    e = evaluation.equations
    geometric = np.ones(layout.n_series, bool)
    for each in layout.classes:
        geometric[layout.slices[each.name]] = not each.is_amplitude
    if not geometric.any() and not e.p.size:
        return np.zeros(layout.n_tilts)
    kept, place = e.where.put(np.flatnonzero(geometric)), np.cumsum(geometric) - 1
    chain = tuple(place[rows] for rows in e.chain)  # there are no amplitudes in it
    s, b, g = e.s[e.where.xp.ix_(kept, kept)], e.b[kept], e.g[kept]
    # of one tilt at a time; it stays where the equations are, but for a card that has no room
    geometry = NormalEquations(s, b, e.p, g, e.h, e.device, e.where, chain)
    blocks = covariance(geometry, whole=False, stay=e.where is e.device)
    where, coupling = blocks.where, e.b if blocks.where is e.where else e.where.take(e.b)
    information, of_poses = evaluation.information.on(where)
    found = []
    for t, columns in enumerate(layout.tilt_columns):
        within = np.flatnonzero(geometric[columns])
        of_tilt = columns[within]
        rows, of_tilt, within = (where.put(each) for each in (place[of_tilt], of_tilt, within))
        known = (blocks.s[where.xp.ix_(rows, rows)] * information[t][where.xp.ix_(within, within)]).sum()
        if layout.poses:
            known = known + 2 * (blocks.sp[rows] * coupling[of_tilt]).sum()
            known = known + (blocks.p * of_poses[t]).sum()
        found.append(known)
    return np.array(where.fetched(found))


def _add_prior(equations: NormalEquations, offset: F64, prior: Precision) -> tuple[NormalEquations, Any]:
    e, device = equations, equations.where
    held, there = device.kept(prior.series), device.put(offset)
    pull = held @ there
    return replace(e, s=e.s + held, g=e.g - pull, chain=prior.chain), there @ pull


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
