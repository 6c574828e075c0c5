"""Which prepared reference belongs to which state, so that a continued run need not prepare again."""

from __future__ import annotations

import json
from pathlib import Path

from mpr_dist.storage.publish import publish_json
from mpr_dist.workflow.state.science import PrepareJob, Reference


def keep_reference(job: PrepareJob, reference: Reference) -> None:
    record = {
        "settings": job.context.settings_hash,
        "path": reference.path.name,
        "sha256": reference.sha256,
        "numbers": dict(reference.numbers),
    }
    publish_json(_note(job), record)


def kept_reference(job: PrepareJob) -> Reference | None:
    """The reference an earlier session prepared for the same settings; None if there is none."""
    try:
        record = json.loads(_note(job).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    path = job.directory / record["path"]
    if record["settings"] != job.context.settings_hash or not path.exists():
        return None
    return Reference(job.species.name, path, record["sha256"], record["numbers"])


def _note(job: PrepareJob) -> Path:
    return job.directory / f"{job.species.name}.reference.json"
