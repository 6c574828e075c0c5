"""States: steps lead where offsets say, and nothing that came is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problem import FULL, N_TILTS, VOLUME_A, a_grid, a_series, a_state, layout_of, random_step, some_particles

from mpr_dist.imaging.ctf import tilt_bfactors_A2
from mpr_dist.imaging.geometry import grid_at, project
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, ImageWarp, StageAngles
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.state import State, move, pose_offsets, resample

NODES = st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4)))
LAYOUTS = st.builds(
    layout_of, image_warp=NODES, particles=st.booleans(), stage_angles=st.booleans(), defocus=st.booleans()
)
BARE = layout_of()


def shaped(series: TiltSeries, layout: Layout) -> TiltSeries:
    return layout.shaped(State(series, (), np.zeros(N_TILTS))).series


@settings(deadline=None)
@given(LAYOUTS, st.integers(0, 10**6))
def test_offsets_of_an_advanced_state_are_the_step(layout, seed):
    """series_offsets and pose_offsets undo advance, for every layout."""
    origin = a_state(layout)
    step, poses = random_step(layout, origin, seed)
    end = layout.advanced(origin, step, poses)
    # defocus is kept in um: 1e4 A lose four of sixteen digits
    np.testing.assert_allclose((layout.values(end) - layout.values(origin)), step, rtol=0, atol=1e-9)
    expected = poses[0] if layout.poses else np.zeros_like(poses[0])
    np.testing.assert_allclose(pose_offsets(end.particles[0], origin.particles[0]), expected, rtol=0, atol=1e-9)


def test_no_step_changes_nothing():
    """Advancing by zero gives the same grids, scales and poses."""
    origin = a_state(FULL)
    end = FULL.advanced(origin, np.zeros(FULL.n_series), [np.zeros((5, FULL.pose_size))])
    np.testing.assert_allclose(FULL.values(end), FULL.values(origin), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(end.particles[0].position_A, origin.particles[0].position_A)
    # angles go through a matrix, whose arc functions lose half the digits at worst
    np.testing.assert_allclose(
        euler_to_matrix(end.particles[0].angles_deg), euler_to_matrix(origin.particles[0].angles_deg), atol=1e-12
    )


def test_steps_reach_the_right_parameter():
    """One value of the vector changes one node of one grid, in the units of the vector."""
    origin, s = a_state(FULL), FULL.slices
    nothing = [np.zeros((5, FULL.pose_size))]
    cases = {
        "volume_warp": (12 + 2 * 4 + 3, lambda x: x.series.volume_warp.z.values[2, 0, 1, 1], 1.0),
        "phase_shift": (2, lambda x: x.series.optics.phase_shift_pi.values[2, 0, 0] - 0.0, 1.0),
        "cs": (0, lambda x: x.series.optics.cs_mm, 1.0),
        # n = 2, m = 2 is q^2 cos 2 theta, n = 3, m = 3 is q^3 cos 3 theta: 1 rad at 1/(4 A)
        "aberrations_even": (2, lambda x: x.series.optics.zernike_even[2], 4.0**2),
        "aberrations_odd": (5, lambda x: x.series.optics.zernike_odd[5], 4.0**3),
        "magnification": (2, lambda x: x.series.optics.magnification[1, 0], 0.01),
        "image_warp_x": (2 * 6 + 1 * 3 + 2, lambda x: x.series.image_warp.x.values[2, 1, 2], 1.0),
        "image_warp_y": (3 * 6 + 0 * 3 + 1, lambda x: x.series.image_warp.y.values[3, 0, 1], 1.0),
        "stage_angles": (1 * 3 + 2, lambda x: x.series.stage_angles.z.values[1, 0, 0], 1.0),
        "defocus": (3, lambda x: x.series.optics.defocus_um.values[3, 0, 0], 1e-4),
        "bfactor": (2, lambda x: x.series.weights.bfactor.values[2, 0, 0], 1.0),
        "log_scale": (1, lambda x: x.log_scale[1], 1.0),
    }
    assert set(cases) == set(s) - {"astigmatism"}  # two values for two, by their own test
    for name, (index, value, unit) in cases.items():
        step = np.zeros(FULL.n_series)
        step[s[name].start + index] = 0.5
        end = FULL.advanced(origin, step, nothing)
        assert value(end) - value(origin) == pytest.approx(0.5 * unit, abs=1e-12), name
        assert np.count_nonzero(np.abs(FULL.values(end) - FULL.values(origin)) > 1e-9) == 1, name


def test_poses_turn_in_the_tomogram_frame():
    """A rotation vector multiplies the pose from the left: a quarter turn about z takes x to y."""
    turned = move(some_particles(1), np.array([[1.0, 2.0, 3.0, 0.0, 0.0, np.pi / 2]]))
    start = some_particles(1)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expected = quarter @ euler_to_matrix(start.angles_deg[0])
    np.testing.assert_allclose(euler_to_matrix(turned.angles_deg[0]), expected, atol=1e-12)
    np.testing.assert_allclose(turned.position_A - start.position_A, [[[1.0, 2.0, 3.0]]])
    np.testing.assert_array_equal(turned.half, start.half)


def test_grids_are_resampled_not_reset():
    """A coarser grid on more nodes is the same function: every particle stays where it was."""
    rng = np.random.default_rng(0)
    warp = ImageWarp(a_grid(rng, (N_TILTS, 2, 2), 5.0), a_grid(rng, (N_TILTS, 1, 2), 5.0))
    series = a_series(image_warp=warp)
    fine = shaped(series, layout_of(image_warp=(5, 4)))
    assert fine.image_warp.x.values.shape == (N_TILTS, 4, 5)
    # two nodes are a straight line, which splines of any number of nodes reproduce
    particles = some_particles()
    np.testing.assert_allclose(project(fine, particles).xy_A, project(series, particles).xy_A, atol=1e-9)


def test_a_fitted_grid_is_left_alone():
    """Grids that have the layout's shape already come back as they are, bit for bit."""
    series = shaped(a_series(), FULL)
    again = shaped(series, FULL)
    for one, two in zip(
        (series.image_warp.x, series.stage_angles.y, series.optics.defocus_um),
        (again.image_warp.x, again.stage_angles.y, again.optics.defocus_um),
        strict=True,
    ):
        assert one.values.tobytes() == two.values.tobytes()
    # B-factors are read through their spline, which rounds
    np.testing.assert_allclose(again.weights.bfactor.values, series.weights.bfactor.values, rtol=1e-12, atol=1e-12)


def test_what_is_not_refined_is_not_touched():
    """Without a class in the layout its grid stays the same object."""
    series = a_series()
    same = shaped(series, layout_of(particles=True))
    assert same.image_warp is series.image_warp
    assert same.stage_angles is series.stage_angles
    assert same.optics is series.optics
    step, poses = random_step(BARE, a_state(FULL), 0)
    end = BARE.advanced(a_state(FULL), step, poses)
    assert not pose_offsets(end.particles[0], some_particles()).any()


def test_one_node_becomes_one_per_tilt():
    """A constant defocus or stage angle keeps its value in every tilt."""
    stage = StageAngles(*(CubicGrid.constant(v) for v in (1.0, -2.0, 3.0)))
    same = shaped(a_series(stage_angles=stage), FULL)
    for grid, value in zip((same.stage_angles.x, same.stage_angles.y, same.stage_angles.z), (1, -2, 3), strict=True):
        np.testing.assert_allclose(grid.values, np.full((N_TILTS, 1, 1), value), atol=1e-12)


def test_margins_are_resampled_away():
    """A grid with margins gives the same values at the nodes of one without, and those are its new nodes."""
    rng = np.random.default_rng(1)
    grid = CubicGrid(rng.standard_normal((4, 3, 5)), (0.1, 0.2, 0.0))
    new = resample(grid, (4, 3, 5))
    assert new.margins == (0.0, 0.0, 0.0)
    z, y, x = np.meshgrid(np.linspace(0, 1, 4), np.linspace(0, 1, 3), np.linspace(0, 1, 5), indexing="ij")
    np.testing.assert_allclose(new.values, grid_at(grid, x, y, z), atol=1e-12)
    assert np.abs(new.values - grid.values).max() > 0.1


@pytest.mark.parametrize("fitted", [False, True])
def test_bfactors_start_from_what_is_in_use(fitted):
    """The grid to be refined holds one B-factor per tilt: the fitted ones, or -4 dose."""
    b = np.array([-10.0, -90.0, 5.0, -30.0])
    series = a_series(weights=DoseWeights(bfactor=CubicGrid.per_tilt(b)) if fitted else DoseWeights())
    fine = shaped(series, FULL)
    expected = b if fitted else [-36.0, 0.0, -12.0, -24.0]
    np.testing.assert_allclose(fine.weights.bfactor.values.ravel(), expected, atol=1e-9)
    np.testing.assert_allclose(tilt_bfactors_A2(fine), expected, atol=1e-9)


def test_no_particles_is_a_state_too():
    """A species without particles in this series moves nowhere and has no offsets."""
    empty = some_particles(0)
    state = State(shaped(a_series(), FULL), (empty, some_particles()), np.zeros(N_TILTS))
    step, poses = random_step(FULL, state, 3)
    end = FULL.advanced(state, step, poses)
    assert len(end.particles[0]) == 0
    assert pose_offsets(end.particles[0], empty).shape == (0, 6)
    assert (np.abs(end.particles[1].position_A) < 2 * VOLUME_A.max()).all()
