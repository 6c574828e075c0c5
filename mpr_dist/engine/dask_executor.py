"""One executor for any Dask client, whoever started the workers.

Nothing of worth is kept in Dask's memory: tasks take small values and paths and return small values. Then the loss of a
worker costs the task it was at and nothing else. Dask is imported only when a cluster is wanted.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any

from mpr_dist.engine.executor import TASK_ERRORS, Done, R, T, WorkerDied
from mpr_dist.engine.security import Tls
from mpr_dist.errors import MprError

# Why each of these: a task of minutes that holds the GIL is not dead; stealing and spilling only move data, and there
# is none; deaths are counted by Dask, so it must allow as many retries as we promise. What a nanny adds to the
# environment makes the C library return every larger array to the system: a sixth of the time goes into page faults.
# Processes that wake up all the time take cores from those that work.
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
    "distributed.nanny.pre-spawn-environ": {},
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "60s",
    "distributed.deploy.lost-worker-timeout": "15s",
    "distributed.admin.log-format": "%(asctime)s %(name)s %(levelname)s %(message)s",
}
LOOK_S = 5.0  # how often the number of workers is asked for, and whether any will ever come back


class EngineFailed(MprError):
    """The workers are gone and none will come; the same command continues the run."""


class DaskExecutor:
    """Any Dask client, driven through a window so that few tasks are ever at risk and the rest stays with us.

    ``workers`` were asked for; more may join, and then count. ``trouble`` tells why no worker will ever come, or None;
    ``close`` ends what ``closing`` lists, in this order.
    """

    def __init__(
        self,
        client: Any,
        workers: int,
        window: int | None = None,
        tls: Tls | None = None,
        trouble: Callable[[], str | None] | None = None,
        closing: tuple[Callable[[], Any], ...] = (),
    ) -> None:
        self._client = client
        self._asked = workers
        self._window = window
        self._trouble = trouble
        self._closing = closing
        self._found, self._looked = 0, -LOOK_S
        self.tls = tls

    @property
    def workers(self) -> int:
        """Those asked for, or those there are if there are more."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._found, self._looked = self.joined, time.monotonic()
        return max(1, self._asked, self._found)

    @property
    def joined(self) -> int:
        """Workers there are at this moment."""
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    @property
    def client(self) -> Any:
        return self._client

    @property
    def address(self) -> str:
        """Where other workers can join."""
        return str(self._client.scheduler_info(n_workers=-1)["address"])

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's pages, which show every task and worker live; None where bokeh is not installed."""
        if find_spec("bokeh") is None:
            return None
        link = self._client.dashboard_link
        return str(link) if link else None

    def map_unordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[Done[T, R]]:
        suspects: list[T] = []
        for done in self._windowed(function, iter(items), lambda: self._window or 2 * self.workers):
            # Dask blames every task a dead worker had been given, so the innocent may fail beside the guilty.
            if isinstance(done.error, WorkerDied):
                suspects.append(done.item)
            else:
                yield done
        # One at a time, nobody is blamed for another's deed.
        yield from self._windowed(function, iter(suspects), lambda: 1)

    def _windowed(
        self, function: Callable[[T], R], items: Iterator[T], window: Callable[[], int]
    ) -> Iterator[Done[T, R]]:
        at_work: dict[str, T] = {}
        completed: SimpleQueue[Any] = SimpleQueue()
        while True:
            for item in itertools.islice(items, max(0, window() - len(at_work))):
                key = f"{_name(function)}-{uuid.uuid4().hex[:12]}"
                at_work[key] = item
                future = self._client.submit(function, item, key=key, pure=False, retries=0)
                future.add_done_callback(completed.put)
            if not at_work:
                return
            future = self._next(completed)
            done: Done[T, R] = self._outcome(future, at_work.pop(future.key))
            future.release()
            yield done

    def _next(self, completed: SimpleQueue[Any]) -> Any:
        while True:
            try:
                return completed.get(timeout=LOOK_S)
            except Empty:
                self._end_if_hopeless()

    def _outcome(self, future: Any, item: T) -> Done[T, R]:
        from distributed import CancelledError, KilledWorker

        try:
            # A result whose worker died before we fetched it is computed again; this call waits for that.
            return Done[T, R](item, self._result(future))
        except KilledWorker:
            text = f"its worker process died {SETTINGS['distributed.scheduler.allowed-failures'] + 1} times"
            return Done[T, R](item, None, WorkerDied(f"{text}; the usual reason is that memory ran out"))
        except CancelledError:
            return Done[T, R](item, None, WorkerDied("the engine lost this task with the worker that had it"))
        except TASK_ERRORS as error:
            return Done[T, R](item, None, error)

    def _result(self, future: Any) -> Any:
        if self._trouble is None:
            return future.result()
        # in a thread, because a wait with a timeout would break off the fetching; it ends with the client at the latest
        with ThreadPoolExecutor(1) as pool:
            fetched = pool.submit(future.result)
            while not wait([fetched], LOOK_S).done:
                try:
                    self._end_if_hopeless()
                except EngineFailed:
                    self._client.cancel([future])
                    raise
            return fetched.result()

    def _end_if_hopeless(self) -> None:
        why = self._trouble() if self._trouble is not None else None
        if why is not None:
            raise EngineFailed(why)

    def close(self) -> None:
        self._client.close()
        for end in self._closing:
            end()


def thread_environment(threads: int) -> dict[str, str]:
    """Every pool of threads at the same number: Dask pins some of them, numba would take all cores."""
    names = ("OMP", "MKL", "OPENBLAS", "BLIS", "VECLIB_MAXIMUM", "NUMEXPR", "NUMBA")
    return {f"{name}_NUM_THREADS": str(threads) for name in names}


def ignore_interrupt() -> Any:
    """A plugin for workers of our own on this machine, which also keep to their threads."""
    from distributed import WorkerPlugin

    class IgnoreInterrupt(WorkerPlugin):  # type: ignore[misc]
        """Ctrl-C reaches every process of the terminal; the driver alone decides what it means."""

        name = "ignore-interrupt"

        def setup(self, worker: Any) -> None:
            if worker.nanny is not None:  # in a process of its own, in that process's main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                if "numba" in sys.modules:  # by the user's script, before the environment was there: see it now
                    sys.modules["numba"].config.reload_config()

    return IgnoreInterrupt()


def _name(function: Any) -> str:
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__name__", type(inner).__name__)).replace("_", "-")
