"""Refinement of one tilt series: Levenberg-Marquardt on all parameters at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.ctf import tilt_bfactors_A2, tilt_scales
from mpr_dist.imaging.geometry import stage_grids
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.gauge import Direction, directions
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.priors import precision
from mpr_dist.refinement.products import SpeciesData, products
from mpr_dist.refinement.release import Decision, release
from mpr_dist.refinement.search import recentred, search_defocus
from mpr_dist.refinement.settle import OTHER_PASSES, Problem, settle, with_geometry_of
from mpr_dist.refinement.spread import Spread, spreads
from mpr_dist.refinement.state import State
from mpr_dist.refinement.uncertainty import Sigmas, sigmas
from mpr_dist.refinement.weighing import Weights, uncertain_of, with_weights
from mpr_dist.units import F64

# below this many standard deviations the images of a series do not agree with the reference at all; the other half-map
# counts too, since images always agree a little with a map of their own noise
SIGNIFICANT = 5.0
CROSS_SIGNIFICANT = 3.0
# scales of species that agree with their references at all differ less than this
MOST_APART = 30.0
LOW_DOSE = 10.0

Pair = tuple[float, float]


@dataclass(frozen=True, eq=False)
class SeriesResult:
    """Attributes:
    state: refined; sigmas: its standard deviations, None when nothing was refined.
    passes: over the images of the series, those of the scores and standard deviations included.
    objective: log-likelihood before and after.
    own_half, cross_half: scores (standard deviations above noise) before and after.
    directions: in which classes undo each other, and what the images say about them.
    found: False when the images do not agree with the reference and the series was left as it came.
    taken: places, among the species that were given, of those in the state and the sigmas.
    species: scores of every species given, own half and cross half, before and after.
    spread: field of ``Priors`` -> what the series says about its width.
    decisions: of the protocol that decides by itself, which classes the images carry and why.
    held_back: what was refined agreed less with the other half-map than before, and was not taken (protocol auto).
    weights: fitted to the opposite half-map, if that was asked for.
    """

    state: State
    sigmas: Sigmas | None
    passes: int
    objective: tuple[float, float]
    own_half: tuple[float, float]
    cross_half: tuple[float, float]
    found: bool
    directions: tuple[Direction, ...] = ()
    taken: tuple[int, ...] = ()
    species: tuple[tuple[Pair, Pair], ...] = ()
    spread: Mapping[str, Spread] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()
    held_back: bool = False
    weights: Weights | None = None


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

    Species whose images do not agree with their reference are left as they came and have no say, where those of others
    do. is_first: of the iterations of a run; only then the defocus is searched, if that was asked for.
    """
    series, imported = _with_stage(series, imported, settings)
    if settings.only_weights:
        settings = uncertain_of(series, imported, particles, imported_particles, settings)
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
        origin = recentred(origin, state, settings.priors)
    own, cross = (species_scores(state, data, weights, cross_half=half) for half in (False, True))
    taken = _agreeing(own, cross)
    result = SeriesResult(
        state,
        None,
        2 + searched,
        (0.0, 0.0),
        (together(own).significance,) * 2,
        (together(cross).significance,) * 2,
        found=False,
        taken=tuple(range(len(data))),
        species=tuple(((a.significance,) * 2, (b.significance,) * 2) for a, b in zip(own, cross, strict=True)),
    )
    if not taken:
        return result
    state, origin = (replace(each, particles=tuple(each.particles[i] for i in taken)) for each in (state, origin))
    scores = tuple(own[i] for i in taken), tuple(cross[i] for i in taken)
    refined = _refine_agreeing(state, origin, tuple(data[i] for i in taken), scores, settings, imported)
    species = list(result.species)
    for i, pair in zip(taken, refined.species, strict=True):
        species[i] = pair
    return replace(refined, passes=refined.passes + searched, taken=taken, species=tuple(species))


def _agreeing(own: tuple[Score, ...], cross: tuple[Score, ...]) -> tuple[int, ...]:
    """Places of the species whose images agree with their references; if none does alone, all that do together."""
    alone = tuple(i for i, pair in enumerate(zip(own, cross, strict=True)) if _agree(*pair))
    if alone or len(own) == 1:
        return alone
    return tuple(range(len(own))) if _agree(together(own), together(cross)) else ()


def _agree(own: Score, cross: Score) -> bool:
    return own.significance >= SIGNIFICANT and cross.significance >= CROSS_SIGNIFICANT and own.amplitude > 0


def _refine_agreeing(
    state: State,
    origin: State,
    data: tuple[SpeciesData, ...],
    scores: tuple[tuple[Score, ...], tuple[Score, ...]],
    settings: RefineSettings,
    imported: TiltSeries,
) -> SeriesResult:
    """Refine from a state that has the nodes of the layout of one species; scores: in that state, both halves."""
    weights, names = np.exp(state.log_scale), tuple(each.species.name for each in data)
    layout, state, origin = _shaped(state, origin, settings, names)
    state, (own, cross) = _with_amplitudes(state, scores)
    decisions: tuple[Decision, ...] = ()
    if settings.protocol == "auto" and not settings.only_weights:
        settings, decisions = release(state, recentred(origin, state, settings.priors), data, settings)
        layout, state, origin = _shaped(state, origin, settings, names)
        origin = recentred(origin, state, settings.priors) if layout.has("defocus") else origin
    particles = state.particles
    prior = precision(layout, origin.series, particles, settings.priors)
    settled = settle(state, Problem(origin, layout, prior, data, settings, imported))
    end, last, problem = settled.state, settled.evaluation, settled.problem
    own_end, cross_end = (
        species_scores(with_geometry_of(end, state), data, weights, cross_half=half) for half in (False, True)
    )
    held_back = bool(decisions) and together(cross_end).significance < together(cross).significance
    taken, (own_end, cross_end) = (
        (with_geometry_of(state, end), (own, cross)) if held_back else (end, (own_end, cross_end))
    )
    other = problem.evaluate(end, last.occam, cross_half=True)
    known = sigmas(last, other, layout, problem.prior, state.series, particles)
    if settled.weights is not None:
        known = with_weights(known, settled.weights, imported)
    pairs = [_pairs(before, after) for before, after in ((own, own_end), (cross, cross_end))]
    return SeriesResult(
        taken if settings.weights == "series" else _damped(taken, imported),
        known,
        settled.passes + OTHER_PASSES + bool(decisions),
        (settled.first, last.likelihood),
        (together(own).significance, together(own_end).significance),
        (together(cross).significance, together(cross_end).significance),
        found=True,
        directions=directions(last, layout, problem.prior, end),
        species=tuple(zip(*pairs, strict=True)),
        spread=spreads(end, origin, known, settings.priors),
        decisions=decisions,
        held_back=bool(held_back),
        weights=settled.weights,
    )


def _shaped(
    state: State, origin: State, settings: RefineSettings, names: tuple[str, ...]
) -> tuple[Layout, State, State]:
    """The layout of settings, and both states in its shape."""
    if settings.temporal_samples:
        state = replace(state, particles=tuple(each.resampled(settings.temporal_samples) for each in state.particles))
    layout = Layout.of(settings, state.series, max(each.n_samples for each in state.particles), names)
    return layout, layout.shaped(state), layout.shaped(origin)


def _pairs(before: tuple[Score, ...], after: tuple[Score, ...]) -> list[Pair]:
    return [(a.significance, b.significance) for a, b in zip(before, after, strict=True)]


def _with_amplitudes(
    state: State, scores: tuple[tuple[Score, ...], tuple[Score, ...]]
) -> tuple[State, list[tuple[Score, ...]]]:
    """The state with the scales that fit best, of all images and of every species, and the scores at the latter."""
    common = together(scores[0]).amplitude
    state = replace(state, log_scale=state.log_scale + np.log(common))
    if not len(state.species_log_scale):
        return state, list(scores)
    relative = np.clip([each.amplitude / common for each in scores[0]], 1 / MOST_APART, MOST_APART)
    grown = [tuple(s.at_scale(r) for s, r in zip(each, relative.tolist(), strict=True)) for each in scores]
    return replace(state, species_log_scale=np.log(relative)), grown


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

    Attributes:
        xm, mm: sums of w <X,m> and of w^2 <m,m>.
    """

    xm: float
    mm: float

    @property
    def significance(self) -> float:
        """sum w <X,m> over its standard deviation for pure noise, sqrt(sum w^2 <m,m> / 2)."""
        return self.xm / float(np.sqrt(self.mm / 2)) if self.mm > 0 else 0.0

    @property
    def amplitude(self) -> float:
        """The common scale that fits best, sum w <X,m> / sum w^2 <m,m>."""
        return self.xm / self.mm if self.mm > 0 else 0.0

    def at_scale(self, scale: float) -> Score:
        """With a model so much stronger."""
        return Score(scale * self.xm, scale**2 * self.mm)


def together(scores: Iterable[Score]) -> Score:
    """Of all images of several species."""
    every = tuple(scores)
    return Score(sum(each.xm for each in every), sum(each.mm for each in every))


def species_scores(
    state: State, data: tuple[SpeciesData, ...], weights: F64, *, cross_half: bool = False
) -> tuple[Score, ...]:
    """Score of every species in a state; one pass over the images."""
    found = []
    for i, (p, d) in enumerate(zip(state.particles, data, strict=True)):
        product = products(state.series, p, d, None, state.strength(i), cross_half=cross_half)
        found.append(Score(float((product.xm * weights).sum()), float((product.mm * weights**2).sum())))
    return tuple(found)


def score(state: State, data: tuple[SpeciesData, ...], weights: F64, *, cross_half: bool = False) -> Score:
    """Score of a state; one pass over the images."""
    return together(species_scores(state, data, weights, cross_half=cross_half))
