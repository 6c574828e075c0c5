"""Which tilts and particles count, from the command line to the result."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.imaging.geometry import contained, project
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.model.population import Population
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.simulation.simulate import SimulatedProject
from mpr_dist.workflow.state.series_io import tilt_reader
from mpr_dist.workflow.state.series_results import read_summary

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


@pytest.fixture
def refined(made, mpr, add_source, add_species, tmp_path) -> Callable[..., Population]:
    """A new population of the project, refined once; options are those of source add."""

    def make(*options: object) -> Population:
        shutil.rmtree(tmp_path / "pop", ignore_errors=True)
        assert add_source(made.files.root, *options).code == 0
        assert add_species(made.files.root).code == 0
        done = mpr("refine", tmp_path / "pop", "--iterations", 1, "--particles", "--engine", "inline")
        assert done.code == 0, done.err
        return load_population(tmp_path / "pop")

    return make


def scales(population: Population) -> list[float]:
    return read_summary(population.files(1).series(NAME))["numbers"]["details"]["scale"]


def test_a_deselected_tilt_has_no_part_in_anything(made, refined):
    """Its image may be missing: the result is the same, bit by bit; its scale is reported as 0."""
    deselect(made)
    kept = []
    for _ in range(2):
        population = refined()
        files = population.files(1)
        kept.append([p.read_bytes() for p in (files.series(NAME).poses, files.species("phantom").half1)])
        made.files.average(NAME, DESELECTED).unlink(missing_ok=True)
    assert kept[0] == kept[1]
    assert [scale == 0 for scale in scales(population)] == [t == DESELECTED for t in range(7)]
    assert list(population.sources[0].series[0].active) == [t != DESELECTED for t in range(7)]


def test_deselected_tilts_can_be_included(made, refined, add_source, tmp_path):
    """source add --include-deselected: all seven tilts, and the deselected one has a scale of its own."""
    deselect(made)
    assert "TS_01: 6 of 7 tilts" in add_source(made.files.root).out
    population = refined("--include-deselected")
    assert population.sources[0].series[0].tilts == 7
    assert scales(population)[DESELECTED] > 0


def test_too_few_particles_from_the_command_line(made, mpr, add_source, add_species, tmp_path):
    """refine --min-particles leaves the series out, and says how many it has."""
    add_source(made.files.root)
    add_species(made.files.root)
    options = ("--iterations", 1, "--particles", "--engine", "inline", "--min-particles")
    refused = mpr("refine", tmp_path / "pop", *options, 9)
    assert refused.code != 0
    assert "has 8 particles, at least 9 are needed" in refused.err + refused.out
    assert mpr("refine", tmp_path / "pop", *options, 8, "--restart").code == 0


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


def test_the_table_keeps_particles_that_no_tilt_contains(made, refined):
    """A particle in a corner of the volume, nearer than its radius to an edge in every tilt, stays where it was."""
    table = made.files.run_data
    blocks = read_blocks(table)
    frame = blocks["particles"]
    frame.loc[0, ["rlnCoordinateX", "rlnCoordinateY"]] = 2.0
    write_table(table, {"optics": blocks["optics"], "particles": frame})
    population = refined()
    before, after = (read_blocks(population.files(n).species("phantom").particles)["particles"] for n in (0, 1))
    assert len(after) == 8
    columns = [f"wrpCoordinate{axis}1" for axis in "XYZ"]
    moved = np.abs(after[columns].to_numpy(float) - before[columns].to_numpy(float)).max(axis=1)
    assert moved[0] < 1e-3
    assert moved[1:].min() > 1e-2
