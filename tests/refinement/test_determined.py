"""The share of a class that the images determine lies between that of no prior and that of an overwhelming one."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from planted import NEAR, draw

from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import evaluate
from mpr_dist.refinement.priors import precision
from mpr_dist.refinement.uncertainty import sigmas

SETTINGS = RefineSettings(particles=True, defocus=True, priors=NEAR)
GEOMETRY = ("defocus", "position", "orientation")


@pytest.fixture(scope="module")
def drawn():
    return draw(SETTINGS, 3, n_tilts=5, count=8, samples=2)


def determined(drawn, factor):
    """With every prior ``factor`` times as wide."""
    priors = Priors(**{field.name: factor * getattr(NEAR, field.name) for field in fields(NEAR)})
    state = drawn.truth
    layout = Layout.of(SETTINGS, state.series, 2)
    prior = precision(layout, state.series, state.particles, priors)
    found = evaluate(state, state, layout, prior, (drawn.data,), None)
    return sigmas(found, found, layout, prior, state.series, state.particles).determined


def test_wider_priors_leave_more_to_the_images(drawn):
    shares = [determined(drawn, factor) for factor in (1e-4, 0.3, 1.0, 3.0, 1e4)]
    for name in GEOMETRY:
        course = [share[name] for share in shares]
        assert np.all(np.diff(course) > 0), name
        assert course[0] < 1e-3, name
        assert course[-1] > 0.999, name


def test_an_evaluation_that_compares_nothing_determines_nothing(drawn):
    """Images as faint as nothing: all is held by the prior."""
    faint = replace(drawn, truth=replace(drawn.truth, log_scale=drawn.truth.log_scale - 20.0))
    shares = determined(faint, 1.0)
    assert all(shares[name] < 1e-6 for name in GEOMETRY)
