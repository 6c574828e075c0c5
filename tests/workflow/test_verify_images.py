"""What images say of an import: particles that are elsewhere, and half-maps that were exchanged, are told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.cli.app import run as command
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.changing.remove import restore_species
from mpr_dist.workflow.changing.species_changes import ChangeRequest, expand_symmetry
from mpr_dist.workflow.checking.findings import Findings
from mpr_dist.workflow.checking.verify_images import SpeciesImages, look_at_added, tell_findings, verify_images
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project
from mpr_dist.workflow.simulation.simulate_settings import SpeciesPlan
from mpr_dist.workflow.state.span import Span
from mpr_dist.workflow.state.species_state import read_species


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Sixteen particles; the half-maps were made from their images, at the start of refinement."""
    root = tmp_path_factory.mktemp("images")
    settings = replace(SimulateSettings.fixture(), particles_per_series=16, image_px=(320, 304), contrast=1.0)
    settings = replace(settings, species=(SpeciesPlan("phantom", "asymmetric"),))
    import_simulated(root / "pop", simulate_project(root / "p", settings), "small")
    return root / "pop"


@pytest.fixture
def pop(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "pop"))


def _findings(looked: tuple[SpeciesImages, ...]) -> list[str]:
    findings = Findings()
    tell_findings(findings, looked)
    return [finding.text for finding in findings.of("warning")]


def test_a_right_import_passes_and_progress_is_told(made, digests):
    before, told = digests(made), []
    (looked,) = verify_images(made, tell=lambda *each: told.append(each))
    assert (looked.place, looked.halves) == ("there", "right")
    assert looked.particles == 16
    assert "every half-map is that of its half-set" in looked.line
    assert not _findings((looked,))
    assert told[-1] == ("TS_01, tilt images", 7, 7)
    assert digests(made) == before


def test_exchanged_half_maps_are_told(pop, capsys):
    maps = load_population(pop).files(0).species("phantom")
    shutil.move(maps.half1, pop / "aside")
    shutil.move(maps.half2, maps.half1)
    shutil.move(pop / "aside", maps.half2)
    assert command(["population", "verify", str(pop), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"][0]["halves"] == "exchanged"
    assert any("the half-maps were exchanged" in one["text"] for one in answer["errors"])
    assert command(["population", "verify", str(pop), "--no-images"]) == 0
    assert "images:" not in capsys.readouterr().out


def test_an_import_with_exchanged_half_maps_is_told_and_put_right_as_advised(made, pop, capsys):
    """The name is free again as nothing was refined; what was removed stays whole, under another one."""
    relion, before = made.parent / "p" / "relion", read_species(load_population(pop), "phantom")
    files = ("--mask", relion / "mask.mrc", "--particles", relion / "run_data.star")
    words = ("species", "add", pop, "--name", "phantom", "--diameter", before.species.diameter_A, *files)

    def add(first: str, second: str, *more: str) -> str:
        half_maps = ("--half1", relion / first, "--half2", relion / second)
        assert command([str(word) for word in (*words, *half_maps, *more)]) == 0
        return capsys.readouterr().out

    assert command(["species", "remove", str(pop), "phantom"]) == 0
    capsys.readouterr()
    lines = add("half2.mrc", "half1.mrc").splitlines()
    assert "The species phantom that was removed is called phantom.removed-1 now." in lines[1]
    assert "the half-maps are EXCHANGED" in lines[2]
    assert lines[3].startswith("WARNING: species phantom: ")
    assert "mpr-dist species remove DIR phantom" in lines[3]
    assert command(["species", "remove", str(pop), "phantom"]) == 0
    capsys.readouterr()
    answer = json.loads(add("half1.mrc", "half2.mrc", "--json"))
    assert (answer["images"][0]["halves"], answer["warnings"]) == ("right", [])
    assert load_population(pop).removed_species == ("phantom.removed-1", "phantom.removed-2")
    restore_species(pop, "phantom.removed-1")
    for name in ("phantom", "phantom.removed-1"):
        now = read_species(load_population(pop), name)
        assert np.array_equal(now.half1, before.half1)
        assert np.array_equal(now.mask, before.mask)
        assert np.array_equal(now.particles.position_A, before.particles.position_A)
        assert now.columns.equals(before.columns)
    assert command(["population", "verify", str(pop), "--no-images"]) == 0


def test_a_look_that_fails_is_one_line_and_none_at_all_if_so_asked(made, pop, capsys):
    relion = made.parent / "p" / "relion"
    shutil.move(pop / "iterations/000/series/TS_01.xml", pop / "aside")
    looked = look_at_added(pop, "phantom")
    assert looked.line.startswith("images: phantom: not looked at: ")
    shutil.move(pop / "aside", pop / "iterations/000/series/TS_01.xml")
    maps = ("--half1", relion / "half2.mrc", "--half2", relion / "half1.mrc", "--mask", relion / "mask.mrc")
    more = ("--particles", relion / "run_data.star", "--diameter", 128, "--no-images")
    assert command([str(word) for word in ("species", "add", pop, "--name", "other", *maps, *more)]) == 0
    said = capsys.readouterr().out
    assert "images:" not in said
    assert "WARNING" not in said


def test_particles_that_are_elsewhere_are_told(pop):
    """Coordinates of a pixel that is 7 % too small, inside of their tomograms."""
    path = load_population(pop).files(0).series("TS_01").poses
    blocks = read_blocks(path)
    for axis in "XYZ":
        column = f"wrpCoordinate{axis}1"
        blocks["particles"][column] = 0.93 * blocks["particles"][column].to_numpy(np.float64)
    path.unlink()
    write_table(path, blocks)
    (looked,) = verify_images(pop)
    assert (looked.place, looked.halves) == ("not there", "undecided")
    (text,) = _findings((looked,))
    assert "16 particles in TS_01 agree with its map no better than noise does" in text


def test_copies_of_an_expanded_species_count_as_one_particle(project, tmp_path):
    """The half-maps have the symmetry that is expanded: every copy says the same once more, and nothing new."""
    import_simulated(tmp_path / "pop", project, "small")
    (before,) = verify_images(tmp_path / "pop")
    expand_symmetry(ChangeRequest(tmp_path / "pop", "phantom"), "C1")
    (after,) = verify_images(tmp_path / "pop")
    assert after.particles == before.particles == 8
    # slices are sampled at other places of the grid
    assert after.place_sigmas == pytest.approx(before.place_sigmas, rel=0.02)
    assert after.own_sigmas == pytest.approx(before.own_sigmas, rel=0.1)


def test_particles_in_an_eighth_of_their_tomograms_are_told():
    """A pixel of half the size brings them there; ten or more, for a few may lie together."""
    rng = np.random.default_rng(0)
    whole = [rng.uniform(0.02, 0.98, (8, 3)), rng.uniform(0.02, 0.98, (8, 3))]
    assert not Span.of(whole).is_odd
    assert not Span.of([each * [1, 1, 0.1] for each in whole]).is_odd  # a thin layer
    small = Span.of([each / 2 for each in whole])
    assert small.is_odd
    assert "all 16 particles lie within" in small.sentence
    assert not Span.of([whole[0] / 2]).is_odd
    assert Span.of([]).count == 0


def test_what_cannot_be_looked_at_says_why(pop):
    assert verify_images(pop, ["TS_99"])[0].why == "no tilt shows any of its particles"
    maps = load_population(pop).files(0).species("phantom")
    volume, pixel_A = read_volume(maps.half1)
    maps.half1.unlink()
    write_volume(maps.half1, np.random.default_rng(0).normal(0, 1, volume.shape).astype(np.float32), pixel_A)
    assert "share nothing" in verify_images(pop)[0].line
    few = SpeciesImages("phantom", ("TS_01",), 4, 0.1, -20.0)
    assert (few.place, few.halves) == ("undecided", "undecided")
