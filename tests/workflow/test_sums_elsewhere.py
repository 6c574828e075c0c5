"""Sums may wait elsewhere than in the accumulators, as on a card: whoever reads these has them settled first."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, content, make_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.units import I64
from mpr_dist.workflow.running.change import Change, change
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state import science as s
from mpr_dist.workflow.state.run_settings import RunSettings

ONE = RunSettings(RefineSettings(iterations=1))


@dataclass(frozen=True)
class WaitingScience(FakeScience):
    """The fake science, which keeps what it adds until it is told to settle; ``settled``: how much, each time."""

    waiting: list[tuple[I64, I64]] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)

    def refine_and_backproject(self, job: s.SeriesJob, accumulators: Mapping[str, I64]) -> s.SeriesOutcome:
        beside = {name: np.zeros_like(accumulators[name]) for name in accumulators}
        self.waiting.extend((accumulators[name], values) for name, values in beside.items())
        return super().refine_and_backproject(job, beside)

    def settle(self) -> None:
        for sums, values in self.waiting:
            sums += values
        self.settled.append(len(self.waiting))
        self.waiting.clear()


def _finished(
    directory: Path, science: type[FakeScience], **troubles: tuple[str, ...]
) -> tuple[Population, FakeScience]:
    directory.mkdir()
    population = make_population(directory, series=6)
    used = science(directory / "calls", **troubles)  # type: ignore[arg-type]
    return run(population.path, used, ONE, InlineExecutor()), used


@pytest.mark.parametrize("late", [(), ("TS_01",)])
def test_partials_hold_what_waited(tmp_path: Path, late: tuple[str, ...]) -> None:
    """The bits of a science that adds at once, also when a series fails after it has begun to add."""
    expected, _ = _finished(tmp_path / "at_once", FakeScience, fail_late=late)
    found, science = _finished(tmp_path / "later", WaitingScience, fail_late=late)
    assert content(found) == content(expected)
    assert isinstance(science, WaitingScience)
    assert not science.waiting
    if not late:  # the first batch is TS_02 and TS_01, the others are single series
        assert science.settled == [2 * len(found.species)] + 4 * [len(found.species)]


def test_what_is_taken_away_has_settled(tmp_path: Path) -> None:
    """--without subtracts what a series added."""
    maps = []
    for name, kind in (("at_once", FakeScience), ("later", WaitingScience)):
        population, science = _finished(tmp_path / name, kind)
        maps.append(content(change(population.path, science, Change(without=("TS_02",)), InlineExecutor())))
    assert maps[0] == maps[1]
