"""Scales and B-factors from the agreement of images with the opposite half-map.

The sum <X,m> over all images of a tilt in one ring of frequencies is, on average,
    scale exp(B q^2 / 4) reference(q) x expected
with ``expected`` as everything but the image itself places it (``cavity``), and a factor reference(q), about 1, for
what the half-map of a species lost: it is common to all tilts and never mistaken for a property of one. The logarithm
of this is linear in what is sought, so one climb with Gaussian priors serves series, tilts and places. Neighbours in
dose hold each other by the priors of ``classes.amplitude``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import block_diag

from mpr_dist.imaging.ctf import anisotropy_A2, tilt_bfactors_A2, tilt_scales
from mpr_dist.maths.splines import natural_weights
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.agreement import Agreement, Rings, agreement
from mpr_dist.refinement.cavity import Cavity
from mpr_dist.refinement.classes.amplitude import BFACTOR_DOSE_LENGTH, BfactorClass, LogScaleClass
from mpr_dist.refinement.classes.base import node_correlation
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.state import State
from mpr_dist.units import F64

# log of what the half-map lost or gained in a ring, and over how many rings it is alike
REFERENCE_SIGMA = 0.1
REFERENCE_RINGS = 3.0
ANISOTROPY_A2 = 50.0
ANISOTROPY_PER_DOSE = 1.0
SERIES_LOG_SCALE, SERIES_BFACTOR_A2 = 3.0, 100.0
LOCATION_LOG_SCALE, LOCATION_BFACTOR_A2 = 0.3, 30.0
LOCATION_LENGTH = 0.5
SECTORS = 6
ROUNDS, CLIMBS = 4, 15
ENOUGH = 1e-6
SUMS = ("xm", "expected", "variance", "scatter")


@dataclass(frozen=True, eq=False)
class Fit:
    """Attributes:
    values: (n,); covariance: (n, n), inverse of the normal matrix, times the misfit if that is larger than 1.
    misfit: mean square of residuals over their variance, 1 when the model holds.
    """

    values: F64
    covariance: F64
    misfit: float


def fit_log_linear(cells: Agreement, design: F64, covariance: F64, start: F64) -> Fit:
    """Most probable values of xm = expected exp(design @ values), for independent cells with Gaussian errors.

    cells: (cells,) each; those where nothing is expected say nothing. design (cells, n); the prior has mean ``start``
    (n,) and ``covariance``. Levenberg-Marquardt; the variances follow the model in rounds of their own.
    """
    used = cells.expected > 0
    xm, expected, design = cells.xm[used], cells.expected[used], design[used]
    prior, values, damping = np.linalg.inv(covariance), start.copy(), 1e-3
    normal, residual, weight = prior, np.zeros(0), np.zeros(0)
    for _ in range(ROUNDS):
        factor = np.exp(np.minimum(design @ values, 20.0))
        weight = 1 / (cells.variance[used] + factor**2 * cells.scatter[used])

        def objective(at: F64, weight: F64 = weight) -> float:
            off = xm - expected * np.exp(np.minimum(design @ at, 20.0))
            return float((weight * off**2).sum() + (at - start) @ prior @ (at - start))

        now = objective(values)
        for _ in range(CLIMBS):
            model = expected * np.exp(np.minimum(design @ values, 20.0))
            residual = xm - model
            slope = model[:, None] * design
            normal = slope.T @ (weight[:, None] * slope) + prior
            gradient = slope.T @ (weight * residual) - prior @ (values - start)
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            then = objective(values + step)
            if then < now:
                values, gain, now, damping = values + step, now - then, then, damping / 5
                if gain < ENOUGH * max(now, 1.0):
                    break
            else:
                damping *= 10
    misfit = float((weight * residual**2).mean()) if weight.size else 1.0
    return Fit(values, max(misfit, 1.0) * np.linalg.inv(normal), misfit)


@dataclass(frozen=True, eq=False)
class Measured:
    """All images of a series: bins, and what was found in them, one per species."""

    rings: Rings
    found: tuple[Agreement, ...]

    def per_tilt(self) -> Agreement:
        """(species, tilts, bins) sums over all particles."""
        return _together([_over(each, 0) for each in self.found])


def measure(state: State, data: tuple[SpeciesData, ...], places: tuple[Cavity, ...], anisotropic: bool) -> Measured:
    """One light pass over the images."""
    rings = Rings.up_to(max(each.reference.q_max for each in data), SECTORS if anisotropic else 1)
    triples = enumerate(zip(state.particles, data, places, strict=True))
    return Measured(rings, tuple(agreement(state.series, *one, rings, state.strength(i)) for i, one in triples))


def _over(a: Agreement, axis: int) -> Agreement:
    return Agreement(a.xm.sum(axis), a.expected.sum(axis), a.variance.sum(axis), a.scatter.sum(axis))


def _together(many: Sequence[Agreement]) -> Agreement:
    return Agreement(*(np.stack([getattr(one, name) for one in many]) for name in SUMS))


def _flat(a: Agreement) -> Agreement:
    return Agreement(a.xm.ravel(), a.expected.ravel(), a.variance.ravel(), a.scatter.ravel())


def _times(a: Agreement, factor: F64) -> Agreement:
    """What is left to explain once ``factor`` is part of the model."""
    return Agreement(a.xm, a.expected * factor, a.variance, a.scatter * factor**2)


def _of_references(rings: Rings, species: int) -> list[F64]:
    """(rings, rings) for each species: prior covariance of the log of what its half-map lost."""
    k = np.arange(rings.count)
    apart = np.abs(k[:, None] - k[None])
    one = np.asarray(REFERENCE_SIGMA**2 * np.exp(-apart / REFERENCE_RINGS) + 1e-8 * np.eye(rings.count))
    return [one] * species


def _with_references(designs: Sequence[F64], rings: Rings) -> F64:
    """Designs of the cells of every species (cells, n), rings fastest, beside the rings of every reference."""
    by_ring = np.eye(rings.count)[rings.ring]
    rows = [np.tile(by_ring, (len(design) // rings.size, 1)) for design in designs]
    return np.concatenate([np.concatenate(designs), block_diag(*rows)], axis=1)


@dataclass(frozen=True, eq=False)
class TiltWeights:
    """Attributes:
    log_scale, bfactor: (tilts,), that of the series included; anisotropy: (tilts, 2) delta (cos 2 angle, sin 2 angle)
        in A^2, or None.
    covariance: of all of them, one behind the other, component by component.
    misfit: mean square of what is left over what was expected.
    """

    log_scale: F64
    bfactor: F64
    anisotropy: F64 | None
    covariance: F64
    misfit: float


def fit_tilts(measured: Measured, imported: TiltSeries, log_scale: F64, anisotropic: bool) -> TiltWeights:
    """Scale and B of every tilt; imported: where the priors are centred; log_scale (tilts,): the present ones."""
    rings, n = measured.rings, imported.n_tilts
    quarter = rings.q2 / 4
    shapes = [np.ones_like(quarter), quarter]
    if anisotropic:  # the mean over a sector, not what its middle has
        wide = quarter * np.sinc(1 / rings.sectors)
        shapes += [wide * np.cos(2 * rings.theta), wide * np.sin(2 * rings.theta)]
    by_tilt = np.concatenate([np.kron(np.eye(n), shape[:, None]) for shape in shapes], axis=1)
    species = len(measured.found)
    priors = Priors()
    blocks = [LogScaleClass().covariance(imported, priors), BfactorClass().covariance(imported, priors)]
    blocks += [_of_anisotropy(imported)] * (2 * anisotropic)
    usual = np.log(np.maximum(tilt_scales(imported), 1e-6))
    usual = usual + (log_scale - usual)[imported.active].mean() if imported.active.any() else usual
    damping = tilt_bfactors_A2(imported) + imported.weights.series_bfactor
    start = np.concatenate([usual, damping, np.zeros((2 * anisotropic) * n + species * rings.count)])
    design = _with_references([by_tilt] * species, rings)
    covariance = block_diag(*blocks, *_of_references(rings, species))
    fit = fit_log_linear(_flat(measured.per_tilt()), design, covariance, start)
    parts = fit.values[: len(shapes) * n].reshape(len(shapes), n)
    inner = slice(0, len(shapes) * n)
    return TiltWeights(
        parts[0], parts[1], parts[2:].T if anisotropic else None, fit.covariance[inner, inner], fit.misfit
    )


def _of_anisotropy(series: TiltSeries) -> F64:
    """(tilts, tilts) prior of each component, A^4: it grows with the dose, and neighbours are alike."""
    apart = np.abs(series.dose[:, None] - series.dose[None])
    sigma = np.minimum(ANISOTROPY_A2, 5.0 + ANISOTROPY_PER_DOSE * (series.dose - series.dose.min()))
    return np.asarray(np.outer(sigma, sigma) * np.exp(-apart / BFACTOR_DOSE_LENGTH) + np.eye(len(apart)))


def envelopes(state: State, rings: Rings) -> F64:
    """(tilts, bins) scale and damping of a state, location left out."""
    b = tilt_bfactors_A2(state.series) + state.series.weights.series_bfactor
    damping = b[:, None] + anisotropy_A2(state.series, rings.theta)
    return np.asarray(np.exp(state.log_scale[:, None] + rings.q2 / 4 * damping))


def fit_series(measured: Measured, state: State) -> Fit:
    """Log of a factor of all scales, and what all B-factors have in common (A^2), tilts as they are."""
    rings = measured.rings
    cells = _flat(_times(measured.per_tilt(), envelopes(state, rings)))
    n = state.series.n_tilts
    one = np.stack([np.ones(rings.size), rings.q2 / 4], axis=1)
    species = len(measured.found)
    design = _with_references([np.tile(one, (n, 1))] * species, rings)
    own = np.diag([SERIES_LOG_SCALE**2, SERIES_BFACTOR_A2**2])
    covariance = block_diag(own, *_of_references(rings, species))
    fit = fit_log_linear(cells, design, covariance, np.zeros(design.shape[1]))
    return Fit(fit.values[:2], fit.covariance[:2, :2], fit.misfit)


def fit_places(measured: Measured, state: State, nodes: tuple[int, int]) -> Fit:
    """Log of the weight, then B (A^2), at nodes (width, height) over the volume, rows of y behind one another.

    The measurement must have been made with the weights by location that the state has; the result comes on top.
    """
    rings, envelope = measured.rings, envelopes(state, measured.rings)
    cells, designs = [], []
    for found, particles in zip(measured.found, state.particles, strict=True):
        weighted = Agreement(
            found.xm * envelope,
            found.expected * envelope**2,
            found.variance * envelope**2,
            found.scatter * envelope**4,
        )
        cells.append(_over(weighted, 1))
        basis = location_basis(state.series, particles, nodes)
        by_scale = np.repeat(basis, rings.size, axis=0)
        by_b = by_scale * np.tile(rings.q2 / 4, len(basis))[:, None]
        designs.append(np.concatenate([by_scale, by_b], axis=1))
    alike = node_correlation((nodes[1], nodes[0]), LOCATION_LENGTH)
    own = LOCATION_LOG_SCALE**2 * alike, LOCATION_BFACTOR_A2**2 * alike
    covariance = block_diag(*own, *_of_references(rings, len(cells)))
    merged = Agreement(*(np.concatenate([getattr(c, name).ravel() for c in cells]) for name in SUMS))
    fit = fit_log_linear(merged, _with_references(designs, rings), covariance, np.zeros(len(covariance)))
    inner = slice(0, 2 * len(alike))
    return Fit(fit.values[inner], fit.covariance[inner, inner], fit.misfit)


def location_basis(series: TiltSeries, particles: Particles, nodes: tuple[int, int]) -> F64:
    """(particles, height x width) share of every node in the grids by location at a particle's place."""
    u = particles.position_A.mean(axis=1) / series.volume_size_A
    wx, wy = natural_weights(nodes[0], u[:, 0]), natural_weights(nodes[1], u[:, 1])
    return np.asarray((wy[:, :, None] * wx[:, None]).reshape(len(u), -1))


def with_tilts(state: State, fitted: TiltWeights) -> State:
    """The state with these scales and B-factors."""
    weights = state.series.weights
    weights = replace(weights, bfactor=CubicGrid.per_tilt(fitted.bfactor - weights.series_bfactor))
    if fitted.anisotropy is not None:
        c, s = fitted.anisotropy.T
        angle = np.mod(0.5 * np.rad2deg(np.arctan2(s, c)), 180.0)
        grids = CubicGrid.per_tilt(np.hypot(c, s)), CubicGrid.per_tilt(angle)
        weights = replace(weights, bfactor_delta=grids[0], bfactor_angle=grids[1])
    return replace(state.with_series(weights=weights), log_scale=fitted.log_scale)
