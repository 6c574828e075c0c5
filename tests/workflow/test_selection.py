"""Which tilts and particles count, from the command line to the result."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_population import build_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.imaging.geometry import contained, project
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks
from mpr_dist.workflow.physics import Physics
from mpr_dist.workflow.run import run
from mpr_dist.workflow.run_settings import RunSettings
from mpr_dist.workflow.series_io import tilt_reader
from mpr_dist.workflow.series_results import read_summary
from mpr_dist.workflow.simulate import SimulatedProject

NAME, DESELECTED = "TS_01", 5


def deselect(made: SimulatedProject) -> None:
    """UseTilt False for one tilt, in the file that Warp wrote."""
    xml = made.files.xml(NAME)
    text, count = re.subn(
        r"(<UseTilt>)([^<]*)",
        lambda m: m[1] + "\n".join("False" if i == DESELECTED else "True" for i in range(7)),
        xml.read_text("utf-8-sig"),
    )
    assert count == 1
    xml.write_text(text, "utf-8-sig")


@pytest.fixture
def made(project: SimulatedProject, tmp_path: Path) -> SimulatedProject:
    root = shutil.copytree(project.files.root, tmp_path / "sim")
    return replace(project, files=replace(project.files, root=root))


def refine(population: Population, **changes: object) -> dict:
    settings = replace(RefineSettings(iterations=1, particles=True), **changes)
    run(population.path, Physics(), RunSettings(settings), InlineExecutor())
    return read_summary(load_population(population.path).files(1).series(NAME))["numbers"]["details"]


def test_a_deselected_tilt_has_no_part_in_anything(made, tmp_path):
    """Its image may be missing; the result is that of a series in which it has no image at all, bit by bit."""
    deselect(made)
    with_image = build_population(tmp_path / "one", made)
    details = refine(with_image)
    assert details["scale"][DESELECTED] == 0
    assert min(s for t, s in enumerate(details["scale"]) if t != DESELECTED) > 0
    made.files.average(NAME, DESELECTED).unlink()
    without = build_population(tmp_path / "two", made)
    refine(without)
    one, two = (load_population(p.path).files(1) for p in (with_image, without))
    assert one.series(NAME).poses.read_bytes() == two.series(NAME).poses.read_bytes()
    assert one.species("phantom").half1.read_bytes() == two.species("phantom").half1.read_bytes()
    active = load_population(without.path).sources[0].series[0].active
    assert list(active) == [t != DESELECTED for t in range(7)]


def test_deselected_tilts_can_be_included(made, mpr, add_source, add_species, tmp_path):
    """source add --include-deselected: all seven tilts, and the deselected one has a scale of its own."""
    deselect(made)
    assert "TS_01: 6 of 7 tilts" in add_source(made.files.root).out
    shutil.rmtree(tmp_path / "pop")
    assert "TS_01: 7 of 7 tilts" in add_source(made.files.root, "--include-deselected").out
    assert add_species(made.files.root).code == 0
    details = refine(load_population(tmp_path / "pop"))
    assert details["scale"][DESELECTED] > 0


def test_too_few_particles_from_the_command_line(made, mpr, add_source, add_species, tmp_path):
    """refine --min-particles leaves the series out, and says how many it has."""
    add_source(made.files.root)
    add_species(made.files.root)
    options = ("--iterations", 1, "--particles", "--engine", "inline", "--min-particles")
    refused = mpr("refine", tmp_path / "pop", *options, 9)
    assert refused.code != 0
    assert "has 8 particles, at least 9 are needed" in refused.err + refused.out
    assert mpr("refine", tmp_path / "pop", *options, 8).code == 0


def test_particles_count_where_they_lie_inside(project):
    """Per particle and tilt: half a diameter from every edge. What is not contained is zero, and is not cut."""
    series, particles = project.true_series[NAME], project.true_particles[NAME]
    shifted = replace(particles, position_A=particles.position_A + np.array([250.0, 0.0, 0.0]))
    xy = project_xy(series, shifted)
    r = project.species.diameter_A / 2
    inside = ((xy >= r) & (xy <= series.image_size_A - r)).all(-1)
    assert 0 < inside.mean() < 1
    assert (inside.any(1) & ~inside.all(1)).any(), "no particle leaves the image on the way"
    np.testing.assert_array_equal(contained(series, xy, project.species.diameter_A), inside)
    read = tilt_reader(series, project.settings.pixel_A)
    images = load_particle_images(series, project.species, shifted, read, 0.1, 0.05)
    np.testing.assert_array_equal(images.active, inside)
    np.testing.assert_array_equal(images.values.any(axis=(2, 3)), inside)


def project_xy(series, particles) -> np.ndarray:
    return project(series, particles).xy_A


def test_the_table_keeps_particles_that_no_tilt_contains(made, tmp_path):
    """A particle outside of every tilt changes nothing and stays in the table."""
    table = made.files.run_data
    blocks = read_blocks(table)
    frame = blocks["particles"]
    frame.loc[0, "rlnCoordinateX"] = -500.0
    from mpr_dist.storage.star import write_table

    write_table(table, {"optics": blocks["optics"], "particles": frame})
    population = build_population(tmp_path / "pop", made)
    refine(population)
    out = read_blocks(load_population(population.path).files(1).species("phantom").particles)["particles"]
    assert len(out) == 8
    before = read_blocks(population.files(0).species("phantom").particles)["particles"]
    columns = [f"wrpCoordinate{axis}1" for axis in "XYZ"]
    np.testing.assert_allclose(out.loc[0, columns].astype(float), before.loc[0, columns].astype(float), atol=1e-4)
