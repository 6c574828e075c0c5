"""Result files are published whole or not at all, and a failure is told in words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mpr_dist.errors import InputError
from mpr_dist.storage.publish import publish_bytes


def write_atomically(path: Path, parts: Iterable[bytes]) -> None:
    """Publish the joined ``parts`` under ``path``.

    Raises:
        InputError: the folder does not exist or cannot be written to, or the disk is full.
    """
    try:
        publish_bytes(path, b"".join(parts))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk") from error
