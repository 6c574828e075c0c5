"""Two projects whose series have the same names become one; what they know adds up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.cli.app import run as command
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.warp_xml import read_tilt_series, write_tilt_series
from mpr_dist.workflow.changing.merge_populations import MergeRequest, merge_populations
from mpr_dist.workflow.checking.verify import verify_population
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.species_state import read_species


@pytest.fixture(scope="module")
def parts(project, tmp_path_factory) -> tuple[Path, Path]:
    """The fixture twice, under two names; the maps of the second are three times as strong."""
    folder = tmp_path_factory.mktemp("parts")
    for name in ("first", "second"):
        import_simulated(folder / name, project, name)
    one, other = folder / "first", folder / "second"
    maps = load_population(other).files(0).species("phantom")
    for path in (maps.half1, maps.half2):
        volume, pixel = read_volume(path)
        path.unlink()
        write_volume(path, 3 * volume, pixel)
    xml = load_population(other).files(0).series("TS_01").xml
    series = read_tilt_series(xml, volume_size_A=(1, 1, 1))
    copy = Path(shutil.copy(xml, xml.with_suffix(".old")))
    xml.unlink()
    weights = replace(series.weights, series_weight=series.weights.series_weight / 3)
    write_tilt_series(xml, copy, replace(series, weights=weights))
    copy.unlink()
    return one, other


def _reconstruct(path: Path) -> np.ndarray:
    population = run(path, Physics(), RunSettings(RefineSettings(iterations=1)), InlineExecutor())
    return read_volume(population.files(1).species("phantom").half1)[0]


def test_what_both_know_adds_up(parts, tmp_path, digests):
    """Twice the same images, with the scales made equal: the map of one of them."""
    before = [digests(part) for part in parts]
    done = merge_populations(MergeRequest(tmp_path / "both", parts, "both"))
    assert [digests(part) for part in parts] == before
    population = load_population(tmp_path / "both")
    assert [entry.name for _, entry in population.series] == ["first_TS_01", "second_TS_01"]
    assert [source.name for source in population.sources] == ["first_simulated", "second_simulated"]
    assert done.renamed["first"] == {"TS_01": "first_TS_01", "simulated": "first_simulated"}
    assert population.species[0].particles == (("first_TS_01", 8), ("second_TS_01", 8))
    alone = read_species(load_population(parts[0]), "phantom")
    state = read_species(population, "phantom")
    np.testing.assert_array_equal(state.particles.half, np.tile(alone.particles.half, 2))
    np.testing.assert_allclose(state.half1, alone.half1, atol=1e-4 * np.abs(alone.half1).max())
    found = verify_population(tmp_path / "both")
    assert not found.of("error"), found.lines
    both = _reconstruct(tmp_path / "both")
    single = tmp_path / "single"
    shutil.copytree(parts[0], single)
    # twice the sums over twice the weights; they are rounded to 2^-28
    expected = _reconstruct(single)
    np.testing.assert_allclose(both, expected, atol=1e-4 * np.abs(expected).max())


def test_species_kept_apart_and_names_told(parts, tmp_path, capsys):
    words = [str(tmp_path / "apart"), *map(str, parts), "--name", "apart"]
    assert command(["population", "merge", *words, "--keep-apart", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: one["particles"] for name, one in told["species"].items()} == {
        "first_phantom": 8,
        "second_phantom": 8,
    }
    assert told["renamed"]["second"]["TS_01"] == "second_TS_01"
    assert command(["population", "merge", *words]) == 2
    assert "is a population already" in capsys.readouterr().err


def test_refused_before_anything_is_written(parts, tmp_path):
    with pytest.raises(InputError, match="two or more different"):
        MergeRequest(tmp_path / "x", (parts[0], parts[0]), "x")
    other = Path(shutil.copytree(parts[1], tmp_path / "other"))
    table = other / "species" / "phantom" / "species.toml"
    table.write_text(table.read_text().replace('symmetry = "O"', 'symmetry = "C4"'))
    with pytest.raises(InputError, match="symmetry O and C4"):
        merge_populations(MergeRequest(tmp_path / "x", (parts[0], other), "x"))
    assert not (tmp_path / "x").exists()
