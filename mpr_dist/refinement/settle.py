"""How the state of a series settles: Levenberg-Marquardt in rounds, amplitudes with the geometry or in turn with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import LinAlgError

from mpr_dist.errors import SeriesError
from mpr_dist.maths.solve import solve
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.braking import Braking
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import Evaluation, evaluate, occam_at
from mpr_dist.refinement.occam import Occam
from mpr_dist.refinement.priors import Precision, holding_amplitudes
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.state import State
from mpr_dist.refinement.weighing import WEIGHING_PASSES, Weights, weigh

MAX_ACCEPTED = 12
DAMPING_START = 1e-3
DAMPING_MAX = 1e6
DAMPING_END = 1e-6
ROUNDS = 2
# the scores before and after, and the standard deviations
OTHER_PASSES = 5
ENOUGH = 1e-4


@dataclass(frozen=True, eq=False)
class Problem:
    """What does not change while a series is refined."""

    origin: State
    layout: Layout
    prior: Precision
    data: tuple[SpeciesData, ...]
    settings: RefineSettings
    imported: TiltSeries

    def holding(self, state: State) -> Problem:
        """The same with scales and B-factors held where a state has them."""
        return replace(
            self, origin=with_geometry_of(self.origin, state), prior=holding_amplitudes(self.prior, self.layout)
        )

    def evaluate(self, state: State, occam: Occam | None, *, cross_half: bool = False) -> Evaluation:
        return evaluate(state, self.origin, self.layout, self.prior, self.data, occam, cross_half=cross_half)


@dataclass(frozen=True, eq=False)
class Settled:
    """Attributes:
    evaluation: of the state; problem: as it was solved last; first: likelihood at the start.
    """

    state: State
    evaluation: Evaluation
    problem: Problem
    first: float
    passes: int
    weights: Weights | None = None


def settle(state: State, problem: Problem) -> Settled:
    """Climb in rounds; each takes the cost of amplitude from where the one before ended."""
    if problem.settings.fits_weights:
        return _settle_weighed(state, problem.holding(state))
    last, passes = problem.evaluate(state, None), 1
    first, braking = last.likelihood, Braking.none(len(last.equations.p))
    for left in range(ROUNDS, 0, -1):
        occam = occam_at(state, last, problem.layout)
        budget = (problem.settings.max_passes - OTHER_PASSES - passes) // left
        state, begin, last, used, braking = _climb(state, problem, occam, budget, braking)
        passes += used
        if last.objective - begin < ENOUGH * abs(last.objective):
            break
    return Settled(state, last, problem, first, passes)


def _settle_weighed(state: State, problem: Problem) -> Settled:
    """Geometry and weights in turn: the one is held while the other is sought, in other halves of the data."""
    settings = problem.settings
    last, passes, weights = problem.evaluate(state, None), 1, None
    first, braking = last.likelihood, Braking.none(len(last.equations.p))
    for left in range(1 if settings.only_weights else ROUNDS, 0, -1):
        if not settings.only_weights:
            budget = (settings.max_passes - OTHER_PASSES - passes) // left - WEIGHING_PASSES - 1
            state, _, last, used, braking = _climb(state, problem, None, budget, braking)
            passes += used
        state, weights = weigh(state, last, problem.layout, problem.data, problem.imported, settings)
        problem = problem.holding(state)
        last = problem.evaluate(state, None)
        passes += WEIGHING_PASSES + 1
    return Settled(state, last, problem, first, passes, weights)


def _climb(
    state: State, problem: Problem, occam: Occam | None, max_passes: int, braking: Braking
) -> tuple[State, float, Evaluation, int, Braking]:
    """Levenberg-Marquardt at fixed cost of amplitude: state, first objective, last evaluation, passes, braking."""
    layout = problem.layout
    current = problem.evaluate(state, occam)
    first = current.objective
    passes, accepted, damping, arriving = 1, 0, DAMPING_START, False
    counts = np.cumsum([len(p) for p in state.particles])[:-1]
    while accepted < MAX_ACCEPTED and passes < max_passes and damping < DAMPING_MAX:
        try:
            step, poses = solve(braking.braked(current.equations), damping)
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
        braking = braking.after(current.equations, outcome.equations, step, poses)
        if gain <= 0:
            damping *= 10
            if gain > -0.5 or arriving:
                break
            continue
        state, current, accepted, damping = trial, outcome, accepted + 1, damping / 5
        braking = braking.taken(gain, current.objective - first)
        if gain < 0.5 + ENOUGH * abs(outcome.objective):
            if arriving or damping < DAMPING_END:
                break
            # damping holds back the directions that many parameters share; without it they arrive in one step
            damping, arriving = 0.1 * DAMPING_END, True
    return state, first, current, passes, braking


def with_geometry_of(end: State, start: State) -> State:
    """Geometry and defocus of one state with the amplitudes of another."""
    series = replace(end.series, weights=start.series.weights)
    return replace(
        end,
        series=series,
        log_scale=start.log_scale,
        species_log_scale=start.species_log_scale,
        species_bfactor_A2=start.species_bfactor_A2,
    )
