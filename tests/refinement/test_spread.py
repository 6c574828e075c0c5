"""Widths of priors are found from posteriors under wrong ones, however much or little the images say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import NEAR, draw
from scipy.linalg import block_diag

from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.refinement.classes.base import node_correlation
from mpr_dist.refinement.spread import BEFOREHAND, RATIOS, Spread, estimated, profile, together, widths
from mpr_dist.refinement.state import pose_offsets

COUNT, NODES = 2000, (2, 3)


def linear(seed: int, true: float, had: float, noise: float) -> Spread:
    """COUNT groups of correlated parameters of spread ``true``, measured with noise, estimated with a prior ``had``.

    Every other parameter is measured twenty times as badly, so that groups have directions of both kinds.
    """
    rng = np.random.default_rng(seed)
    shape = node_correlation(NODES)
    n = len(shape)
    truth = rng.multivariate_normal(np.zeros(n), true**2 * shape, COUNT)
    sigma = noise * np.where(np.arange(n) % 2, 20.0, 1.0)
    data = truth + sigma * rng.standard_normal(truth.shape)
    covariance = np.linalg.inv(np.diag(sigma**-2.0) + np.linalg.inv(had**2 * shape))
    mean = data / sigma**2 @ covariance
    many = (COUNT, n, n)
    excess = profile(mean, np.broadcast_to(covariance, many), np.broadcast_to(had**2 * shape, many), np.zeros(COUNT))
    return Spread(had, float(COUNT * n), excess)


@pytest.mark.parametrize("had", [0.4, 2.0, 8.0])
@pytest.mark.parametrize("noise", [0.01, 0.5, 2.0])
def test_the_spread_is_found_from_any_prior(had, noise):
    """12,000 numbers, half of them almost unknown at the strongest noise: 10 % are more than three standard errors."""
    assert estimated(linear(1, 2.0, had, noise), default=had) == pytest.approx(2.0, rel=0.1)


def test_exactly_known_parameters_give_their_root_mean_square():
    offset = 1.7 * np.random.default_rng(2).standard_normal((500, 1))
    nothing, prior = np.full((500, 1, 1), 1e-9), np.full((500, 1, 1), 9.0)
    spread = Spread(3.0, 500.0, profile(offset, nothing, prior, np.zeros(500)))
    rms = float(np.sqrt(np.mean(offset**2)))
    # the default's 8 numbers of variance 9 are part of the mean
    expected = np.sqrt((500 * rms**2 + BEFOREHAND * 9.0) / (500 + BEFOREHAND))
    assert estimated(spread, default=3.0) == pytest.approx(expected, rel=0.02)


def test_errors_of_the_reference_are_no_spread():
    """Parameters that moved only because the reference is noisy: with its share told, nothing is found."""
    rng, n = np.random.default_rng(3), 4000
    noise = rng.standard_normal((n, 1)) * np.sqrt(3.0)  # a third from the images, two from the reference
    share = 1 / (1 + 0.25)  # of a prior of variance 4 and noise of variance 1, the posterior's is 0.8
    mean, covariance, prior = share * noise, np.full((n, 1, 1), 0.8), np.full((n, 1, 1), 4.0)
    added = np.full(n, share**2 * 2.0 / 0.8)
    told = estimated(Spread(2.0, float(n), profile(mean, covariance, prior, added)), 2.0)
    silent = estimated(Spread(2.0, float(n), profile(mean, covariance, prior, np.zeros(n))), 2.0)
    assert told < 0.7 < 1.2 < silent


def test_what_the_images_say_nothing_about_keeps_the_default():
    same = np.tile(4.0 * np.eye(3), (50, 1, 1))
    unknown = profile(np.zeros((50, 3)), same, same, np.zeros(50))
    assert np.abs(unknown).max() < 150 * 1e-6 * RATIOS[-1] * 1.01  # SHARES leaves a millionth of a number each
    assert estimated(Spread(2.0, 150.0, unknown), default=3.0) == pytest.approx(3.0, rel=0.01)


def test_series_add_up_in_any_order_and_grouping():
    parts = [linear(seed, 1.0, 2.0, 0.5) for seed in range(4)]
    whole, other = together(parts), together([together(parts[2:]), *parts[:2]])
    np.testing.assert_allclose(whole.excess, other.excess, rtol=1e-12)
    assert whole.count == other.count == 4 * COUNT * 6


def test_widths_stay_within_what_was_asked_of_the_series():
    """A class whose parameters moved not at all, or beyond all measure, gets the ends of the range."""
    n = len(RATIOS)
    assert estimated(Spread(1.0, 1e6, np.full(n, -1e6)), 1.0) == pytest.approx(np.sqrt(RATIOS[0]))
    assert estimated(Spread(1.0, 1e6, np.full(n, 1e6)), 1.0) == pytest.approx(np.sqrt(RATIOS[-1]))
    assert widths({}, Priors(), NEAR) == NEAR


def test_widths_of_planted_series_come_back():
    """Six series drawn from NEAR, refined with priors twice as wide: all within 30 % of what was planted.

    What was planted is the root mean square of the draws; 6 series of 7 tilts leave 11 % of chance in a nominal width.
    """
    wide = Priors(**{name: 2 * value for name, value in vars(NEAR).items()})
    asked = RefineSettings(image_warp=(3, 2), particles=True, stage_angles=True, defocus=True, priors=NEAR)
    draws = [draw(asked, seed, n_tilts=7, count=12) for seed in range(6)]
    now = wide
    for _ in range(2):  # the second time every class is judged beside others of the right width
        results = [replace(each, settings=replace(asked, priors=now)).refined() for each in draws]
        sums = {name: together([r.spread[name] for r in results]) for name in results[0].spread}
        now = widths(sums, wide, now)
    planted = _planted(draws)
    assert set(planted) == set(sums)
    for name, true in planted.items():
        assert getattr(now, name) == pytest.approx(true, rel=0.3), name


def _planted(draws):
    """Field of ``Priors`` -> root mean square of what was planted."""
    found: dict[str, list[np.ndarray]] = {}
    for each in draws:
        truth, start = each.truth.series, each.start.series
        warps = ((truth.image_warp.x, start.image_warp.x), (truth.image_warp.y, start.image_warp.y))
        angles = ((getattr(truth.stage_angles, axis), getattr(start.stage_angles, axis)) for axis in "xyz")
        poses = pose_offsets(each.truth.particles[0], each.start.particles[0])
        defocus = 1e4 * (truth.optics.defocus_um.values - start.optics.defocus_um.values)
        found.setdefault("image_warp_A", []).extend(a.values - b.values for a, b in warps)
        found.setdefault("stage_angle_deg", []).extend(a.values - b.values for a, b in angles)
        found.setdefault("defocus_A", []).append(defocus)
        found.setdefault("position_A", []).append(poses[:, :3])
        found.setdefault("orientation_deg", []).append(np.rad2deg(poses[:, 3:]))
    return {
        name: float(np.sqrt(np.mean(np.concatenate([v.ravel() for v in values]) ** 2)))
        for name, values in found.items()
    }


def test_blocks_and_the_whole_agree_where_tilts_are_independent():
    """Two independent blocks, taken one by one or as one matrix."""
    rng = np.random.default_rng(5)
    factors = rng.standard_normal((2, 3, 3))
    prior = 3.0 * np.eye(3) + factors @ np.swapaxes(factors, 1, 2)
    covariance = np.linalg.inv(np.linalg.inv(prior) + 0.5 * np.eye(3))
    offset = rng.standard_normal((2, 3))
    apart = profile(offset, covariance, prior, np.zeros(2))
    whole = profile(offset.ravel()[None], block_diag(*covariance)[None], block_diag(*prior)[None], np.zeros(1))
    np.testing.assert_allclose(apart, whole, rtol=1e-9, atol=1e-9)
