"""What would count twice, or silently not at all, is told."""

from __future__ import annotations

import shutil

import pytest
from m_project import copy_of

from mpr_dist.cli.app import run
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.changing.merge_populations import MergeRequest, merge_populations
from mpr_dist.workflow.checking.verify import verify_population
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest


def test_series_of_the_same_images_are_told(project, tmp_path):
    """Of one project merged with itself, and not of one merged with a copy that has images of its own."""
    import_simulated(tmp_path / "one", project, "one")
    import_simulated(tmp_path / "two", project, "two")
    merged = merge_populations(MergeRequest(tmp_path / "both", (tmp_path / "one", tmp_path / "two"), "both"))
    expected = "one_TS_01 and two_TS_01 are of the same images"
    assert [note for note in merged.notes if f"WARNING: {expected}" in note]
    (found,) = [each for each in verify_population(tmp_path / "both").found if expected in each.text]
    assert (found.level, "source remove" in found.advice) == ("warning", True)
    assert not verify_population(tmp_path / "one").found
    root = copy_of(project, tmp_path)
    assert run(["population", "create", str(tmp_path / "own"), "--name", "own"]) == 0
    settings = str(root / "warp_tiltseries.settings")
    assert run(["source", "add", str(tmp_path / "own"), "--name", "g", "--warp-settings", settings]) == 0
    maps = (root / "relion" / f"{name}.mrc" for name in ("half1", "half2", "mask"))
    add_species(tmp_path / "own", SpeciesRequest("phantom", *maps, root / "relion" / "run_data.star", 128.0, "O"))
    other = merge_populations(MergeRequest(tmp_path / "three", (tmp_path / "one", tmp_path / "own"), "three"))
    assert not [note for note in other.notes if "same images" in note]


@pytest.mark.parametrize("takes_all", [True, False])
def test_aberrations_that_are_not_applied_are_told(project, tmp_path, takes_all):
    """They come with the optimisation set alone; a species added to a source without them says so."""
    import_simulated(tmp_path / "warp", project, "small")
    out = tmp_path / "relion"
    export(ExportRequest(tmp_path / "warp", out), "relion5")
    blocks = read_blocks(out / "particles.star")
    blocks["optics"]["rlnEvenZernike"], blocks["optics"]["rlnOddZernike"] = "[5,0,0]", "[0,1e-2]"
    write_table(out / "particles.star", blocks)
    pop, relion = create_population(tmp_path / "pop", "test").path, project.files.root / "relion"
    add_relion_source(pop, SourceRequest("g", out / ("optimisation_set.star" if takes_all else "tomograms.star")))
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    done = add_species(pop, SpeciesRequest("phantom", *maps, out / "particles.star", 128.0, "O"))
    told = [note for note in done.reading.notes if "NOT APPLIED" in note]
    assert bool(told) != takes_all


def test_a_population_that_is_not_whole(project, tmp_path, capsys):
    """One line for each: the finding once, and no talk of a last finished iteration that is not."""
    import_simulated(tmp_path / "pop", project, "small")
    xml = load_population(tmp_path / "pop").files(0).series("TS_01").xml
    xml.write_text("nonsense")
    assert run(["population", "verify", str(tmp_path / "pop")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines))
    assert any("not a complete XML file" in line for line in lines)
    shutil.rmtree(tmp_path / "pop" / "iterations")
    assert run(["export", str(tmp_path / "pop"), str(tmp_path / "out"), "--to", "m"]) == 2
    assert "population verify" in capsys.readouterr().err


def test_one_program_at_a_time_and_folders_without_stacks(tmp_path, capsys):
    pop = create_population(tmp_path / "pop", "test").path
    (tmp_path / "empty").mkdir()
    both = ["--imod", str(tmp_path), "--aretomo", str(tmp_path)]
    away = ["--imod", str(tmp_path / "away"), "--ctf", "x"]
    there = ["--imod", str(tmp_path), "--ctf", "x"]
    for words, text in ((both, "give one of"), (there, "without any file *.st"), (away, "no such folder")):
        assert run(["source", "add", str(pop), "--name", "g", "--stacks", str(tmp_path / "empty"), *words]) == 2
        assert text in capsys.readouterr().err


def test_names_that_are_there_already(project, tmp_path, capsys):
    """Of a source, and of tilt series; the latter have a way out."""
    import_simulated(tmp_path / "pop", project, "small")
    for name, text in (("simulated", "source simulated already"), ("b", "population merge")):
        words = ["source", "add", str(tmp_path / "pop"), "--name", name, "--warp-settings", str(project.files.settings)]
        assert run(words) == 2
        assert text in capsys.readouterr().err
