"""The protocol that decides by itself: as much as the images carry, what was asked for, and nothing excluded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import NEAR, draw

from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.warp import CubicGrid, ImageWarp
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import evaluate
from mpr_dist.refinement.priors import precision
from mpr_dist.refinement.release import ENOUGH, ENOUGH_OF_VOLUME_WARP, MOST_NODES, Decision, _Weighing, largest, release
from mpr_dist.refinement.state import State
from mpr_dist.refinement.uncertainty import sigmas

AUTO = RefineSettings(protocol="auto", priors=NEAR)


@pytest.fixture(scope="module")
def crowded():
    return draw(RefineSettings(particles=True, priors=NEAR), 1, n_tilts=5, count=30)


@pytest.fixture(scope="module")
def sparse():
    return draw(RefineSettings(particles=True, priors=NEAR), 1, n_tilts=5, count=4)


def decide(drawn, asked=AUTO, faint: float = 0.0, state: State | None = None):
    here = drawn.start if state is None else state
    here = replace(here, log_scale=here.log_scale - faint)
    settings, decisions = release(here, drawn.start, (drawn.data,), asked)
    return settings, {each.name: each for each in decisions}


def nodes(settings: RefineSettings) -> int:
    width, height = settings.image_warp or (0, 0)
    return width * height


def test_more_particles_carry_more(crowded, sparse):
    many, few = decide(crowded)[0], decide(sparse)[0]
    assert nodes(many) > nodes(few)
    assert nodes(few) <= 4
    released = [{name for name in AUTO.__dataclass_fields__ if getattr(s, name) not in (None, False, 0, ())}
                for s in (many, few)]  # fmt: skip
    assert released[0] >= released[1] - {"image_warp"}


def test_images_without_signal_carry_nothing(crowded):
    """Only what was asked for remains, and every class is told of, with the prior as wide as what is expected."""
    settings, decisions = decide(crowded, replace(AUTO, stage_angles=True), faint=10.0)
    assert settings.refined == ("stage angles",)
    assert not any(each.released for name, each in decisions.items() if name != "stage_angles")
    assert all(each.ratio > 0.99 for each in decisions.values())
    assert decisions["stage_angles"].why == "asked for"


def test_what_is_released_is_known_well_enough_and_what_is_not_is_not(crowded):
    settings, decisions = decide(crowded)
    weighing = _Weighing(crowded.start, crowded.start, (crowded.data,), AUTO)
    for name, share in weighing.shares(settings).items():
        assert share >= ENOUGH, name
        assert decisions[name] == Decision(name, decisions[name].words, decisions[name].grid, decisions[name].ratio,
                                           True, decisions[name].why)  # fmt: skip
        assert decisions[name].ratio == pytest.approx(np.sqrt(1 - share))
    # a class that was refused is refused again when it alone is put back
    for name in [name for name, each in decisions.items() if not each.released and name != "temporal_samples"]:
        back = weighing.shares(replace(settings, **{name: getattr(weighing.most, name)}))
        assert back[name] < (ENOUGH_OF_VOLUME_WARP if name == "volume_warp" else ENOUGH), name


def test_excluded_classes_stay_out(crowded):
    settings, decisions = decide(crowded, replace(AUTO, excluded=("particles", "image_warp", "magnification")))
    assert not settings.particles
    assert settings.image_warp is None
    assert not settings.magnification
    assert settings.temporal_samples == 0
    assert not {"particles", "image_warp", "magnification"} & set(decisions)


def test_what_was_released_stays(sparse):
    """A class that has moved is refined on, even when images are too faint to release it; no grid gets coarser."""
    moved = replace(sparse.start.series, image_warp=ImageWarp(*2 * [CubicGrid(np.ones((5, 2, 2)))]))
    settings, decisions = decide(sparse, faint=10.0, state=replace(sparse.truth, series=moved))
    assert settings.particles
    assert settings.image_warp == (2, 2)
    assert decisions["particles"].why == decisions["image_warp"].why == "released before"


def test_it_decides_the_same_twice(crowded):
    assert decide(crowded) == decide(crowded)


def test_shares_are_those_that_a_refinement_reports(crowded):
    """From one pass with the derivatives of all classes, as from a pass of the settings' own."""
    asked = RefineSettings(image_warp=(3, 2), particles=True, defocus=True, magnification=True, priors=NEAR)
    weighing = _Weighing(crowded.start, crowded.start, (crowded.data,), AUTO)
    found = weighing.shares(asked)
    layout = Layout.of(asked, crowded.start.series)
    state = layout.shaped(crowded.start)
    prior = precision(layout, state.series, state.particles, NEAR)
    direct = evaluate(state, state, layout, prior, (crowded.data,), None)
    known = sigmas(direct, direct, layout, prior, state.series, state.particles).determined
    assert found["defocus"] == pytest.approx(known["defocus"], rel=1e-6)
    assert found["magnification"] == pytest.approx(known["magnification"], rel=1e-6)
    assert found["image_warp"] == pytest.approx((known["image_warp_x"] + known["image_warp_y"]) / 2, rel=1e-6)
    assert found["particles"] == pytest.approx((known["position"] + known["orientation"]) / 2, rel=1e-6)


def test_the_largest_grid_has_a_node_per_two_particles_and_can_be_solved():
    size = np.array([3000.0, 2000.0])
    assert largest(AUTO, 41, 1, size).image_warp == (1, 1)
    assert largest(AUTO, 41, 48, size).image_warp == (6, 4)
    assert largest(replace(AUTO, image_warp=(16, 12)), 41, 1, size).image_warp == (16, 12)
    width, height = largest(AUTO, 60, 10**6, size).image_warp
    assert 2 * 60 * width * height <= MOST_NODES


def test_optics_wait_for_half_maps_that_show_them(crowded):
    """At 12 A no class of the optics is released, however well the matrix would know it; what was asked for is."""
    blurred = replace(crowded, data=replace(crowded.data, reference=replace(crowded.data.reference, resolution_A=12.0)))
    sharp, _ = decide(crowded)
    settings, decisions = decide(blurred, replace(AUTO, defocus=True))
    assert sharp.magnification
    assert settings.defocus
    assert (settings.magnification, settings.aberrations) == (False, ())
    assert "8 A" in decisions["magnification"].why


def test_weights_by_tilt_are_released_like_a_class(crowded):
    """Where images determine scales and B-factors of tilts; never against what was asked for."""
    settings, decisions = decide(crowded)
    assert settings.weights == "tilt"
    assert (decisions["weights"].words, decisions["weights"].grid) == ("weights by", "tilt")
    assert decide(crowded, faint=10.0)[0].weights == "none"
    settings, decisions = decide(crowded, replace(AUTO, weights="none"))
    assert settings.weights == "none"
    assert "weights" not in decisions
    settings, decisions = decide(crowded, replace(AUTO, weights="series"), faint=10.0)
    assert settings.weights == "series"
    assert decisions["weights"].why == "asked for"
    assert not decide(crowded, replace(AUTO, excluded=("weights",)))[0].fits_weights
