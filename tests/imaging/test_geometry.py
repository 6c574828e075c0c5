"""Geometry against numbers that Warp wrote, against known projections, and in its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpr_dist.imaging.ctf import per_tilt
from mpr_dist.imaging.geometry import contained, project_points, stage_matrices, tilt_matrices, views
from mpr_dist.maths.rotations import euler_to_matrix, rotation_x, rotation_y, rotation_z
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series

IMAGE_A, VOLUME_A = np.array([800.0, 600.0]), np.array([800.0, 600.0, 300.0])


def posed(position_A, angles_deg) -> Particles:
    """Particles at positions (particles, 3) A with angles (particles, 3) degrees."""
    n = len(position_A)
    return Particles(position_A, angles_deg, np.ones(n, np.int8), np.arange(n))


def a_series(n: int = 3, **changes) -> TiltSeries:
    series = TiltSeries(
        name="TS_01",
        angle_deg=np.linspace(-40.0, 40.0, n) if n > 1 else np.array([20.0]),
        dose=3.0 * np.arange(n),
        axis_angle_deg=np.full(n, 84.0),
        axis_offset_A=np.tile([3.0, -5.0], (n, 1)),
        use_tilt=np.ones(n, bool),
        active=np.ones(n, bool),
        image_size_A=IMAGE_A,
        volume_size_A=VOLUME_A,
        optics=Optics(defocus_um=CubicGrid.constant(2.5)),
    )
    return replace(series, **changes)


def angle_between_deg(a, b):
    """Angle of the rotation from a to b; the chord is accurate where the arc cosine of a trace is not."""
    return np.rad2deg(2 * np.arcsin(np.minimum(np.linalg.norm(a - b, axis=(-2, -1)) / np.sqrt(8), 1.0)))


def test_the_cases_that_warp_wrote(shared):
    """27 points in 41 tilts of an M-refined series: positions, views, defocus and astigmatism are those of Warp."""
    folder, pixel = shared / "data/real/warp_xml", 0.834
    series = read_tilt_series(
        folder / "warpem+warpylib__TS_1.xml",
        volume_size_A=np.array([4000.0, 5700.0, 1000.0]) * pixel,
        image_size_A=np.array([5760.0, 4092.0]) * pixel,
    )
    blocks = read_blocks(folder / "warpem+warpylib__TS_1.star")
    xyz = [f"centeredCoordinate{axis}Angst" for axis in "XYZ"]
    position = blocks["points"][xyz].to_numpy(float) + series.volume_size_A / 2
    rows = blocks["mappings"]
    p, t = rows["pointID"].to_numpy(int) - 1, rows["tiltID"].to_numpy(int) - 1
    assert len(rows) == 1107
    assert len(set(zip(p, t, strict=True))) == 1107

    seen = project_points(series, position)
    expected = rows[xyz[:2]].to_numpy(float) + series.image_size_A / 2
    # the file's rounded numbers are within 3.1e-4 A, 8e-5 degree, 0.011 A of an independent calculation
    np.testing.assert_allclose(seen.xy_A[p, t], expected, rtol=0, atol=1e-3)
    view = views(series, posed(position, np.zeros((27, 3))))[p, t]
    theirs = euler_to_matrix(rows[["angleRot", "angleTilt", "anglePsi"]].to_numpy(float))
    assert angle_between_deg(view, theirs).max() < 1e-4
    delta_A = 1e4 * per_tilt(series.optics.defocus_delta_um.values, 41)[t]
    defocus_A = 1e4 * seen.defocus_um[p, t]
    np.testing.assert_allclose(defocus_A + delta_A / 2, rows["defocusU"], rtol=0, atol=0.05)
    np.testing.assert_allclose(defocus_A - delta_A / 2, rows["defocusV"], rtol=0, atol=0.05)
    angle = per_tilt(series.optics.defocus_angle_deg.values, 41)[t]
    np.testing.assert_allclose(angle, rows["defocusAngle"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["TS_01", "TS_02", "TS_03"])
def test_known_projections(shared, name):
    """The truth's grids and poses give the projections that lie beside them, which were computed independently."""
    folder = shared / "data/apoferritin/truth"
    series = read_tilt_series(folder / f"{name}.xml", volume_size_A=None)
    table = read_blocks(folder / f"{name}_particles.star")[""]
    position = table[["x_A", "y_A", "z_A"]].to_numpy(float)
    stored = np.load(folder / f"{name}_projections.npz")
    seen = project_points(series, position)
    # grids are written with the 7 to 9 digits of a float32, and coordinates up to 1536 A with 4 decimals
    np.testing.assert_allclose(seen.xy_A, stored["xy_A"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(1e4 * seen.defocus_um, 1e4 * stored["defocus_um"], rtol=0, atol=0.05)
    view = views(series, posed(position, table[["rot", "tilt", "psi"]].to_numpy(float)))
    # the stored matrices went through Euler angles in float32, which loses digits where the view is along the beam
    assert angle_between_deg(view, stored["view"]).max() < 2e-4
    assert np.median(angle_between_deg(view, stored["view"])) < 1e-5


def test_one_tilt_is_a_series():
    """A series of one tilt takes the first node of every grid along tilt and dose, and has no NaN."""
    grid = CubicGrid(np.array([[[7.0]], [[900.0]]]))
    warp = LinearGrid4(np.array([5.0, 900.0]).reshape(2, 1, 1, 1))
    series = a_series(1, image_warp=ImageWarp(x=grid), volume_warp=VolumeWarp(z=warp), stage_angles=StageAngles(z=grid))
    plain = a_series(1)
    middle = VOLUME_A[None] / 2
    seen, base = project_points(series, middle), project_points(plain, middle)
    lifted = tilt_matrices(plain)[0] @ [0.0, 0.0, 5.0]
    np.testing.assert_allclose(seen.xy_A[0, 0] - base.xy_A[0, 0], lifted[:2] - [7.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(seen.depth_A[0, 0], lifted[2], atol=1e-9)
    np.testing.assert_allclose(stage_matrices(series, middle[:, None])[0, 0], rotation_z(7.0), atol=1e-12)


def test_the_untilted_image_is_the_plan_of_the_volume():
    """Without tilt, axis or warp x and y are those of the particle, and height above the middle adds to defocus."""
    flat = a_series(1, angle_deg=np.zeros(1), axis_angle_deg=np.zeros(1), axis_offset_A=np.zeros((1, 2)))
    position = np.array([[100.0, 250.0, 200.0]])
    seen = project_points(flat, position)
    np.testing.assert_allclose(seen.xy_A[0, 0], [100.0, 250.0], atol=1e-9)
    np.testing.assert_allclose(seen.defocus_um[0, 0], 2.5 + 50e-4, atol=1e-12)


def test_inverted_angles_flip_the_depth_only():
    """AreAnglesInverted changes the sign of the depth in the defocus and nothing else."""
    position = np.random.default_rng(0).uniform(0, 1, (5, 3)) * VOLUME_A
    one, two = (project_points(a_series(are_angles_inverted=flag), position) for flag in (False, True))
    np.testing.assert_array_equal(one.xy_A, two.xy_A)
    np.testing.assert_array_equal(one.depth_A, -two.depth_A)
    np.testing.assert_allclose(one.defocus_um + two.defocus_um, 5.0, atol=1e-12)
    assert np.abs(one.depth_A).max() > 10


@given(st.floats(-180, 180), st.floats(-70, 70), st.floats(-20, 20), st.floats(-20, 20))
def test_a_tilt_matrix_is_axis_tilt_and_levelling(axis, tilt, level_x, level_y):
    """R = Rz(axis) Ry(-(tilt + level y)) Rx(level x)."""
    series = a_series(
        1, angle_deg=np.array([tilt]), axis_angle_deg=np.array([axis]), level_angle_deg=(level_x, level_y)
    )
    expected = rotation_z(axis) @ rotation_y(-tilt - level_y) @ rotation_x(level_x)
    np.testing.assert_allclose(
        tilt_matrices(series)[0], expected, atol=1e-12
    )  # products of cosines in double precision


def test_the_image_warp_is_looked_up_before_it_is_subtracted():
    """A warp linear in x, a + b x / width, moves every particle by minus its value at the unwarped place."""
    nodes = np.broadcast_to(10.0 + 20.0 * np.linspace(0, 1, 4), (3, 3, 4))
    series = a_series(image_warp=ImageWarp(x=CubicGrid(nodes)))
    position = np.random.default_rng(1).uniform(0.2, 0.8, (6, 3)) * VOLUME_A
    seen, plain = project_points(series, position), project_points(a_series(), position)
    np.testing.assert_array_equal(seen.unwarped_xy_A, plain.xy_A)
    expected = plain.xy_A[..., 0] - (10.0 + 20.0 * plain.xy_A[..., 0] / IMAGE_A[0])
    np.testing.assert_allclose(seen.xy_A[..., 0], expected, atol=1e-9)
    np.testing.assert_array_equal(seen.xy_A[..., 1], plain.xy_A[..., 1])


def test_stage_angles_turn_the_view_but_move_nothing():
    """Stage-angle grids multiply the view from the left as Rz Ry Rx; positions and defocus stay."""
    angles = (2.0, -3.0, 5.0)
    turned = a_series(stage_angles=StageAngles(*(CubicGrid.constant(a) for a in angles)))
    position, euler = np.array([[300.0, 200.0, 100.0]]), np.array([[10.0, 70.0, -30.0]])
    np.testing.assert_array_equal(project_points(turned, position).xy_A, project_points(a_series(), position).xy_A)
    np.testing.assert_array_equal(
        project_points(turned, position).defocus_um, project_points(a_series(), position).defocus_um
    )
    stage = rotation_z(5.0) @ rotation_y(-3.0) @ rotation_x(2.0)
    np.testing.assert_allclose(
        views(turned, posed(position, euler)), stage @ views(a_series(), posed(position, euler)), atol=1e-12
    )


@given(st.floats(-100, 900), st.floats(-100, 700), st.floats(1, 200), st.booleans())
def test_contained_keeps_half_a_diameter_from_every_edge(x, y, diameter, active):
    """An image counts when the circle of the particle lies inside it and its tilt is in use."""
    series = a_series(1, active=np.array([active]))
    r = diameter / 2
    expected = active and r <= x <= IMAGE_A[0] - r and r <= y <= IMAGE_A[1] - r
    assert contained(series, np.array([[[x, y]]]), diameter)[0, 0] == expected
