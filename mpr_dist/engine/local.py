"""Processes on this machine through Dask's LocalCluster."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from types import MappingProxyType
from typing import Any

from mpr_dist.engine.choice import EngineChoice
from mpr_dist.engine.dask_executor import SETTINGS, DaskExecutor, ignore_interrupt, thread_environment
from mpr_dist.engine.security import Tls, make_tls

LOOPBACK = "127.0.0.1"
# Dask's pages show everything and ask nobody who they are; ssh -L brings them to another machine.
DASHBOARD = f"{LOOPBACK}:0"
# A worker that died is started anew by its nanny, which may take long on a busy machine or a slow disk; a cluster that
# did not wait would give it up for good.
PATIENT = MappingProxyType({"distributed.deploy.lost-worker-timeout": "1 day"})


class LocalExecutor(DaskExecutor):
    """A cluster of processes of our own, ended by ``close``.

    ``host``: where other machines can reach it, then with TLS; None = this machine alone.
    """

    def __init__(
        self,
        workers: int,
        threads: int = 1,
        window: int | None = None,
        host: str | None = None,
        tls: Tls | None = None,
        adaptive: tuple[int, int] | None = None,
    ) -> None:
        from distributed import LocalCluster

        with ExitStack() as undo:
            undo.enter_context(settings(PATIENT))
            cluster = LocalCluster(
                n_workers=0 if adaptive else workers,
                threads_per_worker=1,  # one task at a time; ``threads`` are those within a task
                processes=True,
                memory_limit=0,
                worker_dashboard_address=DASHBOARD,
                env=thread_environment(threads),
                silence_logs="ERROR",
                **listening(host, tls),
            )
            undo.callback(cluster.close, timeout=30)
            if adaptive:
                cluster.adapt(minimum=adaptive[0], maximum=adaptive[1])
            client = client_of(cluster)
            hopeless = None if adaptive else partial(all_gone, cluster)
            super().__init__(client, workers, window, tls, hopeless, closing=(undo.pop_all().close,))


def open_local(choice: EngineChoice, workers: int) -> LocalExecutor:
    tls = None if choice.host is None else make_tls(choice.tls)
    return LocalExecutor(workers, choice.threads, host=choice.host, tls=tls, adaptive=choice.adaptive)


def settings(more: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Dask's settings as we want them, for as long as the context is open."""
    import dask

    return dask.config.set({**SETTINGS, **more})


def all_gone(cluster: Any) -> str | None:
    """Why no worker of a cluster of nannies will ever come back; None while there is hope."""
    nannies = list(cluster.workers.values())
    if not nannies or any(nanny.status.name not in ("closed", "failed") for nanny in nannies):
        return None
    return (
        "all worker processes of this machine ended and could not be started again; the same command continues what "
        "was begun"
    )


def client_of(cluster: Any) -> Any:
    from distributed import Client

    client = Client(cluster)
    client.register_plugin(ignore_interrupt())
    return client


def listening(host: str | None, tls: Tls | None) -> dict[str, Any]:
    """Where a cluster of this machine listens: beyond loopback only with TLS."""
    plain: dict[str, Any] = {"host": host or LOOPBACK, "dashboard_address": DASHBOARD}
    return plain if tls is None else {**plain, "protocol": "tls://", "security": tls.security()}
