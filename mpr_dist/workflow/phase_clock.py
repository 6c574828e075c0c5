"""How the time of a running function divides among its phases: looks at its stack many times a second.

Nothing in what is measured knows of it. A phase is a set of functions; time belongs to the innermost of them on the
stack. What is counted is processor time of the thread that is watched, so other work on the machine counts little.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

OTHER = "everything else"
INTERVAL_S = 0.002


class PhaseClock:
    """Watches the thread in which it is entered, until it is left.

    phases: name -> functions. Attributes: seconds: name -> processor seconds, ``OTHER`` included; other_threads_s: of
    all other threads of the process together.
    """

    def __init__(self, phases: Mapping[str, Sequence[Callable[..., Any]]]) -> None:
        self._phase = {code: name for name, functions in phases.items() for code in map(_code, functions)}
        self.seconds = dict.fromkeys([*phases, OTHER], 0.0)
        self.other_threads_s = 0.0
        self._left = threading.Event()

    def __enter__(self) -> PhaseClock:
        self._thread = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._process, self._start = time.process_time(), time.clock_gettime(self._clock)
        self._then = self._start
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._watch.join()
        self.other_threads_s = time.process_time() - self._process - (time.clock_gettime(self._clock) - self._start)

    def _look(self) -> None:
        while not self._left.wait(INTERVAL_S):
            now = time.clock_gettime(self._clock)
            self.seconds[self._name(sys._current_frames().get(self._thread))] += now - self._then
            self._then = now

    def _name(self, frame: FrameType | None) -> str:
        while frame is not None:
            if frame.f_code in self._phase:
                return self._phase[frame.f_code]
            frame = frame.f_back
        return OTHER


def _code(function: Callable[..., Any]) -> CodeType:
    code: CodeType = getattr(function, "__wrapped__", function).__code__
    return code
