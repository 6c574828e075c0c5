"""Events are values; listeners tell people and files what they say."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from mpr_dist.engine import events


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_log_has_one_line_per_event(tmp_path: Path) -> None:
    log = events.JsonLines(tmp_path / "events.jsonl")
    log(events.Message("hello"))
    log(events.SpeciesFinished(1, "apo", 4.36))
    first, second = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert (first["event"], first["text"]) == ("Message", "hello")
    assert second["resolution_A"] == 4.36


def test_time_left_is_said_only_when_something_is_known() -> None:
    clock, out = Clock(), io.StringIO()
    console = events.Console(out, clock)
    console(events.WorkBegins(1, 3, cost=100.0))
    clock.now = 60.0
    console(events.SeriesFailed(1, "TS_00", 0.0, "no images"))
    console(events.SeriesDone(1, "TS_01", 20.0, 60.0, False, {"passes": 12.0}))
    clock.now = 300.0
    console(events.SeriesDone(1, "TS_02", 80.0, 240.0, True, {}))
    lines = out.getvalue().splitlines()
    assert lines[0] == "  TS_00: LEFT OUT: no images  [1/3]"
    assert lines[1] == "  TS_01: 60 s, passes 12  [2/3, about 4 min left]"
    assert lines[2] == "  TS_02: parameters kept, 4 min  [3/3]"


def test_a_series_is_told_of_once() -> None:
    out = io.StringIO()
    console = events.Console(out)
    console(events.WorkBegins(1, 2, cost=2.0))
    console(events.SeriesRefined(1, "TS_01", 1.0, {"passes": 7.0}))
    console(events.SeriesDone(1, "TS_01", 1.0, 60.0, False, {}))
    console(events.SeriesDone(1, "TS_02", 1.0, 60.0, True, {}))
    lines = [line.split(",")[0].split("  [")[0] for line in out.getvalue().splitlines()]
    assert lines == ["  TS_01: refined", "  TS_02: parameters kept"]


def test_on_a_terminal_there_is_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    console = events.Console(out)
    console(events.WorkBegins(1, 1, cost=1.0))
    console(events.SeriesDone(1, "TS_[01]", 1.0, 0.5, False, {}))
    console(events.StageFinished(1, "refine", 0.5))
    assert "TS_[01]: 0.5 s" in out.getvalue()
    assert "iteration 001" in out.getvalue()


def test_durations_read_naturally() -> None:
    assert [events.duration(s) for s in (7.31, 42, 720, 12000)] == ["7.3 s", "42 s", "12 min", "3 h 20 min"]


def test_no_resolution_is_said_in_words() -> None:
    assert events.describe(events.SpeciesFinished(1, "apo", None)) == "  apo: the half-maps share nothing"
    assert "Nyquist" in events.describe(events.SpeciesFinished(1, "apo", 5.0, 5.0))
    assert "Nyquist" not in events.describe(events.SpeciesFinished(1, "apo", 5.2, 5.0))


def test_a_reader_who_leaves_does_not_end_the_run() -> None:
    """As in "mpr-dist refine ... | head"."""
    end, start = os.pipe()
    stream = open(start, "w")  # noqa: SIM115 - closing it would try to write once more
    console = events.Console(stream)
    os.close(end)
    for _ in range(3):
        console(events.Message("nobody reads this"))
    with pytest.raises(BrokenPipeError):
        stream.close()
