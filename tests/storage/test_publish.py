"""Published is complete, or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpr_dist.storage.publish import (
    TEMPORARY,
    Disk,
    clean_litter,
    is_temporary,
    publish_directory,
    publish_json,
    publish_text,
    temporary_beside,
    using_disk,
)


class FailingDisk(Disk):
    """Fails one operation, counted over all of them."""

    def __init__(self, fail_at: int) -> None:
        self.count = 0
        self.fail_at = fail_at

    def _step(self) -> None:
        self.count += 1
        if self.count == self.fail_at:
            raise OSError(28, "No space left on device")

    def write(self, path: Path, data: bytes) -> None:
        self._step()
        super().write(path, data)

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        super().replace(source, target)

    def sync(self, path: Path) -> None:
        self._step()
        super().sync(path)


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    publish_text(tmp_path / "a.txt", "old")
    publish_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("fail_at", [1, 2])
def test_a_failure_leaves_the_old_content_and_no_litter(tmp_path: Path, fail_at: int) -> None:
    publish_text(tmp_path / "a.txt", "old")
    with using_disk(FailingDisk(fail_at)), pytest.raises(OSError, match="No space"):
        publish_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_json_bytes_do_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    publish_json(tmp_path / "a", {"x": 1, "b": 2})
    publish_json(tmp_path / "b", {"b": 2, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _directory(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "inner").mkdir()
    (path / "inner" / "file").write_text(text)
    return path


def test_the_first_directory_wins(tmp_path: Path) -> None:
    final = tmp_path / "final"
    first, second = (_directory(temporary_beside(final), text) for text in ("first", "second"))
    assert publish_directory(first, final)
    assert not publish_directory(second, final)
    assert (final / "inner" / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["final"]


def test_litter_of_killed_writers_is_found(tmp_path: Path) -> None:
    _directory(temporary_beside(tmp_path / "x"), "")
    temporary_beside(tmp_path / "y").write_text("")
    (tmp_path / "kept").write_text("")
    assert is_temporary(tmp_path / f"{TEMPORARY}1-x")
    assert clean_litter(tmp_path) == 2
    assert clean_litter(tmp_path / "missing") == 0
    assert os.listdir(tmp_path) == ["kept"]
