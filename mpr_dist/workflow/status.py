"""Where a population stands, as a value that turns into JSON: for the status command, the report, and other programs.

Only reads, and may be called while a run is under way.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.storage.ledger import read_ledger
from mpr_dist.storage.lock import read_holder
from mpr_dist.workflow.series_results import read_summary

FORMAT_VERSION = 1


def status(population: Population) -> dict[str, Any]:
    """JSON-ready: the population, every iteration that has begun, and for each its series and species."""
    holder = read_holder(population.path / "LOCK")
    iterations = []
    number = 1
    while population.files(number).root.is_dir():
        iterations.append(_iteration(population, population.files(number)))
        number += 1
    return {
        "format_version": FORMAT_VERSION,
        "name": population.name,
        "path": str(population.path),
        "iteration": population.iteration,
        "running": None if holder is None or holder.is_dead else asdict(holder),
        "sources": {source.name: len(source.series) for source in population.sources},
        "species": {files.name: sum(count for _, count in files.particles) for files in population.species},
        "iterations": iterations,
    }


def _iteration(population: Population, files: IterationFiles) -> dict[str, Any]:
    accepted, failed = decided(files)
    series = {entry.name: _series(files, entry.name, accepted, failed) for _, entry in population.series}
    return {
        "number": files.number,
        "state": _state(files),
        "counts": dict(Counter(one["state"] for one in series.values())),
        "series": series,
        "species": {one.name: _read(files.species(one.name).result) for one in population.species},
    }


def decided(files: IterationFiles) -> tuple[set[str], dict[str, str]]:
    """Series that count, and those left out with their reasons: from DONE, or as far as the ledger has come."""
    record = _read(files.done)
    if record is not None and "series" in record:
        return set(record["series"]), dict(record["failed"])
    partials: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for line in read_ledger(files.ledger):
        if line["kind"] == "accept":
            partials[line["partial"]] = line["series"]
        elif line["kind"] == "reject":
            partials.pop(line["partial"], None)
        elif line["kind"] == "failed":
            failed[line["series"]] = line["reason"]
        elif line["kind"] == "interrupted":
            failed.clear()  # they are tried again when the run continues
    accepted = {name for names in partials.values() for name in names}
    return accepted, {name: why for name, why in failed.items() if name not in accepted}


def _series(files: IterationFiles, name: str, accepted: set[str], failed: dict[str, str]) -> dict[str, Any]:
    if name in failed:
        return {"state": "failed", "reason": failed[name]}
    summary = read_summary(files.series(name))
    numbers = {} if summary is None else summary.get("numbers", {})
    numbers = {key: value for key, value in numbers.items() if not isinstance(value, dict)}  # details: the report's
    if name in accepted:
        return {"state": "done", **numbers}
    return {"state": "pending" if summary is None else "refined", **numbers}


def _state(files: IterationFiles) -> str:
    if files.is_finished:
        return "finished"
    last = [record["kind"] for record in read_ledger(files.ledger)[-1:]]
    return "interrupted" if last == ["interrupted"] else "unfinished"


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none yet."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
