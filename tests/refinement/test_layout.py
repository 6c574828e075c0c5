"""The vector of series parameters: every value has one place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problem import N_TILTS, a_series

from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.layout import Layout

NODES = st.one_of(st.none(), st.tuples(st.integers(1, 5), st.integers(1, 5)))
VOLUME = st.one_of(st.none(), st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(2, 6)))
SETTINGS = st.builds(
    RefineSettings,
    image_warp=NODES,
    volume_warp=VOLUME,
    particles=st.booleans(),
    stage_angles=st.booleans(),
    defocus=st.booleans(),
    astigmatism=st.booleans(),
    phase_shift=st.booleans(),
    cs=st.booleans(),
    aberrations=st.sets(st.sampled_from([2, 3, 4, 5])).map(tuple),
    magnification=st.booleans(),
)
LAYOUTS = SETTINGS.map(lambda s: Layout.of(s, a_series()))


@settings(deadline=None)
@given(LAYOUTS)
def test_slices_tile_the_vector(layout):
    """Classes stand one behind the other without gaps."""
    end = 0
    for part in layout.slices.values():
        assert part.start == end
        end = part.stop
    assert end == layout.n_series


@settings(deadline=None)
@given(LAYOUTS)
def test_every_parameter_belongs_to_a_tilt(layout):
    """Tilts list each parameter at most once, and together all that any exposure can see."""
    for columns in layout.tilt_columns:
        assert len(np.unique(columns)) == len(columns)
    seen = np.unique(np.concatenate(layout.tilt_columns))
    unseen = np.setdiff1d(np.arange(layout.n_series), seen)
    # layers of a volume warp that lie between two exposures are held by their neighbours alone
    volume = layout.slices.get("volume_warp", slice(0, 0))
    assert ((unseen >= volume.start) & (unseen < volume.stop)).all()


@settings(deadline=None)
@given(LAYOUTS)
def test_values_come_back(layout):
    """Placing the values of a state leaves it as it is; placing others gives those."""
    from small_problem import a_state

    state = a_state(layout)
    rng = np.random.default_rng(0)
    for each in layout.classes:
        values = each.values(state)
        assert len(values) == each.size(N_TILTS)
        np.testing.assert_allclose(each.values(each.placed(state, values)), values, rtol=1e-12, atol=1e-12)
        other = values + rng.uniform(0.1, 1.0, len(values))
        np.testing.assert_allclose(each.values(each.placed(state, other)), other, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(SETTINGS)
def test_settings_say_what_is_refined(asked):
    """Only what the settings ask for has places; amplitudes always have."""
    layout = Layout.of(asked, a_series())
    nodes = asked.image_warp[0] * asked.image_warp[1] if asked.image_warp else 0
    expected = {"image_warp_x": N_TILTS * nodes, "image_warp_y": N_TILTS * nodes}
    if asked.volume_warp:
        width, height, depth, duration = asked.volume_warp
        expected["volume_warp"] = 3 * width * height * depth * (duration - 1)
    even = {2: 3, 4: 5}
    expected["stage_angles"] = 3 * N_TILTS * asked.stage_angles
    expected["defocus"] = N_TILTS * asked.defocus
    expected["astigmatism"] = 2 * N_TILTS * asked.astigmatism
    expected["phase_shift"] = N_TILTS * asked.phase_shift
    expected["cs"] = int(asked.cs)
    expected["aberrations_even"] = sum(even.get(order, 0) for order in asked.aberrations)
    expected["aberrations_odd"] = sum({3: 2 + 4, 5: 6}.get(order, 0) for order in asked.aberrations)
    expected["magnification"] = 4 * asked.magnification
    expected |= {"bfactor": N_TILTS, "log_scale": N_TILTS}
    found = {name: part.stop - part.start for name, part in layout.slices.items()}
    assert found == {name: size for name, size in expected.items() if size}
    assert layout.poses == asked.particles


@pytest.mark.parametrize("orders", [(2,), (3,), (2, 3, 4, 5)])
def test_labels_name_every_parameter_differently(orders):
    """A table of a class has a row per parameter, and no two rows say the same."""
    asked = RefineSettings(
        image_warp=(2, 3), volume_warp=(2, 1, 2, 3), stage_angles=True, astigmatism=True, aberrations=orders
    )
    for each in Layout.of(asked, a_series()).classes:
        columns = each.labels(N_TILTS)
        rows = list(zip(*(list(c) for c in columns.values()), strict=True))
        assert len(rows) == len(set(rows)) == each.size(N_TILTS)
