"""mpr-dist benchmark, and the options by which a run is bounded or changed."""

from __future__ import annotations

import json


def test_schedule(mpr):
    found = mpr("benchmark", "schedule", "--runs", 2, "--json")
    assert found.code == 0, found.err
    record = json.loads(found.out)
    assert record["idle_worst"] < 0.05
    assert "cores" in record["machine"]["machine"]
    assert "waiting for the last worker" in mpr("benchmark", "schedule", "--runs", 1).out


def test_driver(mpr, tmp_path):
    found = mpr("benchmark", "driver", "--series", 30, "--task-ms", 1, "--workers", 1, "--folder", tmp_path, "--json")
    assert found.code == 0, found.err
    record = json.loads(found.out)
    assert record["series"] == 30
    assert record["driver_cpu_ms"] > 0
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_nonsense_is_one_line(mpr):
    for words in (
        ("scaling", "--workers", "1,x"),
        ("scaling", "--workers", "0"),
        ("driver", "--series", 0),
        ("schedule", "--spread", 9),
    ):
        found = mpr("benchmark", *words)
        assert found.code == 2
        assert found.is_one_line(), found.err


def test_change_and_bounds(mpr, project, add_source, add_species, tmp_path):
    """What cannot be changed or bounded is told of in one line."""
    pop = tmp_path / "pop"
    add_source(project.files.root)
    assert add_species(project.files.root).code == 0
    early = mpr("reconstruct", pop, "--without", "TS_01", "--engine", "inline")
    assert early.code == 2
    assert "nothing was refined or reconstructed yet" in early.err
    assert early.is_one_line()
    bound = mpr("reconstruct", pop, "--engine", "inline", "--max-failed", 1.5)
    assert bound.code == 2
    assert "from 0 to 1; got 1.5" in bound.err
    assert mpr("reconstruct", pop, "--engine", "inline").code == 0
    for words, answer in (
        (("--without", "TS_01"), "would be left"),
        (("--with", "TS_01"), "a series counts once"),
        (("--with", "TS_09"), "TS_09 is not part of"),
    ):
        found = mpr("reconstruct", pop, *words, "--engine", "inline")
        assert found.code == 2
        assert answer in found.err
        assert found.err.rstrip().splitlines()[-1].startswith("mpr-dist: ")
    shown = mpr("status", pop, "--follow")
    assert shown.code == 0
    assert "nothing runs" in shown.out
    assert mpr("status", pop, "--follow", "--json").code == 2
