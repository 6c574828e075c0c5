"""The search for the defocus: it finds what is far away, and leaves alone what it cannot tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import draw

from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.refinement.search import RANGE_A, STEP_A, is_clear, recentred, search_defocus

SETTINGS = RefineSettings(defocus=True, defocus_search=True)
STEPS = np.arange(-RANGE_A, RANGE_A + 1, STEP_A)


@pytest.fixture(scope="module")
def far_off():
    """Every tilt starts 2000 A or more from its defocus, which no step downhill would cross."""
    drawn = draw(replace(SETTINGS, priors=Priors(defocus_A=1.0)), 3, count=20, n_tilts=7)
    rng = np.random.default_rng(0)
    offset = rng.uniform(1500, 2700, 7) * rng.choice([-1, 1], 7)
    grid = drawn.start.series.optics.defocus_um
    moved = drawn.start.with_optics(defocus_um=replace(grid, values=grid.values + 1e-4 * offset.reshape(-1, 1, 1)))
    return replace(drawn, start=moved, settings=SETTINGS)


def defocus_A(state):
    return 1e4 * state.series.optics.defocus_um.values.ravel()


def test_the_search_ends_within_a_step(far_off):
    """Offsets of up to 0.27 um are found to a fraction of the grid's 0.03 um, in 21 passes."""
    found, passes = search_defocus(far_off.start, (far_off.data,))
    assert passes == len(STEPS)
    assert np.abs(defocus_A(far_off.start) - defocus_A(far_off.truth)).min() > 1400
    assert np.abs(defocus_A(found) - defocus_A(far_off.truth)).max() < STEP_A


def test_refinement_goes_on_from_what_was_found(far_off):
    """The refined defocus is right to its sigma, and the prior of a search does not pull it back."""
    searched = far_off.refined()
    error = np.abs(defocus_A(searched.state) - defocus_A(far_off.truth))
    assert (error < 5 * searched.sigmas.series["defocus"]).all()
    assert error.max() < 300


def test_noise_leaves_the_defocus_where_it_was(far_off):
    """Images without signal: no tilt moves."""
    rng = np.random.default_rng(1)
    images = far_off.data.images
    noise = (rng.standard_normal(images.values.shape) / np.sqrt(2)).astype(np.float32)
    data = replace(far_off.data, images=replace(images, values=noise))
    found, _ = search_defocus(far_off.start, (data,))
    np.testing.assert_array_equal(defocus_A(found), defocus_A(far_off.start))


def test_a_species_too_coarse_for_the_ctf_has_no_say(far_off):
    """Without a species that sees the CTF nothing is searched."""
    found, passes = search_defocus(far_off.start, (replace(far_off.data, frozen=far_off.start.series.optics),))
    assert passes == 0
    assert found is far_off.start


@given(st.floats(0, 1e6), st.integers(0, len(STEPS) - 1))
def test_ties_win_nothing(level, winner):
    """Equal scores, and NaN, are no reason to move (M once committed random defocus)."""
    assert not is_clear(np.full(len(STEPS), level), STEPS)
    gain = np.full(len(STEPS), level)
    gain[winner] = np.nan
    assert not is_clear(gain, STEPS)


def test_the_start_wins_against_little():
    """A gain of less than chance and prior is not taken; a large one is."""
    gain = np.ones(len(STEPS))
    gain[2] = 9.0
    assert not is_clear(gain, STEPS)
    gain[2] = 40.0
    assert is_clear(gain, STEPS)
    gain[12] = 38.0
    assert not is_clear(gain, STEPS)  # another peak is nearly as high
    edge = np.ones(len(STEPS))
    edge[0] = 40.0
    assert not is_clear(edge, STEPS)  # the maximum may lie beyond the range


def test_the_prior_follows_what_a_search_found_and_holds_the_rest(far_off):
    """Only tilts further than three deviations from the import get a new centre."""
    near = far_off.truth.with_optics(
        defocus_um=replace(
            far_off.truth.series.optics.defocus_um,
            values=far_off.truth.series.optics.defocus_um.values + 0.02,
        )
    )
    centre = recentred(far_off.start, far_off.truth, Priors())
    np.testing.assert_array_equal(defocus_A(centre), defocus_A(far_off.truth))
    np.testing.assert_array_equal(defocus_A(recentred(near, far_off.truth, Priors())), defocus_A(near))
