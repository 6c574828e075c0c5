"""A worker that was asked to leave (preemption, end of its walltime) ends after the series at hand.

The wish belongs to the process, as the signals do that bring it; tasks look at it between two series.
"""

from __future__ import annotations

import signal
import threading

# SLURM preempts with SIGTERM and warns with whatever --signal names, SGE with SIGUSR1 and 2; Ctrl-C is a wish, too
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_WISH = threading.Event()


def leave() -> None:
    _WISH.set()


def is_leaving() -> bool:
    """Whether this process was asked to go; then no new series is begun."""
    return _WISH.is_set()
