"""The flow a user walks, command by command, on the simulated fixture."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.relion import read_particles
from mpr_dist.storage.warp_xml import read_tilt_series

CHOICE = ("--image-warp", "2x2", "--particles", "--stage-angles", "--defocus", "--engine", "inline")


def test_flow(project, mpr, add_source, add_species, tmp_path, digests):
    """From an empty folder to refined half-maps, status and report; the input is as it was."""
    before, pop = digests(project.files.root), tmp_path / "pop"
    assert add_source(project.files.root, "--max-tilts", 6).code == 0
    mask = tmp_path / "mask.mrc"
    made = mpr("mask", "create", project.half_maps[0], mask, "--threshold", 0.05, "--sphere-diameter", 150)
    assert made.code == 0, made.err
    assert set(np.unique(read_volume(mask)[0])) == {0.0, 1.0}
    added = add_species(project.files.root)
    assert added.code == 0, added.err
    for words in ("8 particles", "Coordinates: ", "Shifts: ", "Angles: ", "Series: ", "Half-sets: "):
        assert words in added.out

    state = digests(pop)
    planned = mpr("plan", pop, "--iterations", 1, *CHOICE)
    assert planned.code == 0
    assert "image warp 2x2" in planned.out
    assert digests(pop) == state, "plan changes nothing"

    refined = mpr("refine", pop, "--iterations", 1, *CHOICE)
    assert refined.code == 0, refined.err
    status = json.loads(mpr("status", pop, "--json").out)
    assert status["iteration"] == 1
    assert status["iterations"][0]["counts"] == {"done": 1}
    report = mpr("report", pop)
    assert report.code == 0
    assert "<svg" in (pop / "iterations" / "001" / "report.html").read_text()
    _check_results(pop, project)

    again = mpr("reconstruct", pop, "--engine", "inline")
    assert again.code == 0, again.err
    assert load_population(pop).iteration == 2
    assert "iteration 002: finished" in mpr("status", pop).out
    assert digests(project.files.root) == before


def _check_results(pop, project):
    files = load_population(pop).files(1)
    species = files.species("phantom")
    for path in (species.half1, species.half2, species.map):
        volume, pixel = read_volume(path)
        assert volume.shape == (64, 64, 64)
        assert pixel == project.settings.pixel_A
    assert len(read_particles(species.particles)) == 8
    series = read_tilt_series(files.series("TS_01").xml, volume_size_A=(1, 1, 1))
    assert series.image_warp.x.values.shape == (7, 2, 2)


def test_listings(project, mpr, add_source, add_species, tmp_path):
    pop = tmp_path / "pop"
    mpr("population", "create", pop, "--name", "test")
    assert "no source yet" in mpr("source", "list", pop).out
    assert "no species yet" in mpr("species", "list", pop).out
    add_source(project.files.root)
    add_species(project.files.root)
    shown = mpr("population", "show", pop)
    assert "source src: 1 tilt series, 7 tilts" in shown.out
    assert "species phantom: 8 particles" in shown.out


def test_order_matters(project, mpr, add_species, add_source, tmp_path):
    """What is missing is named with the command that adds it."""
    mpr("population", "create", tmp_path / "pop", "--name", "test")
    first = add_species(project.files.root)
    assert (first.code, first.is_one_line()) == (2, True)
    assert "mpr-dist source add" in first.err
    add_source(project.files.root)
    second = mpr("refine", tmp_path / "pop", "--particles", "--engine", "inline")
    assert (second.code, second.is_one_line()) == (2, True)
    assert "mpr-dist species add" in second.err
    third = add_source(project.files.root)
    assert (third.code, third.is_one_line()) == (2, True)
    assert " already; choose another name" in third.err


def test_simulate(mpr, tmp_path):
    result = mpr("simulate", tmp_path / "new", "--preset", "fixture", "--particles", 4, "--seed", 3)
    assert result.code == 0
    assert (tmp_path / "new" / "truth" / "TS_01_projections.npz").exists()


def test_simulate_plants_what_is_asked_for(mpr, tmp_path):
    """Options reach the truth; the project does not know; two species have tables of their own."""
    options = (
        "--preset",
        "fixture",
        "--particles",
        3,
        "--tilts",
        3,
        "--image-size",
        "260x250",
        "--volume-warp",
        "2x1x1x3",
    )
    options += (
        "--temporal-samples",
        2,
        "--beam-tilt",
        1,
        "--magnification",
        0.01,
        "--ewald",
        "on",
        "--masked-tilts",
        1,
    )
    result = mpr("simulate", tmp_path / "p", *options, "--species", "octahedral", "--species", "asymmetric:2:5.0")
    assert result.code == 0, result.err
    truth = (tmp_path / "p" / "truth" / "asymmetric" / "TS_01.xml").read_text("utf-8-sig")
    assert 'Duration="3"' in truth
    assert 'MagnificationCorrection="1, 0, 0, 1"' not in truth
    nominal = (tmp_path / "p" / "warp_tiltseries" / "TS_01.xml").read_text("utf-8-sig")
    assert 'MagnificationCorrection="1, 0, 0, 1"' in nominal
    assert (tmp_path / "p" / "relion" / "octahedral" / "run_data.star").exists()
    assert len(list((tmp_path / "p" / "warp_frameseries" / "mask").iterdir())) == 1


def test_options_of_simulate_come_in_groups(mpr):
    """Every option stands once, under the heading of its group."""
    text = mpr("simulate", "--help").out
    groups = ["Options:", "What is in the tomograms:", "How images are taken:", "Planted motion", "Planted optics"]
    places = [text.index(f"\n{group}") for group in [*groups, "Bad tilts:", "  Examples:"]]
    assert places == sorted(places)
    assert places[2] < text.index("--phase-shift <") < places[3] < text.index("--volume-warp X") < places[4]
    assert places[4] < text.index("--beam-tilt") < places[5] < text.index("--masked-tilts") < places[6]


def test_help_is_quick_and_teaches():
    """--help of every command has an example, and of the whole needs none of the heavy libraries."""
    code = (
        "import sys; from mpr_dist.cli.app import run; run(['--help']); "
        "sys.exit(bool({'numba', 'dask', 'pandas', 'zarr', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "mpr-dist refine POP" in ended.stdout


def test_every_command_has_an_example(mpr):
    commands = ["plan", "refine", "reconstruct", "status", "report", "simulate", "demo", "population create"]
    commands += ["population show", "source add", "source list", "species add", "species list", "mask create"]
    for command in commands:
        result = mpr(*command.split(), "--help")
        assert result.code == 0
        assert f"mpr-dist {command}" in result.out.partition("Examples:")[2]


def test_usage_errors(mpr):
    assert mpr("refine").code == 2
    assert mpr("unknown").code == 2
    assert mpr("--version").out.startswith("mpr-dist ")
