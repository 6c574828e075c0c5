"""Exhaustive search for the defocus of every tilt, before refinement climbs from there.

A tilt's score at a defocus is what the log-likelihood gains at the scale that fits best, <X,m>^2 / <m,m>, if that scale
is positive: a tilt without signal has noise there, of about 1/2, at any defocus. So a defocus wins only if it gains
more than chance and the prior would cost, and stands out of all that were tried.
"""

from __future__ import annotations

import numpy as np

from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import Priors
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.products import SpeciesData, products
from mpr_dist.refinement.state import State
from mpr_dist.units import A_PER_UM, F64

# as M has it, in A
RANGE_A, STEP_A = 3000.0, 300.0
# what must be gained over the defocus as it came: the largest of 21 chance values of chi-square(1)/2 stays below 8 in
# all but one of a thousand tilts
LEAST_GAIN = 8.0
# what the best must be above everything beyond its own peak, LOBE steps on either side
LEAST_LEAD, LOBE = 4.0, 2
# standard deviation expected where a search is asked for, A
EXPECTED_A = 1000.0
# standard deviations of the prior beyond which a defocus was found by a search
FAR = 3.0


def recentred(origin: State, state: State, priors: Priors) -> State:
    """The centre of the prior, with the defocus of tilts that a search moved far away where it put them.

    Whoever searches expects some defoci far from where they came; the prior must not pull those back, in this run or
    in later ones, and must hold all the others. Further than ``FAR`` standard deviations no refinement goes by itself.
    """
    there, here = (s.series.optics.defocus_um.values for s in (origin, state))
    far = np.abs(here - there) * A_PER_UM > FAR * priors.defocus_A
    return origin.with_optics(defocus_um=CubicGrid(np.where(far, here, there)))


def search_defocus(state: State, data: tuple[SpeciesData, ...]) -> tuple[State, int]:
    """The state with the best defocus of every tilt, and the passes it took.

    state: with one defocus per tilt. Only species that see the CTF count. Scores of neighbours on the grid decide the
    place of the maximum between them (parabola); the grid is as fine as M's.
    """
    steps = np.arange(-RANGE_A, RANGE_A + STEP_A / 2, STEP_A)
    seeing = [(p, d) for p, d in zip(state.particles, data, strict=True) if d.frozen is None]
    if not seeing:
        return state, 0
    gains = np.stack([_gain(_moved(state, np.full(state.series.n_tilts, step)), seeing) for step in steps])
    best = gains.argmax(axis=0)
    offsets = np.zeros(state.series.n_tilts)
    for t, winner in enumerate(best):
        if is_clear(gains[:, t], steps):
            offsets[t] = steps[winner] + STEP_A * _vertex(gains[:, t], int(winner))
    return _moved(state, offsets), len(steps)


def is_clear(gain: F64, steps: F64) -> bool:
    """Whether the best of the gains (steps,) is no chance.

    It must be positive, no edge of the range, clearly above where the search began, above the crowd, and above every
    other peak. gain: of the log-likelihood against no signal at all; steps: A away from the start.
    """
    if not np.isfinite(gain).all():
        return False
    best, start = int(gain.argmax()), int(np.abs(steps).argmin())
    if gain[best] <= 0 or best in (0, len(gain) - 1):
        return False
    cost = 0.5 * (steps[best] / EXPECTED_A) ** 2
    elsewhere = gain[np.abs(np.arange(len(gain)) - best) > LOBE]
    stands_out = gain[best] - np.median(gain) > LEAST_GAIN and gain[best] - elsewhere.max() > LEAST_LEAD
    return bool(stands_out and gain[best] - cost - gain[start] > LEAST_GAIN)


def _moved(state: State, offsets_A: F64) -> State:
    old = state.series.optics.defocus_um.values.ravel()
    return state.with_optics(defocus_um=CubicGrid.per_tilt(old + offsets_A / A_PER_UM))


def _gain(state: State, seeing: list[tuple[Particles, SpeciesData]]) -> F64:
    """(tilts,) <X,m>^2 / <m,m> where <X,m> is positive, summed over species: each at the scale that fits it best."""
    gain = np.zeros(state.series.n_tilts)
    for particles, data in seeing:
        product = products(state.series, particles, data)
        xm, mm = product.xm.sum(0), product.mm.sum(0)
        gain += np.divide(np.maximum(xm, 0) ** 2, mm, out=np.zeros_like(xm), where=mm > 0)
    return gain


def _vertex(gain: F64, at: int) -> float:
    """Where the parabola through the best and its neighbours has its maximum, in steps from the best, within 1/2."""
    if not 0 < at < len(gain) - 1:
        return 0.0
    left, middle, right = gain[at - 1 : at + 2]
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0
