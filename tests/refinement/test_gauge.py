"""Directions in which classes undo each other are known by name, and the images say nothing about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import NEAR, draw

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
