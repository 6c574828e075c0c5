"""What happens during a run, as values, and who listens to it: a log of JSON lines, and the terminal."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Event:
    """Anything worth telling. Its name in the log is the name of its class."""


@dataclass(frozen=True)
class Message(Event):
    text: str


@dataclass(frozen=True)
class RunStarted(Event):
    population: str
    first: int
    last: int
    engine: str
    workers: int


@dataclass(frozen=True)
class IterationStarted(Event):
    """``done`` of ``series`` were accepted in an earlier session."""

    iteration: int
    series: int
    done: int


@dataclass(frozen=True)
class StageStarted(Event):
    """prepare, refine, merge or finish, with the number of its tasks (series for refine)."""

    iteration: int
    stage: str
    tasks: int


@dataclass(frozen=True)
class StageFinished(Event):
    iteration: int
    stage: str
    seconds: float


@dataclass(frozen=True)
class SeriesRefined(Event):
    """Its parameters are published; it counts (SeriesDone) when the partial of its batch is accepted."""

    iteration: int
    series: str
    cost: float
    numbers: dict[str, float]


@dataclass(frozen=True)
class SeriesDone(Event):
    """``cost`` in the units of the plan (particle images); ``reused`` parameters were refined before."""

    iteration: int
    series: str
    cost: float
    seconds: float
    reused: bool
    numbers: dict[str, float]


@dataclass(frozen=True)
class SeriesFailed(Event):
    iteration: int
    series: str
    cost: float
    reason: str


@dataclass(frozen=True)
class PartialAccepted(Event):
    iteration: int
    partial: str
    series: int


@dataclass(frozen=True)
class PartialRejected(Event):
    iteration: int
    partial: str
    reason: str


@dataclass(frozen=True)
class SpeciesFinished(Event):
    """``resolution_A``: None when the half-maps share nothing; ``nyquist_A``: the best that their pixel allows."""

    iteration: int
    species: str
    resolution_A: float | None
    nyquist_A: float | None = None


@dataclass(frozen=True)
class IterationFinished(Event):
    iteration: int
    done: int
    failed: int
    seconds: float


Listener = Callable[[Event], None]


def tell(listeners: Sequence[Listener], event: Event) -> None:
    for listener in listeners:
        listener(event)


class JsonLines:
    """Appends one line per event, flushed so that ``tail -f`` and a crash see it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        record = {"time": round(time.time(), 3), "event": type(event).__name__, **asdict(event)}
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


class Eta:
    """Time left, from the work really done in this session; None while nothing is known."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self.total = 0.0
        self.done = 0.0

    def begin(self, total: float) -> None:
        self._start, self.total, self.done = self._clock(), total, 0.0

    def add(self, cost: float) -> None:
        self.done += cost

    @property
    def seconds_left(self) -> float | None:
        if self.done <= 0 or self.total <= 0:
            return None
        return (self._clock() - self._start) * max(0.0, self.total - self.done) / self.done


@dataclass(frozen=True)
class WorkBegins(Event):
    """Cost of all series that are refined or back-projected from here on in this iteration."""

    iteration: int
    series: int
    cost: float


class Console:
    """Lines for people. On a terminal a bar of progress stands below them; in a file there are only lines."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._eta = Eta(clock)
        self._series = 0
        self._seen: set[str] = set()
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, WorkBegins):
            self._eta.begin(event.cost)
            self._series = event.series
            self._seen.clear()
            self._open_bar(event)
        if isinstance(event, SeriesRefined | SeriesDone | SeriesFailed):
            self._about_series(event)
        elif line := describe(event):
            self._write(line)
        if isinstance(event, StageFinished) and event.stage == "refine":
            self.close()

    def _about_series(self, event: SeriesRefined | SeriesDone | SeriesFailed) -> None:
        """A series is told of once, as soon as anything is known; of its failure always."""
        is_news = event.series not in self._seen
        if is_news:
            self._seen.add(event.series)
            self._eta.add(event.cost)
        if is_news or isinstance(event, SeriesFailed):
            self._write(f"{describe(event)}  [{len(self._seen)}/{self._series}{self._left()}]")
        if self._bar is not None:
            self._bar.update(self._task, completed=len(self._seen), left=self._left())

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _left(self) -> str:
        left = self._eta.seconds_left
        return "" if left is None or len(self._seen) >= self._series else f", about {duration(left)} left"

    def _write(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except BrokenPipeError:  # whoever read this has left; the run goes on without
                self._stream = io.StringIO()

    def _open_bar(self, event: WorkBegins) -> None:
        self.close()
        if not self._stream.isatty():
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=RichConsole(file=self._stream), transient=True)
        self._task = self._bar.add_task(f"iteration {event.iteration:03d}", total=event.series, left="")
        self._bar.start()


def describe(event: Event) -> str:
    """One line for the terminal; empty for events that only the log needs."""
    match event:
        case Message(text):
            return text
        case RunStarted(population, first, last, engine, workers):
            return f"{population}: iterations {first:03d} to {last:03d}, engine {engine}, workers: {workers}"
        case IterationStarted(iteration, series, done):
            return f"iteration {iteration:03d}: {series} series" + (f", {done} of them done before" if done else "")
        case SeriesRefined(_, series, _, numbers):
            return f"  {series}: {'refined' if numbers else 'parameters as they are'}{_values(numbers)}"
        case SeriesDone(_, series, _, seconds, reused, numbers):
            return f"  {series}: {'parameters kept, ' if reused else ''}{duration(seconds)}{_values(numbers)}"
        case SeriesFailed(_, series, _, reason):
            return f"  {series}: LEFT OUT: {reason}"
        case PartialRejected(_, partial, reason):
            return f"  {partial}: not accepted: {reason}"
        case StageFinished(_, stage, seconds):
            return f"  {stage}: {duration(seconds)}"
        case SpeciesFinished(_, species, None):
            return f"  {species}: the half-maps share nothing"
        case SpeciesFinished(_, species, float(resolution), nyquist):
            return f"  {species}: {resolution:.2f} A{at_nyquist(resolution, nyquist)}"
        case IterationFinished(iteration, done, failed, seconds):
            left_out = f", {failed} LEFT OUT" if failed else ""
            return f"iteration {iteration:03d}: finished, {done} series{left_out}, {duration(seconds)}"
        case _:
            return ""


def at_nyquist(resolution_A: float, nyquist_A: float | None) -> str:
    """What stands behind a resolution that the pixel limits; empty for others."""
    at_end = nyquist_A is not None and resolution_A <= 1.001 * nyquist_A
    return " (Nyquist: the pixel allows no more)" if at_end else ""


# what terminals call the numbers of a series: agreements are in standard deviations above noise
WORDS = {"score": "agreement", "cross_score": "with the other half-map"}


def _values(numbers: dict[str, float]) -> str:
    order = [key for key in WORDS if key in numbers] + sorted(numbers.keys() - WORDS.keys())
    return "".join(f", {WORDS.get(key, key)} {numbers[key]:.4g}" for key in order)


def duration(seconds: float) -> str:
    """In the units in which one would say it: 7.3 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
