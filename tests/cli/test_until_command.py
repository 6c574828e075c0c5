"""The command line of refine --until: plan, run, nothing to do."""

from __future__ import annotations


def test_a_job_that_is_submitted_again(project, add_source, add_species, mpr, tmp_path):
    add_source(project.files.root)
    add_species(project.files.root)
    words = (tmp_path / "pop", "--until", 1, "--particles", "--engine", "inline")
    assert "iterations 001 to 001" in mpr("plan", *words).out
    first = mpr("refine", *words)
    assert first.code == 0, first.err
    assert "report.html" in first.out
    idle = "iteration 001 is finished, 001 is in force: nothing to do"
    for command in (("refine", *words), ("refine", *words, "--dry-run"), ("plan", *words)):
        again = mpr(*command)
        assert again.code == 0
        assert idle in again.out + again.err
    share = mpr("batch", *words[:-2], "--index", 1, "--of", 2)
    assert (share.code, idle in share.out + share.err) == (0, True)
    assert not (tmp_path / "pop" / "iterations" / "002").exists()
    both = mpr("refine", *words, "--iterations", 2)
    assert (both.code, both.is_one_line()) == (2, True)
    assert "--until" in mpr("refine", "--help").out
