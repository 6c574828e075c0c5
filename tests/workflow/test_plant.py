"""Laws of what is planted: sizes, independence, what the project knows of it, and that the images show it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging.ctf import astigmatism_A
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.geometry import project, views
from mpr_dist.maths.rotations import log_rotation
from mpr_dist.maths.zernike import even_gamma_rad, even_terms, odd_phase_rad, odd_terms
from mpr_dist.storage.mrc import read_image, read_volume
from mpr_dist.storage.tiff import read_mask
from mpr_dist.storage.warp_project import WarpProject
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.simulation.plant import nominal_series, spoiled, true_series
from mpr_dist.workflow.simulation.plant_optics import zernike_of
from mpr_dist.workflow.simulation.plant_particles import perturb, place_particles
from mpr_dist.workflow.simulation.simulate import (
    Plant,
    SimulateSettings,
    half_maps_from,
    settings_from,
    simulate_project,
)
from mpr_dist.workflow.simulation.truth import read_true_particles

NAME, FILES = "TS_01", WarpProject(Path("anywhere"))
EVERYTHING = Plant(
    volume_warp=(2, 2, 1, 5),
    temporal_samples=3,
    astigmatism_A=200.0,
    phase_shift_pi=0.5,
    phase_shift_error_pi=0.05,
    cs_error_mm=0.1,
    beam_tilt_mrad=0.5,
    trefoil_rad=0.5,
    odd5_rad=0.5,
    even2_rad=0.5,
    even4_rad=0.5,
    magnification=0.01,
    deselected_tilts=1,
    bead_tilts=2,
)


def series_of(plant: Plant, index: int = 0, **changes):
    settings = replace(SimulateSettings(n_tilts=21, plant=plant), **changes)
    true = true_series(FILES, NAME, index, settings)
    return true, nominal_series(true, settings, index), settings


def test_volume_warps_start_at_zero_and_walk():
    """The first node of the dose is zero; the last has the size asked for; the walk's variance grows in proportion."""
    plant = Plant(volume_warp=(2, 3, 2, 5), volume_warp_A=3.0)
    grids = [series_of(plant, i)[0].volume_warp for i in range(60)]
    values = np.stack([[g.x.values, g.y.values, g.z.values] for g in grids])
    assert values.shape[2:] == (5, 2, 3, 2)
    assert not values[:, :, 0].any()
    rms = values.std(axis=(0, 1, 3, 4, 5))
    np.testing.assert_allclose(rms[1:], 3.0 * np.sqrt(np.arange(1, 5) / 4), rtol=0.1)  # 2160 numbers each


@pytest.mark.parametrize("samples", [2, 4])
def test_trajectories_drift_about_what_the_project_knows(samples):
    """From the first to the last exposure particles move by the size asked for; the mean is the place of the particle.

    Without errors of picking, the project's only sample is that mean.
    """
    plant = replace(Plant.nothing(), temporal_samples=samples, drift_A=4.0, drift_deg=2.0)
    ends, turns = [], []
    for i in range(12):
        true, _, settings = series_of(plant, i)
        poses = place_particles(true, 0, 120.0, settings, i)
        assert poses.n_samples == samples
        known = perturb(poses, settings, i)
        assert known.n_samples == 1
        np.testing.assert_allclose(known.position_A[:, 0], poses.position_A.mean(axis=1), atol=2e-4)
        ends.append(poses.position_A[:, -1] - poses.position_A[:, 0])
        first, last = np.moveaxis(poses.rotations_at(np.array([0.0, 1.0])), 1, 0)
        turns.append(np.rad2deg(log_rotation(last @ np.swapaxes(first, -1, -2))))
    assert np.std(ends) == pytest.approx(4.0, rel=0.1)  # 1080 numbers
    assert np.std(turns) == pytest.approx(2.0, rel=0.1)


def test_optics_have_their_size():
    """Astigmatism per Cartesian component, phase shift, Cs and magnification scatter as asked."""
    astigmatism, phase, cs, magnification = [], [], [], []
    for i in range(60):
        true, nominal, _ = series_of(EVERYTHING, i)
        astigmatism.append(astigmatism_A(nominal) - astigmatism_A(true))
        phase.append(true.optics.phase_shift_pi.values - nominal.optics.phase_shift_pi.values)
        cs.append(true.optics.cs_mm - nominal.optics.cs_mm)
        magnification.append(true.optics.magnification - nominal.optics.magnification)
        np.testing.assert_array_equal(nominal.optics.phase_shift_pi.values, 0.5)
    assert np.std(astigmatism) == pytest.approx(200.0, rel=0.05)
    assert np.std(phase) == pytest.approx(0.05, rel=0.1)
    assert np.std(cs) == pytest.approx(0.1, rel=0.3)
    assert np.std(magnification) == pytest.approx(0.01, rel=0.2)


def test_the_project_knows_no_aberrations():
    _, nominal, settings = series_of(EVERYTHING)
    assert nominal.optics.zernike_odd == nominal.optics.zernike_even == ()
    assert nominal.optics.cs_mm == settings.cs_mm
    np.testing.assert_array_equal(nominal.optics.magnification, np.eye(2))
    assert nominal.volume_warp.x.is_trivial


def test_coefficients_are_those_of_pure_powers():
    """q^n cos(m phi), sin for m < 0, without lower powers that would shift the image or defocus it."""
    rng = np.random.default_rng(0)
    qx, qy = rng.uniform(-0.25, 0.25, (2, 50))
    q, phi = np.hypot(qx, qy), np.arctan2(qy, qx)
    odd = [(3, m) for m in (-3, -1, 1, 3)] + [(5, m) for m in (-5, -3, -1, 1, 3, 5)]
    even = [(2, -2), (2, 2), (4, -4), (4, -2), (4, 2), (4, 4)]
    for names, terms, evaluate in ((odd, odd_terms, odd_phase_rad), (even, even_terms, even_gamma_rad)):
        for n, m in names:
            value = 4.0**n
            expected = value * q**n * (np.cos(m * phi) if m >= 0 else np.sin(-m * phi))
            found = evaluate(zernike_of({(n, m): value}, terms), qx, qy)
            # six digits of coefficients whose terms cancel: Z(5, 1) of 102 rad A^5 against 512 q
            np.testing.assert_allclose(found, expected, atol=2e-3)


def test_lists_end_with_the_highest_order():
    """6 numbers to order 3, 12 to order 5, 3 and 8 for even ones; nothing planted is an empty list."""
    assert zernike_of({(3, 1): 0.0}, odd_terms) == ()
    lengths = [len(zernike_of({term: 1.0}, odd_terms)) for term in ((3, 3), (5, -1))]
    lengths += [len(zernike_of({term: 1.0}, even_terms)) for term in ((2, 2), (4, 4))]
    assert lengths == [6, 12, 3, 8]


def test_beam_tilt_is_coma():
    """Of many series, the odd phase at 4 A is that of a beam tilt of the size asked for, in the textbook's formula."""
    at = np.array([0.25]), np.array([0.0])
    phases = [
        odd_phase_rad(series_of(replace(Plant.nothing(), beam_tilt_mrad=0.5), i)[0].optics.zernike_odd, *at)[0]
        for i in range(200)
    ]
    expected = 2 * np.pi * 2.7e7 * series_of(Plant())[0].optics.wavelength_A ** 2 * 0.5e-3 * 0.25**3
    assert np.std(phases) == pytest.approx(expected, rel=0.15)


def test_new_errors_do_not_stir_the_old():
    """Switching on everything leaves image warp, stage angles, defocus, weights and orientations as they were."""
    (a, a_nominal, a_settings), (b, b_nominal, b_settings) = series_of(Plant()), series_of(EVERYTHING)
    np.testing.assert_array_equal(a.image_warp.x.values, b.image_warp.x.values)
    np.testing.assert_array_equal(a.stage_angles.z.values, b.stage_angles.z.values)
    np.testing.assert_array_equal(a_nominal.optics.defocus_um.values, b_nominal.optics.defocus_um.values)
    np.testing.assert_array_equal(a.weights.bfactor.values, b.weights.bfactor.values)
    single = replace(b_settings, plant=replace(b_settings.plant, temporal_samples=1, volume_warp=None))
    poses = [place_particles(a, 0, 120.0, s, 0).angles_deg for s in (a_settings, single)]
    np.testing.assert_array_equal(*poses)


def test_tilts_are_spoiled_apart():
    """As many tilts as asked are deselected, others have beads, none is both, and never the first exposure."""
    plant = replace(Plant(), deselected_tilts=3, bead_tilts=4)
    chosen = set()
    for i in range(20):
        true, nominal, settings = series_of(plant, i)
        wrong = spoiled(true, settings, i)
        dirty = {bead.tilt for bead in wrong.beads}
        assert (len(wrong.blocked), len(dirty)) == (3, 4)
        assert not dirty & set(wrong.blocked)
        assert true.dose.argmin() not in dirty | set(wrong.blocked)
        np.testing.assert_array_equal(np.flatnonzero(~nominal.use_tilt), sorted(wrong.blocked))
        chosen |= dirty
    assert len(chosen) > 10


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The fixture with every class planted on top."""
    plant = replace(EVERYTHING, image_warp=(2, 2), rigid_stage=True, stage_angle_deg=0.2, position_A=1.0, drift_A=2.0)
    settings = replace(SimulateSettings.fixture(), n_tilts=5, particles_per_series=4, image_px=(260, 250), plant=plant)
    settings = replace(settings, ewald=1, are_angles_inverted=True)
    return simulate_project(tmp_path_factory.mktemp("everything") / "project", settings)


def test_everything_comes_back_from_the_files(everything):
    """Truth: XML and trajectories give the projections beside them. Project: the XML holds what is nominal."""
    series = read_tilt_series(everything.truth / f"{NAME}.xml", volume_size_A=None)
    true = everything.true_series[NAME]
    assert series.is_stage_rigid
    assert series.are_angles_inverted
    np.testing.assert_array_equal(series.optics.magnification, true.optics.magnification)
    assert series.optics.zernike_odd == true.optics.zernike_odd
    assert series.optics.zernike_even == true.optics.zernike_even
    assert series.optics.cs_mm == true.optics.cs_mm
    np.testing.assert_array_equal(series.volume_warp.z.values, true.volume_warp.z.values)
    particles = read_true_particles(everything.truth / f"{NAME}_particles.star")
    np.testing.assert_array_equal(particles.position_A, everything.true_particles[NAME].position_A)
    stored = np.load(everything.truth / f"{NAME}_projections.npz")
    np.testing.assert_allclose(stored["xy_A"], project(series, particles).xy_A, rtol=1e-6)
    np.testing.assert_allclose(stored["view"], views(series, particles), atol=1e-6)
    nominal = read_tilt_series(everything.files.xml(NAME), volume_size_A=None)
    assert nominal.is_stage_rigid
    assert nominal.optics.zernike_odd == ()
    assert (~nominal.use_tilt).sum() == 1


def test_masks_lie_where_warp_looks_for_them(everything):
    """mask/NAME.tif beside average/NAME.mrc, of its size, 1 on the bead, which is dark there; other tilts have none."""
    wrong = spoiled(everything.true_series[NAME], everything.settings, 0)
    found = sorted((everything.files.root / "warp_frameseries" / "mask").iterdir())
    assert found == sorted(everything.files.mask(NAME, bead.tilt) for bead in wrong.beads)
    for bead in wrong.beads:
        mask = read_mask(everything.files.mask(NAME, bead.tilt))
        image = read_image(everything.files.average(NAME, bead.tilt))
        assert mask.shape == image.shape
        assert image[mask].mean() < 0.4 * image[~mask].mean()  # most of it is bead, two pixels around are not
    blocked = read_image(everything.files.average(NAME, wrong.blocked[0]))
    clean = read_image(everything.files.average(NAME, int(everything.true_series[NAME].dose.argmin())))
    assert blocked.mean() == pytest.approx(0.1 * clean.mean(), rel=0.05)


def test_same_seed_same_bytes_of_everything(everything, tmp_path):
    again = simulate_project(tmp_path / "again", everything.settings)
    assert digests(again.files.root) == digests(everything.files.root)


VISIBLE = {
    "volume warp": {"volume_warp": (2, 2, 1, 4), "volume_warp_A": 8.0},
    "trajectories": {"temporal_samples": 3, "drift_A": 8.0, "drift_deg": 4.0},
    "rigid stage": {"rigid_stage": True, "stage_angle_deg": 2.0},
    "astigmatism": {"astigmatism_A": 1500.0},
    "beam tilt": {"beam_tilt_mrad": 6.0},
    "trefoil": {"trefoil_rad": 5.0},
    "even terms": {"even2_rad": 4.0},
    "phase shift": {"phase_shift_pi": 0.5, "phase_shift_error_pi": 0.25},
    "magnification": {"magnification": 0.04},
}


@pytest.mark.parametrize("what", VISIBLE)
def test_images_show_what_is_planted(what, tmp_path):
    """Known, it is undone: half-maps from the truth agree with the density. Unknown, it blurs them.

    Simulation (from atoms) and reconstruction (on a grid) share no code for it: a wrong sign on either side fails here.
    """
    base = replace(
        SimulateSettings.fixture(), pixel_A=3.0, image_px=(280, 256), box_px=60, n_tilts=9, tilt_step_deg=8.0
    )
    made = simulate_project(tmp_path / "p", replace(base, plant=replace(Plant.nothing(), **VISIBLE[what])))
    density, mask = (read_volume(path)[0] for path in (made.truth / "density.mrc", made.mask))
    unknown = [read_volume(path)[0] for path in made.half_maps]
    known = half_maps_from(made, made.true_series, made.true_particles)
    scores = [float(fsc((a + b) * mask, density * mask)[1:30].mean()) for a, b in (unknown, known)]
    assert scores[1] > 0.95  # without anything planted it is 0.97
    assert scores[0] < scores[1] - 0.02


def test_the_preset_with_everything_fits():
    """Three series of forty particles find room, and everything that it should is planted."""
    settings = settings_from("everything", {})
    for index in range(settings.n_series):
        true = true_series(FILES, NAME, index, settings)
        assert len(place_particles(true, 0, 128.0, settings, index)) == 40
        assert true.volume_warp.x.values.shape == (10, 1, 2, 2)
        assert len(true.optics.zernike_odd) == 6
        assert not np.array_equal(true.optics.magnification, np.eye(2))
        assert true.optics.cs_mm != settings.cs_mm


def test_settings_take_planted_values_by_name():
    settings = settings_from("fixture", {"trefoil_rad": 0.2, "seed": 4, "ewald": None, "deselected_tilts": 1})
    assert (settings.plant.trefoil_rad, settings.seed, settings.plant.deselected_tilts) == (0.2, 4, 1)
    assert settings.plant.image_warp == SimulateSettings.fixture().plant.image_warp


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"volume_warp": (2, 2, 1, 1)}, "1x1x1x2"),
        ({"temporal_samples": 0}, "temporal sample"),
        ({"cs_error_mm": -0.1}, "cs_error_mm"),
        ({"deselected_tilts": 4, "bead_tilts": 3}, "no clean one"),
    ],
)
def test_what_cannot_be_planted_is_refused(given, words):
    with pytest.raises(InputError, match=words):
        settings_from("fixture", given)
