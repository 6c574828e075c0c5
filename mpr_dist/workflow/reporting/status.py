"""Where a population stands, as a value that turns into JSON: for the status command, the report, and other programs.

Only reads, and may be called while a run is under way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.storage.ledger import SESSION, Record, read_ledger
from mpr_dist.storage.lock import PATIENCE_S, Holder, read_holder, silent_s
from mpr_dist.workflow.series.release_table import over_all as released
from mpr_dist.workflow.series.uncertainty_table import directions_over_all, over_all, read_details, species_over_all
from mpr_dist.workflow.series.widths import settings_of, widths_found
from mpr_dist.workflow.state.done import read_done
from mpr_dist.workflow.state.outcomes import BAD_SERIES, STOPPED, Failure
from mpr_dist.workflow.state.series_results import read_summary

FORMAT_VERSION = 1


def status(population: Population) -> dict[str, Any]:
    """JSON-ready: the population, every iteration that has begun, and for each its series and species.

    "running" has "silent_s", above 0 when a process of another host has not been heard of for more than a minute.
    The last iteration also has "classes", what became of every refined class over the series that are done, and
    "directions", what the images say about those in which classes undo each other, "information", what every species
    has contributed (``uncertainty_table``), "release", what the protocol auto decided (``release_table``), and
    "widths" of the priors, used and found.
    """
    lock = population.path / "LOCK"
    holder = read_holder(lock)
    iterations = []
    number = 1
    while population.files(number).root.is_dir():
        iterations.append(_iteration(population, population.files(number)))
        number += 1
    if iterations:
        iterations[-1] |= _uncertainty(population.files(number - 1), iterations[-1]["series"])
    return {
        "format_version": FORMAT_VERSION,
        "name": population.name,
        "path": str(population.path),
        "iteration": population.iteration,
        "running": None if holder is None or holder.is_dead else asdict(holder) | {"silent_s": _silent_s(holder, lock)},
        "sources": {source.name: len(source.series) for source in population.sources},
        "species": {files.name: sum(count for _, count in files.particles) for files in population.species},
        "nyquist_A": {files.name: 2 * files.species.pixel_size_A for files in population.species},
        "iterations": iterations,
    }


def _silent_s(holder: Holder, lock: Path) -> float:
    """For how long a process of another host has given no sign of life; 0 as long as that says nothing."""
    silence = 0.0 if holder.is_here else silent_s(lock)
    return round(silence, 1) if silence > PATIENCE_S else 0.0


def _iteration(population: Population, files: IterationFiles) -> dict[str, Any]:
    found = decided(files)
    series = {entry.name: _series(files, entry.name, found) for _, entry in population.series}
    outcome, why = found.end
    return {
        "number": files.number,
        "state": _state(files, outcome),
        "outcome": outcome,
        "reason": why,
        "hosts_avoided": {host: list(names) for host, names in found.hosts.items()},
        "counts": dict(Counter(one["state"] for one in series.values())),
        "series": series,
        "species": _species(population, files),
    }


def _species(population: Population, files: IterationFiles) -> dict[str, Any]:
    """Results by name, None where there is none yet; of species that were removed since, those that there are."""
    now = {one.name: _read(files.species(one.name).result) for one in population.species}
    removed = {name: _read(files.species(name).result) for name in population.removed_species if name not in now}
    return now | {name: result for name, result in removed.items() if result is not None}


def _uncertainty(files: IterationFiles, series: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    done = {name: read_details(files, name) for name, one in series.items() if one["state"] == "done"}
    found = widths_found(done.values(), settings_of(files).priors)
    widths = {field: asdict(width) for field, width in found.items()}
    return {
        "classes": over_all(done),
        "directions": directions_over_all(done),
        "information": species_over_all(done),
        "release": released(done),
        "widths": widths,
    }


@dataclass(frozen=True)
class Decided:
    """What has been decided about the series of an iteration.

    Attributes:
        failed: series that were left out, by name.
        hosts: those that are avoided, with the series that failed there.
        end: outcome and reason of a session that ended before the iteration was finished; empty while one is at work.
        removed: series that were left out because that was asked for.
    """

    accepted: frozenset[str]
    failed: dict[str, Failure]
    hosts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    end: tuple[str, str] = ("", "")
    removed: tuple[str, ...] = ()


def decided(files: IterationFiles) -> Decided:
    """From DONE, or as far as the ledger has come."""
    ledger = _from_ledger(read_ledger(files.ledger))
    record = read_done(files)
    if record is None or "series" not in record:
        return ledger
    outcomes = record.get("outcomes", {})
    failed = {name: Failure(name, outcomes.get(name, BAD_SERIES), why) for name, why in record["failed"].items()}
    return Decided(frozenset(record["series"]), failed, ledger.hosts, removed=ledger.removed)


def _from_ledger(records: Sequence[Record]) -> Decided:
    partials: dict[str, list[str]] = {}
    failed: dict[str, Failure] = {}
    hosts: dict[str, tuple[str, ...]] = {}
    end = ("", "")
    removed: tuple[str, ...] = ()
    for line in records:
        if line["kind"] == "accept":
            partials[line["partial"]] = line["series"]
        elif line["kind"] == "reject":
            partials.pop(line["partial"], None)
        elif line["kind"] == "failed":
            name = line["series"]
            failed[name] = Failure(name, line.get("outcome", BAD_SERIES), line["reason"])
        elif line["kind"] == "host":
            hosts[line["host"]] = (*hosts.get(line["host"], ()), *line["series"])
            for name in line["series"]:
                failed.pop(name, None)  # they are tried again elsewhere
        elif line["kind"] == SESSION:
            failed.clear()  # they are tried again when the run continues
            end = ("", "")
        elif line["kind"] == "removed":
            removed = tuple(line["series"])
        elif line["kind"] in ("ended", "interrupted"):
            end = (line.get("outcome", STOPPED), line.get("reason", ""))
    accepted = frozenset(name for names in partials.values() for name in names)
    return Decided(accepted, {name: one for name, one in failed.items() if name not in accepted}, hosts, end, removed)


def _series(files: IterationFiles, name: str, found: Decided) -> dict[str, Any]:
    if name in found.failed:
        one = found.failed[name]
        return {"state": "failed", "outcome": one.outcome, "reason": one.reason}
    if name in found.removed:
        return {"state": "removed"}
    summary = read_summary(files.series(name))
    numbers = {} if summary is None else summary.get("numbers", {})
    numbers = {key: value for key, value in numbers.items() if not isinstance(value, dict)}  # details: the report's
    if name in found.accepted:
        return {"state": "done", **numbers}
    return {"state": "pending" if summary is None else "refined", **numbers}


def _state(files: IterationFiles, outcome: str) -> str:
    if files.is_finished:
        return "finished"
    return "interrupted" if outcome else "unfinished"


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none yet."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None
