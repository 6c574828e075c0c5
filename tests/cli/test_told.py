"""What importers say they understood: one paragraph for people, the same as JSON for scripts."""

from __future__ import annotations

import json

import numpy as np

from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.reading import Dropped, Reading
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses
from mpr_dist.workflow.checking.findings import Findings
from mpr_dist.workflow.state.create import told

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


def test_what_must_not_be_missed_has_a_line_of_its_own():
    """NOTE, NOT TAKEN OVER and NOT APPLIED stand after the paragraph, one a line; for scripts nothing moves."""
    halves = "Half-sets: alternate. NOTE: half-maps are not independent."
    notes = ("Masks: 3.", "NOT TAKEN OVER: rlnX.", "NOTE: it looks like O.", "TS_1: 25 are NOT APPLIED.")
    reading = Reading(positions="Positions: in A.", halves=halves, notes=notes)
    assert told(reading) == [
        "  Positions: in A. Half-sets: alternate. Masks: 3. Dropped: nothing.",
        "  NOTE: half-maps are not independent.",
        "  NOT TAKEN OVER: rlnX.",
        "  NOTE: it looks like O.",
        "  NOTE: TS_1: 25 are NOT APPLIED.",
    ]
    assert (reading.record()["halves"], reading.record()["notes"]) == (halves, list(notes))


def test_one_is_not_many():
    assert [Dropped(what, 1, "").counted for what in ("particles", "tilts", "series")] == [
        "1 particle", "1 tilt", "1 series",
    ]  # fmt: skip
    assert Dropped("particles", 2, "").counted == "2 particles"
    findings = Findings()
    findings.check(False, "it", "is wrong")
    assert findings.lines[-1] == "1 check: 1 error, 0 warnings"


def test_help_lists_commands_with_whole_sentences(mpr):
    said = mpr("species", "--help").out
    assert "..." not in said.replace("[ARGS]...", "")
    assert "half-sets were understood." in " ".join(said.split())


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
    assert not [note for note in record["reading"]["notes"] if "symmetry" in note]
    assert [note for note in record["reading"]["notes"] if note.startswith("Particles span ")]
    more = (*more[:-3], "--symmetry", "C1", "--no-images")
    assert "looks like O, the symmetry it was given is C1" in (
        mpr("species", "add", tmp_path / "pop", "--name", "forgotten", *files, *more).out
    )


def test_species_of_dynamo(project, add_source, mpr, tmp_path):
    """The particles of the project as a Dynamo table in pixels: the same poses, and the tomogram by its number."""
    add_source(project.files.root)
    relion, nominal = project.files.root / "relion", project.particles["TS_01"]
    pixel_A = project.settings.pixel_A
    rows = np.zeros((len(nominal), 35))
    rows[:, 0], rows[:, 19] = np.arange(1, len(nominal) + 1), 1
    rows = np.concatenate([rows, rows[:2]])
    rows[-2:, 19] = 7  # a tomogram that the population lacks
    count = len(nominal)
    rows[:count, 23:26] = np.round(nominal.position_A[:, 0] / pixel_A)
    rows[:count, 3:6] = nominal.position_A[:, 0] / pixel_A - rows[:count, 23:26]
    rot, tilt, psi = nominal.angles_deg[:, 0].T
    rows[:count, 6], rows[:count, 7], rows[:count, 8] = psi - 90, tilt, rot + 90  # tdrot, tilt, narot
    np.savetxt(tmp_path / "x.tbl", rows, fmt="%.6f")
    files = ("--half1", relion / "half1.mrc", "--half2", relion / "half2.mrc", "--mask", relion / "mask.mrc")
    words = ("species", "add", tmp_path / "pop", "--name", "phantom", *files, "--particles", tmp_path / "x.tbl")
    more = ("--diameter", 128, "--symmetry", "O", "--json", "--no-images")
    for options, expected in (((), "tomogram 7 fits no series"), (("--ignore-unmatched",), "--coordinate-pixel")):
        refused = mpr(*words, *more, *options)
        assert (refused.code, refused.is_one_line()) == (2, True)
        assert expected in refused.err
    added = mpr(*words, *more, "--coordinate-pixel", pixel_A, "--ignore-unmatched")
    assert added.code == 0, added.err
    reading = json.loads(added.out)["reading"]
    assert reading["names"] == "Series: 2 tomograms by number, 1 is TS_01."
    assert reading["dropped"][0] == {
        "what": "particles",
        "count": 2,
        "reason": "they lie in series that this population does not have: tomogram_7",
    }
    poses = read_poses(load_population(tmp_path / "pop").files(0).series("TS_01").poses)["phantom"]
    np.testing.assert_allclose(poses.position_A, nominal.position_A, atol=1e-4)
    np.testing.assert_allclose(euler_to_matrix(poses.angles_deg), euler_to_matrix(nominal.angles_deg), atol=1e-6)


def test_a_mask_of_noise_is_noted(project, mpr, add_source, add_species, tmp_path):
    """By the command that makes it and by the one that takes it, and a good one by neither."""
    relion, mask = project.files.root / "relion", tmp_path / "mask.mrc"
    add_source(project.files.root)
    low = mpr("mask", "create", relion / "half1.mrc", mask, "--threshold", -1e6)
    assert low.code == 0, low.err
    values = read_volume(relion / "half1.mrc")[0]
    assert f"grey values of the map: {values.min():.4g} to {values.max():.4g}" in low.out
    assert "NOTE: the mask covers 100 % of the box" in low.out
    added = add_species(project.files.root, "--mask", mask)
    assert added.code == 0, added.err
    assert "NOTE: the mask " in added.out  # it lies in a larger box now
    assert "--threshold of mask create" in added.out
    again = add_species(project.files.root, "--name", "second")
    assert again.code == 0, again.err
    assert "NOTE: the mask" not in again.out
