"""Stopping with grace: the first signal asks, the second aborts."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

STOP_TEXT = "stopping: no new work, the series at hand are finished and kept; once more to abort at once"
ABORT_TEXT = "aborted; the same command continues"


class StopRequest:
    """Whether this run was asked to stop. Workers see it as a file, also those on other machines.

    As a context manager it listens to Ctrl-C, SIGTERM and SIGUSR1, which SLURM can send before a job's time is over
    (only in the main thread can a program listen).
    """

    def __init__(self) -> None:
        self._asked = False
        self._file: Path | None = None
        self._old: dict[int, Any] = {}

    def watch(self, file: Path) -> None:
        """From now on the request is ``file``; one that an earlier run left there is removed."""
        file.unlink(missing_ok=True)
        self._file = file
        if self._asked:
            file.touch()

    def ask(self) -> None:
        self._asked = True
        if self._file is not None and self._file.parent.is_dir():
            self._file.touch()

    def __call__(self) -> bool:
        return self._asked or (self._file is not None and self._file.exists())

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            os.write(2, f"\n{ABORT_TEXT}\n".encode())
            raise KeyboardInterrupt
        self.ask()
        # Not through the listeners: the signal may have come while one of them was writing.
        os.write(2, f"\n{STOP_TEXT}\n".encode())
