"""How the local parameters of every image follow from those of the model, against finite differences of geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_problem import FULL, N_TILTS, SAMPLES, a_grid, a_series, a_state, layout_of, random_step, some_particles

from mpr_dist.imaging.ctf import tilt_bfactors_A2
from mpr_dist.imaging.geometry import project, views
from mpr_dist.maths.rotations import log_rotation
from mpr_dist.model.warp import CubicGrid, ImageWarp
from mpr_dist.refinement.classes.base import PerTilt
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import Linearisation
from mpr_dist.refinement.state import State

# A finite difference over +-h is off by h^2 / 6 times the third derivative (at most 1 per unit^3 here, for rotations in
# radians) and by rounding, 1e-13 of the values / h: positions of 1e3 A and h = 1e-4 leave 1e-6.
STEP = 1e-4


def local_parameters(state: State, base: State, layout: Layout):
    """(tilts, particles, local): shift, rotation vector from the base's view, defocus, B-factor, what classes own."""
    p = state.particles[0]
    seen = project(state.series, p)
    view = views(state.series, p)
    start = views(base.series, base.particles[0])
    out = np.zeros((len(p), N_TILTS, layout.n_local))
    out[..., :2] = seen.xy_A
    out[..., 2:5] = log_rotation(view @ start.swapaxes(-1, -2))
    out[..., 5] = 1e4 * seen.defocus_um
    out[..., 6] = tilt_bfactors_A2(state.series)
    for each in layout.classes:
        if each.n_own:
            values = each.values(state)
            out[..., layout.own[each.name]] = values.reshape(N_TILTS, -1) if isinstance(each, PerTilt) else values
    return out.swapaxes(0, 1)


def derivative(state: State, layout: Layout, step, poses):
    """Central difference of the local parameters along a step."""
    ahead = layout.advanced(state, STEP * step, [STEP * p for p in poses])
    behind = layout.advanced(state, -STEP * step, [-STEP * p for p in poses])
    return (local_parameters(ahead, state, layout) - local_parameters(behind, state, layout)) / (2 * STEP)


def jacobian_of(state: State, layout: Layout) -> Jacobian:
    return Jacobian(Linearisation.of(state.series, state.particles[0]), layout)


def poses_of(found: Jacobian):
    return found.pose(slice(None))


@pytest.fixture(params=["upright", "inverted", "rigid", "inverted and rigid"])
def state(request) -> State:
    series = a_series(are_angles_inverted="inverted" in request.param, is_stage_rigid="rigid" in request.param)
    return a_state(FULL, series, (some_particles(5, 1, SAMPLES),))


@pytest.mark.parametrize("name", list(FULL.slices))
def test_series_columns_are_finite_differences(state, name):
    """Each parameter of a class changes the images of the tilts that list it as its column says, and no others."""
    jacobian, part = jacobian_of(state, FULL), FULL.slices[name]
    found = [jacobian.series(slice(t, t + 1))[0] for t in range(N_TILTS)]
    nothing = [np.zeros((5, FULL.pose_size))]
    for index in range(part.start, part.stop):
        expected = derivative(state, FULL, np.eye(FULL.n_series)[index], nothing)
        for tilt in range(N_TILTS):
            columns = np.flatnonzero(FULL.tilt_columns[tilt] == index)
            if len(columns):
                np.testing.assert_allclose(found[tilt][:, :, columns[0]], expected[tilt], rtol=1e-6, atol=2e-6)
            else:
                np.testing.assert_allclose(expected[tilt], 0, atol=1e-6)
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("parameter", range(6 * SAMPLES))
def test_pose_columns_are_finite_differences(state, parameter):
    """Moving or turning a sample of every particle changes its images as its column says, through all warps."""
    found = poses_of(jacobian_of(state, FULL))[..., parameter]
    poses = np.tile(np.eye(FULL.pose_size)[parameter], (5, 1))
    expected = derivative(state, FULL, np.zeros(FULL.n_series), [poses])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    assert np.abs(expected).max() > 0.1


def test_everything_at_once(state):
    """A random step in all parameters changes the images by the sum of all columns."""
    step, (poses,) = random_step(FULL, state, 7)
    found = jacobian_of(state, FULL)
    change = [
        np.einsum("plc,c->pl", found.series(slice(t, t + 1))[0], step[FULL.tilt_columns[t]])
        + np.einsum("plk,pk->pl", found.pose(slice(t, t + 1))[0], poses)
        for t in range(N_TILTS)
    ]
    # steps of up to 100 A of defocus and some A elsewhere enlarge both errors accordingly
    np.testing.assert_allclose(change, derivative(state, FULL, step, [poses]), rtol=1e-5, atol=2e-5)


def test_positions_move_through_a_warp_that_is_not_refined():
    """The slope of an image warp with margins counts in the pose columns even when its nodes stay."""
    rng = np.random.default_rng(4)
    grids = [CubicGrid(a_grid(rng, (N_TILTS, 3, 4), 20.0).values, (0.1, 0.05, 0.0)) for _ in range(2)]
    layout = layout_of(particles=True, defocus=True)
    state = a_state(layout, a_series(image_warp=ImageWarp(*grids)))
    found = poses_of(jacobian_of(state, layout))
    for parameter in range(3):
        poses = np.tile(np.eye(6)[parameter], (5, 1))
        expected = derivative(state, layout, np.zeros(layout.n_series), [poses])
        np.testing.assert_allclose(found[..., parameter], expected, rtol=1e-6, atol=1e-6)


def test_samples_that_a_species_does_not_have_move_nothing():
    """A species of one sample in a layout of three: columns of the other two are zero."""
    state = a_state(FULL)
    found = poses_of(jacobian_of(state, FULL))
    assert not found[..., 6:].any()
    poses = np.tile(np.r_[np.eye(6)[0], np.zeros(12)], (5, 1))
    expected = derivative(state, FULL, np.zeros(FULL.n_series), [poses])
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-6, atol=1e-6)


def test_no_particles_no_rows():
    """A species without particles here gives empty blocks of the right shape."""
    state = replace(a_state(FULL), particles=(some_particles(0),))
    found = jacobian_of(state, FULL)
    assert found.series(slice(1)).shape == (1, 0, FULL.n_local, len(FULL.tilt_columns[0]))
    assert found.pose(slice(1)).shape == (1, 0, FULL.n_local, FULL.pose_size)


@pytest.mark.parametrize("is_rigid", [False, True])
def test_a_linearisation_sees_particles_as_the_images_do(is_rigid):
    """Places and views of the pass over the images are taken from it: the same bits as without."""
    series, particles = a_series(is_stage_rigid=is_rigid), some_particles(samples=SAMPLES)
    at = Linearisation.of(series, particles)
    np.testing.assert_array_equal(at.views, views(series, particles))
    np.testing.assert_array_equal(at.projection.xy_A, project(series, particles).xy_A)
