"""One image as a path: a file, or an image of a stack, written "folder/000003@stack.mrc" (counted from 1)."""

from __future__ import annotations

from pathlib import Path


def in_stack(stack: Path, number: int) -> Path:
    """The path that means image ``number`` of a stack."""
    return stack.parent / f"{number:06d}@{stack.name}"


def file_and_slice(path: Path) -> tuple[Path, int | None]:
    """The file to read and, for an image of a stack, its index from 0. A file of that very name wins."""
    number, at, name = path.name.partition("@")
    if not at or not number.isdigit() or not name or path.exists():
        return path, None
    return path.parent / name, int(number) - 1
