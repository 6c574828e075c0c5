"""Killed between any two operations on the file system and run again: the same bits. The same for a full disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from crashing import Killed, crashing
from drive import EXIT_FULL
from fake_science import FakeScience, content, make_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import DiskFull
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.ledger import read_ledger
from mpr_dist.storage.population import load_population
from mpr_dist.storage.publish import Disk, using_disk
from mpr_dist.workflow.reporting.status import decided
from mpr_dist.workflow.running.change import Change, change
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings

SERIES = 3


def _run(population: Population) -> None:
    settings = RunSettings(RefineSettings(iterations=1))
    run(population.path, FakeScience(population.path.parent / "calls"), settings, InlineExecutor())


def _change(population: Population) -> None:
    asked = Change(without=("TS_01",))
    change(population.path, FakeScience(population.path.parent / "calls"), asked, InlineExecutor())


def _once(population: Population, number: int) -> bool:
    """Every series of the iteration is in exactly one partial that the ledger accepted and did not reject."""
    files = population.files(number)
    names = list(decided(files).accepted)
    counted: list[str] = []
    partials: dict[str, list[str]] = {}
    for record in read_ledger(files.ledger):
        if record["kind"] == "accept":
            partials[record["partial"]] = record["series"]
        elif record["kind"] == "reject":
            partials.pop(record["partial"], None)
    for series in partials.values():
        counted += series
    return sorted(counted) == sorted(names)


def _walk(folder: Path, work: Callable[[Population], None], template: Path, first: int, step: int) -> int:
    """Crash ``work`` at point first, first + step, ... and continue; returns the number of crashes.

    ``template`` holds a population that ``work`` can be done on; its result without any crash is the oracle.
    """
    oracle = Path(shutil.copytree(template, folder / "oracle"))
    population = load_population(oracle / "pop")
    with crashing(population.path) as counter:
        work(population)
    expected, number = content(population), load_population(population.path).iteration
    for last in range(first, counter.count + 1, step):
        population = load_population(Path(shutil.copytree(template, folder / "crashed")) / "pop")
        with crashing(population.path, last), pytest.raises(Killed):
            work(population)
        # A dead process cannot release its lock; this process lives, so its lock would count.
        (population.path / "LOCK").unlink(missing_ok=True)
        begun = (population.path / "run.json").exists() or load_population(population.path).iteration < number
        if begun:  # else it was finished, and the same command would add to it
            work(population)
        where = f"killed at point {last}: {counter.seen[last - 1]}"
        assert content(population) == expected, where
        assert _once(population, number), where
        litter = [path for path in population.path.rglob(".tmp-*") if not path.name.endswith("-LOCK")]
        assert not litter or last > counter.count - 20, where  # nothing ran after those
        shutil.rmtree(folder / "crashed")
    return len(range(first, counter.count + 1, step))


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: thousands of synchronisations take their time on a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir=memory, prefix="mpr-dist-test-") as folder:
        yield Path(folder)


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    (tmp_path / "template").mkdir()
    make_population(tmp_path / "template", series=SERIES)
    return tmp_path / "template"


@pytest.fixture
def refined(imported: Path) -> Path:
    _run(load_population(imported / "pop"))
    return imported


def test_killed_here_and_there(tmp_path: Path, imported: Path) -> None:
    """Publication, acceptance, merge, finish and DONE: points from all of them."""
    assert _walk(tmp_path, _run, imported, 1, 11) >= 50


def test_killed_here_and_there_while_a_series_is_taken_out(tmp_path: Path, refined: Path) -> None:
    assert _walk(tmp_path, _change, refined, 5, 23) >= 15


@pytest.mark.slow
def test_killed_at_every_point(tmp_path: Path, imported: Path) -> None:
    assert _walk(tmp_path, _run, imported, 1, 1) > 500


@pytest.mark.slow
def test_killed_at_every_point_while_a_series_is_taken_out(tmp_path: Path, refined: Path) -> None:
    assert _walk(tmp_path, _change, refined, 1, 1) > 300


def test_killed_again_and_again(tmp_path: Path, imported: Path) -> None:
    """Crashes of the attempts to recover, too: every attempt comes a little further than the last."""
    oracle = load_population(Path(shutil.copytree(imported, tmp_path / "oracle")) / "pop")
    _run(oracle)
    population, attempts = load_population(imported / "pop"), 0
    while load_population(population.path).iteration == 0:
        attempts += 1
        with suppress(Killed), crashing(population.path, 60 + 20 * attempts):
            _run(population)
        (population.path / "LOCK").unlink(missing_ok=True)
    assert attempts > 5
    assert content(population) == content(oracle)
    assert _once(population, 1)


# ---------------------------------------------------------------------------------------------------------- full disk


class FullDisk(Disk):
    """From operation ``last`` on nothing can be written any more; names can still be changed."""

    def __init__(self, last: int) -> None:
        self.count, self.last = 0, last

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return self._failing(found) if name in ("write", "append", "store", "mkdir") else found

    def _failing(self, operation: Callable[..., None]) -> Callable[..., None]:
        def failing(*arguments: Any) -> None:
            self.count += 1
            if self.count >= self.last:
                raise OSError(28, "No space left on device")
            operation(*arguments)

        return failing


def test_a_full_disk_is_nobodys_fault_but_its_own(tmp_path: Path, imported: Path) -> None:
    """Wherever it is noticed: no series is blamed, the end is named, and the same call continues to the same bits."""
    oracle = load_population(Path(shutil.copytree(imported, tmp_path / "oracle")) / "pop")
    with using_disk(FullDisk(sys.maxsize)) as counter:
        _run(oracle)
    assert isinstance(counter, FullDisk)
    for last in range(1, counter.count + 1, 3):
        population = load_population(Path(shutil.copytree(imported, tmp_path / "full")) / "pop")
        with using_disk(FullDisk(last)), pytest.raises(DiskFull, match="make space, then the same command continues"):
            _run(population)
        assert load_population(population.path).iteration == 0
        assert not decided(population.files(1)).failed
        assert decided(population.files(1)).end[0] in ("disk full", "")  # where even the ledger could not be written
        _run(population)
        assert content(population) == content(oracle), f"full at operation {last}"
        shutil.rmtree(tmp_path / "full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = shutil.which("mount") and not os.geteuid()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize(("engine", "spare"), [("inline", 30_000), ("inline", 150_000), ("local", 110_000)])
def test_a_disk_that_is_really_full(tmp_path: Path, small_disk: Path, engine: str, spare: int) -> None:
    """One clear line, and after space was made the same command ends with the same bits."""
    (tmp_path / "oracle").mkdir()
    oracle = make_population(tmp_path / "oracle", series=5)
    settings = RunSettings(RefineSettings(iterations=2))
    run(oracle.path, FakeScience(tmp_path / "oracle" / "calls"), settings, InlineExecutor())

    population = make_population(small_disk, series=5)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - spare))
    command = [sys.executable, str(Path(__file__).parent / "drive.py"), str(small_disk), engine, "2", "0"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert first.returncode == EXIT_FULL, first.stderr
    assert first.stderr.count("the disk is full") == 1
    assert "Traceback" not in first.stderr
    assert not population.files(2).is_finished

    ballast.unlink()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert content(population) == content(oracle)
