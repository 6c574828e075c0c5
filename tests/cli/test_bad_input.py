"""Whatever is wrong with the input: one line that says so, exit code 2, and no file of the user changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project

CHOICE = ("--image-warp", "2x2", "--particles", "--engine", "inline")
Spoil = Callable[[Path], tuple[object, ...] | None]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(path: Path, pattern: str, text: str) -> None:
    found, count = re.subn(pattern, text, path.read_text(), count=1, flags=re.DOTALL)
    assert count == 1
    path.write_text(found)


def poison(path: Path) -> None:
    """NaN in the first pixel of an image or map, whatever its type."""
    data = bytearray(path.read_bytes())
    width = 2 if data[12] == 12 else 4
    data[1024 : 1024 + width] = np.array([np.nan], f"<f{width}").tobytes()
    path.write_bytes(bytes(data))


def change_map(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    data, pixel = read_volume(path)
    write_volume(path, np.ascontiguousarray(change(data)), pixel)


def change_table(path: Path, change: Callable) -> None:
    blocks = read_blocks(path)
    write_table(path, blocks | {"particles": change(blocks["particles"])})


def average(root: Path) -> Path:
    return root / "warp_frameseries" / "average" / "TS_01_003.mrc"


SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated average": (lambda root: truncate(average(root)), "truncated"),
    "missing average": (lambda root: average(root).unlink(), "1 of 7 averages are missing"),
    "lists of different length": (
        lambda root: rewrite(root / "warp_tiltseries" / "TS_01.xml", r"<Dose>[^\n]*\n", "<Dose>"),
        "expected 7 values",
    ),
    "no XML": (lambda root: (root / "warp_tiltseries" / "TS_01.xml").write_text("<TiltSeries"), "TS_01"),
    "no series": (lambda root: (root / "warp_tiltseries" / "TS_01.xml").unlink(), "holds no tilt-series XML"),
    "no settings": (lambda root: (root / "warp_tiltseries.settings").unlink(), "cannot be read"),
    "another pixel": (
        lambda root: rewrite(root / "warp_tiltseries.settings", '"PixelSize" Value="4"', '"PixelSize" Value="3"'),
        "has pixels of 4 A",
    ),
}


@pytest.mark.parametrize("what", SOURCES)
def test_spoiled_source(what, own_project, add_source, digests):
    """The only series is left out with its reason, so nothing remains: one line."""
    spoil, words = SOURCES[what]
    spoil(own_project)
    before = digests(own_project)
    result = add_source(own_project)
    assert result.code == 2
    assert result.is_one_line(), result.err
    assert words in result.err
    assert digests(own_project) == before


SPECIES: dict[str, tuple[Spoil, str]] = {
    "truncated half-map": (lambda root: truncate(root / "relion" / "half1.mrc"), "truncated"),
    "NaN in a half-map": (lambda root: poison(root / "relion" / "half1.mrc"), "NaN"),
    "half-maps of different boxes": (
        lambda root: change_map(root / "relion" / "half2.mrc", lambda v: v[2:-2, 2:-2, 2:-2]),
        "half-maps differ in size",
    ),
    "equal half-maps": (lambda root: ("--half2", root / "relion" / "half1.mrc"), "the same map"),
    "odd box": (
        lambda root: [change_map(root / "relion" / f"half{i}.mrc", lambda v: v[1:, 1:, 1:]) for i in (1, 2)] and None,
        "even",
    ),
    "mask of another box": (
        lambda root: change_map(root / "relion" / "mask.mrc", lambda v: v[2:-2, 2:-2, 2:-2]),
        "expected a cube of 40 px",
    ),
    "mask that is not binary": (
        lambda root: change_map(root / "relion" / "mask.mrc", lambda v: v * np.float32(0.7)),
        "only 0 and 1",
    ),
    "unknown symmetry": (lambda root: ("--symmetry", "Q7"), "'Q7' is not known"),
    "no such file": (lambda root: ("--particles", root / "nothing.star"), "cannot be read"),
    "not a table": (lambda root: ("--particles", root / "relion" / "mask.mrc"), "not a STAR file"),
    "zero particles": (
        lambda root: change_table(root / "relion" / "run_data.star", lambda t: t.iloc[:0]),
        "no rows",
    ),
    "no angles": (
        lambda root: change_table(
            root / "relion" / "run_data.star",
            lambda t: t.drop(columns=["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]),
        ),
        "no angles",
    ),
    "series that matches nothing": (
        lambda root: change_table(
            root / "relion" / "run_data.star", lambda t: t.assign(rlnMicrographName="other.tomostar")
        ),
        "none of its 8 particles",
    ),
    "one particle of another series": (
        lambda root: change_table(
            root / "relion" / "run_data.star",
            lambda t: t.assign(rlnMicrographName=["other.tomostar"] + ["TS_01.tomostar"] * 7),
        ),
        "1 of 8 particles",
    ),
    "particles outside": (lambda root: ("--coordinate-pixel", 60), "lie outside their tomogram"),
    "empty half-set": (
        lambda root: change_table(root / "relion" / "run_data.star", lambda t: t.assign(rlnRandomSubset=1)),
        "half-set 2 is empty",
    ),
    "pixel size that is no number": (lambda root: ("--pixel-size", "nan"), "must lie between"),
    "pixel larger than the particle": (lambda root: ("--pixel-size", 1000), "quarter of the diameter"),
    "pixel in nanometres": (lambda root: ("--pixel-size", 0.4), "quarter of the maps' pixel"),
    "diameter beyond the map": (lambda root: ("--diameter", 500), "diameter"),
    "mask beyond the box": (lambda root: ("--diameter", 50), "reaches beyond"),
    "name that is a path": (lambda root: ("--name", "../x"), "cannot be the name"),
}


@pytest.mark.parametrize("what", SPECIES)
def test_spoiled_species(what, own_project, add_source, add_species, digests, tmp_path):
    """Refused in one line; the population has no species afterwards."""
    assert add_source(own_project).code == 0
    spoil, words = SPECIES[what]
    options = spoil(own_project) or ()
    before = digests(own_project)
    result = add_species(own_project, *options)
    assert result.code == 2
    assert result.is_one_line(), result.err
    assert words in result.err
    assert digests(own_project) == before
    assert "species = []" in (tmp_path / "pop" / "population.toml").read_text()


def test_a_mask_overwrites_masks_alone(own_project, mpr, digests):
    """A half-map given as the target stays as it is; a mask may be made again."""
    relion = own_project / "relion"
    before = digests(own_project)
    result = mpr("mask", "create", relion / "half1.mrc", relion / "half2.mrc", "--threshold", 0.05)
    assert result.code == 2
    assert result.is_one_line()
    assert digests(own_project) == before
    assert mpr("mask", "create", relion / "half1.mrc", relion / "mask.mrc", "--threshold", 0.05).code == 0


def test_half_maps_of_noise_give_plain_json(own_project, add_source, add_species, tmp_path):
    """No resolution is null in result.json: other programs do not read Infinity."""
    for i in (1, 2):
        noise = np.random.default_rng(i).standard_normal((40, 40, 40)).astype(np.float32)
        write_volume(own_project / "relion" / f"half{i}.mrc", noise, 4.0)
    assert add_source(own_project).code == 0
    assert "nothing in common" in add_species(own_project).out
    text = (tmp_path / "pop" / "iterations" / "000" / "species" / "phantom" / "result.json").read_text()
    assert json.loads(text)["resolution_A"] is None


def test_unmatched_can_be_left_out(own_project, add_source, add_species):
    """--ignore-unmatched drops the particles of unknown series, and says how many."""
    names = ["other.tomostar"] + ["TS_01.tomostar"] * 7
    change_table(own_project / "relion" / "run_data.star", lambda t: t.assign(rlnMicrographName=names))
    assert add_source(own_project).code == 0
    result = add_species(own_project, "--ignore-unmatched")
    assert result.code == 0
    assert "7 particles in 1 tilt series" in result.out
    assert "Dropped: 1 particle (they lie in series that this population does not have: other)" in result.out
    halves = read_blocks(own_project / "relion" / "run_data.star")["particles"]["rlnRandomSubset"][1:]
    first, second = ((halves == half).sum() for half in (1, 2))
    assert f"Half-sets of the particles that stay: {first} and {second}." in result.out


def test_nothing_but_nan(own_project, add_source, add_species, mpr, tmp_path, digests):
    """A NaN in an image is found when the image is read; no other series remains, so the run fails with the reason."""
    poison(average(own_project))
    before = digests(own_project)
    assert add_source(own_project).code == 0
    assert add_species(own_project).code == 0
    result = mpr("refine", tmp_path / "pop", "--iterations", 1, *CHOICE)
    assert result.code == 1
    assert "NaN" in result.err.splitlines()[-1]
    assert result.err.splitlines()[-1].startswith("mpr-dist: ")
    assert "Traceback" not in result.err
    assert digests(own_project) == before


def test_one_series_fails(tmp_path, add_source, add_species, mpr, digests):
    """The others go on: exit code 3, and the series and its reason are told by refine and by status."""
    root = tmp_path / "project"
    settings = replace(SimulateSettings.fixture(), n_series=2, particles_per_series=4)
    simulate_project(root, settings)
    assert add_source(root).code == 0
    assert add_species(root).code == 0
    average(root).unlink()
    before = digests(root)
    result = mpr("refine", tmp_path / "pop", "--iterations", 1, *CHOICE)
    assert result.code == 3
    assert "TS_01: LEFT OUT" in result.out
    assert "Traceback" not in result.err
    assert "TS_01: LEFT OUT" in mpr("status", tmp_path / "pop").out
    assert digests(root) == before


def test_left_out_at_import(own_project, add_source):
    """A damaged series beside a good one is left out with the reason; a .tomostar without XML as well."""
    shutil.copy(own_project / "tomostar" / "TS_01.tomostar", own_project / "tomostar" / "TS_07.tomostar")
    (own_project / "warp_tiltseries" / "TS_08.xml").write_text("<TiltSeries></TiltSeries>")
    result = add_source(own_project)
    assert result.code == 0
    assert "TS_01: 7 of 7 tilts" in result.out
    assert "TS_07: LEFT OUT: it has no XML" in result.out
    assert "TS_08: LEFT OUT" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("refine", "nowhere", "--particles"), "does not exist"),
        (("status", "nowhere"), "does not exist"),
        (("report", "nowhere"), "does not exist"),
        (("population", "create", "made", "--name", "a/b"), "cannot be the name"),
        (("mask", "create", "nowhere.mrc", "mask.mrc", "--threshold", 1), "cannot be read"),
        (("simulate", "made", "--preset", "large"), "is not known"),
        (("simulate", "made", "--tilts", 0), "at least 1"),
        (("simulate", "made", "--seed", -1), "0 or more"),
        (("simulate", "made", "--volume-warp", "2x2x10"), "4 numbers joined by x"),
        (("simulate", "made", "--ewald", "up"), "off, on, reversed"),
        (("simulate", "made", "--beam-tilt", -1), "must not be negative"),
        (("simulate", "made", "--model", "nowhere.pdb"), "no such file"),
        (("simulate", "made", "--species", "dihedral:x"), "KIND:PARTICLES"),
    ],
)
def test_bad_arguments(arguments, words, mpr, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = mpr(*arguments)
    assert result.code == 2
    assert result.is_one_line(), result.err
    assert words in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing was chosen"),
        (("--image-warp", "3"), "WIDTHxHEIGHT"),
        (("--particles", "--iterations", 0), "at least 1 iteration"),
        (("--particles", "--engine", "cloud"), "is not known"),
        (("--particles", "--workers", 0), "1 or more"),
        (("--particles", "--prior-positions", -1), "must be positive"),
        (("--particles", "--prior-positions", "inf"), "finite"),
        (("--particles", "--max-passes", 1), "10 or more"),
        (("--particles", "--first-iteration-fraction", 2), "0..1"),
        (("--settings", "missing.toml"), "cannot be read"),
    ],
)
def test_bad_settings(options, words, project, add_source, add_species, mpr, tmp_path):
    assert add_source(project.files.root).code == 0
    assert add_species(project.files.root).code == 0
    result = mpr("refine", tmp_path / "pop", *options, *(() if "--engine" in options else ("--engine", "inline")))
    assert result.code == 2
    assert result.is_one_line(), result.err
    assert words in result.err
