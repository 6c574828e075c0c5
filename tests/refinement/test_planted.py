"""Every class of parameters is found when planted from its prior, by itself and with all others, with honest sigmas.

43 draws in all. Errors over covariances add up to a chi-square variable: truth and estimate differ by a Gaussian of the
posterior covariance in every direction, those that only the prior determines included, so no gauge has to be taken out.
Only between particles covariances are not kept; their common motion is fitted out where other classes can undo it.
"""

from __future__ import annotations

import numpy as np
import pytest
from planted import ALONE, TOGETHER, Drawn, draw
from scipy.stats import chi2

from mpr_dist.refinement.state import pose_offsets
from mpr_dist.refinement.step import SeriesResult

pytestmark = pytest.mark.slow

DRAWS, JOINT_DRAWS = 3, 4
# what is left of the planted error at most, root mean square; of Cs a single number per draw
LEFT = 0.7


def series_terms(drawn: Drawn, result: SeriesResult) -> dict[str, tuple[float, int, float, float]]:
    """Class -> chi-square, degrees of freedom, sum of squares at the end and at the start."""
    layout, out = result.sigmas.layout, {}
    end, truth, start = (layout.values(state) for state in (result.state, drawn.truth, drawn.start))
    for each in layout.classes:
        if each.is_amplitude:
            continue
        part = layout.slices[each.name]
        error = (end - truth)[part]
        covariance = result.sigmas.series_covariance[part, part]
        value = float(error @ np.linalg.solve(covariance, error))
        out[each.name] = (value, len(error), float(error @ error), float(((start - truth)[part] ** 2).sum()))
    return out


def pose_terms(drawn: Drawn, result: SeriesResult, *, common: bool) -> dict[str, tuple[float, int, float, float]]:
    """The same for positions and orientations; ``common``: their common motion is fitted out."""
    truth = drawn.truth.particles[0]
    error, start = (pose_offsets(s.particles[0], truth) for s in (result.state, drawn.start))
    size, out = error.shape[1], {}
    for name, first in (("position", 0), ("orientation", 3)):
        columns = np.flatnonzero(np.arange(size) % 6 // 3 == first // 3)
        e, s = error[:, columns], start[:, columns]
        weight = np.linalg.inv(result.sigmas.pose_covariance[:, columns[:, None], columns])
        value, freedom = float(np.einsum("pi,pij,pj->", e, weight, e)), e.size
        if common:
            along = np.einsum("pij,pj->i", weight, e)
            value -= float(along @ np.linalg.solve(weight.sum(0), along))
            freedom -= len(columns)
        out[name] = (value, freedom, float((e**2).sum()), float((s**2).sum()))
    return out


def check(terms: dict[str, list[tuple[float, int, float, float]]], left: float, found: set[str]) -> None:
    for name, draws in terms.items():
        value, freedom, end, start = (sum(column) for column in zip(*draws, strict=True))
        told = f"{name}: chi-square {value:.1f} for {freedom} degrees of freedom"
        assert chi2.sf(value, freedom) > 1e-3, f"{told}: sigmas too small"
        # B-factors stand at the centre of their prior, and particles share errors that their own covariances count one
        # by one: both make errors a little smaller than sigmas, by much less than this
        assert value > 0.6 * freedom or chi2.cdf(value, freedom) > 1e-4, f"{told}: sigmas too large"
        if name in found:
            assert end < left**2 * start, f"{name}: {np.sqrt(end / start):.2f} of the planted error is left"


@pytest.mark.parametrize("name", list(ALONE))
def test_a_class_by_itself_is_found(name):
    """The others are at the truth: what was planted is found, and sigmas say how well."""
    settings, options = ALONE[name]
    terms: dict[str, list] = {}
    for seed in range(DRAWS):
        drawn = draw(settings, seed, **options)
        result = drawn.refined()
        assert result.found
        found = series_terms(drawn, result)
        if settings.particles:
            found |= pose_terms(drawn, result, common=False)
        for key, value in found.items():
            terms.setdefault(key, []).append(value)
    check(terms, LEFT, set(terms))


def test_all_classes_at_once_are_found():
    """Everything is planted and refined together, trajectories of two samples included."""
    terms: dict[str, list] = {}
    determined = []
    for seed in range(100, 100 + JOINT_DRAWS):
        drawn = draw(TOGETHER, seed, samples=2)
        result = drawn.refined()
        assert result.found
        for key, value in (series_terms(drawn, result) | pose_terms(drawn, result, common=True)).items():
            terms.setdefault(key, []).append(value)
        determined.append(result.sigmas.determined)
    # together, what hardly changes the images in its own way (Cs, phase shift) keeps its prior, and sigmas say so
    found = {name for name in terms if np.mean([one.get(name, 1.0) for one in determined]) > 0.5}
    # what all tilts share of the phase shift is most of it, and even Zernikes take that up (refinement/gauge.py)
    found -= {"phase_shift"}
    assert found >= {"defocus", "astigmatism", "stage_angles", "magnification", "position", "orientation"}
    check(terms, 0.85, found)
