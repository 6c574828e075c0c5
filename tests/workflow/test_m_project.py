"""Projects of M and of Warp come in and leave again: nothing is lost, and nothing that is not ours changes."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from m_project import HASH, NAME, SAMPLES, SOURCE_GUID, SPECIES_GUID, MProject, copy_of, make_m_project

from mpr_dist.cli.app import run
from mpr_dist.errors import InputError
from mpr_dist.imaging.geometry import project as project_series
from mpr_dist.imaging.geometry import tilt_matrices
from mpr_dist.maths.fourier import crop_or_pad_real
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.species import Helix
from mpr_dist.model.warp import CubicGrid, ImageWarp, StageAngles
from mpr_dist.storage.m_project import read_m_population
from mpr_dist.storage.m_table import continuous
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import advance, load_population
from mpr_dist.storage.poses import read_poses, write_poses
from mpr_dist.storage.relion import read_particles
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.storage.warp_settings import read_settings
from mpr_dist.storage.warp_xml import read_tilt_series, write_tilt_series
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_m import MImportSummary, import_m
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest


@pytest.fixture
def m(project, tmp_path) -> MProject:
    return make_m_project(copy_of(project, tmp_path), project)


def params(path: Path) -> dict[str, str]:
    root = ET.fromstring(path.read_bytes())
    return {p.get("Name", ""): p.get("Value", "") for p in root.findall("Param")}


def elements(path: Path) -> list[tuple[str, dict[str, str], str]]:
    """All of an XML file but indentation."""
    root = ET.fromstring(path.read_bytes())
    return [(e.tag, dict(e.attrib), (e.text or "").strip()) for e in root.iter()]


def test_m_project_is_taken_over(m, tmp_path, digests):
    """Series by hash, trajectories with every sample, symmetry, diameter, half-maps; the missing series is named."""
    before = digests(m.population.parent)
    summary = import_m(tmp_path / "pop", m.population)
    assert digests(m.population.parent) == before
    population = load_population(tmp_path / "pop")
    assert population.name == "my_apoferritin"
    assert [s.name for s in population.sources] == ["grid_1"]
    assert [e.name for _, e in population.series] == [NAME]
    (species,) = population.species
    assert (species.species.symmetry, species.species.diameter_A, species.particles_in(NAME)) == ("O", 128.0, 8)
    poses = read_poses(population.files(0).series(NAME).poses)["phantom"]
    assert poses.n_samples == SAMPLES
    np.testing.assert_allclose(poses.position_A, m.position_A, atol=1e-5)
    np.testing.assert_allclose(poses.angles_deg, m.angles_deg, atol=1e-5)
    _check_told(summary)


def _check_told(summary: MImportSummary) -> None:
    text = "\n".join(summary.lines)
    assert "TS_99: LEFT OUT" in text
    assert "8 particles linked by wrpSourceHash, 0 by wrpSourceName" in text
    assert "refine with --ewald reversed" in text
    assert f"trajectories of M, {SAMPLES} samples" in text
    assert text.endswith("--iterations 2 --image-warp 6x4 --particles --aberrations 3")
    reading = summary.record()["species"][0]["reading"]
    assert reading["names"] in text
    assert json.loads(json.dumps(summary.record())) == summary.record()


def test_there_and_back(m, project, tmp_path):
    """M -> ours -> M: tables and XML say the same, what is not ours is as it was, and ours reads the result again."""
    import_m(tmp_path / "pop", m.population)
    summary = export(ExportRequest(tmp_path / "pop", tmp_path / "out"), "m")
    back = read_m_population(tmp_path / "out" / "my_apoferritin.population")
    assert [s.guid for s in back.sources] == [SOURCE_GUID]
    assert [s.guid for s in back.species] == [SPECIES_GUID]
    assert back.name == "my apoferritin"
    assert back.options == read_m_population(m.population).options
    assert back.sources[0].hashes == {NAME: HASH}
    assert params(back.sources[0].path) == params(m.source)
    assert params(back.species[0].path) == params(m.species)
    assert 'Later="kept"' in back.sources[0].path.read_text()
    old, new = (read_blocks(path)[""] for path in (m.table, back.species[0].beside("particles.star")))
    assert list(new.columns) == list(old.columns)
    for name in old.columns:
        if old[name].dtype.kind == "f":
            np.testing.assert_allclose(new[name], old[name], atol=1e-5)
        elif name != "wrpSourceName":
            assert new[name].tolist() == old[name].tolist(), name
    assert set(new["wrpSourceName"]) == {f"{NAME}.tomostar"}
    assert summary.table["without_hash"] == []
    _check_series(m.source.with_name(f"{NAME}.xml"), back.sources[0].xml(NAME), project, m)
    again = import_m(tmp_path / "again", back.path)
    assert sum(n for _, n in again.population.species[0].particles) == 8


def _check_series(before: Path, after: Path, project, m: MProject) -> None:
    """Elements are the same; positions agree to 1e-3 A, defocus to 0.1 A, images are found."""
    old, new = elements(before), elements(after)
    assert old[0][1].keys() == new[0][1].keys()
    assert {k for k in old[0][1] if old[0][1][k] != new[0][1][k]} == {"DataDirectory"}
    assert old[1:] == new[1:]
    series = [read_tilt_series(path, volume_size_A=project.series[NAME].volume_size_A) for path in (before, after)]
    assert all(path.exists() for path in series[1].image_paths)
    poses = [
        read_particles(m.table),
        read_particles(after.parents[1] / "species/phantom_22222222/phantom_particles.star"),
    ]
    seen = [
        project_series(s, project.particles[NAME].__class__(p.position_A, p.angles_deg, p.half, np.arange(8)))
        for s, p in zip(series, poses, strict=True)
    ]
    assert np.abs(seen[0].xy_A - seen[1].xy_A).max() < 1e-3
    assert np.abs(seen[0].defocus_um - seen[1].defocus_um).max() < 1e-5
    assert np.abs(euler_to_matrix(poses[0].angles_deg) - euler_to_matrix(poses[1].angles_deg)).max() < np.deg2rad(1e-4)


def test_what_was_refined_leaves_under_a_version_of_its_own(m, tmp_path):
    """Poses, grids and weights of the iteration in force; M's version becomes the one before; the import stays."""
    import_m(tmp_path / "pop", m.population)
    pretend_to_refine(tmp_path / "pop")
    for number, folder in ((None, "new"), (0, "old")):
        export(ExportRequest(tmp_path / "pop", tmp_path / folder, number), "m")
    new, old = (read_m_population(tmp_path / folder / "my_apoferritin.population") for folder in ("new", "old"))
    assert params(old.species[0].path) == params(m.species)
    for one, root, before in ((new.species[0], "Species", "abcd1234"), (new.sources[0], "DataSource", "Vs0")):
        assert params(one.path)["PreviousVersion"] == before, root
        assert params(one.path)["Version"] != before
    assert 'Weight="1.25"' in new.sources[0].path.read_text()
    moved = read_particles(new.species[0].beside("particles.star"))
    np.testing.assert_allclose(moved.position_A, m.position_A + 3, atol=1e-4)
    series = read_tilt_series(new.sources[0].xml(NAME), volume_size_A=(1.0, 1.0, 1.0))
    assert series.image_warp.x.values.shape == (7, 2, 2)


def test_a_rigid_stage_is_told_in_angstrom(project, tmp_path):
    """M's stage moves no particles: a turn of 0.5 degrees about the beam moves each by that times its distance."""
    import_simulated(tmp_path / "pop", project, "small")
    pretend_to_refine(tmp_path / "pop", turn_deg=0.5)
    population = load_population(tmp_path / "pop")
    summary = export(ExportRequest(population.path, tmp_path / "out"), "m")
    files = population.files(1).series(NAME)
    series = read_tilt_series(files.xml, volume_size_A=project.series[NAME].volume_size_A)
    centred = read_poses(files.poses)["phantom"].position_A[:, 0] - series.volume_size_A / 2
    seen = np.einsum("tij,pj->pti", tilt_matrices(series), centred)[..., :2]
    expected = np.sqrt((seen**2).sum(-1).mean()) * np.deg2rad(0.5)
    assert f"positions up to {expected:.2f} A" in "\n".join(summary.lines)


def pretend_to_refine(pop: Path, turn_deg: float = 0.0) -> None:
    """Iteration 1 as a run would leave it: all particles 3 A further, another image warp, another weight."""
    population = load_population(pop)
    before, after = population.files(0), population.files(1)
    shutil.copytree(before.root, after.root)
    series = read_tilt_series(before.series(NAME).xml, volume_size_A=(1.0, 1.0, 1.0))
    warp = ImageWarp(CubicGrid(np.full((7, 2, 2), 1.5)), CubicGrid(np.full((7, 2, 2), -0.5)))
    changed = replace(series, image_warp=warp, weights=replace(series.weights, series_weight=1.25))
    if turn_deg:
        stage = StageAngles(z=CubicGrid.constant(turn_deg))
        changed = replace(changed, image_warp=ImageWarp(), stage_angles=stage, is_stage_rigid=True)
    write_tilt_series(after.series(NAME).xml, before.series(NAME).xml, changed)
    poses = {name: replace(p, position_A=p.position_A + 3) for name, p in read_poses(before.series(NAME).poses).items()}
    write_poses(after.series(NAME).poses, poses)
    after.series(NAME).summary.write_text("{}")
    advance(population, 1)


def test_averages_made_again_stay_here(m, tmp_path):
    """M makes its own from the movies: the XML that leaves names these, and no image of ours."""
    import_m(tmp_path / "pop", m.population)
    pretend_to_refine(tmp_path / "pop")
    xml = load_population(tmp_path / "pop").files(1).series(NAME).xml
    series = read_tilt_series(xml, volume_size_A=(1.0, 1.0, 1.0))
    write_tilt_series(xml, xml, series, images=[tmp_path / f"{tilt}.mrc" for tilt in range(series.n_tilts)])
    assert "MprImagePath" in xml.read_text("utf-8-sig")
    export(ExportRequest(tmp_path / "pop", tmp_path / "out"), "m")
    text = (tmp_path / "out" / "grid_1" / f"{NAME}.xml").read_text("utf-8-sig")
    assert "MprImagePath" not in text
    assert "../warp_frameseries/TS_01_000.tif" in text
    assert not (tmp_path / "out" / "grid_1_frames").exists()


def test_relion_to_ours_to_m(project, tmp_path):
    """Series that Warp never saw leave for M: images are linked as averages, predictions are the same."""
    import_simulated(tmp_path / "warp", project, "small")
    export(ExportRequest(tmp_path / "warp", tmp_path / "relion"), "relion5")
    pop, relion = create_population(tmp_path / "pop", "test").path, project.files.root / "relion"
    add_relion_source(pop, SourceRequest("grid", tmp_path / "relion" / "tomograms.star"))
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    particles = next((tmp_path / "relion").glob("*particles.star"))
    add_species(pop, SpeciesRequest("phantom", *maps, particles, 128.0, "O"))
    export(ExportRequest(pop, tmp_path / "out"), "m")
    import_m(tmp_path / "again", tmp_path / "out" / "test.population")
    seen = []
    for population in (load_population(pop), load_population(tmp_path / "again")):
        ((source, entry),) = population.series
        files = population.files(0).series(NAME)
        series = load_series(source, entry, files.xml)
        assert all(path.is_file() for path in series.image_paths)
        seen.append(project_series(series, read_poses(files.poses)["phantom"]))
    assert np.abs(seen[0].xy_A - seen[1].xy_A).max() < 1e-3
    assert np.abs(seen[0].defocus_um - seen[1].defocus_um).max() < 1e-5


def test_from_the_command_line(m, tmp_path, capsys):
    """The paragraph as JSON; a second import into the same folder is refused and changes nothing."""
    words = ["population", "import", str(tmp_path / "pop"), str(m.population), "--json"]
    assert run(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["species"][0]["particles"] == {NAME: 8}
    assert record["species"][0]["reading"]["positions"].startswith("Coordinates: trajectories of M")
    assert record["sources"][0]["left_out"].keys() == {"TS_99"}
    assert run(words) == 2
    assert "is a population already" in capsys.readouterr().err
    assert load_population(tmp_path / "pop").species


def test_export_without_hashes_says_what_m_needs(project, tmp_path):
    """A Warp project has no hashes: the series, the movie and what helps are named."""
    import_simulated(tmp_path / "pop", project, "small")
    summary = export(ExportRequest(tmp_path / "pop", tmp_path / "out"), "m")
    text = "\n".join(summary.lines)
    assert "NOTE: M WILL NEED raw movies: 1 series have no hash of their raw data (TS_01)" in text
    assert "export again" in text
    assert summary.lines[-1].startswith("  NOTE: M WILL NEED")  # nothing comes after it
    assert summary.table["needs"] in summary.lines[-1]
    assert summary.table["without_hash"] == ["TS_01"]
    made = read_m_population(tmp_path / "out" / "small.population")
    table = read_blocks(made.species[0].beside("particles.star"))[""]
    assert set(table["wrpSourceHash"]) == {"null"}
    assert made.species[0].symmetry == "O"
    settings = read_settings(project.files.settings)
    assert (made.sources[0].pixel_size_A, made.sources[0].volume_px) == (settings.pixel_size_A, settings.volume_px)


def test_warp_there_and_back(project, tmp_path):
    """Warp -> ours -> Warp: settings but for folders, XML, and the particles in the pixel they came in."""
    import_simulated(tmp_path / "pop", project, "small")
    export(ExportRequest(tmp_path / "pop", tmp_path / "out"), "warp")
    old, new = read_settings(project.files.settings), read_settings(tmp_path / "out" / "simulated.settings")
    assert (old.pixel_size_A, old.volume_px, old.bin_times) == (new.pixel_size_A, new.volume_px, new.bin_times)
    assert new.data_folder.resolve() == old.data_folder.resolve()
    assert new.processing_folder == tmp_path / "out" / "simulated"
    before, after = elements(project.files.xml(NAME)), elements(new.processing_folder / f"{NAME}.xml")
    assert before[1:] == after[1:]
    table, path = read_particles(project.files.run_data), tmp_path / "out" / "phantom_particles.star"
    written = read_particles(path)
    assert np.abs(table.position_A - written.position_A).max() < 1e-3
    assert np.abs(euler_to_matrix(table.angles_deg) - euler_to_matrix(written.angles_deg)).max() < np.deg2rad(1e-4)
    assert written.half.tolist() == table.half.tolist()
    assert "rlnDetectorPixelSize" in written.reading.positions or "rlnImagePixelSize" in written.reading.positions
    assert set(table.columns) - set(written.columns) == {f"rlnOrigin{axis}Angst" for axis in "XYZ"}


def test_a_table_of_warp_1_there_and_back(project, tmp_path):
    """In the form of RELION 3.0, as Warp exports particles: numbers, names and other columns as they were."""
    place, angles = project.particles[NAME].position_A[:, 0] / 5.0, project.particles[NAME].angles_deg[:, 0]
    columns = {f"rlnCoordinate{axis}": place[:, i] for i, axis in enumerate("XYZ")}
    columns |= {f"rlnAngle{name}": angles[:, i] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {"rlnMicrographName": [f"{NAME}.tomostar"] * 8, "rlnMagnification": 10000.0, "rlnDetectorPixelSize": 5.0}
    columns |= {"rlnImageName": [f"subtomo/{NAME}/{i:07d}_5.00A.mrc" for i in range(8)], "rlnVoltage": 300.0}
    write_table(tmp_path / "x.star", {"": pd.DataFrame(columns)})
    pop, relion = create_population(tmp_path / "pop", "test").path, project.files.root / "relion"
    add_warp_source(pop, SourceRequest("a", project.files.settings))
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    add_species(pop, SpeciesRequest("phantom", *maps, tmp_path / "x.star", 128.0, "O"))
    export(ExportRequest(pop, tmp_path / "out"), "warp")
    old, new = (read_blocks(path)[""] for path in (tmp_path / "x.star", tmp_path / "out" / "phantom_particles.star"))
    assert set(new.columns) == {*old.columns, "rlnRandomSubset"}
    for name in old.columns:
        if old[name].dtype.kind == "f":
            np.testing.assert_allclose(new[name], old[name], atol=1e-6)
        else:
            assert new[name].tolist() == old[name].tolist()


def test_a_soft_mask_of_m_is_made_binary(m, tmp_path):
    """M takes any mask; ours are binary, and the paragraph says what became of it."""
    path = m.species.with_name("phantom_mask.mrc")
    mask, pixel = read_volume(path)
    write_volume(path, np.asarray(0.75 * mask + 0.125, np.float32), pixel)
    summary = import_m(tmp_path / "pop", m.population)
    assert "Mask: was not binary, made so at 0.5." in "\n".join(summary.lines)
    ours = read_volume(tmp_path / "pop" / "species" / "phantom" / "mask.mrc")[0]
    np.testing.assert_array_equal(crop_or_pad_real(ours, len(mask)), mask)


def test_sources_with_series_of_the_same_name(m, tmp_path):
    """M tells them apart by their hashes: ours get the name of their source in front, and leave under their own."""
    second, other = "3" * 27, "44444444-cccc-4000-8000-000000000004"
    folder = shutil.copytree(m.source.parent, m.source.parents[1] / "second")
    text = (folder / "grid.source").read_text("utf-8").replace(SOURCE_GUID, other)
    text = text.replace("grid 1", "grid 2").replace(HASH, second)
    (folder / "grid.source").write_text(text, "utf-8")
    entry = f'<Sources><Source GUID="{other}" Path="second/grid.source" />'
    m.population.write_text(m.population.read_text("utf-8").replace("<Sources>", entry), "utf-8")
    lines = m.table.read_text().splitlines()
    lines[-3] = lines[-3].replace(HASH, second)
    m.table.write_text("\n".join([*lines, ""]))
    summary = import_m(tmp_path / "pop", m.population)
    assert dict(summary.species[0].files.particles) == {"grid_1_TS_01": 7, "grid_2_TS_01": 1}
    export(ExportRequest(tmp_path / "pop", tmp_path / "out"), "m")
    back = read_m_population(tmp_path / "out" / "my_apoferritin.population")
    assert [source.hashes for source in back.sources] == [{NAME: second}, {NAME: HASH}]
    table = read_blocks(back.species[0].beside("particles.star"))[""]
    assert table["wrpSourceHash"].tolist() == read_blocks(m.table)[""]["wrpSourceHash"].tolist()
    assert set(table["wrpSourceName"]) == {f"{NAME}.tomostar"}


def test_a_helix_of_m_there_and_back(m, tmp_path):
    text = m.species.read_text("utf-8").replace('"Symmetry" Value="O"', '"Symmetry" Value="C2"')
    more = '<Param Name="HelicalTwist" Value="-30.5" /><Param Name="HelicalRise" Value="4.75" />'
    text = text.replace('"HelicalUnits" Value="1" />', f'"HelicalUnits" Value="3" />{more}')
    m.species.write_text(text, "utf-8")
    import_m(tmp_path / "pop", m.population)
    (files,) = load_population(tmp_path / "pop").species
    assert files.species.helix == Helix(4.75, -30.5, 3)
    export(ExportRequest(tmp_path / "pop", tmp_path / "out"), "m")
    back = read_m_population(tmp_path / "out" / "my_apoferritin.population")
    assert params(back.species[0].path) == params(m.species)


def test_broken_projects_are_refused(m, tmp_path):
    """A GUID that does not fit, as M does; nothing is left behind, so that the same command works when it is mended."""
    text = m.population.read_text("utf-8")
    m.population.write_text(text.replace(SPECIES_GUID, SOURCE_GUID), "utf-8")
    with pytest.raises(InputError, match=r"phantom\.species: GUID: is 2222"):
        import_m(tmp_path / "pop", m.population)
    m.population.write_text(text, "utf-8")
    table = m.table.read_text()
    m.table.write_text(table.replace("data_", "data_\nnonsense"))
    with pytest.raises(InputError, match="no species can be used"):
        import_m(tmp_path / "pop", m.population)
    assert not (tmp_path / "pop").exists()
    m.table.write_text(table)
    assert import_m(tmp_path / "pop", m.population).species


def test_angles_have_no_jumps():
    """M interpolates every Euler angle by itself: the same rotations, but the path between samples is short."""
    angles = np.array([[[170.0, 5.0, -175.0], [-178.0, 4.0, 178.0], [8.0, -3.0, -3.0]]])
    smooth = continuous(angles)
    assert np.abs(np.diff(smooth, axis=1)).max() < 15
    np.testing.assert_allclose(euler_to_matrix(smooth), euler_to_matrix(angles), atol=1e-12)
