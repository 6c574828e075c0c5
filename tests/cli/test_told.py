"""What importers say they understood: one paragraph for people, the same as JSON for scripts."""

from __future__ import annotations

import json

TOPICS = ("Positions: ", "Shifts: ", "Angles: ", "Units: ", "Names: ", "Dropped: ")


def test_source_is_told(project, mpr, tmp_path):
    """A Warp project: the paragraph has every topic, and the JSON the same sentences and counts."""
    root = project.files.root
    options = ("--name", "src", "--warp-settings", root / "warp_tiltseries.settings", "--max-tilts", 5)
    for pop in ("a", "b"):
        mpr("population", "create", tmp_path / pop, "--name", "test")
    lines = mpr("source", "add", tmp_path / "a", *options).out.splitlines()
    record = json.loads(mpr("source", "add", tmp_path / "b", *options, "--json").out)
    assert all(topic in lines[1] for topic in TOPICS), lines[1]
    reading = record["reading"]
    assert all(reading[name] in lines[1] for name in ("positions", "origins", "angles", "units", "names"))
    assert reading["dropped"] == [{"what": "tilts", "count": 2, "reason": "beyond the limit, of highest dose"}]
    assert "Dropped: 2 tilts (beyond the limit, of highest dose)." in lines[1]
    assert record["series"] == {"TS_01": {"tilts": 5, "of": 7}}


def test_species_is_told(project, add_source, add_species, mpr, tmp_path):
    """A RELION-3.1 table; --json gives the sentences, the counts and the resolution."""
    add_source(project.files.root)
    relion = project.files.root / "relion"
    files = ("--half1", relion / "half1.mrc", "--half2", relion / "half2.mrc", "--mask", relion / "mask.mrc")
    more = ("--particles", relion / "run_data.star", "--diameter", 128, "--symmetry", "O", "--json")
    record = json.loads(mpr("species", "add", tmp_path / "pop", "--name", "phantom", *files, *more).out)
    assert record["particles"] == {"TS_01": 8}
    assert record["reading"]["origins"] == "Shifts: rlnOriginX/Y/ZAngst in A, subtracted."
    assert record["reading"]["dropped"] == []
