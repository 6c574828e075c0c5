"""Directions in which classes undo each other are known by name, and the images say nothing about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import NEAR, draw
from small_problem import EVERYTHING

from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.gauge import _candidates, directions
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import evaluate
from mpr_dist.refinement.priors import precision

SETTINGS = RefineSettings(
    image_warp=(2, 2),
    particles=True,
    stage_angles=True,
    defocus=True,
    aberrations=(3,),
    magnification=True,
    priors=NEAR,
)


@pytest.fixture(scope="module", params=["turns only", "rigid", "inverted"])
def problem(request):
    drawn = draw(SETTINGS, 0, n_tilts=5, count=8, rigid=request.param == "rigid")
    state = drawn.truth
    if request.param == "inverted":
        state = state.with_series(are_angles_inverted=True)
    layout = Layout.of(SETTINGS, state.series)
    prior = precision(layout, state.series, state.particles, NEAR)
    return state, layout, prior, evaluate(state, state, layout, prior, (drawn.data,), None)


def test_every_direction_is_left_to_the_prior(problem):
    """Of what single parameters of the direction are told by the images, the direction itself keeps next to nothing."""
    state, layout, prior, evaluation = problem
    found = directions(evaluation, layout, prior, state)
    # a stage that carries the particles does not undo a rotation of their images alone
    assert len(found) == 3 + 3 + (not state.series.is_stage_rigid) + 2
    e = evaluation.equations
    for name, step, poses in _candidates(layout, state):
        alone = step**2 @ np.diag(e.s - prior.series) + np.einsum("pi,pij,pj->", poses, e.p, poses)
        share = {each.name: each.determined for each in found}[name]
        information = share / max(1 - share, 1e-12) * float(step @ prior.series @ step)
        # image warps of two nodes and small stage angles undo the others to first order only
        assert information < 0.02 * alone, name


def test_a_direction_that_images_see_is_determined(problem):
    """Without the class that undoes it, the same motion changes the images: it is not listed."""
    state, _, _, _ = problem
    settings = replace(SETTINGS, image_warp=None, stage_angles=False)
    layout = Layout.of(settings, state.series)
    assert list(_candidates(layout, state)) == []


OPTICS = replace(EVERYTHING, image_warp=(2, 2), aberrations=(2, 4), magnification=False, priors=NEAR)


def test_directions_of_the_ctf_of_the_volume_and_of_drift():
    """As above, for what only exists with even Zernikes, a volume warp, and two temporal samples."""
    drawn = draw(OPTICS, 1, n_tilts=5, count=8, samples=2)
    state = drawn.truth
    layout = Layout.of(OPTICS, state.series, 2)
    prior = precision(layout, state.series, state.particles, NEAR)
    e = evaluate(state, state, layout, prior, (drawn.data,), None).equations
    names = []
    for name, step, poses in _candidates(layout, state):
        names.append(name)
        alone = step**2 @ np.diag(e.s - prior.series) + np.einsum("pi,pij,pj->", poses, e.p, poses)
        both = step @ (e.s - prior.series) @ step + 2 * step @ np.einsum("npk,pk->n", e.b, poses)
        both += np.einsum("pi,pij,pj->", poses, e.p, poses)
        both -= np.einsum("pi,ij,pj->", poses, prior.poses[0], poses)
        assert both < 0.02 * alone, name
    zernikes = [name for name in names if name.endswith("against Zernikes, even")]
    assert [name.split()[0] for name in zernikes] == ["phase", "Cs", "astigmatism", "astigmatism"]
    assert len([name for name in names if name.startswith("drift of all")]) == 6
    assert len([name for name in names if name.startswith("volume warp")]) == 3


def test_without_the_zernikes_of_order_2_no_astigmatism_is_undone():
    drawn = draw(replace(OPTICS, aberrations=(4,)), 2, n_tilts=3, count=4)
    layout = Layout.of(replace(OPTICS, aberrations=(4,)), drawn.truth.series)
    names = [name for name, _, _ in _candidates(layout, drawn.truth)]
    assert not [name for name in names if name.startswith("astigmatism")]
