"""Refinement of one tilt series: Levenberg-Marquardt on all parameters at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import LinAlgError

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.maths.solve import covariance, solve
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import Evaluation, Occam, SpeciesData, evaluate, occam_at, products
from mpr_dist.refinement.priors import Precision, precision
from mpr_dist.refinement.state import State, advance, shape_grids
from mpr_dist.units import F64

MAX_ACCEPTED = 12
DAMPING_START = 1e-3
DAMPING_MAX = 1e6
# below this many standard deviations the images of a series do not agree with the reference at all
SIGNIFICANT = 5.0
ROUNDS = 3
ENOUGH = 1e-4


@dataclass(frozen=True, eq=False)
class Sigmas:
    """Standard deviations of everything refined, from the inverse of the normal matrix; empty arrays where not.

    Attributes:
        image_warp_A: (tilts, 2, height, width); stage_angles_deg: (tilts, 3); defocus_A, log_scale: (tilts,).
        pose: one (particles, 6) per species: A, then degrees.
        series_covariance, pose_covariance: the blocks they were taken from.
    """

    image_warp_A: F64
    stage_angles_deg: F64
    defocus_A: F64
    log_scale: F64
    pose: tuple[F64, ...]
    series_covariance: F64
    pose_covariance: F64


@dataclass(frozen=True, eq=False)
class SeriesResult:
    """Attributes:
    state: refined; sigmas: its standard deviations, None when nothing was refined.
    passes: over the images of the series, the four of the scores included.
    objective: before and after; own_half, cross_half: scores (standard deviations above noise) before and after.
    found: False when the images do not agree with the reference and the series was left as it came.
    """

    state: State
    sigmas: Sigmas | None
    passes: int
    objective: tuple[float, float]
    own_half: tuple[float, float]
    cross_half: tuple[float, float]
    found: bool


def refine_series(
    series: TiltSeries,
    particles: tuple[Particles, ...],
    imported: TiltSeries,
    imported_particles: tuple[Particles, ...],
    data: tuple[SpeciesData, ...],
    settings: RefineSettings,
) -> SeriesResult:
    """Refine one series from its current values, with priors around the imported ones."""
    layout = Layout.of(settings, series.n_tilts)
    shape = np.log(np.maximum(tilt_scales(series), 1e-6))
    state = State(shape_grids(series, layout), particles, shape)
    origin_shape = np.log(np.maximum(tilt_scales(imported), 1e-6))
    origin = State(shape_grids(imported, layout), imported_particles, origin_shape)
    weights = np.exp(shape)
    own, cross = score(state, data, weights), score(state, data, weights, cross_half=True)
    if own.significance < SIGNIFICANT or own.amplitude <= 0:
        return SeriesResult(
            state, None, 2, (0.0, 0.0), (own.significance,) * 2, (cross.significance,) * 2, found=False
        )
    state = replace(state, log_scale=state.log_scale + np.log(own.amplitude))
    end, first, last, passes = _settle(state, origin, layout, data, settings)
    own_end, cross_end = score(end, data, weights), score(end, data, weights, cross_half=True)
    return SeriesResult(
        end,
        _sigmas(last, layout, [len(p) for p in particles]),
        passes + 4,
        (first.objective, last.objective),
        (own.significance, own_end.significance),
        (cross.significance, cross_end.significance),
        found=True,
    )


def _settle(
    state: State, origin: State, layout: Layout, data: tuple[SpeciesData, ...], settings: RefineSettings
) -> tuple[State, Evaluation, Evaluation, int]:
    """Climb in rounds; each takes the cost of amplitude from where the one before ended."""
    prior = precision(layout, origin.series, settings.priors)
    problem = Problem(origin, layout, prior, data)
    first = evaluate(state, origin, layout, prior, data, None)
    last, passes = first, 1
    for left in range(ROUNDS, 0, -1):
        occam = occam_at(state, last, layout)
        budget = (settings.max_passes - 4 - passes) // left
        state, begin, last, used = _climb(state, problem, occam, budget)
        passes += used
        if last.objective - begin.objective < ENOUGH * abs(last.objective):
            break
    return state, first, last, passes


@dataclass(frozen=True, eq=False)
class Problem:
    """What does not change while a series is refined."""

    origin: State
    layout: Layout
    prior: Precision
    data: tuple[SpeciesData, ...]

    def evaluate(self, state: State, occam: Occam) -> Evaluation:
        return evaluate(state, self.origin, self.layout, self.prior, self.data, occam)


def _climb(
    state: State, problem: Problem, occam: Occam, max_passes: int
) -> tuple[State, Evaluation, Evaluation, int]:
    """Levenberg-Marquardt at fixed cost of amplitude: state, first and last evaluation, passes."""
    layout = problem.layout
    current = first = problem.evaluate(state, occam)
    passes, accepted, damping = 1, 0, DAMPING_START
    counts = np.cumsum([len(p) for p in state.particles])[:-1]
    while accepted < MAX_ACCEPTED and passes < max_passes and damping < DAMPING_MAX:
        try:
            step, poses = solve(current.equations, damping)
        except LinAlgError:
            damping *= 10
            continue
        split = np.split(poses, counts) if layout.poses else [poses] * len(state.particles)
        trial = advance(state, layout, step, split)
        outcome = problem.evaluate(trial, occam)
        passes += 1
        if not np.isfinite(outcome.objective):
            raise SeriesError(f"series {state.series.name}: the objective is not finite")
        gain = outcome.objective - current.objective
        if gain <= 0:
            damping *= 10
            if gain > -0.5:
                break
            continue
        state, current, accepted, damping = trial, outcome, accepted + 1, damping / 5
        if gain < 0.5 + ENOUGH * abs(outcome.objective):
            break
    return state, first, current, passes


@dataclass(frozen=True)
class Score:
    """Agreement of images with a reference at fixed relative weights w of the tilts.

    significance: sum w <X,m> over its standard deviation for pure noise, sqrt(sum w^2 <m,m> / 2).
    amplitude: the common scale that fits best, sum w <X,m> / sum w^2 <m,m>.
    """

    significance: float
    amplitude: float


def score(state: State, data: tuple[SpeciesData, ...], weights: F64, *, cross_half: bool = False) -> Score:
    """Score of a state; one pass over the images."""
    xm = mm = 0.0
    for p, d in zip(state.particles, data, strict=True):
        product, _ = products(state.series, p, d, cross_half=cross_half)
        xm += float((product.xm * weights).sum())
        mm += float((product.mm * weights**2).sum())
    if mm <= 0:
        return Score(0.0, 0.0)
    return Score(xm / np.sqrt(mm / 2), xm / mm)


def _sigmas(last: Evaluation, layout: Layout, counts: list[int]) -> Sigmas:
    blocks = covariance(last.equations)
    sigma = np.sqrt(np.diag(blocks.s))
    n = layout.n_tilts
    part = {name: sigma[where].reshape(n, -1) for name, where in layout.slices.items()}
    empty = np.zeros((n, 0))
    width, height = layout.image_warp or (0, 0)
    warp = [part.get(name, empty).reshape(n, height, width) for name in ("image_warp_x", "image_warp_y")]
    pose = np.sqrt(np.diagonal(blocks.p, axis1=1, axis2=2)) * np.r_[np.ones(3), np.full(3, np.rad2deg(1.0))]
    return Sigmas(
        np.stack(warp, 1),
        part.get("stage_angles", empty),
        part["defocus"][:, 0] if "defocus" in part else np.zeros(0),
        part["log_scale"][:, 0],
        tuple(np.split(pose, np.cumsum(counts)[:-1])) if layout.poses else (),
        blocks.s,
        blocks.p,
    )
