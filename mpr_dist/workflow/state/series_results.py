"""The published parameters of a series: when they count, what they depend on, and their hash.

``NAME.summary.json`` is written after the other files and holds their hashes and the hash of the input. A summary
whose hashes agree with the files vouches for all of them; without it they do not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from mpr_dist.errors import SeriesError
from mpr_dist.model.population import SeriesFiles
from mpr_dist.storage.publish import publish_json
from mpr_dist.workflow.state.science import SeriesJob

FORMAT_VERSION = 1


def publish_summary(job: SeriesJob, numbers: Mapping[str, Any]) -> None:
    """Vouch for ``job.output``; ``numbers`` (JSON-ready: passes, scores, ...) are shown by status and report."""
    record = {
        "format_version": FORMAT_VERSION,
        "series": job.name,
        "input": job.input_hash,
        "files": _file_hashes(job.output),
        "numbers": dict(numbers),
    }
    publish_json(job.output.summary, record)


def read_summary(files: SeriesFiles) -> dict[str, Any] | None:
    """The summary, or None where there is none that can be read."""
    try:
        record = json.loads(files.summary.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("format_version") == FORMAT_VERSION else None


def published_hash(files: SeriesFiles) -> str | None:
    """Hash of the published parameters; None if the summary is missing or does not agree with the files."""
    summary = read_summary(files)
    if summary is None:
        return None
    try:
        hashes = _file_hashes(files)
    except SeriesError:
        return None
    return _hash(hashes) if hashes == summary.get("files") else None


def input_hash(job: SeriesJob) -> str:
    """Hash of all that the refinement of this series depends on, except its images, which never change."""
    source = asdict(job.source) | {"settings": "", "series": ()}
    own = [_file_hash(path) for files in (job.imported, job.previous) for path in (files.xml, files.poses)]
    return _hash([job.context.settings_hash, _plain(source), list(job.entry.active), own])


def is_reusable(job: SeriesJob) -> bool:
    """Parameters for exactly this input are there and whole (``job.input_hash`` is set)."""
    summary = read_summary(job.output)
    return summary is not None and summary.get("input") == job.input_hash and published_hash(job.output) is not None


def _file_hashes(files: SeriesFiles) -> dict[str, str]:
    hashes = {name: _file_hash(path) for name, path in (("xml", files.xml), ("poses", files.poses))}
    hashes["sigma"] = _file_hash(files.sigma)
    missing = [name for name, value in hashes.items() if not value]
    if missing:
        raise SeriesError(f"series {files.name}: {' and '.join(missing)} missing in {files.directory}")
    return hashes


def _file_hash(path: Path) -> str:
    """Empty for a file that is not there: an imported series need not have poses of its own."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _hash(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
