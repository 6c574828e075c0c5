"""Status and plan say what is there and what would be, and change nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, content, make_population

from mpr_dist.engine.events import Event, PartialAccepted
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import Interrupted
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population, save_population, without_species
from mpr_dist.workflow.reporting.follow import Follower
from mpr_dist.workflow.reporting.show import status_lines
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


def test_resolutions_of_species_that_were_removed_since_stay(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=3)
    run(population.path, FakeScience(tmp_path / "calls"), SETTINGS, InlineExecutor())
    before = status(load_population(population.path))["iterations"][0]["species"]
    save_population(without_species(load_population(population.path), "apo"))
    after = status(load_population(population.path))
    assert after["iterations"][0]["species"] == before
    assert "  apo: 9.00 A" in status_lines(after)


def test_a_resolution_that_the_pixel_limits_is_said_to_be_so(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=3)  # of pixels of 1 A
    run(population.path, FakeScience(tmp_path / "calls"), SETTINGS, InlineExecutor())
    found = status(load_population(population.path))
    assert "Nyquist" not in "".join(status_lines(found))
    found["iterations"][0]["species"]["apo"]["resolution_A"] = found["nyquist_A"]["apo"]
    assert "  apo: 2.00 A (Nyquist: the pixel allows no more)" in status_lines(found)


@pytest.mark.parametrize("age_s", [10, 300])
def test_a_driver_elsewhere_that_is_not_heard_of_is_not_said_to_run(tmp_path: Path, age_s: int) -> None:
    """Its lock is touched every few seconds while it lives; of one that is older than a minute status says so."""
    population = make_population(tmp_path, series=3)
    lock = population.path / "LOCK"
    holder = {"host": "elsewhere", "pid": 12, "birth": "", "since": "2026-01-01 00:00:00"}
    lock.write_text(json.dumps(holder))
    os.utime(lock, (time.time() - age_s,) * 2)
    found = status(population)
    line = status_lines(found)[0]
    if age_s < 60:
        assert found["running"] == holder | {"silent_s": 0.0}
        assert line.endswith("process 12 on elsewhere runs here")
        return
    assert found["running"]["silent_s"] == pytest.approx(age_s, abs=25)  # a machine that is busy
    assert "NOT BEEN HEARD OF for 5 min" in line
    said: list[str] = []
    Follower(population.path, said.append).follow()  # ends at once
    assert "NOT BEEN HEARD OF" in said[0]


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
    iteration["counts"] |= {"refined": 1}
    lines = status_lines(status(population) | {"iterations": [iteration]})
    assert any("1 refined but not yet in the half-maps" in line for line in lines)
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
