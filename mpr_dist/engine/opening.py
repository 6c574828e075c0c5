"""From a choice to an executor: the one place that knows all kinds of engines."""

from __future__ import annotations

from pathlib import Path

from mpr_dist.engine.choice import EngineChoice
from mpr_dist.engine.executor import Executor
from mpr_dist.engine.inline import InlineExecutor


def open_executor(choice: EngineChoice, workers: int, folder: Path) -> Executor:
    """``folder`` is seen by all machines: logs and certificates of jobs go there. Close the executor after use.

    Raises:
        InputError: what the engine needs is missing; one line that says what.
    """
    if choice.is_foreign:
        from mpr_dist.engine.foreign import open_foreign

        return open_foreign(choice, workers)
    if choice.kind == "inline":
        return InlineExecutor()
    if choice.kind == "cuda":
        from mpr_dist.engine.cuda import open_cuda

        return open_cuda(choice)
    if choice.is_queue:
        from mpr_dist.engine.jobqueue import open_queue

        return open_queue(choice, workers, folder)
    from mpr_dist.engine.local import open_local

    return open_local(choice, workers)
