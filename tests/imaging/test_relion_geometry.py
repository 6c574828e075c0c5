"""RELION's geometry in our terms and back, against RELION's own formulas written out once more here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mpr_dist.imaging.geometry import grid_at, project, project_points, views
from mpr_dist.imaging.relion_deformation import displacement_px, fit_image_warp, spline_of
from mpr_dist.imaging.relion_export import particles_for, series_for
from mpr_dist.imaging.relion_geometry import stage_for
from mpr_dist.imaging.relion_motion import fit_motion
from mpr_dist.imaging.relion_series import series_of
from mpr_dist.model.pose import Particles
from mpr_dist.model.relion import RelionDeformation, RelionTilts, coefficient_count, frequencies
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.relion_tilts import _geometry
from mpr_dist.storage.star import read_blocks

PIXEL = 3.5
TILTS = 7


def relion_tilts(volume: tuple[int, int, int] = (200, 240, 90), **changes: object) -> RelionTilts:
    rng = np.random.default_rng(3)
    angles = np.stack([np.full(TILTS, 1.5), np.linspace(-48, 48, TILTS), rng.normal(85, 1, TILTS)], -1)
    made = RelionTilts(
        name="TS_7",
        pixel_A=PIXEL,
        volume_px=volume,
        hand=1.0,
        voltage_kV=300.0,
        cs_mm=2.7,
        amplitude=0.1,
        dose=np.array([18.0, 12, 6, 0, 3, 9, 15]),
        defocus_u_A=rng.normal(30000, 300, TILTS),
        defocus_v_A=rng.normal(29000, 300, TILTS),
        defocus_angle_deg=rng.uniform(0, 180, TILTS),
        phase_deg=np.zeros(TILTS),
        angles_deg=angles,
        shift_A=rng.normal(0, 40, (TILTS, 2)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def relion_matrix(relion: RelionTilts, t: int, image: tuple[int, int]) -> np.ndarray:
    """P of RELION 5 from its five numbers, by scipy's rotations; centres are whole pixels."""
    x, y, z = relion.angles_deg[t]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [x, y, z], degrees=True).as_matrix()
    centre, to_image = np.eye(4), np.eye(4)
    centre[:3, 3] = -(np.array(relion.volume_px) // 2)
    to_image[:2, 3] = np.array(image) // 2 + relion.shift_A[t] / relion.pixel_A
    return to_image @ matrix @ centre


def relion_sees(relion: RelionTilts, image: tuple[int, int], centred_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(points, tilts, 2) positions in A and (points, tilts) mean defocus in A, as RELION 5 computes them."""
    points = centred_A / relion.pixel_A + np.array(relion.volume_px) / 2.0
    middle = np.append(np.array(relion.volume_px) / 2.0, 1.0)
    xy, defocus = [], []
    for t in range(relion.n_tilts):
        p = relion_matrix(relion, t, image) if relion.projection is None else relion.projection[t]
        seen = np.c_[points, np.ones(len(points))] @ p.T
        depth = seen[:, 2] - (p @ middle)[2]
        xy.append(seen[:, :2] * relion.pixel_A)
        mean = (relion.defocus_u_A[t] + relion.defocus_v_A[t]) / 2
        defocus.append(mean + relion.hand * relion.pixel_A * depth)
    return np.stack(xy, 1), np.stack(defocus, 1)


def some_points(relion: RelionTilts) -> np.ndarray:
    size = np.array(relion.volume_px) * relion.pixel_A
    return np.random.default_rng(5).uniform(-0.45, 0.45, (12, 3)) * size


@pytest.mark.parametrize("hand", [1.0, -1.0])
@pytest.mark.parametrize("volume", [(200, 240, 90), (201, 241, 91)])
@pytest.mark.parametrize("image", [(256, 260), (255, 261)])
def test_particles_are_where_relion_sees_them(
    hand: float, volume: tuple[int, int, int], image: tuple[int, int]
) -> None:
    """Even and odd sizes, both hands: to rounding."""
    relion = relion_tilts(volume, hand=hand)
    series = series_of("TS_7", relion, image, ()).series
    centred = some_points(relion)
    xy, defocus = relion_sees(relion, image, centred)
    ours = project_points(series, centred + series.volume_size_A / 2)
    assert np.abs(ours.xy_A - xy).max() < 1e-9
    assert np.abs(ours.defocus_um * 1e4 - defocus).max() < 1e-6
    back = stage_for(series, PIXEL)
    assert np.abs(back.angles_deg - relion.angles_deg).max() < 1e-9
    assert np.abs(back.shift_A - relion.shift_A).max() < 1e-9


def test_old_matrices_are_the_same_geometry() -> None:
    """RELION 4's matrices instead of the five numbers."""
    relion = relion_tilts()
    matrices = np.stack([relion_matrix(relion, t, (256, 260)) for t in range(TILTS)])
    old = replace(relion, angles_deg=None, shift_A=None, projection=matrices)
    new, same = (series_of("TS_7", each, (256, 260), ()).series for each in (relion, old))
    points = some_points(relion) + new.volume_size_A / 2
    assert np.abs(project_points(new, points).xy_A - project_points(same, points).xy_A).max() < 1e-9
    assert np.abs(new.angle_deg - same.angle_deg).max() < 1e-9


def test_anisotropic_matrices_become_an_image_warp() -> None:
    relion = relion_tilts()
    matrices = np.stack([relion_matrix(relion, t, (256, 260)) for t in range(TILTS)])
    matrices[:, :2, :3] = np.array([[1.004, 0.002], [-0.001, 0.997]]) @ matrices[:, :2, :3]
    old = replace(relion, angles_deg=None, shift_A=None, projection=matrices)
    made = series_of("TS_7", old, (256, 260), ())
    centred = some_points(relion)
    xy, _ = relion_sees(old, (256, 260), centred)
    assert np.abs(project_points(made.series, centred + made.series.volume_size_A / 2).xy_A - xy).max() < 1e-8


def test_a_levelling_that_changes_is_a_rigid_stage() -> None:
    relion = relion_tilts()
    angles = relion.angles_deg.copy()
    angles[:, 0] += np.linspace(-0.4, 0.5, TILTS)
    relion = replace(relion, angles_deg=angles, hand=-1.0)
    series = series_of("TS_7", relion, (256, 260), ()).series
    assert series.is_stage_rigid
    centred = some_points(relion)
    xy, defocus = relion_sees(relion, (256, 260), centred)
    ours = project_points(series, centred + series.volume_size_A / 2)
    assert np.abs(ours.xy_A - xy).max() < 1e-9
    assert np.abs(ours.defocus_um * 1e4 - defocus).max() < 1e-6
    assert np.abs(stage_for(series, PIXEL).angles_deg - angles).max() < 1e-9


def test_transposed_rotations_are_recognised() -> None:
    """Some versions of Warp wrote them the wrong way round: XTilt carries the stage tilt."""
    relion = relion_tilts(angles_deg=np.stack([np.zeros(TILTS), np.linspace(-48, 48, TILTS), np.full(TILTS, 85.0)], -1))
    turned = Rotation.from_euler("xyz", relion.angles_deg, degrees=True).as_matrix().transpose(0, 2, 1)
    wrong = Rotation.from_matrix(turned).as_euler("xyz", degrees=True)
    assert np.ptp(wrong[:, 0]) > 80
    made = series_of("TS_7", replace(relion, angles_deg=wrong), (256, 260), ())
    assert made.stage.is_transposed
    assert np.abs(made.series.angle_deg + relion.angles_deg[:, 1]).max() < 1e-9
    assert not series_of("TS_7", relion, (256, 260), ()).stage.is_transposed


def smooth_deformation(kind: str, grid: tuple[int, int]) -> RelionDeformation:
    rng = np.random.default_rng(11)
    coefficients = rng.normal(0, 1.0, (TILTS, coefficient_count(kind, grid)))
    if kind == "linear":
        coefficients *= 1e-3
    if kind == "spline":
        coefficients.reshape(-1, 4)[:, 1:] *= 0.3
    return RelionDeformation(kind, grid, coefficients)


def test_splines_are_relions_hermite_patches() -> None:
    """The value at a node, and the slope there in pixels per cell, are the numbers of the file."""
    bend = smooth_deformation("spline", (4, 3))
    node = bend.coefficients.reshape(TILTS, 2, 3, 4, 4)
    at = displacement_px(bend, np.array([[1 / 3, 0.5]]), (256, 260))[:, 0]
    assert np.abs(at - node[:, :, 1, 1, 0]).max() < 1e-12
    h = 1e-6
    right = displacement_px(bend, np.array([[1 / 3 + h / 3, 0.5]]), (256, 260))[:, 0]
    up = displacement_px(bend, np.array([[1 / 3, 0.5 + h / 2]]), (256, 260))[:, 0]
    assert np.abs((right - at) / h - node[:, :, 1, 1, 1]).max() < 1e-4
    assert np.abs((up - at) / h - node[:, :, 1, 1, 2]).max() < 1e-4
    outside = displacement_px(bend, np.array([[-0.2, 1.3]]), (256, 260))
    assert np.allclose(outside, displacement_px(bend, np.array([[0.0, 1.0]]), (256, 260)), atol=1e-6)


def test_fourier_frequencies_are_half_waves_over_the_image() -> None:
    """RELION's order: rows of low y first, then those of negative y; no constant term."""
    assert frequencies((3, 3)).tolist() == [[1, 0], [1, -2], [1, -1]]
    assert frequencies((4, 4)).tolist() == [
        [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [1, -2], [2, -2], [1, -1], [2, -1],
    ]  # fmt: skip
    one = np.zeros((1, coefficient_count("Fourier", (3, 3))))
    one[0, 0] = 2.0  # real part of the first wave, along x
    bend = RelionDeformation("Fourier", (3, 3), one)
    at = displacement_px(bend, np.array([[0.0, 0.3], [0.5, 0.3], [1.0, 0.3]]), (256, 260))[0]
    assert np.allclose(at, [[2, 0], [0, 0], [-2, 0]])


@pytest.mark.parametrize(("kind", "most_A"), [("spline", 1.0), ("Fourier", 0.4), ("linear", 1e-9)])
def test_deformations_become_image_warps(kind: str, most_A: float) -> None:
    """Hermite splines have kinks in curvature, and waves are curved at the edges: natural splines are a good start."""
    bend = smooth_deformation(kind, (4, 3))
    relion = relion_tilts(deformation=bend)
    made = series_of("TS_7", relion, (256, 260), ())
    centred = some_points(relion)
    xy, _ = relion_sees(relion, (256, 260), centred)
    size = np.array([256, 260]) * PIXEL
    for t in range(TILTS):
        one = RelionDeformation(bend.kind, bend.grid, bend.coefficients[t : t + 1])
        xy[:, t] += PIXEL * displacement_px(one, xy[:, t] / size, (256, 260))[0]
    ours = project_points(made.series, centred + made.series.volume_size_A / 2).xy_A
    moved = np.linalg.norm(
        ours
        - project_points(replace(made.series, image_warp=ImageWarp()), centred + made.series.volume_size_A / 2).xy_A,
        axis=-1,
    )
    assert moved.max() > 0.5
    assert made.warp is not None
    assert np.linalg.norm(ours - xy, axis=-1).max() < max(1.05 * made.warp.most_A, most_A)
    assert made.warp.most_A < most_A


def test_image_warps_are_splines_of_relion() -> None:
    """Natural splines are piecewise bicubic: RELION's patches hold them to rounding."""
    rng = np.random.default_rng(2)
    warp = ImageWarp(CubicGrid(rng.normal(0, 5, (TILTS, 4, 6))), CubicGrid(rng.normal(0, 5, (TILTS, 4, 6))))
    spline = spline_of(warp, TILTS, PIXEL)
    uv = rng.uniform(0, 1, (50, 2))

    def wanted(points: np.ndarray) -> np.ndarray:
        return -PIXEL * displacement_px(spline, points, (256, 260))

    series = series_of("TS_7", relion_tilts(), (256, 260), ()).series
    x, y = uv.T
    ours = np.stack([grid_at(g, x[:, None], y[:, None], series.tilt_position[None]) for g in (warp.x, warp.y)], -1)
    assert np.abs(wanted(uv).transpose(1, 0, 2) - ours).max() < 1e-9
    again = fit_image_warp(wanted, (6, 4))
    assert np.abs(again.warp.x.values - warp.x.values).max() < 1e-8


def test_motion_becomes_the_fewest_samples() -> None:
    dose = np.array([0.0, 0.5, 0.25, 0.75, 1.0, 0.125])
    still = np.broadcast_to([1.0, -2.0, 0.5], (3, 6, 3))
    assert fit_motion(still, dose).samples_A.shape == (3, 1, 3)
    line = still + dose[None, :, None] * [4.0, 0.0, -3.0]
    fit = fit_motion(line, dose)
    assert fit.samples_A.shape == (3, 2, 3)
    assert fit.most_A < 1e-9
    wild = np.random.default_rng(0).normal(0, 2, (3, 5, 3))
    fit = fit_motion(wild, np.linspace(0, 1, 5)[[2, 0, 4, 1, 3]])
    assert fit.samples_A.shape[1] == 5
    assert fit.most_A < 1e-9


def everything(n_particles: int = 6) -> tuple[TiltSeries, Particles]:
    """A series in which all that moves particles is at work."""
    rng = np.random.default_rng(8)
    series = series_of("TS_7", relion_tilts(hand=-1.0), (256, 260), ()).series
    grids = [CubicGrid(rng.normal(0, 4, (TILTS, 3, 4))) for _ in range(2)]
    volume = [LinearGrid4(rng.normal(0, 3, (4, 1, 2, 2))) for _ in range(3)]
    stage = [CubicGrid(rng.normal(0, 1, (TILTS, 1, 1))) for _ in range(3)]
    series = replace(
        series, image_warp=ImageWarp(*grids), volume_warp=VolumeWarp(*volume), stage_angles=StageAngles(*stage)
    )
    centre = rng.uniform(0.2, 0.8, (n_particles, 1, 3)) * series.volume_size_A
    position = centre + rng.normal(0, 3, (n_particles, 3, 3))
    angles = np.repeat(rng.uniform(20, 160, (n_particles, 1, 3)), 3, 1)
    return series, Particles(position, angles, np.ones(n_particles, np.int8), np.arange(n_particles))


@pytest.mark.parametrize("is_rigid", [False, True])
def test_displacements_hold_what_tilts_cannot(is_rigid: bool) -> None:
    """Image warp, volume warp, stage angles and trajectories at once: RELION's formulas give our positions."""
    series, particles = everything()
    series = replace(series, is_stage_rigid=is_rigid)
    of = series_for(series, PIXEL)
    made = particles_for(series, particles, PIXEL, of)
    relion = relion_tilts(hand=-1.0, angles_deg=of.stage.angles_deg, shift_A=of.stage.shift_A)
    assert made.motion_A is not None
    assert of.deformation is not None
    size = np.array([256, 260]) * PIXEL
    ours, our_views = project(series, particles), views(series, particles)
    for t in range(TILTS):
        seen, _ = relion_sees(relion, (256, 260), made.centred_A + made.motion_A[:, t])
        one = RelionDeformation(of.deformation.kind, of.deformation.grid, of.deformation.coefficients[t : t + 1])
        bent = seen[:, t] + PIXEL * displacement_px(one, seen[:, t] / size, (256, 260))[0]
        assert np.abs(bent - ours.xy_A[:, t]).max() < 1e-6
        view = relion_matrix(relion, t, (256, 260))[:3, :3] @ _matrix(made.angles_deg)
        assert np.abs(view - our_views[:, t]).max() < 1e-9  # one orientation, stage angles the same everywhere
    assert made.error_A.max() < 1e-6
    assert made.without_motion_A.max() > 3
    _, defocus = relion_sees(relion, (256, 260), made.centred_A)
    ours_A = 1e4 * (ours.defocus_um - series.optics.defocus_um.values[None, :, 0, 0])
    relion_A = defocus - (relion.defocus_u_A + relion.defocus_v_A) / 2
    assert np.abs(relion_A - ours_A - made.defocus_A).max() < 1e-6


def _matrix(angles_deg: np.ndarray) -> np.ndarray:
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True).inv().as_matrix()


def test_orientations_that_change_are_told() -> None:
    """RELION has one orientation per particle: the mean stays, and the rest is in the report."""
    series, particles = everything()
    turned = particles.angles_deg.copy()
    turned[:, 2, 2] += 3.0  # psi of the last sample
    made = particles_for(series, replace(particles, angles_deg=turned), PIXEL, series_for(series, PIXEL))
    assert 0.5 < made.view_deg.max() < 3.0
    assert made.error_A.max() < 1e-6


def test_relions_own_matrices_and_numbers_agree(shared: Path) -> None:
    """RELION's test project has both: five numbers give its stored matrices."""
    path = shared / "data/real/relion5_tilt_series/3dem+relion__220728_TS_01.star"
    (frame,) = read_blocks(path).values()
    _, _, matrices = _geometry(Columns(path, frame, "tilts"))
    angles, shifts, _ = _geometry(Columns(path, frame.drop(columns=["rlnTomoProjX"]), "tilts"))
    n = len(frame)
    relion = relion_tilts(
        (4000, 4000, 3000), angles_deg=angles, shift_A=shifts, dose=np.arange(n) * 3.0, pixel_A=1.35,
        **{name: np.zeros(n) for name in ("defocus_u_A", "defocus_v_A", "defocus_angle_deg", "phase_deg")},
    )  # fmt: skip
    image = (3710, 3838)  # of the movies it was made from
    new = series_of("TS_01", relion, image, ()).series
    old = series_of("TS_01", replace(relion, angles_deg=None, shift_A=None, projection=matrices), image, ()).series
    points = np.array([[100.0, 5000, 300], [5000, 200, 3900], [2700, 2700, 2025]])
    # files hold six decimals of elements of rotations, over 4000 px
    assert np.abs(project_points(new, points).xy_A - project_points(old, points).xy_A).max() < 5e-3
