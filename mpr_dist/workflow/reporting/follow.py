"""A run watched from beside it: only its files are read, so it may run anywhere that shares the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpr_dist.engine import events
from mpr_dist.engine.events import describe
from mpr_dist.storage.lock import PATIENCE_S, Holder, read_holder, silent_s
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.reporting.show import status_lines
from mpr_dist.workflow.reporting.status import status

SECONDS = 1.0
_EVENTS: dict[str, type[events.Event]] = {kind.__name__: kind for kind in events.Event.__subclasses__()}


@dataclass
class EventLog:
    """Reads the events.jsonl of one iteration after another, as far as they have come."""

    population: Path
    number: int
    _offset: int = 0

    def new(self) -> Iterator[events.Event]:
        """What has been written since the last call; a line that is not complete waits for the next."""
        while True:
            path = self._path(self.number)
            try:
                with path.open("rb") as stream:
                    stream.seek(self._offset)
                    data = stream.read()
            except FileNotFoundError:
                return
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            yield from (event for line in whole.splitlines() if (event := _event(line)) is not None)
            if not self._path(self.number + 1).exists():
                return
            self.number, self._offset = self.number + 1, 0

    def _path(self, number: int) -> Path:
        return self.population / "iterations" / f"{number:03d}" / "events.jsonl"


def _event(line: bytes) -> events.Event | None:
    """The event of a line; None for one of another version, or spoiled by a full disk."""
    try:
        record = json.loads(line)
        kind = _EVENTS[record.pop("event")]
        record.pop("time")
        return kind(**record)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@dataclass
class Follower:
    """
    Attributes:
        say: gets lines, one at a time.
        show: gets the whole state whenever it has been read again, for a terminal; may be None.
        sleep: waits that many seconds.
    """

    path: Path
    say: Callable[[str], None]
    show: Callable[[list[str]], None] | None = None
    sleep: Callable[[float], None] = time.sleep
    _seen: set[str] = field(default_factory=set)

    def follow(self) -> None:
        """Until the run that holds the population has ended; returns at once when there is none."""
        holder = self._holder()
        population = load_population(self.path)
        if holder is None:
            for line in status_lines(status(population)):
                self.say(line)
            return
        log = EventLog(population.path, population.iteration + 1)
        self.say(f"following process {holder.pid} on {holder.host}, which began {holder.since}; Ctrl-C only ends this")
        while True:
            last = self._holder() != holder  # before the log is read, so that nothing said at the end is missed
            for event in log.new():
                self._tell(event)
            if self.show is not None:
                self.show(status_lines(status(load_population(self.path))))
            if last:
                self._end(log)
                return
            self.sleep(SECONDS)

    def _tell(self, event: events.Event) -> None:
        """As the run's own terminal shows it: a series when its parameters are there, and again if it fails."""
        if isinstance(event, events.IterationStarted):
            self._seen.clear()
        if isinstance(event, events.SeriesRefined | events.SeriesDone):
            if event.series in self._seen:
                return
            self._seen.add(event.series)
        if line := describe(event):
            self.say(line)

    def _holder(self) -> Holder | None:
        holder = read_holder(self.path / "LOCK")
        if holder is None or holder.is_dead:
            return None
        return None if not holder.is_here and silent_s(self.path / "LOCK") > PATIENCE_S else holder

    def _end(self, log: EventLog) -> None:
        for event in log.new():
            self._tell(event)
        population = load_population(self.path)
        found: dict[str, Any] = status(population)
        unfinished = [one for one in found["iterations"] if one["state"] != "finished"]
        if not unfinished:
            self.say(f"the run has ended; iteration {population.iteration:03d} is in force")
            return
        one = unfinished[-1]
        why = f"{one['outcome']}{': ' * bool(one['reason'])}{one['reason']}" if one["outcome"] else "it was killed"
        self.say(f"the run ended in iteration {one['number']:03d} ({why}); the same command continues it")
