"""Shares of an iteration without a scheduler: together they are the iteration, and refine takes them as they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, calls, content, make_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError, PopulationError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.batches import even_shares
from mpr_dist.storage.lock import locked
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.running.share import run_share
from mpr_dist.workflow.state.run_settings import RunSettings

ONE = RunSettings(RefineSettings(iterations=1))


def _refine(directory: Path, settings: RunSettings = ONE, science: FakeScience | None = None) -> Population:
    return run(directory / "pop", science or FakeScience(directory / "calls"), settings, InlineExecutor())


@pytest.fixture
def oracle(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "oracle").mkdir()
    make_population(tmp_path / "oracle")
    return _comparable(content(_refine(tmp_path / "oracle")))


def _comparable(files: dict[str, str]) -> dict[str, str]:
    """Without what names the folder or the grouping of a run."""
    kinds = (".xml", ".star", "half1.mrc", "half2.mrc", "map.mrc")
    return {name: value for name, value in files.items() if name.endswith(kinds)}


def test_shares_are_the_iteration(tmp_path: Path, oracle: dict[str, str]) -> None:
    """Three shares in any order, one of them twice; refine then only merges, and the bits are those of refine alone."""
    make_population(tmp_path)
    science = FakeScience(tmp_path / "calls")
    shares = [run_share(tmp_path / "pop", science, ONE, index, 3) for index in (3, 1, 2)]
    again = run_share(tmp_path / "pop", science, ONE, 1, 3)
    assert again.partial == shares[1].partial
    names = sorted(name for share in shares for name in share.done)
    assert names == calls(tmp_path / "calls", "refine") == calls(tmp_path / "calls", "backproject")
    population = _refine(tmp_path)
    assert calls(tmp_path / "calls", "backproject") == names, "nothing was done twice"
    assert population.iteration == 1
    assert _comparable(content(population)) == oracle


def test_refine_does_what_shares_left_undone(tmp_path: Path, oracle: dict[str, str]) -> None:
    make_population(tmp_path)
    share = run_share(tmp_path / "pop", FakeScience(tmp_path / "calls"), ONE, 2, 3)
    assert 0 < len(share.done) < 9
    population = _refine(tmp_path)
    assert len(calls(tmp_path / "calls", "refine")) == 9
    assert _comparable(content(population)) == oracle


def test_overlapping_shares_count_once(tmp_path: Path, oracle: dict[str, str]) -> None:
    """Shares of two different divisions overlap: what is counted already is turned away, the rest is done again."""
    make_population(tmp_path)
    science = FakeScience(tmp_path / "calls")
    for index, of in ((1, 2), (1, 3), (2, 3)):
        run_share(tmp_path / "pop", science, ONE, index, of)
    population = _refine(tmp_path)
    assert _comparable(content(population)) == oracle
    accepted = [
        name
        for line in (population.files(1).ledger).read_text().splitlines()
        if '"kind": "accept"' in line
        for name in json.loads(line)["series"]
    ]
    assert sorted(accepted) == sorted(set(accepted)) == [f"TS_{i:02d}" for i in range(9)]


def test_a_share_with_a_bad_series(tmp_path: Path) -> None:
    make_population(tmp_path)
    science = FakeScience(tmp_path / "calls", fail=("TS_03",))
    shares = [run_share(tmp_path / "pop", science, ONE, index, 2) for index in (1, 2)]
    assert [share.failed for share in shares if share.failed] == [{"TS_03": "series TS_03: no images"}]
    assert sum(len(share.done) for share in shares) == 8


def test_another_question_is_not_answered_by_old_shares(tmp_path: Path) -> None:
    """Shares belong to their settings; a refine that asks for something else says so."""
    make_population(tmp_path)
    run_share(tmp_path / "pop", FakeScience(tmp_path / "calls"), ONE, 1, 2)
    with pytest.raises(PopulationError, match="was begun otherwise"):
        _refine(tmp_path, RunSettings(RefineSettings(iterations=1, particles=True)))


def test_not_beside_a_run(tmp_path: Path) -> None:
    make_population(tmp_path)
    with locked(tmp_path / "pop"), pytest.raises(PopulationError, match="is in use by process"):
        run_share(tmp_path / "pop", FakeScience(tmp_path / "calls"), ONE, 1, 2)


@pytest.mark.parametrize(("index", "of"), [(0, 3), (4, 3), (1, 0)])
def test_there_is_no_such_share(tmp_path: Path, index: int, of: int) -> None:
    make_population(tmp_path)
    with pytest.raises(InputError, match="there are shares"):
        run_share(tmp_path / "pop", FakeScience(tmp_path / "calls"), ONE, index, of)
    assert load_population(tmp_path / "pop").iteration == 0


def test_more_shares_than_series(tmp_path: Path) -> None:
    make_population(tmp_path, series=2)
    science = FakeScience(tmp_path / "calls")
    done = [run_share(tmp_path / "pop", science, ONE, index, 4).done for index in range(1, 5)]
    assert sorted(len(names) for names in done) == [0, 0, 1, 1]


def test_shares_are_even_and_agreed_upon() -> None:
    """A partition, whatever the order of the names; no share exceeds the mean by more than the largest item."""
    cost = {f"TS_{i}": float(1 + (7 * i) % 13) for i in range(40)}
    shares = even_shares(cost, 6)
    assert sorted(name for share in shares for name in share) == sorted(cost)
    assert even_shares(dict(reversed(list(cost.items()))), 6) == shares
    loads = [sum(cost[name] for name in share) for share in shares]
    assert max(loads) - min(loads) <= max(cost.values())
