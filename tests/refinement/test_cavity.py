"""An image is placed by all others: what the cavity says is what is found without the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted import NEAR, draw

from mpr_dist.maths.solve import covariance, solve
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.cavity import PLACE, cavities
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import Linearisation
from mpr_dist.refinement.objective import evaluate
from mpr_dist.refinement.priors import precision

SETTINGS = RefineSettings(
    image_warp=(2, 2),
    particles=True,
    defocus=True,
    astigmatism=True,
    aberrations=(3,),
    magnification=True,
    priors=NEAR,
)


@pytest.fixture(scope="module")
def problem():
    return draw(SETTINGS, 3, n_tilts=3, count=6)


@pytest.mark.parametrize("image", [(0, 0), (4, 2), (5, 1)])
def test_the_cavity_is_the_posterior_without_the_image(problem, image):
    """Mean and covariance of a place equal those of the same linear problem from which the image is left out."""
    p, t = image
    layout = Layout.of(SETTINGS, problem.start.series)
    prior = precision(layout, problem.start.series, problem.start.particles, NEAR)
    args = (problem.start, problem.start, layout, prior)
    whole = evaluate(*args, (problem.data,), None)
    found = cavities(problem.start, whole, layout, (problem.data,))[0]

    active = problem.data.images.active.copy()
    active[p, t] = False
    without = replace(problem.data, images=replace(problem.data.images, active=active))
    left = evaluate(*args, (without,), None).equations
    blocks, (step, poses) = covariance(left), solve(left)
    jacobian = Jacobian(Linearisation.of(problem.start.series, problem.start.particles[0]), layout)
    tilt = slice(t, t + 1)
    a, b = jacobian.series(tilt)[0, p, :PLACE], jacobian.pose(tilt)[0, p, :PLACE]
    columns = layout.tilt_columns[t]
    mean = a @ step[columns] + b @ poses[p]
    mixed = a @ blocks.sp[columns, p] @ b.T
    cov = a @ blocks.s[np.ix_(columns, columns)] @ a.T + mixed + mixed.T + b @ blocks.p[p] @ b.T

    # double precision, and normal equations with condition numbers of 1e8
    np.testing.assert_allclose(found.mean[p, t], mean, rtol=1e-5, atol=1e-7)
    turn = cov[2:5, 2:5]
    shift = found.blur[p, t, :3] - [cov[0, 0], cov[1, 1], cov[0, 1]]
    of_turn = np.array([turn[1, 1] + turn[2, 2], turn[0, 0] + turn[2, 2], -turn[0, 1]])
    radius2 = shift @ of_turn / (of_turn @ of_turn)
    # turns move a ball of 50 A by the root mean square distance of its matter from an axis, 25 / sqrt(5) A, or less
    assert 30 < radius2 < 130
    np.testing.assert_allclose(shift, radius2 * of_turn, rtol=1e-5, atol=1e-7)
    assert found.blur[p, t, 3] == pytest.approx(cov[5, 5], rel=1e-5)
