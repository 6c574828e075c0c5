"""Status and plan say what is there and what would be, and change nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, content, make_population

from mpr_dist.engine.events import Event, PartialAccepted
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import Interrupted
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running import watching
from mpr_dist.workflow.running.plan import plan
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings

SETTINGS = RunSettings(RefineSettings(iterations=1, image_warp=(6, 4)))


def test_a_finished_iteration(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=3)
    assert status(population)["iterations"] == []
    run(population.path, FakeScience(tmp_path / "calls", fail=("TS_01",)), SETTINGS, InlineExecutor())
    record = status(load_population(population.path))
    assert json.loads(json.dumps(record)) == record
    (iteration,) = record["iterations"]
    assert iteration["state"] == "finished"
    assert iteration["counts"] == {"done": 2, "failed": 1}
    assert iteration["series"]["TS_00"] == {"state": "done", "passes": 3, "score": 1.5}
    assert iteration["series"]["TS_01"] == {
        "state": "failed",
        "outcome": "bad series",
        "reason": "series TS_01: no images",
    }
    assert iteration["species"]["apo"]["resolution_A"] == 9.0
    assert record["running"] is None


def test_an_interrupted_iteration(tmp_path: Path) -> None:
    population = make_population(tmp_path)

    def stop_at_first_partial(event: Event) -> None:
        if isinstance(event, PartialAccepted):
            population.files(1).stop.touch()
            assert status(population)["running"]["pid"] > 0

    science = FakeScience(tmp_path / "calls")
    with pytest.raises(Interrupted):
        run(population.path, science, SETTINGS, InlineExecutor(), (stop_at_first_partial,))
    (iteration,) = status(population)["iterations"]
    assert iteration["state"] == "interrupted"
    assert set(iteration["counts"]) == {"done", "pending"}
    assert iteration["species"]["apo"] is None


def test_the_plan_is_what_the_run_does(tmp_path: Path) -> None:
    population = make_population(tmp_path)
    made = plan(population, FakeScience(tmp_path / "calls"), SETTINGS.refine, workers=1)
    assert made.refines == ("image warp 6x4",)
    assert content(population) == {}
    heard: list[Event] = []
    run(population.path, FakeScience(tmp_path / "calls"), SETTINGS, InlineExecutor(), (heard.append,))
    assert len([e for e in heard if isinstance(e, PartialAccepted)]) == len(made.batches)
    assert "9, 27 tilts" in str(made)


def test_progress_within_a_batch_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series is told of when it is refined, before its batch has ended; one that was there before is not."""
    monkeypatch.setattr(watching, "SECONDS", 0.02)
    population = make_population(tmp_path, series=6)
    heard: list[Event] = []
    science = FakeScience(tmp_path / "calls", seconds=0.1)
    run(population.path, science, SETTINGS, InlineExecutor(), (heard.append,))
    kinds = [type(event).__name__ for event in heard]
    first_batch = kinds.index("PartialAccepted")
    assert "SeriesRefined" in kinds[:first_batch]
    assert 4 <= kinds.count("SeriesRefined") <= 6
