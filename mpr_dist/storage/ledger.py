"""The ledger: what the driver has decided, one JSON object per line, only ever appended to.

A line counts when it is complete, that is when it ends with a newline: a driver killed while writing leaves a torn
last line, which the next one cuts off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpr_dist.errors import PopulationError
from mpr_dist.storage.publish import disk

Record = dict[str, Any]

FORMAT_VERSION = 1
SESSION = "session"  # a driver began to work here; its record carries the version of the format


def read_ledger(path: Path) -> list[Record]:
    """All complete records, in order; a torn last line is left out, a spoiled line before it is an error."""
    if not path.exists():
        return []
    return [record for record, _ in _complete(path, path.read_bytes())]


class Ledger:
    """The writing end; one driver at a time holds it (the population's lock sees to that)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = read_ledger(path)
        self._cut_torn_line()

    def append(self, kind: str, **fields: Any) -> Record:
        """Add one record and return when it is on the disk."""
        record: Record = {"kind": kind, **fields}
        is_new = not self.path.exists()
        try:
            disk().append(self.path, (json.dumps(record, sort_keys=True) + "\n").encode("utf-8"))
        except OSError:  # such as a full disk: what is torn must not spoil the next record
            self._cut_torn_line()
            raise
        if is_new:
            disk().sync(self.path.parent)
        self.records.append(record)
        return record

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.records if record["kind"] == kind]

    def _cut_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("r+b") as stream:
                stream.truncate(whole)


def _complete(path: Path, data: bytes) -> Iterator[tuple[Record, int]]:
    lines = data.split(b"\n")[:-1]  # what follows the last newline is torn or empty
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise PopulationError(
                f"{path}, line {number}: not a JSON record ({error}); "
                "the ledger was changed by something else: discard this unfinished iteration"
            ) from error
        if not isinstance(record, dict) or "kind" not in record:
            raise PopulationError(f"{path}, line {number}: a ledger record needs the key 'kind', got {line[:80]!r}")
        if record["kind"] == SESSION and record.get("format_version") != FORMAT_VERSION:
            raise PopulationError(
                f"{path}, line {number}: format_version {record.get('format_version')}, but this mpr-dist reads "
                f"{FORMAT_VERSION}; continue with the mpr-dist that began this iteration, or discard it with --restart"
            )
        yield record, number
