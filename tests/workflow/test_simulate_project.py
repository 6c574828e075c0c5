"""Laws of simulated projects."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.geometry import project, views
from mpr_dist.maths.rotations import euler_to_matrix, log_rotation
from mpr_dist.storage.mrc import read_header, read_image, read_volume
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_project import WarpProject
from mpr_dist.storage.warp_settings import find_series, find_unprocessed, read_settings
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.simulation import plant as planting
from mpr_dist.workflow.simulation import plant_particles as particles_of
from mpr_dist.workflow.simulation.simulate import (
    Plant,
    SimulatedProject,
    SimulateSettings,
    half_maps_from,
    simulate_project,
)
from mpr_dist.workflow.simulation.truth import read_true_particles

NAME = "TS_01"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimulatedProject:
    return simulate_project(tmp_path_factory.mktemp("simulated"), SimulateSettings.fixture())


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def drawn(n_tilts: int = 41, **changes) -> tuple[SimulateSettings, WarpProject]:
    return replace(SimulateSettings(n_tilts=n_tilts, tilt_step_deg=2.0), **changes), WarpProject(Path("anywhere"))


def test_project_reads_back_as_nominal(made):
    """What the readers find in the project is the nominal series, with its images, and nothing of the truth."""
    settings = read_settings(made.files.settings)
    assert find_series(settings) == (made.files.xml(NAME),)
    assert find_unprocessed(settings) == ()
    series, nominal = (
        read_tilt_series(made.files.xml(NAME), volume_size_A=settings.volume_size_A),
        made.series[NAME],
    )
    position = made.particles[NAME]
    np.testing.assert_allclose(project(series, position).xy_A, project(nominal, position).xy_A, atol=1e-9)
    np.testing.assert_allclose(project(series, position).defocus_um, project(nominal, position).defocus_um, atol=1e-12)
    assert series.image_warp.x.is_trivial
    assert series.stage_angles.x.is_trivial
    assert series.weights.bfactor.is_trivial
    for path in series.image_paths:
        assert read_header(path)[:3] == (*made.settings.image_px, 1)


def test_table_reads_back_as_nominal(made):
    """Coordinates times their own pixel minus origins are the nominal positions; angles and half-sets agree."""
    blocks = read_blocks(made.files.run_data)
    table, pixel = blocks["particles"], float(blocks["optics"]["rlnImagePixelSize"][0])
    assert pixel != made.settings.pixel_A
    found = table[[f"rlnCoordinate{a}" for a in "XYZ"]].to_numpy() * pixel
    found -= table[[f"rlnOrigin{a}Angst" for a in "XYZ"]].to_numpy()
    nominal = made.particles[NAME]
    np.testing.assert_allclose(found, nominal.position_A[:, 0], atol=1e-5)
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    np.testing.assert_allclose(angles, nominal.angles_deg[:, 0], atol=1e-6)
    np.testing.assert_array_equal(table["rlnRandomSubset"], nominal.half)
    assert set(table["rlnMicrographName"]) == {f"{NAME}.tomostar"}


def test_truth_is_complete(made):
    """The truth's XML and particles alone give the projections beside them (float32)."""
    series = read_tilt_series(made.truth / f"{NAME}.xml", volume_size_A=None)
    particles = read_true_particles(made.truth / f"{NAME}_particles.star")
    stored = np.load(made.truth / f"{NAME}_projections.npz")
    seen = project(series, particles)
    np.testing.assert_allclose(stored["xy_A"], seen.xy_A, rtol=1e-6)
    np.testing.assert_allclose(stored["defocus_um"], seen.defocus_um, rtol=1e-6)
    np.testing.assert_allclose(stored["view"], views(series, particles), atol=1e-6)
    np.testing.assert_array_equal(particles.half, made.particles[NAME].half)
    np.testing.assert_array_equal(series.weights.bfactor.values, made.true_series[NAME].weights.bfactor.values)


def test_half_sets_are_balanced(made):
    """Both half-sets hold as many particles, give or take one."""
    assert abs(int((made.particles[NAME].half == 1).sum()) * 2 - len(made.particles[NAME])) <= 1


def test_images_show_the_truth(made):
    """Half-maps from the true geometry agree with the density, bright where protein is, and better than the start.

    This ties projection, CTF and dose of the simulation to the conventions of reconstruction: a wrong sign anywhere
    turns the correlation negative or loses it.
    """
    truth, mask = read_volume(made.truth / "density.mrc")[0], read_volume(made.mask)[0]
    start = [read_volume(path)[0] for path in made.half_maps]
    exact = half_maps_from(made, made.true_series, made.true_particles)
    score = [float(fsc((a + b) * mask, truth * mask)[1:].mean()) for a, b in (start, exact)]
    assert score[1] > 0.9
    assert score[0] < score[1] - 0.1
    scale = float((exact[0] * truth).sum() / (truth * truth).sum())
    assert scale > 0


def test_density_and_mask_belong_together(made):
    """The binary mask covers nearly all of the density's power, on the same grid."""
    truth, pixel = read_volume(made.truth / "density.mrc")
    mask, mask_pixel = read_volume(made.mask)
    assert truth.shape == mask.shape == (made.settings.box_px,) * 3
    assert pixel == mask_pixel == pytest.approx(made.settings.pixel_A)
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert (truth**2 * mask).sum() > 0.95 * (truth**2).sum()


def test_same_seed_same_bytes(made, tmp_path):
    """Every file of a second run has the same bytes; another seed changes the images and the truth."""
    again = simulate_project(tmp_path / "again", made.settings)
    assert digests(again.files.root) == digests(made.files.root)
    other = simulate_project(tmp_path / "other", replace(made.settings, seed=1))
    changed = {name for name, value in digests(other.files.root).items() if digests(made.files.root)[name] != value}
    assert changed >= {f"truth/{NAME}.xml", f"warp_frameseries/average/{NAME}_000.mrc", "relion/half1.mrc"}


def test_noise_only_holds_no_signal(made, tmp_path):
    """Without signal, images are Poisson noise and give noise; the starting maps still look like the particle."""
    settings = replace(made.settings, noise_only=True)
    noise = simulate_project(tmp_path / "noise", settings)
    images = np.stack([read_image(path) for path in noise.series[NAME].image_paths])
    electrons = settings.dose_per_tilt * settings.pixel_A**2
    assert images.mean() == pytest.approx(electrons, abs=5 * np.sqrt(electrons / images.size))
    assert images.var() == pytest.approx(electrons, rel=5 * np.sqrt(2 / images.size))
    truth = read_volume(noise.truth / "density.mrc")[0]
    first, second = (read_volume(path)[0] for path in noise.half_maps)
    assert fsc(first, truth)[3] > 0.9
    assert not np.array_equal(first, second)
    a, b = half_maps_from(noise, noise.true_series, noise.true_particles)
    assert np.abs(fsc(a, b)[2:].mean()) < 0.2  # about 18 shells, each of few independent symmetric voxels


def test_progress_counts_up(tmp_path):
    """Every tilt image is reported once, in order, then the half-maps."""
    seen: list[tuple[str, int, int]] = []
    settings = replace(SimulateSettings.fixture(), n_tilts=2, particles_per_series=2)
    simulate_project(tmp_path / "p", settings, lambda what, done, total: seen.append((what, done, total)))
    assert seen == [("tilt images", 1, 2), ("tilt images", 2, 2), ("half-maps", 0, 2), ("half-maps", 2, 2)]


def test_particles_keep_apart_and_inside(made):
    """No two particles are closer than a diameter, and all are wholly inside every image, nominal and true."""
    for series, particles in ((made.series, made.particles), (made.true_series, made.true_particles)):
        xy = project(series[NAME], particles[NAME]).xy_A
        r = made.species.diameter_A / 2
        assert (xy > r).all()
        assert (xy < series[NAME].image_size_A - r).all()
    p = made.true_particles[NAME].position_A[:, 0]
    distance = np.linalg.norm(p[:, None] - p, axis=-1) + 1e9 * np.eye(len(p))
    assert distance.min() > made.species.diameter_A


def test_the_demo_fits():
    """The particles of the demo find room in its images."""
    settings = SimulateSettings.demo()
    series = planting.true_series(WarpProject(Path("anywhere")), NAME, 0, settings)
    assert len(particles_of.place_particles(series, 0, 130.0, settings, 0)) == settings.particles_per_series


def test_warp_grows_with_dose():
    """Over many draws the nodes' standard deviation is the low value at no dose and the high one at the end."""
    settings, files = drawn()
    grids = [planting.true_series(files, NAME, i, settings) for i in range(40)]
    nodes = np.stack([[s.image_warp.x.values, s.image_warp.y.values] for s in grids])
    rms = nodes.std(axis=(0, 1, 3, 4))
    dose = grids[0].dose
    assert rms[dose.argmin()] == pytest.approx(1.5, rel=0.2)
    assert rms[dose.argmax()] == pytest.approx(4.0, rel=0.2)
    neighbours = np.corrcoef(nodes[:, :, :-1].ravel(), nodes[:, :, 1:].ravel())[0, 1]
    assert 0.4 < neighbours < 0.95


def test_planted_errors_have_their_size():
    """Stage angles, defocus, positions and orientations differ by the standard deviations that were asked for."""
    settings, files = drawn()
    stage, defocus, position, turn = [], [], [], []
    for i in range(10):
        true = planting.true_series(files, NAME, i, settings)
        nominal = planting.nominal_series(true, settings, i)
        stage.append([g.values for g in (true.stage_angles.x, true.stage_angles.y, true.stage_angles.z)])
        defocus.append(1e4 * (nominal.optics.defocus_um.values - true.optics.defocus_um.values))
        poses = particles_of.place_particles(true, 0, 130.0, settings, i)
        moved = particles_of.perturb(poses, settings, i)
        position.append(moved.position_A - poses.position_A)
        a, b = euler_to_matrix(poses.angles_deg), euler_to_matrix(moved.angles_deg)
        turn.append(np.rad2deg(log_rotation(np.swapaxes(a, -1, -2) @ b)))
    for values, expected in ((stage, 1.0), (defocus, 300.0), (position, 3.0), (turn, 2.0)):
        assert np.std(values) == pytest.approx(expected, rel=0.12)


def test_weights_are_what_warp_can_read():
    """Planted B-factors lie below -3 dose, where Warp takes them as they are, and scatter about -4 dose."""
    settings, files = drawn()
    series = planting.true_series(files, NAME, 0, settings)
    b = series.weights.bfactor.values.ravel()
    late = series.dose > 0
    assert (b <= -3.0 * series.dose).all()
    assert np.mean(b[late] / series.dose[late]) == pytest.approx(-4.0, rel=0.1)
    assert np.std(b[late] / series.dose[late]) > 0.1


def test_doses_are_symmetric():
    """The middle tilt comes first, then both sides in turn: dose rises with |angle|."""
    settings, files = drawn(n_tilts=7)
    series = planting.true_series(files, NAME, 0, settings)
    np.testing.assert_array_equal(series.dose, [18.0, 12.0, 6.0, 0.0, 3.0, 9.0, 15.0])
    assert series.angle_deg[0] == 6.0
    assert series.angle_deg[-1] == -6.0


def test_nothing_planted_is_nothing():
    """Without planted errors the nominal project is the truth."""
    settings, files = drawn(plant=Plant.nothing())
    true = planting.true_series(files, NAME, 0, settings)
    nominal = planting.nominal_series(true, settings, 0)
    poses = particles_of.place_particles(true, 0, 130.0, settings, 0)
    moved = particles_of.perturb(poses, settings, 0)
    np.testing.assert_allclose(moved.position_A, poses.position_A)
    a, b = (views(s, p) for s, p in ((true, poses), (nominal, moved)))
    np.testing.assert_allclose(a, b, atol=1e-5)  # angles are rounded to 1e-4 degrees
    a, b = (project(s, poses) for s in (true, nominal))
    np.testing.assert_allclose(a.xy_A, b.xy_A)
    np.testing.assert_allclose(a.defocus_um, b.defocus_um)


def test_one_setting_does_not_stir_the_others():
    """Switching off one planted error leaves the random numbers of all others as they were."""
    settings, files = drawn()
    without = replace(settings, plant=replace(settings.plant, stage_angle_deg=0.0))
    a, b = (planting.true_series(files, NAME, 0, s) for s in (settings, without))
    np.testing.assert_array_equal(a.image_warp.x.values, b.image_warp.x.values)
    assert not b.stage_angles.x.values.any()


def test_a_folder_in_use_is_refused(tmp_path):
    """Nothing is written into a folder that holds something."""
    (tmp_path / "precious").write_text("data")
    with pytest.raises(InputError, match="not an empty folder"):
        simulate_project(tmp_path, SimulateSettings.fixture())
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_too_many_particles_are_refused(tmp_path):
    """Particles that find no room are an error that says how many did, before anything is written."""
    with pytest.raises(InputError, match="of 500 particles"):
        simulate_project(tmp_path / "full", replace(SimulateSettings.fixture(), particles_per_series=500))
    assert not (tmp_path / "full").exists()


@pytest.mark.parametrize("change", [{"n_series": 0}, {"n_tilts": 90}, {"image_px": (0, 64)}])
def test_senseless_settings_are_refused(change):
    """Numbers below one and tilts near 90 degrees are errors."""
    with pytest.raises(InputError, match="simulate"):
        replace(SimulateSettings(), **change)
