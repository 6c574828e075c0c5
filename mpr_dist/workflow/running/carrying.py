"""Tasks whose errors come back as values: named where they happen, with nothing in the log of the engine."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic

from mpr_dist.engine.executor import TASK_ERRORS, Done, Executor, R, T
from mpr_dist.errors import MprError
from mpr_dist.workflow.state.outcomes import disk_full, is_disk_full, reason


@dataclass(frozen=True)
class Caught:
    error: Exception


def map_carrying(executor: Executor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[Done[T, R]]:
    """As ``executor.map_unordered``; a full disk is DiskFull, whatever it was turned into on its way."""
    for done in executor.map_unordered(_Carrying(function), items):
        if isinstance(done.result, Caught):
            yield Done[T, R](done.item, None, done.result.error)
        else:
            yield Done[T, R](done.item, done.result, done.error)


@dataclass(frozen=True)
class _Carrying(Generic[T, R]):
    """Calls ``function``."""

    function: Callable[[T], R]

    @property
    def func(self) -> Callable[..., R]:
        """The innermost function: an engine names its tasks after it."""
        inner: Callable[..., R] = self.function
        while isinstance(inner, partial):
            inner = inner.func
        return inner

    def __call__(self, item: T) -> R | Caught:
        try:
            return self.function(item)
        except TASK_ERRORS as error:
            return Caught(_travels(disk_full(error) if is_disk_full(error) else error))


def _travels(error: Exception) -> Exception:
    """The error if it survives the way to the driver, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, TypeError, AttributeError, ValueError):
        return MprError(reason(error))
    return error
