"""A sound population passes; of every kind of damage and mistake, the check says what it is and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.cli.app import run as command
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.changing.species_changes import ChangeRequest, expand_symmetry, rotate_species
from mpr_dist.workflow.checking.findings import Findings
from mpr_dist.workflow.checking.verify import verify_population
from mpr_dist.workflow.checking.verify_species import check_all_species
from mpr_dist.workflow.reporting.iteration_report import write_report
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project
from mpr_dist.workflow.state.run_settings import RunSettings


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """The fixture beside a population of it, with one iteration."""
    root = tmp_path_factory.mktemp("sound")
    import_simulated(root / "pop", simulate_project(root / "p", SimulateSettings.fixture()), "small")
    run(root / "pop", Physics(), RunSettings(RefineSettings(iterations=1)), InlineExecutor())
    return root


@pytest.fixture
def pop(sound, tmp_path) -> Path:
    """A copy of both, which a test may spoil."""
    copy = Path(shutil.copytree(sound, tmp_path / "copy"))
    table = copy / "pop/sources/simulated/source.toml"
    table.write_text(table.read_text().replace(str(sound), str(copy)))
    return copy / "pop"


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8-sig")
    assert old in text, f"{old} is not in {path}"
    path.write_text(text.replace(old, new), "utf-8")


def _edit_map(path: Path, change: Callable[[np.ndarray], np.ndarray], pixel: float | None = None) -> None:
    volume, own = read_volume(path)
    path.unlink()
    write_volume(path, change(volume), pixel or own)


def _edit_poses(path: Path, column: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    blocks = read_blocks(path)
    table = blocks["particles"]
    table[column] = change(table[column].to_numpy())
    path.unlink()
    write_table(path, blocks)


def test_a_sound_population_passes(sound, digests):
    before = digests(sound)
    findings = verify_population(sound / "pop", deep=True)
    assert [finding.line for finding in findings.of("error")] == []
    # the phantom is resolved up to the last shell of its large pixels, which is worth a word
    assert all("last shell" in finding.text for finding in findings.of("warning"))
    assert findings.checks > 50
    assert digests(sound) == before


SERIES = "iterations/000/series/TS_01"
MAPS = "iterations/001/species/phantom"

DAMAGE: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "settings gone": (
        lambda pop: (pop.parent / "p" / "warp_tiltseries.settings").unlink(),
        "warning", "add the source again", "is gone",
    ),
    "user's XML changed": (
        lambda pop: _edit(next((pop.parent / "p").rglob("TS_01.xml")), "<Dose>", "<Dose>\n"),
        "warning", "own copy", "is not what was imported",
    ),
    "image gone": (
        lambda pop: next((pop.parent / "p").rglob("average/*.mrc")).unlink(),
        "error", "never copied", "1 of 7 images are gone",
    ),
    "image cut off": (
        lambda pop: next((pop.parent / "p").rglob("average/*.mrc")).write_bytes(b"x" * 2000),
        "error", "make the image again", "MRC",
    ),
    "image of another size": (
        lambda pop: _edit_map(next((pop.parent / "p").rglob("average/*.mrc")), lambda v: v[:, ::2, ::2]),
        "error", "source of their own", "104 x 96 px",
    ),
    "image binned": (
        lambda pop: _edit_map(next((pop.parent / "p").rglob("average/*.mrc")), lambda v: v, 8.0),
        "error", "binning", "pixels of 8 A",
    ),
    "imported XML gone": (lambda pop: (pop / f"{SERIES}.xml").unlink(), "error", "restore", "TS_01.xml"),
    "defocus in A": (
        lambda pop: _scale_defocus(pop / f"{SERIES}.xml", 1e4),
        "warning", "another unit", "defocus (um) is",
    ),
    "parameters changed by hand": (
        lambda pop: _edit(pop / "iterations/001/series/TS_01.xml", "<Dose>", "<Dose>\n"),
        "error", "never change", "not those that were published",
    ),
    "mask not binary": (
        lambda pop: _edit_map(pop / "species/phantom/mask.mrc", lambda v: 0.5 * v),
        "error", "update-mask", "only 0 and 1",
    ),
    "mask of another pixel": (
        lambda pop: _edit_map(pop / "species/phantom/mask.mrc", lambda v: v, 5.0), "error", "restore", "pixels of 5 A",
    ),
    "map of another box": (
        lambda pop: _edit_map(pop / f"{MAPS}/half1.mrc", lambda v: v[4:-4, 4:-4, 4:-4]),
        "error", "restore", "56 x 56 x 56",
    ),
    "half-maps the same": (
        lambda pop: shutil.copy(pop / f"{MAPS}/half1.mrc", pop / f"{MAPS}/half2.mrc"),
        "error", "independent", "the same map",
    ),
    "half-maps of noise": (
        lambda pop: _edit_map(pop / f"{MAPS}/half1.mrc", _noise), "error", "half-sets and the mask", "share nothing",
    ),
    "symmetry forgotten": (
        lambda pop: _edit(pop / "species/phantom/species.toml", 'symmetry = "O"', 'symmetry = "C4"'),
        "warning", "--symmetry O", "looks like O, the symmetry it was given is C4",
    ),
    "symmetry wrong": (
        lambda pop: _edit(pop / "species/phantom/species.toml", 'symmetry = "O"', 'symmetry = "D3"'),
        "warning", "is the group right", "does not have the symmetry D3",
    ),
    "counts": (
        lambda pop: _edit(pop / "species/phantom/species.toml", "TS_01 = 8", "TS_01 = 9"),
        "error", "restore", "says 9 particles, the poses have 8",
    ),
    "half-sets exchanged": (
        lambda pop: _edit_poses(pop / "iterations/001/series/TS_01.poses.star", "wrpRandomSubset", lambda v: 3 - v),
        "error", "restore", "half-sets are for ever",
    ),
    "rows not in the table": (
        lambda pop: _edit_poses(pop / f"{SERIES}.poses.star", "mprParticleRow", lambda v: v + 1),
        "error", "restore", "not those of its poses",
    ),
    "coordinates of another pixel": (
        lambda pop: _edit_poses(pop / "iterations/001/series/TS_01.poses.star", "wrpCoordinateX1", lambda v: 4 * v),
        "warning", "binning of the coordinates", "outside their tomogram",
    ),
    "particles twice": (
        lambda pop: _edit_poses(
            pop / "iterations/001/series/TS_01.poses.star", "wrpCoordinateX1", lambda v: np.repeat(v[::2], 2)
        ) or [
            _edit_poses(
                pop / "iterations/001/series/TS_01.poses.star", f"wrpCoordinate{a}1", lambda v: np.repeat(v[::2], 2)
            ) for a in "YZ"
        ],
        "warning", "--min-distance", "4 pairs of particles are nearer than",
    ),
    "sums lost": (
        lambda pop: shutil.rmtree(pop / f"{MAPS}/accumulator.zarr/phantom"), "error", "restore them", "sums of phantom",
    ),
    "DONE damaged": (lambda pop: (pop / "iterations/001/DONE").write_text("{"), "error", "restore", "DONE"),
    "begun": (
        lambda pop: [
            (pop / "iterations/002").mkdir(), (pop / "iterations/002/settings.toml").write_text("format_version = 1")
        ],
        "warning", "--restart", "002 was begun",
    ),
}  # fmt: skip


def _noise(volume: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(volume.shape).astype(np.float32)


def _scale_defocus(path: Path, factor: float) -> None:
    import re

    text = path.read_text("utf-8-sig")
    grid = re.search(r"<GridCTF .*?</GridCTF>", text, re.S)
    assert grid is not None
    changed = re.sub(r'Value="([^"]+)"', lambda m: f'Value="{float(m[1]) * factor}"', grid[0])
    path.write_text(text.replace(grid[0], changed), "utf-8")


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_wrong_is_named_with_advice(pop, what):
    damage, level, advice, text = DAMAGE[what]
    damage(pop)
    findings = verify_population(pop, deep=what == "sums lost")
    assert any(text in f.text and advice in f.advice for f in findings.of(level)), findings.lines
    # a finished iteration that was edited is an error of its own
    errors = [finding for finding in findings.of("error") if "that were published there" not in finding.text]
    assert level == "error" or not errors, findings.lines


def test_the_report_of_an_iteration_shows_the_species_it_had(pop):
    """One that was removed since is there, one that was made later is not."""
    expand_symmetry(ChangeRequest(pop, "phantom", "copies"), "C4")
    report = write_report(load_population(pop), 1).read_text()
    assert "phantom" in report
    assert "copies" not in report


def test_species_that_share_particles(pop):
    rotate_species(ChangeRequest(pop, "phantom", "turned", keep=True), (90.0, 0.0, 0.0))
    found = [finding.text for finding in verify_population(pop).of("warning")]
    assert "8 particles are in both, and count twice" in found


def test_maps_of_much_finer_pixels_than_all_images(pop):
    """As with half-maps whose header has a pixel that nobody set; here the images are the ones that change."""
    population = load_population(pop)
    coarse = replace(population, sources=tuple(replace(s, pixel_size_A=8.0) for s in population.sources))
    for each, expected in ((population, 0), (coarse, 1)):
        findings = Findings()
        check_all_species(findings, each)
        found = [finding.text for finding in findings.of("warning") if "much finer" in finding.text]
        assert len(found) == expected
    assert "pixels of 4 A, much finer than those of all images (8 A)" in found[0]


def test_copies_of_symmetry_expansion_are_no_mistake(pop):
    expand_symmetry(ChangeRequest(pop, "phantom"))
    lines = verify_population(pop).lines
    assert not [line for line in lines if "nearer than" in line], lines


def test_the_command(pop, capsys):
    assert command(["population", "verify", str(pop)]) == 0
    assert "0 errors" in capsys.readouterr().out
    (pop / "species/phantom/mask.mrc").unlink()
    assert command(["population", "verify", str(pop), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["is_right"] is False
    assert "mask.mrc" in told["errors"][0]["text"]
    assert load_population(pop).iteration == 1
