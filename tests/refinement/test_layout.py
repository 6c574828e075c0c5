"""The vector of series parameters: every value has one place."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.layout import Layout

NODES = st.one_of(st.none(), st.tuples(st.integers(1, 5), st.integers(1, 5)))
LAYOUTS = st.builds(Layout, st.integers(1, 6), NODES, st.booleans(), st.booleans(), st.booleans())


@given(LAYOUTS)
def test_slices_tile_the_vector(layout):
    """Classes stand one behind the other, in the order of widths, without gaps."""
    end = 0
    for name, part in layout.slices.items():
        assert part.start == end
        assert part.stop - part.start == layout.widths[name] * layout.n_tilts
        end = part.stop
    assert end == layout.n_series


@given(LAYOUTS)
def test_columns_of_all_tilts_are_all_parameters_once(layout):
    """Every parameter belongs to exactly one tilt."""
    columns = np.concatenate([layout.columns(t) for t in range(layout.n_tilts)])
    assert sorted(columns) == list(range(layout.n_series))


@given(LAYOUTS)
def test_columns_follow_the_slices(layout):
    """columns(t) picks row t of every class, reshaped to (tilts, width), classes in order."""
    vector = np.random.default_rng(0).standard_normal(layout.n_series)
    for t in range(layout.n_tilts):
        rows = [vector[part].reshape(layout.n_tilts, -1)[t] for part in layout.slices.values()]
        np.testing.assert_array_equal(vector[layout.columns(t)], np.concatenate(rows))


@given(NODES, st.booleans(), st.booleans(), st.booleans())
def test_settings_say_what_is_refined(warp, particles, stage, defocus):
    """Only what the settings ask for has places; amplitudes always have."""
    settings = RefineSettings(image_warp=warp, particles=particles, stage_angles=stage, defocus=defocus)
    layout = Layout.of(settings, 3)
    expected = {"bfactor": 1, "log_scale": 1}
    if warp:
        expected |= {"image_warp_x": warp[0] * warp[1], "image_warp_y": warp[0] * warp[1]}
    if stage:
        expected["stage_angles"] = 3
    if defocus:
        expected["defocus"] = 1
    assert layout.widths == expected
    assert layout.poses == particles
