"""Killed at any operation on the disk and run again: the same bits. Failing at any: a clear end, and the same again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, content, make_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import MprError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.publish import Disk, using_disk
from mpr_dist.workflow.run import run
from mpr_dist.workflow.run_settings import RunSettings

OPERATIONS = ("write", "append", "store", "sync", "replace", "link", "mkdir", "unlink", "remove_tree")


class Killed(BaseException):
    """The process is gone: nothing catches this, and nothing works any more."""


class CountingDisk(Disk):
    """Counts operations; ends with operation ``last``, before it, or halfway through a write."""

    def __init__(self, last: int | None = None) -> None:
        self.count = 0
        self.last = last

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return self._counted(name, found) if name in OPERATIONS else found

    def _counted(self, name: str, operation: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            self.count += 1
            if self.last is not None and self.count >= self.last:
                if self.count == self.last and name in ("write", "append"):
                    path, data = arguments
                    with path.open("ab") as stream:
                        stream.write(data[: len(data) // 2])
                raise Killed
            operation(*arguments)

        return counted


def _run(population: Population) -> None:
    settings = RunSettings(RefineSettings(iterations=1))
    run(population.path, FakeScience(population.path.parent / "calls"), settings, InlineExecutor())


def test_killed_anywhere_and_continued(tmp_path: Path) -> None:
    (tmp_path / "oracle").mkdir()
    population = make_population(tmp_path / "oracle", series=3)
    with using_disk(CountingDisk()) as disk:
        _run(population)
    expected = content(population)
    assert disk.count > 100
    for last in range(1, disk.count + 1, 9):
        directory = tmp_path / f"at-{last}"
        directory.mkdir()
        population = make_population(directory, series=3)
        with using_disk(CountingDisk(last)), pytest.raises(Killed):
            _run(population)
        # A dead process cannot release its lock; this process lives, so its lock would count.
        (population.path / "LOCK").unlink(missing_ok=True)
        _run(population)
        result = {name: value for name, value in content(population).items() if "/001/" in name}
        assert result == expected, f"killed at operation {last}"


def test_a_full_disk_ends_clearly_and_is_recovered_from(tmp_path: Path) -> None:
    """Every write fails from some moment on: the run ends with OSError or our own error, and continues later."""

    class FullDisk(CountingDisk):
        def _counted(self, name: str, operation: Callable[..., None]) -> Callable[..., None]:
            def counted(*arguments: Any) -> None:
                self.count += 1
                if self.last is not None and self.count >= self.last and name in ("write", "append", "store", "mkdir"):
                    raise OSError(28, "No space left on device")
                operation(*arguments)

            return counted

    (tmp_path / "oracle").mkdir()
    population = make_population(tmp_path / "oracle", series=3)
    _run(population)
    expected = content(population)
    for last in range(5, 150, 13):
        directory = tmp_path / f"at-{last}"
        directory.mkdir()
        population = make_population(directory, series=3)
        with using_disk(FullDisk(last)), pytest.raises((OSError, MprError)):
            _run(population)
        assert not population.files(1).is_finished
        _run(population)
        assert content(population) == expected, f"full at operation {last}"
