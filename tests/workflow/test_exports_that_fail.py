"""Exports that fail leave nothing, and exports that work say what the next program must do again."""

from __future__ import annotations

import pytest

from mpr_dist.errors import InputError, MprError
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.exporting.export import TARGETS, export
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_is_left_and_the_same_command_works_later(project, tmp_path, exists):
    """Of every target: the table of particles (or a map) is gone when the series have been written."""
    import_simulated(tmp_path / "pop", project, "small")
    files = load_population(tmp_path / "pop").files(0).species("phantom")
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    moved = {path: path.with_suffix(".away") for path in (files.particles, files.half1)}
    for target in TARGETS:
        for path, away in moved.items():
            path.rename(away)
        with pytest.raises(MprError):
            export(ExportRequest(tmp_path / "pop", out), target)
        assert out.exists() == exists
        assert not exists or not any(out.iterdir())
        for path, away in moved.items():
            away.rename(path)
    (out if exists else tmp_path).joinpath("mine.txt").write_text("mine")
    if exists:
        with pytest.raises(InputError, match="not an empty folder"):
            export(ExportRequest(tmp_path / "pop", out), "m")
        assert [path.name for path in out.iterdir()] == ["mine.txt"]
    else:
        assert export(ExportRequest(tmp_path / "pop", out), "m").table["series"] == ["TS_01"]


def test_images_of_particles_are_to_be_extracted_again(project, tmp_path):
    """They were cut out around coordinates that are not those of the new table any more."""
    import_simulated(tmp_path / "warp", project, "small")
    out = tmp_path / "relion"
    first = export(ExportRequest(tmp_path / "warp", out), "relion5")
    assert not [line for line in first.lines if "extract them again" in line]
    blocks = read_blocks(out / "particles.star")
    blocks["particles"]["rlnImageName"] = [f"Extract/job012/Subtomograms/TS_01/{i}_stack2d.mrcs" for i in range(8)]
    write_table(out / "particles.star", blocks)
    pop, relion = create_population(tmp_path / "pop", "test").path, project.files.root / "relion"
    add_relion_source(pop, SourceRequest("g", out / "tomograms.star"))
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    add_species(pop, SpeciesRequest("phantom", *maps, out / "particles.star", 128.0, "O"))
    again = export(ExportRequest(pop, tmp_path / "again"), "relion5")
    assert [line for line in again.lines if "rlnImageName" in line and "extract them again" in line]
    kept = read_blocks(tmp_path / "again" / "particles.star")["particles"]["rlnImageName"]
    assert kept.tolist() == blocks["particles"]["rlnImageName"].tolist()
