"""Processes on this machine through Dask's LocalCluster.

Nothing of worth is kept in Dask's memory: tasks take small values and paths and return small values. Then the loss of a
worker costs the task it was at and nothing else. Dask is imported only when a cluster is wanted.
"""

from __future__ import annotations

import itertools
import os
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mpr_dist.engine.executor import TASK_ERRORS, Done, R, T, WorkerDied

# Why each of these: a task of minutes that holds the GIL is not dead; stealing and spilling only move data, and there
# is none; deaths are counted by Dask, so it must allow as many retries as we promise.
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": "30 minutes",
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "60s",
    "distributed.deploy.lost-worker-timeout": "15s",
    "distributed.admin.log-format": "%(asctime)s %(name)s %(levelname)s %(message)s",
}


class DaskExecutor:
    """Any Dask client, driven through a window so that few tasks are ever at risk and the rest stays with us."""

    def __init__(self, client: Any, workers: int, window: int | None = None) -> None:
        self._client = client
        self._workers = workers
        self._window = window or 2 * workers

    @property
    def workers(self) -> int:
        return self._workers

    @property
    def client(self) -> Any:
        return self._client

    def map_unordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[Done[T, R]]:
        suspects: list[T] = []
        for done in self._windowed(function, iter(items), self._window):
            # Dask blames every task a dead worker had been given, so the innocent may fail beside the guilty.
            if isinstance(done.error, WorkerDied):
                suspects.append(done.item)
            else:
                yield done
        # One at a time, nobody is blamed for another's deed.
        yield from self._windowed(function, iter(suspects), 1)

    def _windowed(self, function: Callable[[T], R], items: Iterator[T], window: int) -> Iterator[Done[T, R]]:
        from distributed import as_completed

        at_work: dict[str, T] = {}
        completed = as_completed(raise_errors=False)
        while True:
            for item in itertools.islice(items, window - len(at_work)):
                key = f"{_name(function)}-{uuid.uuid4().hex[:12]}"
                at_work[key] = item
                completed.add(self._client.submit(function, item, key=key, pure=False, retries=0))
            if not at_work:
                return
            future = next(completed)
            done: Done[T, R] = self._outcome(future, at_work.pop(future.key))
            future.release()
            yield done

    def _outcome(self, future: Any, item: T) -> Done[T, R]:
        from distributed import CancelledError, KilledWorker

        try:
            # A result whose worker died before we fetched it is computed again; this call waits for that.
            return Done[T, R](item, future.result())
        except KilledWorker:
            text = f"its worker process died {SETTINGS['distributed.scheduler.allowed-failures'] + 1} times"
            return Done[T, R](item, None, WorkerDied(f"{text}; the usual reason is that memory ran out"))
        except CancelledError:
            return Done[T, R](item, None, WorkerDied("the engine lost this task with the worker that had it"))
        except TASK_ERRORS as error:
            return Done[T, R](item, None, error)

    def close(self) -> None:
        self._client.close()


class LocalExecutor(DaskExecutor):
    """A cluster of processes of our own, ended by ``close``."""

    def __init__(self, workers: int, threads: int = 1, window: int | None = None) -> None:
        import dask
        from distributed import Client, LocalCluster

        self._restore = dask.config.set(SETTINGS)
        self._cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,  # one task at a time; ``threads`` are those within a task
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            env=thread_environment(threads),
            silence_logs="ERROR",
        )
        client = Client(self._cluster)
        client.register_plugin(_plugin())
        super().__init__(client, workers, window)

    def close(self) -> None:
        super().close()
        self._cluster.close(timeout=30)
        self._restore.__exit__(None, None, None)


def thread_environment(threads: int) -> dict[str, str]:
    """Every pool of threads at the same number: Dask pins some of them, numba would take all cores."""
    names = ("OMP", "MKL", "OPENBLAS", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR", "NUMBA")
    return {f"{name}_NUM_THREADS": str(threads) for name in names}


def _plugin() -> Any:
    from distributed import WorkerPlugin

    class IgnoreInterrupt(WorkerPlugin):  # type: ignore[misc]
        """Ctrl-C reaches every process of the terminal; the driver alone decides what it means."""

        name = "ignore-interrupt"

        def setup(self, worker: Any) -> None:
            if worker.nanny is not None:  # in a process of its own, in that process's main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return IgnoreInterrupt()


def _name(function: Any) -> str:
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__name__", type(inner).__name__)).replace("_", "-")


def default_workers() -> int:
    """Cores this process may use (a job's allocation, not the machine)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
