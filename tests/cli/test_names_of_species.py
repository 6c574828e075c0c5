"""The name of a species or source: after the directory, or as --name."""

from __future__ import annotations

import pytest

COMMANDS = {
    "remove": ("species", "remove"),
    "rotate": ("species", "rotate", "--tilt", 30),
    "shift": ("species", "shift", "-x", 4),
    "select": ("species", "select", "--best", 0.5),
    "split": ("species", "split", "--by", "source"),
    "remove source": ("source", "remove"),
}


@pytest.mark.parametrize("what", ["remove", "split", "remove source"])
def test_both_ways_say_the_same(what, project, add_source, add_species, mpr, tmp_path):
    add_source(project.files.root)
    add_species(project.files.root)
    one = "phantom" if what != "remove source" else "src"
    first, second, *options = COMMANDS[what]
    as_argument = mpr(first, second, tmp_path / "pop", one, *options, "--dry-run")
    as_option = mpr(first, second, tmp_path / "pop", "--name", one, *options, "--dry-run")
    assert (as_argument.code, as_argument.out) == (as_option.code, as_option.out)
    assert as_argument.code == 0 or what == "split"  # into one there is nothing to split
    assert one in as_argument.out + as_argument.err


@pytest.mark.parametrize("what", COMMANDS)
def test_one_name_is_needed(what, mpr, tmp_path):
    first, second, *options = COMMANDS[what]
    for names, got in (((), "none"), (("a", "--name", "b"), "a and b")):
        refused = mpr(first, second, tmp_path / "pop", *names, *options)
        assert (refused.code, refused.is_one_line()) == (2, True)
        assert f"after the directory; got {got}" in refused.err
