"""The real science in the run loop, on simulated series of eight particles."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_population import build_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.errors import InputError, MprError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.reconstruct import accumulator_shape
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.mrc import read_image, read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.reporting.iteration_report import report_data, write_report
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import LEAST_SCALE, Physics
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.series_results import read_summary

EVERYTHING = RefineSettings(iterations=1, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)
STRANGE = '<Strange kept="yes"><Inside>1 2 3</Inside></Strange>'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SimulatedProject:
    """Two series; one XML holds an element that nobody knows."""
    made = simulate_project(tmp_path_factory.mktemp("made") / "sim", replace(SimulateSettings.fixture(), n_series=2))
    xml = made.files.xml("TS_01")
    xml.write_text(xml.read_text("utf-8-sig").replace("</TiltSeries>", f"{STRANGE}</TiltSeries>"), "utf-8-sig")
    return made


@pytest.fixture
def population(tmp_path: Path, project: SimulatedProject) -> Population:
    return build_population(tmp_path / "pop", project)


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory, project: SimulatedProject) -> Population:
    """One iteration, inline: the oracle. Only ever read."""
    return _run(build_population(tmp_path_factory.mktemp("oracle") / "pop", project))


def _run(population: Population, settings: RefineSettings = EVERYTHING, executor=None) -> Population:
    run(population.path, Physics(), RunSettings(settings), executor or InlineExecutor())
    return load_population(population.path)


def _results(population: Population, iteration: int = 1) -> dict[str, str]:
    """Hash of every result; times are in the others."""
    root = population.files(iteration).root
    kinds = (".xml", ".star", ".mrc")
    paths = [path for path in sorted(root.rglob("*")) if path.suffix in kinds]
    return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in paths}


def _details(population: Population, name: str, iteration: int = 1) -> dict:
    return read_summary(population.files(iteration).series(name))["numbers"]["details"]


def _read(population: Population, name: str, iteration: int = 1):
    return read_tilt_series(population.files(iteration).series(name).xml, volume_size_A=(832.0, 768.0, 352.0))


# ------------------------------------------------------------------------------------------------------- one iteration


def test_all_files_are_there(refined: Population) -> None:
    files = refined.files(1)
    expected = {"settings.toml", "ledger.jsonl", "events.jsonl", "report.html", "uncertainty.star", "DONE"}
    expected |= {f"series/{n}.{e}" for n in ("TS_01", "TS_02") for e in ("xml", "poses.star", "sigma.star")}
    expected |= {f"series/{n}.summary.json" for n in ("TS_01", "TS_02")}
    maps = ("particles.star", "half1.mrc", "half2.mrc", "map.mrc", "fsc.star", "result.json")
    expected |= {f"species/phantom/{name}" for name in maps}
    found = {str(p.relative_to(files.root)) for p in files.root.rglob("*") if p.is_file() and ".zarr" not in str(p)}
    assert found == expected
    assert files.species("phantom").accumulator.is_dir()
    assert refined.iteration == 1


def test_scores_rise_in_both_halves(refined: Population) -> None:
    for name in ("TS_01", "TS_02"):
        details = _details(refined, name)
        assert details["found"]
        for what in ("own_half", "cross_half", "objective"):
            before, after = details[what]
            assert after > 1.1 * before
        assert len(details["moved_A"]) == 8
        assert len(details["shift_A"]) == len(details["scale"]) == 7
        assert 0 < np.mean(details["moved_A"]) < 15


def test_xml_is_readable_and_keeps_what_it_does_not_know(refined: Population, project: SimulatedProject) -> None:
    series = _read(refined, "TS_01")
    assert series.image_warp.x.values.shape == (7, 2, 2)
    assert series.optics.defocus_um.values.shape == (7, 1, 1)
    assert np.isclose(series.weights.weight.values.max(), 1.0)
    np.testing.assert_allclose(tilt_scales(series), _details(refined, "TS_01")["scale"], rtol=1e-5)
    root = ElementTree.parse(refined.files(1).series("TS_01").xml).getroot()
    strange = root.find("Strange")
    assert strange is not None
    assert strange.get("kept") == "yes"
    assert strange.findtext("Inside") == "1 2 3"
    original = ElementTree.parse(project.files.xml("TS_01")).getroot()
    assert [child.tag for child in original if root.find(child.tag) is None] == []


def test_particles_keep_their_order_and_their_columns(refined: Population, project: SimulatedProject) -> None:
    table = read_blocks(refined.files(1).species("phantom").particles)["particles"]
    imported = read_blocks(refined.files(0).species("phantom").particles)["particles"]
    assert list(table["wrpRandomSubset"]) == list(imported["wrpRandomSubset"])
    assert list(table["rlnMicrographName"]) == list(imported["rlnMicrographName"])
    poses = read_poses(refined.files(1).series("TS_02").poses)["phantom"]
    columns = ["wrpCoordinateX1", "wrpCoordinateY1", "wrpCoordinateZ1"]
    np.testing.assert_array_equal(table[columns].to_numpy()[poses.row], poses.position_A[:, 0])
    truth = project.true_particles["TS_02"].position_A
    before = read_poses(refined.files(0).series("TS_02").poses)["phantom"].position_A
    assert np.std(poses.position_A - truth) < 0.6 * np.std(before - truth)


def test_sigmas_of_everything_refined(refined: Population) -> None:
    blocks = read_blocks(refined.files(1).series("TS_01").sigma)
    assert len(blocks["tilts"]) == 7
    assert len(blocks["poses"]) == 8
    sizes = {"image_warp_x": 7 * 2 * 2, "stage_angles": 7 * 3, "defocus": 7, "bfactor": 7, "log_scale": 7}
    for name, size in sizes.items():
        assert len(blocks[name]) == size
        assert (blocks[name]["mprSigma"] > 0).all()


def test_fsc_and_map(refined: Population) -> None:
    files = refined.files(1).species("phantom")
    half1, pixel = read_volume(files.half1)
    volume, _ = read_volume(files.map)
    assert half1.shape == volume.shape == (64, 64, 64)
    assert pixel == pytest.approx(4.0)
    average = 0.5 * (half1 + read_volume(files.half2)[0])
    assert np.corrcoef(average.ravel(), volume.ravel())[0, 1] > 0.9
    fsc = read_blocks(files.fsc)["fsc"]
    assert list(fsc) == ["wrpResolution", "wrpFSCUnmasked", "wrpFSCRandomized", "wrpFSCCorrected", "wrpFSCMasked"]
    assert json.loads(files.result.read_text())["numbers"]["particles_per_half"] == [8, 8]


def test_footprint_is_the_accumulator_of_the_images(refined: Population) -> None:
    species = refined.species[0].species
    shape = Physics().footprint(species).accumulator_shape
    assert accumulator_shape(species) == (2, *shape, 3)


def test_report_says_what_to_doubt(refined: Population) -> None:
    data = report_data(refined, refined.files(1))
    assert len(data.series) == 2
    assert [curve.iteration for curve in data.species[0].history] == [0, 1]
    assert data.species[0].n_particles == 16
    assert any("only 8 particles stand behind a half-map" in text for text in data.warnings)
    assert not any("Nothing was found" in text for text in data.warnings)
    assert "TS_02" in refined.files(1).report.read_text()
    assert write_report(refined) == refined.files(1).report
    with pytest.raises(InputError, match="nothing was refined yet"):
        write_report(refined, 0)


def test_status_stays_short(refined: Population) -> None:
    one = status(refined)["iterations"][0]["series"]["TS_01"]
    assert one["state"] == "done"
    assert "details" not in one


# ----------------------------------------------------------------------------------------------------------- same bits


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bits_with_any_number_of_workers(population: Population, refined: Population, workers: int) -> None:
    executor = LocalExecutor(workers)
    try:
        _run(population, executor=executor)
    finally:
        executor.close()
    assert _results(population) == _results(refined)


# -------------------------------------------------------------------------------------------------- nothing to refine


def test_reconstruct_passes_parameters_through(population: Population, refined: Population) -> None:
    shutil.copytree(refined.files(1).root, population.files(1).root)
    _run(population, EVERYTHING)  # iteration 001 is finished already: this is 002
    _run(population, RefineSettings(iterations=1))
    for name in ("TS_01", "TS_02"):
        before, after = population.files(2).series(name), population.files(3).series(name)
        assert after.xml.read_bytes() == before.xml.read_bytes()
        assert after.poses.read_bytes() == before.poses.read_bytes()
    maps = [population.files(n).species("phantom") for n in (2, 3)]
    assert maps[0].half1.read_bytes() == maps[1].half1.read_bytes()
    data = report_data(population, population.files(3))
    assert data.title == "Reconstruction"
    assert data.warnings == ()


def test_half_maps_without_signal_refine_nothing(population: Population) -> None:
    files = population.files(0).species("phantom")
    rng = np.random.default_rng(0)
    for path in (files.half1, files.half2):
        write_volume(path, rng.standard_normal((64, 64, 64)).astype(np.float32), 4.0)
    _run(population)
    for name in ("TS_01", "TS_02"):
        imported, now = population.files(0).series(name), population.files(1).series(name)
        assert now.poses.read_bytes() == imported.poses.read_bytes()
        assert not _details(population, name)["found"]
    assert any("share no signal" in text for text in report_data(population, population.files(1)).warnings)


def test_images_without_signal_change_no_geometry(tmp_path: Path) -> None:
    made = simulate_project(tmp_path / "sim", replace(SimulateSettings.fixture(), noise_only=True))
    population = _run(build_population(tmp_path / "pop", made))
    imported, now = (population.files(n).series("TS_01") for n in (0, 1))
    assert now.poses.read_bytes() == imported.poses.read_bytes()
    scales = tilt_scales(_read(population, "TS_01"))
    assert scales.max() >= 0.99 * LEAST_SCALE
    assert any("Nothing was found" in text for text in report_data(population, population.files(1)).warnings)


# ------------------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("damage", ["nan", "missing", "size"])
def test_a_damaged_image_fails_its_series_alone(tmp_path: Path, project: SimulatedProject, damage: str) -> None:
    shutil.copytree(project.files.root, tmp_path / "sim")
    made = replace(project, files=replace(project.files, root=tmp_path / "sim"))
    population = build_population(tmp_path / "pop", made)
    path = made.files.average("TS_01", 2)
    reason = _damage(path, damage)
    _run(population)
    record = json.loads(population.files(1).done.read_text())
    assert record["series"] == ["TS_02"]
    assert path.name in record["failed"]["TS_01"]
    assert reason in record["failed"]["TS_01"]
    data = report_data(population, population.files(1))
    assert [name for name, _ in data.failures] == ["TS_01"]
    table = read_blocks(population.files(1).species("phantom").particles)["particles"]
    assert set(table["wrpSourceName"]) == {"TS_02.tomostar"}


def _damage(path: Path, how: str) -> str:
    image = read_image(path)
    if how == "missing":
        path.unlink()
        return "cannot be read"
    if how == "size":
        write_volume(path, image[None, :-20], 4.0)
        return "expected 208 x 192 px"
    data = bytearray(path.read_bytes())
    data[-2:] = b"\xff\xff"  # the last pixel, float16
    path.write_bytes(bytes(data))
    return "NaN"


def test_too_few_particles(population: Population) -> None:
    with pytest.raises(MprError, match="has 8 particles, at least 9 are needed"):
        _run(population, replace(EVERYTHING, min_particles=9))
