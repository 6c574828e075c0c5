"""A population survives writing and reading; whatever contradicts itself is refused with advice."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from mpr_dist.errors import PopulationError
from mpr_dist.model.population import Population, SeriesEntry, Source, SpeciesFiles
from mpr_dist.model.species import Species
from mpr_dist.storage.lock import Holder, locked, read_holder
from mpr_dist.storage.population import (
    add_source,
    add_species,
    advance,
    create_population,
    finish_import,
    last_iteration_with,
    load_population,
    read_table,
)


def _example(path: Path) -> Population:
    population = create_population(path / "pop", "ribosomes")
    for name in ("TS_01", "TS_02"):
        population.files(0).series(name).xml.write_text("<TiltSeries/>")
    series = tuple(SeriesEntry(name, path / f"{name}.xml", (True, False, True)) for name in ("TS_01", "TS_02"))
    source = Source("one", path / "a.settings", series, 1.35, (1000, 900), (800, 800, 300), max_tilts=2)
    population = add_source(population, source)
    species = Species("apo", 1.35, 64, 60.0, "O")
    population = add_species(population, SpeciesFiles(species, population.path / "mask.mrc", (("TS_01", 7),)))
    finish_import(population)
    return population


def test_round_trip(tmp_path: Path) -> None:
    population = _example(tmp_path)
    assert load_population(population.path) == population
    assert population.particles_in("TS_01") == 7
    assert population.particles_in("TS_02") == 0
    assert population.series[0][1].tilts == 2


def test_it_may_be_moved(tmp_path: Path) -> None:
    population = _example(tmp_path)
    moved = tmp_path / "elsewhere"
    population.path.rename(moved)
    assert load_population(moved).species[0].mask == moved / "mask.mrc"


def test_versions_are_checked(tmp_path: Path) -> None:
    population = _example(tmp_path)
    file = population.path / "sources" / "one" / "source.toml"
    text = file.read_text()
    file.write_text(text.replace("format_version = 1", "format_version = 9"))
    with pytest.raises(PopulationError, match="update mpr-dist"):
        load_population(population.path)
    file.write_text(text.replace("format_version = 1", ""))
    with pytest.raises(PopulationError, match="no format_version"):
        read_table(file)


def test_missing_and_contradicting_files_are_named(tmp_path: Path) -> None:
    population = _example(tmp_path)
    with pytest.raises(PopulationError, match="is a population already"):
        create_population(population.path, "again")
    with pytest.raises(PopulationError, match="not finished"):
        advance(population, 3)
    table = population.path / "population.toml"
    table.write_text(table.read_text().replace("iteration = 0", "iteration = 5"))
    with pytest.raises(PopulationError, match="005"):
        load_population(population.path)
    file = population.path / "species" / "apo" / "species.toml"
    file.write_text(file.read_text().replace("box_px", "box"))
    with pytest.raises(PopulationError, match=r"species\.toml: entry missing"):
        load_population(population.path)
    file.unlink()
    with pytest.raises(PopulationError, match=r"species\.toml does not exist"):
        load_population(population.path)


def test_names_of_series_differ_over_all_sources(tmp_path: Path) -> None:
    population = _example(tmp_path)
    with pytest.raises(PopulationError, match="found twice: TS_01, TS_02"):
        add_source(population, replace(population.sources[0], name="two"))


def test_particles_need_their_series(tmp_path: Path) -> None:
    population = _example(tmp_path)
    other = SpeciesFiles(Species("other", 1.35, 64, 60.0), None, (("TS_77", 1),))
    with pytest.raises(PopulationError, match="TS_77"):
        add_species(population, other)


def test_a_finished_iteration_is_put_in_force(tmp_path: Path) -> None:
    population = _example(tmp_path)
    files = population.files(1)
    files.series_directory.mkdir(parents=True)
    files.series("TS_01").summary.write_text("{}")
    files.done.write_text("")
    assert advance(population, 1).iteration == load_population(population.path).iteration == 1
    assert last_iteration_with(population, "TS_01", 2) == 1
    assert last_iteration_with(population, "TS_02", 2) == 0


def test_a_living_lock_is_respected_and_a_dead_one_taken_over(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(tmp_path, said.append):
        with pytest.raises(PopulationError, match=f"process {os.getpid()} on {socket.gethostname()}"), locked(tmp_path):
            pass
        assert read_holder(tmp_path / "LOCK") is not None
    assert not said
    assert os.listdir(tmp_path) == []

    gone = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    gone.start()
    gone.join()
    assert gone.pid is not None
    dead = {"host": socket.gethostname(), "pid": gone.pid, "birth": "1", "since": "yesterday"}
    (tmp_path / "LOCK").write_text(json.dumps(dead))
    with locked(tmp_path, said.append):
        assert f"process {gone.pid}" in said[0]
    assert os.listdir(tmp_path) == []


def test_a_number_used_again_is_another_process() -> None:
    """Same host and process number, but born at another time: the old holder is dead."""
    assert Holder(socket.gethostname(), os.getpid(), "1", "long ago").is_dead
    assert not Holder("elsewhere", os.getpid(), "1", "long ago").is_dead
