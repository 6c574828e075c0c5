"""Processes die at random, over and over: every run ends with the same bits, and every series counts once."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chaos import Chaos, Cluster
from chaos_drive import SETTINGS
from fake_science import FakeScience, content, make_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.model.population import Population
from mpr_dist.storage.ledger import read_ledger
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.done import read_done

SERIES = 9


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: what is tested is the death of processes, and those need no slow disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path, prefix="mpr-dist-chaos-") as found:
        yield Path(found)


@pytest.fixture
def expected(folder: Path) -> dict[str, str]:
    """What nobody disturbed."""
    (folder / "oracle").mkdir()
    population = make_population(folder / "oracle", series=SERIES)
    run(population.path, FakeScience(folder / "oracle" / "calls"), SETTINGS, InlineExecutor())
    return content(population)


def _counted(population: Population, number: int) -> list[str]:
    """Series of all partials that the ledger accepted and did not reject afterwards."""
    partials: dict[str, list[str]] = {}
    for record in read_ledger(population.files(number).ledger):
        if record["kind"] == "accept":
            partials[record["partial"]] = record["series"]
        elif record["kind"] == "reject":
            partials.pop(record["partial"], None)
    return sorted(name for names in partials.values() for name in names)


def _storm(folder: Path, expected: dict[str, str], workers: int, kills: int, per_run: int, seed: int) -> Chaos:
    """Runs on one cluster until ``kills`` kills have happened; every run is checked."""
    place = folder / f"workers-{workers}"
    place.mkdir()
    cluster = Cluster(place, workers)
    chaos = Chaos(cluster, random.Random(seed))
    names = [f"TS_{i:02d}" for i in range(SERIES)]
    try:
        cluster.mend()
        rounds = 0
        while chaos.total < kills:
            rounds += 1
            directory = place / f"run-{rounds}"
            directory.mkdir()
            population = make_population(directory, series=SERIES)
            chaos.run(directory, min(per_run, kills - chaos.total))
            # A worker that outlived its driver may be killed later, even after the end, and leave a temporary file.
            result = {name: value for name, value in content(population).items() if "/.tmp-" not in name}
            assert result == expected, f"{workers} workers, run {rounds}"
            assert load_population(population.path).iteration == 2
            for number in (1, 2):
                assert (read_done(population.files(number)) or {})["series"] == names
                assert _counted(population, number) == names
            shutil.rmtree(directory)
    finally:
        cluster.close()
    print(f"{workers} workers: {rounds} runs, {chaos.drivers} drivers, {chaos.total} kills: {dict(chaos.kills)}")
    print(f"  at operations on the disk: {dict(chaos.places)}")
    return chaos


def test_a_short_storm(folder: Path, expected: dict[str, str]) -> None:
    """Two workers, half a dozen kills."""
    assert _storm(folder, expected, workers=2, kills=6, per_run=6, seed=time.time_ns()).total >= 6


@pytest.mark.slow
def test_a_hundred_kills(folder: Path, expected: dict[str, str]) -> None:
    """One to four workers of one thread."""
    total = sum(_storm(folder, expected, workers, 25, per_run=4, seed=time.time_ns()).total for workers in (1, 2, 3, 4))
    assert total >= 100
