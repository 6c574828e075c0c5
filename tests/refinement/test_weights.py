"""Planted scales and B-factors come back, with honest standard deviations, also where the geometry is uncertain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import NEAR, Drawn, a_series, draw
from scipy.stats import chi2

from mpr_dist.imaging.ctf import location_terms, tilt_bfactors_A2, tilt_scales
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.warp import CubicGrid, DoseWeights
from mpr_dist.refinement.step import SeriesResult

N = 9
DOSE = a_series(N).dose
UNEVEN = np.random.default_rng(7).uniform(-1, 1, N)
# more damage than -4 dose, and scatter; the lowest dose as imported, so that no common offset is taken out
BFACTOR = np.where(DOSE < 10, -4.0 * DOSE, -4.0 * DOSE - 40.0 + 30.0 * UNEVEN)
HELD = RefineSettings(weights="tilt", only_weights=True, particles=True, priors=NEAR)


def weighed(weights: DoseWeights, settings: RefineSettings, seed: int, count: int = 40) -> tuple[Drawn, SeriesResult]:
    drawn = draw(settings, seed, n_tilts=N, count=count, weights=weights)
    return drawn, drawn.refined()


def off(error: np.ndarray, covariance: np.ndarray) -> float:
    """Probability of an error at least as large, what is common to all left out."""
    w = np.linalg.inv(covariance)
    one = w.sum(axis=1)
    return float(chi2.sf(error @ w @ error - (one @ error) ** 2 / one.sum(), len(error) - 1))


GEOMETRIES = {
    "known": replace(HELD, priors=replace(NEAR, position_A=0.02, orientation_deg=0.02)),
    "refined": RefineSettings(weights="tilt", particles=True, image_warp=(2, 2), priors=NEAR),
}


@pytest.mark.parametrize(("geometry", "seed"), [("known", 1), ("refined", 1), ("refined", 2)])
def test_scales_and_bfactors_of_tilts_come_back(geometry, seed):
    """Errors over their covariance pass a chi-square test, and B-factors are nearer the truth than -4 dose."""
    weights = DoseWeights(bfactor=CubicGrid.per_tilt(BFACTOR))
    drawn, result = weighed(weights, GEOMETRIES[geometry], seed)
    found = result.weights.tilts
    assert off(found.log_scale - drawn.truth.log_scale, found.covariance[:N, :N]) > 1e-3
    assert off(found.bfactor - BFACTOR, found.covariance[N:, N:]) > 1e-3
    late = DOSE > 10
    ours = found.bfactor - BFACTOR
    default = -4 * DOSE - BFACTOR
    assert np.std(ours[late]) < 0.6 * np.sqrt(np.mean(default[late] ** 2))
    np.testing.assert_array_equal(result.sigmas.series["bfactor"], np.sqrt(np.diag(found.covariance)[N:]))


def test_directions_of_damping_come_back():
    delta, angle = np.minimum(50.0, 5.0 + DOSE), np.full(N, 60.0)
    grids = (CubicGrid.per_tilt(values) for values in (BFACTOR, delta, angle))
    settings = replace(GEOMETRIES["known"], anisotropic_weights=True)
    _, result = weighed(DoseWeights(*grids), settings, 5)
    found = result.weights.tilts
    planted = delta[:, None] * np.stack([np.cos(2 * np.deg2rad(angle)), np.sin(2 * np.deg2rad(angle))], 1)
    for axis in range(2):
        part = slice((2 + axis) * N, (3 + axis) * N)
        error = found.anisotropy[:, axis] - planted[:, axis]
        assert chi2.sf(error @ np.linalg.solve(found.covariance[part, part], error), N) > 1e-3
    # neighbours are alike, so the mean, 20 A^2, is known well
    assert np.linalg.norm(found.anisotropy.mean(0) - planted.mean(0)) < 8
    stored = result.state.series.weights
    np.testing.assert_allclose(stored.bfactor_delta.values.ravel(), np.linalg.norm(found.anisotropy, axis=1))
    assert result.weights.tables["bfactor_anisotropy"]["mprSigma"].shape == (2 * N,)


def test_factor_of_a_series_comes_back():
    """A series whose images all are damped alike: its own B-factor, and its scales keep their proportions."""
    common = -30.0
    weights = DoseWeights(bfactor=CubicGrid.per_tilt(-4 * DOSE + common))
    settings = replace(GEOMETRIES["known"], weights="series")
    drawn = draw(settings, 4, n_tilts=N, weights=weights)
    known = DoseWeights(weight=CubicGrid.per_tilt(0.5 * np.exp(drawn.truth.log_scale)))
    drawn = replace(drawn, start=drawn.start.with_series(weights=known))
    result = drawn.refined()
    table = result.weights.tables["series_weights"]
    sigma = table["mprSigma"][1]
    assert sigma < 12
    assert abs(result.state.series.weights.series_bfactor - common) < 3 * sigma
    ratio = result.state.log_scale - np.log(tilt_scales(drawn.start.series))
    np.testing.assert_allclose(ratio, ratio[0], rtol=0, atol=1e-12)
    assert not np.isfinite(result.sigmas.series["bfactor"]).any()  # of tilts nothing was learnt


def test_weights_by_position_come_back():
    """Images to the right are weaker and more damped; what all have in common belongs to the tilts."""
    weight = CubicGrid(np.array([[[1.3, 0.7], [1.3, 0.7]]]))
    damping = CubicGrid(np.array([[[0.0, -30.0], [0.0, -30.0]]]))
    weights = DoseWeights(location_weight=weight, location_bfactor=damping)
    settings = replace(GEOMETRIES["known"], weights="position", location_grid=(2, 2))
    drawn, result = weighed(weights, settings, 5, count=120)
    particles = drawn.truth.particles[0]
    found, planted = (
        location_terms(s, particles.position_A.mean(axis=1)) for s in (result.state.series, drawn.truth.series)
    )
    log_ratio = np.log(found[0] / planted[0])
    # logarithms of the four corners are known to about 0.03, and between them 0.06 lie between a line and its exponent
    assert np.std(log_ratio) < 0.1 < np.std(np.log(planted[0]))
    assert np.std(found[1] - planted[1]) < 0.7 * np.std(planted[1])
    table = result.weights.tables["location_weights"]
    assert (table["mprSigmaWeight"] < 0.15).all()
    assert (table["mprSigmaBfactor"] < 30).all()


def test_nothing_moves_when_weights_alone_are_asked_for():
    drawn, result = weighed(DoseWeights(bfactor=CubicGrid.per_tilt(BFACTOR)), HELD, 6)
    np.testing.assert_array_equal(result.state.particles[0].position_A, drawn.start.particles[0].position_A)
    np.testing.assert_array_equal(result.state.particles[0].angles_deg, drawn.start.particles[0].angles_deg)
    assert (tilt_bfactors_A2(result.state.series) <= 0).all()
