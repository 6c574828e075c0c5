"""How the local parameters of every image follow from those of the model, against finite differences of geometry."""

from __future__ import annotations

import numpy as np
import pytest
from small_problem import FULL, N_TILTS, a_grid, a_series, a_state, random_step, some_particles

from mpr_dist.imaging.ctf import tilt_bfactors_A2
from mpr_dist.imaging.geometry import project, views
from mpr_dist.maths.rotations import log_rotation
from mpr_dist.model.warp import CubicGrid, ImageWarp
from mpr_dist.refinement.jacobian import N_LOCAL, jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.state import State, advance

# A finite difference over +-h is off by h^2 / 6 times the third derivative (at most 1 per unit^3 here, for rotations in
# radians) and by rounding, 1e-13 of the values / h: positions of 1e3 A and h = 1e-4 leave 1e-6.
STEP = 1e-4


def local_parameters(state: State, base: State):
    """(tilts, particles, 8): shift, rotation vector from the base's view, defocus, B-factor, log of the scale."""
    p = state.particles[0]
    seen = project(state.series, p)
    view = views(state.series, p)
    start = views(base.series, base.particles[0])
    out = np.empty((len(p), N_TILTS, N_LOCAL))
    out[..., :2] = seen.xy_A
    out[..., 2:5] = log_rotation(view @ start.swapaxes(-1, -2))
    out[..., 5] = 1e4 * seen.defocus_um
    out[..., 6] = tilt_bfactors_A2(state.series)
    out[..., 7] = state.log_scale
    return out.swapaxes(0, 1)


def derivative(state: State, layout: Layout, step, poses):
    """Central difference of the local parameters along a step."""
    ahead = advance(state, layout, STEP * step, [STEP * p for p in poses])
    behind = advance(state, layout, -STEP * step, [-STEP * p for p in poses])
    return (local_parameters(ahead, state) - local_parameters(behind, state)) / (2 * STEP)


def jacobian_of(state: State, layout: Layout):
    p = state.particles[0]
    return jacobian(state.series, p, project(state.series, p), layout)


@pytest.fixture(params=[False, True], ids=["upright", "inverted"])
def state(request) -> State:
    return a_state(FULL, a_series(are_angles_inverted=request.param))


@pytest.mark.parametrize("name", list(FULL.slices))
def test_series_columns_are_finite_differences(state, name):
    """Each parameter of a class changes the images of its own tilt as its column says, and no others."""
    found = jacobian_of(state, FULL).series
    part = FULL.slices[name]
    for index in range(part.start, part.stop):
        expected = derivative(state, FULL, np.eye(FULL.n_series)[index], [np.zeros((5, 6))])
        tilt = (index - part.start) // FULL.widths[name]
        column = int(np.flatnonzero(FULL.columns(tilt) == index)[0])
        np.testing.assert_allclose(found[tilt, :, :, column], expected[tilt], rtol=1e-6, atol=1e-6)
        others = np.delete(np.arange(N_TILTS), tilt)
        np.testing.assert_allclose(expected[others], 0, atol=1e-6)
        assert np.abs(expected[tilt]).max() > 1e-3


@pytest.mark.parametrize("parameter", range(6))
def test_pose_columns_are_finite_differences(state, parameter):
    """Moving or turning every particle changes its images as its column says, through tilt and image warp."""
    found = jacobian_of(state, FULL).pose[..., parameter]
    poses = np.tile(np.eye(6)[parameter], (5, 1))
    expected = derivative(state, FULL, np.zeros(FULL.n_series), [poses])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected).max() > 0.1


def test_everything_at_once(state):
    """A random step in all parameters changes the images by the sum of all columns."""
    step, (poses,) = random_step(FULL, state, 7)
    found = jacobian_of(state, FULL)
    per_tilt = np.stack([step[FULL.columns(t)] for t in range(N_TILTS)])
    change = np.einsum("tplc,tc->tpl", found.series, per_tilt) + np.einsum("tplk,pk->tpl", found.pose, poses)
    # steps of up to 100 A of defocus and some A elsewhere enlarge both errors accordingly
    np.testing.assert_allclose(change, derivative(state, FULL, step, [poses]), rtol=1e-6, atol=1e-5)


def test_positions_move_through_a_warp_that_is_not_refined():
    """The slope of an image warp with margins counts in the pose columns even when its nodes stay."""
    rng = np.random.default_rng(4)
    grids = [CubicGrid(a_grid(rng, (N_TILTS, 3, 4), 20.0).values, (0.1, 0.05, 0.0)) for _ in range(2)]
    layout = Layout(N_TILTS, None, False, True, True)
    state = a_state(layout, a_series(image_warp=ImageWarp(*grids)))
    found = jacobian_of(state, layout)
    assert found.series.shape == (N_TILTS, 5, N_LOCAL, 3)
    for parameter in range(3):
        poses = np.tile(np.eye(6)[parameter], (5, 1))
        expected = derivative(state, layout, np.zeros(layout.n_series), [poses])
        np.testing.assert_allclose(found.pose[..., parameter], expected, rtol=1e-6, atol=1e-6)


def test_poses_that_are_not_refined_have_no_columns():
    """Without particles in the layout their part is zero."""
    layout = Layout(N_TILTS, (2, 2), False, False, False)
    state = a_state(layout)
    assert not jacobian_of(state, layout).pose.any()
    assert jacobian_of(state, layout).pose.shape == (N_TILTS, 5, N_LOCAL, 6)


def test_no_particles_no_rows():
    """A species without particles here gives empty blocks of the right shape."""
    layout = FULL
    state = a_state(layout, particles=(some_particles(0),))
    found = jacobian_of(state, layout)
    assert found.series.shape == (N_TILTS, 0, N_LOCAL, sum(layout.widths.values()))
    assert found.pose.shape == (N_TILTS, 0, N_LOCAL, 6)
