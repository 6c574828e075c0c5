"""How the processor time of a thread divides among the phases of what it runs.

Nothing in what is measured knows of it. A phase is a set of functions; time belongs to the innermost of them that runs.
Only the time of this thread counts, so other work on the machine counts little. It costs about a microsecond for every
call of any Python function.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

OTHER = "everything else"


class PhaseClock:
    """Counts for the thread in which it is entered, until it is left.

    phases: name -> functions. Attributes: seconds: name -> processor seconds, ``OTHER`` included; other_threads_s: of
    all other threads of the process together.
    """

    def __init__(self, phases: Mapping[str, Sequence[Callable[..., Any]]]) -> None:
        self._phase = {code: name for name, functions in phases.items() for code in map(_code, functions)}
        self.seconds = dict.fromkeys([*phases, OTHER], 0.0)
        self.other_threads_s = 0.0
        self._running = [OTHER]

    def __enter__(self) -> PhaseClock:
        self._process, self._start = time.process_time(), time.thread_time()
        self._then = self._start
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        self._settle()
        self.other_threads_s = max(0.0, time.process_time() - self._process - (self._then - self._start))

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        name = self._phase.get(frame.f_code) if event in ("call", "return") else None
        if name is None:
            return
        self._settle()
        if event == "call":
            self._running.append(name)
        elif len(self._running) > 1:
            self._running.pop()

    def _settle(self) -> None:
        now = time.thread_time()
        self.seconds[self._running[-1]] += now - self._then
        self._then = now


def _code(function: Callable[..., Any]) -> CodeType:
    code: CodeType = getattr(function, "__wrapped__", function).__code__
    return code
