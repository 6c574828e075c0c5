"""The serial engine: one item after the other in this process. The oracle for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mpr_dist.engine.executor import TASK_ERRORS, Done, R, T


class InlineExecutor:
    """No processes, no Dask."""

    @property
    def workers(self) -> int:
        return 1

    def map_unordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[Done[T, R]]:
        for item in items:
            try:
                done = Done[T, R](item, function(item))
            except TASK_ERRORS as error:
                done = Done[T, R](item, None, error)
            yield done

    def close(self) -> None:
        pass
