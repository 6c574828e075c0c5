"""A file is either as it was or complete: never half-written, whatever stops the program."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mpr_dist.errors import InputError


def write_atomically(path: Path, parts: Iterable[bytes]) -> None:
    """Write ``parts`` to a temporary name beside ``path``, fsync, and rename it into place.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        stream = temporary.open("xb")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the folder {path.parent}") from error
    try:
        with stream:
            stream.writelines(parts)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: writing failed ({error.strerror}); is the disk full?") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
