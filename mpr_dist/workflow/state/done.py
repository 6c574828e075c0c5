"""DONE, the last file of an iteration: which series are in it, which were left out and why, and the resolutions."""

from __future__ import annotations

import json
from typing import Any

from mpr_dist.errors import PopulationError
from mpr_dist.model.population import IterationFiles
from mpr_dist.storage.publish import publish_json

FORMAT_VERSION = 1


def publish_done(files: IterationFiles, record: dict[str, Any]) -> None:
    publish_json(files.done, {"format_version": FORMAT_VERSION, **record})


def read_done(files: IterationFiles) -> dict[str, Any] | None:
    """What a finished iteration says of itself; None for one that is not finished, and for the imported state.

    Raises:
        PopulationError: written by another version of this program.
    """
    try:
        record = json.loads(files.done.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    version = record.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise PopulationError(
            f"{files.done}: format_version {version}, but this mpr-dist reads {FORMAT_VERSION}; update mpr-dist"
        )
    return record
