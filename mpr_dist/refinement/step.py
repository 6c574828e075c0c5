"""Refinement of one tilt series: Levenberg-Marquardt on all parameters at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import LinAlgError

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.ctf import tilt_bfactors_A2, tilt_scales
from mpr_dist.imaging.geometry import stage_grids
from mpr_dist.maths.solve import solve
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.gauge import Direction, directions
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import Evaluation, Occam, SpeciesData, evaluate, occam_at, products
from mpr_dist.refinement.priors import Precision, precision
from mpr_dist.refinement.search import recentred, search_defocus
from mpr_dist.refinement.state import State
from mpr_dist.refinement.uncertainty import Sigmas, sigmas
from mpr_dist.units import F64

MAX_ACCEPTED = 12
DAMPING_START = 1e-3
DAMPING_MAX = 1e6
DAMPING_END = 1e-6
# below this many standard deviations the images of a series do not agree with the reference at all; the other half-map
# counts too, since images always agree a little with a map of their own noise
SIGNIFICANT = 5.0
CROSS_SIGNIFICANT = 3.0
ROUNDS = 2
# the scores before and after, and the standard deviations
OTHER_PASSES = 5
ENOUGH = 1e-4
LOW_DOSE = 10.0


@dataclass(frozen=True, eq=False)
class SeriesResult:
    """Attributes:
    state: refined; sigmas: its standard deviations, None when nothing was refined.
    passes: over the images of the series, those of the scores and standard deviations included.
    objective: log-likelihood before and after.
    own_half, cross_half: scores (standard deviations above noise) before and after.
    directions: in which classes undo each other, and what the images say about them.
    found: False when the images do not agree with the reference and the series was left as it came.
    """

    state: State
    sigmas: Sigmas | None
    passes: int
    objective: tuple[float, float]
    own_half: tuple[float, float]
    cross_half: tuple[float, float]
    found: bool
    directions: tuple[Direction, ...] = ()


def refine_series(
    series: TiltSeries,
    particles: tuple[Particles, ...],
    imported: TiltSeries,
    imported_particles: tuple[Particles, ...],
    data: tuple[SpeciesData, ...],
    settings: RefineSettings,
    *,
    is_first: bool = True,
) -> SeriesResult:
    """Refine one series from its current values, with priors around the imported ones.

    is_first: of the iterations of a run; only then the defocus is searched, if that was asked for.
    """
    priors = settings.priors
    series, imported = _with_stage(series, imported, settings)
    if settings.temporal_samples:
        particles = tuple(each.resampled(settings.temporal_samples) for each in particles)
    layout = Layout.of(settings, series, max(each.n_samples for each in particles))
    state, origin = (
        layout.shaped(State(one, poses, np.log(np.maximum(tilt_scales(one), 1e-6))))
        for one, poses in ((series, particles), (imported, imported_particles))
    )
    weights, searched = np.exp(state.log_scale), 0
    if settings.defocus_search and is_first:
        state, searched = search_defocus(state, data)
    if layout.has("defocus"):
        origin = recentred(origin, state, priors)
    own, cross = score(state, data, weights), score(state, data, weights, cross_half=True)
    if min(own.significance - SIGNIFICANT, cross.significance - CROSS_SIGNIFICANT) < 0 or own.amplitude <= 0:
        scores = (own.significance,) * 2, (cross.significance,) * 2
        return SeriesResult(state, None, 2 + searched, (0.0, 0.0), *scores, found=False)
    state = replace(state, log_scale=state.log_scale + np.log(own.amplitude))
    problem = Problem(origin, layout, precision(layout, origin.series, particles, priors), data)
    end, first, last, passes = _settle(state, problem, settings)
    # amplitudes as they were, so that only the geometry and the defocus can change the score
    moved = replace(end, series=replace(end.series, weights=state.series.weights))
    own_end, cross_end = score(moved, data, weights), score(moved, data, weights, cross_half=True)
    other = problem.evaluate(end, last.occam, cross_half=True)
    return SeriesResult(
        _damped(end, imported),
        sigmas(last, other, layout, problem.prior, series, particles),
        passes + OTHER_PASSES + searched,
        (first, last.likelihood),
        (own.significance, own_end.significance),
        (cross.significance, cross_end.significance),
        found=True,
        directions=directions(last, layout, problem.prior, end),
    )


def _with_stage(series: TiltSeries, imported: TiltSeries, settings: RefineSettings) -> tuple[TiltSeries, TiltSeries]:
    """Both as a rigid stage from where that is asked for on.

    Raises:
        SeriesError: the stage angles were refined as turning the particles only; as a rigid stage they would throw the
            particles about.
    """
    if settings.rigid_stage and not series.is_stage_rigid and any(g.values.any() for g in stage_grids(series)):
        raise SeriesError(
            f"series {series.name}: its stage angles turn particles without moving them, as M's do, so the stage "
            "cannot become rigid now; start from a source without stage angles, or leave --rigid-stage out"
        )
    if not (settings.rigid_stage or series.is_stage_rigid):
        return series, imported
    return replace(series, is_stage_rigid=True), replace(imported, is_stage_rigid=True)


@dataclass(frozen=True, eq=False)
class Problem:
    """What does not change while a series is refined."""

    origin: State
    layout: Layout
    prior: Precision
    data: tuple[SpeciesData, ...]

    def evaluate(self, state: State, occam: Occam | None, *, cross_half: bool = False) -> Evaluation:
        return evaluate(state, self.origin, self.layout, self.prior, self.data, occam, cross_half=cross_half)


def _settle(state: State, problem: Problem, settings: RefineSettings) -> tuple[State, float, Evaluation, int]:
    """Climb in rounds; each takes the cost of amplitude from where the one before ended.

    Returns the state, the first likelihood, the last evaluation, and the passes: evaluations are large.
    """
    last, passes = problem.evaluate(state, None), 1
    first = last.likelihood
    for left in range(ROUNDS, 0, -1):
        occam = occam_at(state, last, problem.layout)
        budget = (settings.max_passes - OTHER_PASSES - passes) // left
        state, begin, last, used = _climb(state, problem, occam, budget)
        passes += used
        if last.objective - begin < ENOUGH * abs(last.objective):
            break
    return state, first, last, passes


def _climb(state: State, problem: Problem, occam: Occam, max_passes: int) -> tuple[State, float, Evaluation, int]:
    """Levenberg-Marquardt at fixed cost of amplitude: state, first objective, last evaluation, passes."""
    layout = problem.layout
    current = problem.evaluate(state, occam)
    first = current.objective
    passes, accepted, damping, arriving = 1, 0, DAMPING_START, False
    counts = np.cumsum([len(p) for p in state.particles])[:-1]
    while accepted < MAX_ACCEPTED and passes < max_passes and damping < DAMPING_MAX:
        try:
            step, poses = solve(current.equations, damping)
        except LinAlgError:
            damping *= 10
            continue
        split = np.split(poses, counts) if layout.poses else [poses] * len(state.particles)
        trial = layout.advanced(state, step, split)
        outcome = problem.evaluate(trial, occam)
        passes += 1
        if not np.isfinite(outcome.objective):
            raise SeriesError(f"series {state.series.name}: the objective is not finite")
        gain = outcome.objective - current.objective
        if gain <= 0:
            damping *= 10
            if gain > -0.5 or arriving:
                break
            continue
        state, current, accepted, damping = trial, outcome, accepted + 1, damping / 5
        if gain < 0.5 + ENOUGH * abs(outcome.objective):
            if arriving or damping < DAMPING_END:
                break
            # damping holds back the directions that many parameters share; without it they arrive in one step
            damping, arriving = 0.1 * DAMPING_END, True
    return state, first, current, passes


def _damped(state: State, imported: TiltSeries) -> State:
    """B-factors relative to the best tilts, and at most 0.

    An offset common to all tilts belongs to the reference: the map is sharper or softer by it. It is taken out so that
    the tilts of lowest dose (those within 10 e/A^2) keep their imported mean. Beyond the frequencies that were compared
    a positive B-factor would amplify without limit, hence the 0.
    """
    series = state.series
    fitted = series.weights.bfactor.values.ravel()
    best = series.active & (series.dose <= series.dose[series.active].min() + LOW_DOSE)
    offset = (fitted - tilt_bfactors_A2(imported))[best].mean()
    bfactor = CubicGrid.per_tilt(np.minimum(fitted - offset, 0.0))
    return replace(state, series=replace(series, weights=replace(series.weights, bfactor=bfactor)))


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
        product = products(state.series, p, d, cross_half=cross_half)
        xm += float((product.xm * weights).sum())
        mm += float((product.mm * weights**2).sum())
    if mm <= 0:
        return Score(0.0, 0.0)
    return Score(xm / np.sqrt(mm / 2), xm / mm)
