"""Refinement goes on from where M stopped: the refined series of EMPIAR-10491, its XML untouched, with small images.

The images are simulated from the XML's own parameters in pixels ten times as large, so that the XML is the truth.
"""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.imaging.geometry import project
from mpr_dist.imaging.phantom import density, octahedral_phantom
from mpr_dist.imaging.simulate import Exposure, tilt_images
from mpr_dist.model.population import Population
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.warp_project import write_average, write_run_data, write_settings, write_tomostar
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.series_results import read_summary

NAME, PIXEL_A, BOX_PX, DIAMETER_A = "TS_1", 8.34, 32, 140.0
VOLUME_A, IMAGE_A = np.array([400.0, 570.0, 100.0]) * PIXEL_A, np.array([576.0, 409.0]) * PIXEL_A
ERROR_A = 4.0


@dataclass(frozen=True, eq=False)
class Made:
    """The population, the series as the XML has it, and the particles as they are."""

    population: Population
    series: TiltSeries
    truth: Particles


def place_particles() -> Particles:
    """48 particles all over the field of the images, well inside the volume."""
    rng = np.random.default_rng(11)
    lattice = np.stack(np.meshgrid(np.linspace(0.2, 0.8, 6), np.linspace(0.15, 0.85, 8)), -1).reshape(-1, 2)
    place = np.column_stack([lattice, rng.uniform(0.35, 0.65, len(lattice))])
    angles = np.rad2deg(
        np.column_stack([rng.uniform(-3, 3, 48), np.arccos(rng.uniform(-1, 1, 48)), rng.uniform(-3, 3, 48)])
    )
    half = np.tile([1, 2], 24).astype(np.int8)
    return Particles(np.round(place * VOLUME_A, 4), np.round(angles, 4), half, np.arange(48))


def write_images(series: TiltSeries, truth: Particles) -> None:
    exposure = Exposure(PIXEL_A, 3.0, contrast=3.0)
    images = tilt_images(series, [(truth, octahedral_phantom(0))], exposure, seed=7)
    for path, image in zip(series.image_paths, images, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_average(path, image, PIXEL_A)


def write_species(folder: Path, series: TiltSeries, particles: Particles) -> SpeciesRequest:
    """Half-maps of the particle with some noise of their own, a mask, and a table."""
    rng, folder = np.random.default_rng(3), folder / "relion"
    folder.mkdir()
    clean = density(octahedral_phantom(0), BOX_PX, PIXEL_A)
    for i in (1, 2):
        noisy = clean + 0.1 * clean.std() * rng.standard_normal(clean.shape)
        write_volume(folder / f"half{i}.mrc", noisy.astype(np.float32), PIXEL_A)
    x = np.arange(BOX_PX) - BOX_PX // 2
    radius = PIXEL_A * np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    write_volume(folder / "mask.mrc", (radius < 80).astype(np.float32), PIXEL_A)
    zero = {NAME: np.zeros((len(particles), 3))}
    write_run_data(folder / "run_data.star", {NAME: particles}, series.optics, PIXEL_A, zero, 64)
    halves = folder / "half1.mrc", folder / "half2.mrc"
    return SpeciesRequest("phantom", *halves, folder / "mask.mrc", folder / "run_data.star", DIAMETER_A, "O")


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("m") / "project"
    for folder in ("warp_tiltseries", "tomostar"):
        (root / folder).mkdir(parents=True)
    xml = root / "warp_tiltseries" / f"{NAME}.xml"
    shutil.copyfile(shared / "data/real/warp_xml/warpem+warpylib__TS_1.xml", xml)
    series = read_tilt_series(xml, volume_size_A=VOLUME_A, image_size_A=IMAGE_A)
    truth = place_particles()
    write_settings(root / "warp_tiltseries.settings", series, PIXEL_A, 3.0)
    write_tomostar(root / "tomostar" / f"{NAME}.tomostar", series)
    write_images(series, truth)
    error = np.random.default_rng(5).standard_normal(truth.position_A.shape)
    start = replace(truth, position_A=np.round(truth.position_A + ERROR_A * error, 4))
    population = create_population(root.parent / "pop", "m").path
    summary = add_warp_source(population, SourceRequest("m", root / "warp_tiltseries.settings"))
    assert not any("NOT APPLIED" in line for line in summary.lines)
    add_species(population, write_species(root, series, start))
    return Made(load_population(population), series, truth)


@pytest.fixture(scope="module")
def refined(made: Made) -> Population:
    """Everything that M refined here, but for aberrations, from M's values."""
    choice = RefineSettings(iterations=1, image_warp=(6, 4), particles=True, stage_angles=True, defocus=True)
    run(made.population.path, Physics(), RunSettings(choice), InlineExecutor())
    return load_population(made.population.path)


def of(population: Population, iteration: int) -> TiltSeries:
    xml = population.files(iteration).series(NAME).xml
    return read_tilt_series(xml, volume_size_A=VOLUME_A, image_size_A=IMAGE_A)


def test_the_images_agree_better_than_before(refined: Population) -> None:
    details = read_summary(refined.files(1).series(NAME))["numbers"]["details"]
    assert details["found"]
    before, after = details["cross_half"]
    assert after > before


def test_particles_come_back(made: Made, refined: Population) -> None:
    """Errors of 4 A shrink; what all particles have in common cannot be told from the image warp and is left out."""
    error = {}
    for iteration in (0, 1):
        found = read_poses(refined.files(iteration).series(NAME).poses)["phantom"]
        seen, true = project(of(refined, iteration), found), project(made.series, made.truth)
        off = seen.xy_A - true.xy_A
        error[iteration] = np.std(off - off.mean(0))
    assert error[1] < 0.4 * error[0]


def test_the_geometry_of_m_stays_within_its_prior(made: Made, refined: Population) -> None:
    """The start is the truth: nodes move by no more than their priors' standard deviations, as a whole."""
    before, after = made.series, of(refined, 1)
    assert after.image_warp.x.values.shape == before.image_warp.x.values.shape == (41, 4, 6)
    priors = RefineSettings().priors
    for old, new, sigma in (
        (before.image_warp.x, after.image_warp.x, priors.image_warp_A),
        (before.image_warp.y, after.image_warp.y, priors.image_warp_A),
        (before.stage_angles.y, after.stage_angles.y, priors.stage_angle_deg),
        (before.optics.defocus_um, after.optics.defocus_um, 1e-4 * priors.defocus_A),
    ):
        moved = new.values - old.values
        assert 0 < np.sqrt((moved**2).mean()) < sigma


def test_what_was_not_refined_is_as_m_left_it(refined: Population, shared: Path) -> None:
    """Elements and attributes of all other classes keep their text."""
    new = ET.parse(refined.files(1).series(NAME).xml).getroot()
    old = ET.parse(shared / "data/real/warp_xml/warpem+warpylib__TS_1.xml").getroot()
    touched = {"GridCTF", "GridDoseBfacs", "GridDoseWeights"}
    touched |= {f"GridMovement{axis}" for axis in "XY"} | {f"GridAngle{axis}" for axis in "XYZ"}

    def text(root: ET.Element) -> list[bytes]:
        return [ET.tostring(child) for child in root if child.tag not in touched]

    assert [element.split() for element in text(new)] == [element.split() for element in text(old)]
    changed = {name for name in old.attrib if new.get(name) != old.get(name)}
    assert changed <= {"Weight"}


def test_another_grid_starts_from_the_same_warp(made: Made, refined: Population) -> None:
    """A coarser image warp in a later run reads M's spline at its own nodes and goes on."""
    choice = RefineSettings(iterations=1, image_warp=(3, 3), particles=True)
    run(made.population.path, Physics(), RunSettings(choice), InlineExecutor())
    population = load_population(made.population.path)
    details = read_summary(population.files(2).series(NAME))["numbers"]["details"]
    assert details["found"]
    assert of(population, 2).image_warp.x.values.shape == (41, 3, 3)


def test_every_class_goes_on_from_ms_values(made: Made, refined: Population) -> None:
    """CTF, aberrations and magnification too: their lists keep M's length, what was not asked for keeps its value."""
    choice = RefineSettings(
        iterations=1, particles=True, defocus=True, astigmatism=True, cs=True, magnification=True, aberrations=(2, 3)
    )
    start = of(refined, load_population(made.population.path).iteration).optics
    run(made.population.path, Physics(), RunSettings(choice), InlineExecutor())
    population = load_population(made.population.path)
    details = read_summary(population.files(population.iteration).series(NAME))["numbers"]["details"]
    assert details["found"]
    before, after = details["objective"]
    assert after >= before
    now, priors = of(population, population.iteration).optics, choice.priors
    assert (len(now.zernike_odd), len(now.zernike_even)) == (12, 8)
    assert now.zernike_odd[6:] == start.zernike_odd[6:]
    assert now.zernike_even[3:] == start.zernike_even[3:]
    assert now.zernike_odd[:6] != start.zernike_odd[:6]
    # images of 17 A say little about these: they stay about where M left them, not at zero or one
    assert abs(now.cs_mm - made.series.optics.cs_mm) < 3 * priors.cs_mm
    assert np.abs(now.magnification - made.series.optics.magnification).max() < 0.03 * priors.magnification_percent
    delta = now.defocus_delta_um.values - made.series.optics.defocus_delta_um.values
    assert np.abs(delta).max() < 3 * 2e-4 * priors.astigmatism_A
