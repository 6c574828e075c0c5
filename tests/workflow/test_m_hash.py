"""M finds the particles of a series by a hash of its name and of the first movie: exports bring the same."""

from __future__ import annotations

import json
import subprocess

import pytest
from m_project import HASH, NAME, copy_of, make_m_project

from mpr_dist.cli.app import run
from mpr_dist.storage.m_files import param_of
from mpr_dist.storage.m_hash import data_hash, raw_movie
from mpr_dist.storage.m_project import read_m_population
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_project import write_movie_settings
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_m import import_m
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest

HALF_MIB = 512 * 1024


def by_the_shell(name: str, data: bytes) -> str:
    """The same from other programs: little-endian UTF-16 from iconv, SHA-1 and base64 from the shell."""
    script = '(printf %s "$0" | iconv -t UTF-16LE; head -c 524288) | sha1sum | cut -c1-40'
    digest = subprocess.run(["sh", "-c", script, name], input=data, capture_output=True, check=True).stdout
    text = subprocess.run(["base64"], input=bytes.fromhex(digest.decode()), capture_output=True, check=True).stdout
    return text.decode().strip().replace("=", "").replace("/", "-").replace("+", "_")


@pytest.mark.parametrize("size", [0, 1000, HALF_MIB, HALF_MIB + 77])
def test_hash_of_name_and_first_half_mebibyte(tmp_path, size):
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    (tmp_path / "a.tif").write_bytes(data)
    for name in ("TS_1", "lamella 7.2_b"):
        found = data_hash(name, tmp_path / "a.tif")
        assert found == by_the_shell(name, data)
        assert len(found) == len(HASH)


def test_raw_movies_lie_where_the_xml_beside_the_average_says(tmp_path):
    """WarpTools keeps averages in warp_frameseries and raw movies in frames; before, both lay together."""
    entry = tmp_path / "warp_frameseries" / "a.tif"
    entry.parent.mkdir()
    (tmp_path / "frames").mkdir()
    assert raw_movie(entry) is None
    entry.with_suffix(".xml").write_text('<Movie DataDirectory="../frames" />')
    assert raw_movie(entry) is None
    (tmp_path / "frames" / "a.tif").write_bytes(b"raw")
    assert raw_movie(entry).resolve() == tmp_path / "frames" / "a.tif"
    entry.with_suffix(".xml").write_text("<Movie")
    assert raw_movie(entry) is None
    entry.write_bytes(b"raw")
    assert raw_movie(entry) == entry


def test_hashes_are_made_where_movies_are(project, tmp_path):
    """Source and particles of M have what M will compute itself; without a movie nothing is invented."""
    root = copy_of(project, tmp_path)
    assert run(["population", "create", str(tmp_path / "again"), "--name", "again"]) == 0
    words = ["--name", "g", "--warp-settings", str(root / "warp_tiltseries.settings")]
    assert run(["source", "add", str(tmp_path / "again"), *words]) == 0
    maps = (root / "relion" / f"{name}.mrc" for name in ("half1", "half2", "mask"))
    add_species(tmp_path / "again", SpeciesRequest("phantom", *maps, root / "relion" / "run_data.star", 128.0, "O"))
    needy = export(ExportRequest(tmp_path / "again", tmp_path / "needy"), "m")
    assert needy.table["hashes"] == {}
    assert f"{NAME}_000.tif" in needy.table["needs"]
    movie = root / "warp_frameseries" / f"{NAME}_000.tif"
    movie.write_bytes(b"a movie")
    done = export(ExportRequest(tmp_path / "again", tmp_path / "out"), "m")
    expected = by_the_shell(NAME, b"a movie")
    assert (done.table["hashes"], done.table["needs"]) == ({NAME: expected}, "")
    (root / "frames").mkdir()
    movie.rename(root / "frames" / movie.name)  # where the settings of the frame series say, if the source knows them
    write_movie_settings(root / "frames.settings", 4.0, ".tif", 3.0, "gain.mrc")
    assert export(ExportRequest(tmp_path / "again", tmp_path / "away"), "m").table["hashes"] == {}
    table = tmp_path / "again" / "sources" / "g" / "source.toml"
    table.write_text(table.read_text().replace("[[series]]", f'movies = "{root}/frames.settings"\n\n[[series]]'))
    assert export(ExportRequest(tmp_path / "again", tmp_path / "there"), "m").table["hashes"] == {NAME: expected}
    values = {name: param_of(tmp_path / "there/g/g.source", "DataSource", name) for name in ("GainFlipX", "GainPath")}
    assert values["GainFlipX"] == "True"
    assert (tmp_path / "there/g" / str(values["GainPath"])).resolve() == root / "frames" / "gain.mrc"
    (root / "frames.settings").rename(root / "gone")
    assert export(ExportRequest(tmp_path / "again", tmp_path / "gone"), "m").table["hashes"] == {}
    made = read_m_population(tmp_path / "out" / "again.population")
    assert made.sources[0].hashes == {NAME: expected}
    assert set(read_blocks(made.species[0].beside("particles.star"))[""]["wrpSourceHash"]) == {expected}


def test_what_stands_for_no_hash_is_none(project, tmp_path, capsys):
    """Of an export without hashes that comes back."""
    import_simulated(tmp_path / "pop", project, "small")
    export(ExportRequest(tmp_path / "pop", tmp_path / "out"), "m")
    capsys.readouterr()
    assert run(["population", "import", str(tmp_path / "b"), str(tmp_path / "out" / "small.population"), "--json"]) == 0
    reading = json.loads(capsys.readouterr().out)["sources"][0]["reading"]
    assert "Hashes of raw data: 0, kept for M." in reading["notes"]
    assert export(ExportRequest(tmp_path / "b", tmp_path / "again"), "m").table["without_hash"] == [NAME]


def test_a_hash_of_m_stays_and_one_that_does_not_fit_is_told(project, tmp_path):
    m = make_m_project(copy_of(project, tmp_path), project)
    import_m(tmp_path / "pop", m.population)
    quiet = export(ExportRequest(tmp_path / "pop", tmp_path / "quiet"), "m")
    assert not [note for note in quiet.table["notes"] if "hash" in note]
    (m.source.parents[1] / "warp_frameseries" / f"{NAME}_000.tif").write_bytes(b"another movie")
    told = export(ExportRequest(tmp_path / "pop", tmp_path / "told"), "m")
    assert told.table["hashes"] == {NAME: HASH}
    assert [note for note in told.table["notes"] if f"the hash that M gave {NAME} is not that of the movie" in note]


def test_images_of_relion_stand_in_for_movies(project, tmp_path):
    """M opens the movie of the first tilt before anything else; series that Warp never saw have their images there."""
    import_simulated(tmp_path / "warp", project, "small")
    export(ExportRequest(tmp_path / "warp", tmp_path / "relion"), "relion5")
    pop, relion = create_population(tmp_path / "pop", "test").path, project.files.root / "relion"
    add_relion_source(pop, SourceRequest("grid", tmp_path / "relion" / "tomograms.star"))
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    add_species(pop, SpeciesRequest("phantom", *maps, tmp_path / "relion" / "particles.star", 128.0, "O"))
    done = export(ExportRequest(pop, tmp_path / "out"), "m")
    image = project.files.root / "warp_frameseries" / "average" / f"{NAME}_000.mrc"
    assert done.table["hashes"] == {NAME: by_the_shell(NAME, image.read_bytes())}
    assert (tmp_path / "out" / "grid_frames" / f"{NAME}_000.mrc").read_bytes() == image.read_bytes()
    assert any("stand in for movies" in note for note in done.table["notes"])
