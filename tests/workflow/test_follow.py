"""Watching a run from outside: everything once, in order, to its end, whatever that is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, calls, make_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import MprError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.reporting.follow import EventLog
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings

SERIES = 6


def _drive(directory: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).parent / "drive.py"), str(directory), "inline", "1", str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, text=True)


def _follow(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mpr_dist.cli.app", "status", str(directory / "pop"), "--follow"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(calls(directory / "calls", "refine")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_followed_to_the_end(tmp_path: Path) -> None:
    """Plain lines where there is no terminal; both iterations; every series once in each."""
    make_population(tmp_path, series=SERIES)
    process = _drive(tmp_path, 0.3)
    _wait_for(tmp_path, 1)
    text = _follow(tmp_path).communicate(timeout=60)[0]
    assert process.wait(30) == 0
    lines = text.splitlines()
    assert f"following process {process.pid}" in lines[0]
    assert lines[-1] == "the run has ended; iteration 002 is in force"
    assert [line for line in lines if "finished" in line] == sorted(line for line in lines if "finished" in line)
    for name in (f"TS_{i:02d}" for i in range(SERIES)):
        assert sum(line.strip().startswith(name) for line in lines) == 2
    assert "\x1b" not in text


def test_followed_until_it_is_killed(tmp_path: Path) -> None:
    make_population(tmp_path, series=SERIES)
    process = _drive(tmp_path, 0.3)
    _wait_for(tmp_path, 1)
    follower = _follow(tmp_path)
    assert follower.stdout is not None
    assert "following" in follower.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    text = follower.communicate(timeout=60)[0]
    assert text.splitlines()[-1] == "the run ended in iteration 001 (it was killed); the same command continues it"


def test_nothing_to_follow(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=2)
    text = _follow(tmp_path).communicate(timeout=60)[0]
    assert text == "population fake: iteration 000 is in force; nothing runs\n", population.path


def test_a_line_that_is_not_complete_waits(tmp_path: Path) -> None:
    """And one that is spoiled is passed over."""
    path = tmp_path / "iterations" / "001" / "events.jsonl"
    path.parent.mkdir(parents=True)
    log = EventLog(tmp_path, 1)
    assert list(log.new()) == []
    path.write_text('{"time": 1, "event": "Message", "text": "one"}\n{"time": 2, "event": "Mess')
    assert [type(event).__name__ for event in log.new()] == ["Message"]
    with path.open("a") as stream:
        stream.write('age", "text": "two"}\n{spoiled\n{"time": 3, "event": "Other", "text": 1}\n')
    assert [event.text for event in log.new()] == ["two"]  # type: ignore[attr-defined]


def test_the_end_has_a_name(tmp_path: Path) -> None:
    """Too many failures end a run: one line, and status says so until the run is continued."""
    population = make_population(tmp_path, series=SERIES)
    settings = RunSettings(RefineSettings(iterations=1))
    science = FakeScience(tmp_path / "calls", fail=("TS_01", "TS_02"))
    with pytest.raises(MprError, match=r"2 of 6 tilt series failed, more than --max-failed 0\.2 allows.*TS_01"):
        run(population.path, science, settings, InlineExecutor(), max_failed=0.2)
    (iteration,) = status(population)["iterations"]
    assert (iteration["state"], iteration["outcome"]) == ("interrupted", "too many failed")
    assert iteration["series"]["TS_01"]["outcome"] == "bad series"
    run(population.path, science, settings, InlineExecutor(), max_failed=0.34)
    assert status(population)["iterations"][0]["counts"] == {"done": 4, "failed": 2}
