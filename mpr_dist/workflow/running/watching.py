"""Progress within batches: a task says nothing before it ends, but its published files can be seen.

Only for people: nothing depends on what is seen here, or when.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from mpr_dist.engine.events import Event, SeriesRefined
from mpr_dist.model.population import IterationFiles
from mpr_dist.workflow.state.series_results import read_summary

SECONDS = 2.0


@contextmanager
def watching(
    files: IterationFiles, names: Iterable[str], cost: Mapping[str, float], tell: Callable[[Event], None]
) -> Iterator[None]:
    """Tell of every series of ``names`` whose summary appears while the body runs."""
    waiting = {name for name in names if not files.series(name).summary.exists()}
    ended = threading.Event()

    def look() -> None:
        try:
            there = {path.name.removesuffix(".summary.json") for path in files.series_directory.glob("*.summary.json")}
        except OSError:  # a network disk that stumbles; the next look is soon
            return
        for name in sorted(waiting & there):
            waiting.discard(name)
            summary = read_summary(files.series(name))
            numbers = {} if summary is None else summary.get("numbers", {})
            plain = {key: float(value) for key, value in numbers.items() if isinstance(value, int | float)}
            tell(SeriesRefined(files.number, name, cost[name], plain))

    def watch() -> None:
        while not ended.wait(SECONDS):
            with suppress(OSError):  # whoever is told may write it down, and a full disk is not ours to tell of
                look()

    thread = threading.Thread(target=watch, name="watching", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
