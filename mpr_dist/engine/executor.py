"""What an engine does: apply one function to many items, in any order, and hand back every result exactly once.

An engine knows functions and items and nothing of science. Items are drawn lazily, as workers become free, so that
whoever makes them can still decide what the next one is, or stop: an iterator that ends is the graceful stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mpr_dist.errors import MprError

T = TypeVar("T")
R = TypeVar("R")

# What a task may end with and the run still goes on. Anything else is a mistake in the program and rises at once.
TASK_ERRORS: tuple[type[Exception], ...] = (MprError, MemoryError, OSError, ValueError, ArithmeticError)


class WorkerDied(MprError):
    """The processes that worked on an item died under it, every time."""


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """An item and what became of it: a result, or the error that ended it."""

    item: T
    result: R | None
    error: Exception | None = None

    def unwrap(self) -> R:
        """The result; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # a function may well return None


class Executor(Protocol):
    """Inline, on this machine, or elsewhere: the results are the same."""

    @property
    def workers(self) -> int:
        """How many items can be worked on at once."""
        ...

    def map_unordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[Done[T, R]]:
        """Every item once, in the order in which they end. An exception is final; the death of a worker is not."""
        ...

    def close(self) -> None: ...
