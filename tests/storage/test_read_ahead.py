"""Reading ahead asks for what exists and never complains."""

from __future__ import annotations

from mpr_dist.storage.read_ahead import read_ahead


def test_what_is_missing_is_left_alone(tmp_path):
    """Files that are there are asked for, the others are not counted; nothing is raised."""
    there = [tmp_path / name for name in ("a", "b")]
    for path in there:
        path.write_bytes(b"x" * 10_000)
    assert read_ahead([*there, tmp_path / "missing", tmp_path]) in (2, 3)  # a folder may be opened, too
    assert read_ahead([]) == 0
