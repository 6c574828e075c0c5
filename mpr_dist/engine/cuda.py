"""All cards of this machine: dask-cuda's LocalCUDACluster, or several workers per card."""

from __future__ import annotations

import importlib.util
import os
from contextlib import ExitStack
from functools import partial
from typing import Any

from mpr_dist.engine.choice import EngineChoice
from mpr_dist.engine.dask_executor import DaskExecutor, thread_environment
from mpr_dist.engine.local import DASHBOARD, PATIENT, all_gone, client_of, listening, settings
from mpr_dist.engine.security import Tls, make_tls
from mpr_dist.errors import InputError

NO_EXTRA = (
    "the engine cuda needs the package {package}, which is missing: pip install 'mpr_dist[cuda12]' (CUDA 12) or "
    "'mpr_dist[cuda13]'; without a card there is --engine local"
)


class CudaExecutor(DaskExecutor):
    """Workers with a card each, on this machine."""


def open_cuda(choice: EngineChoice) -> CudaExecutor:
    """One worker per card, or ``workers_per_gpu``.

    Raises:
        InputError: the packages, the driver or the cards are missing; one line that says which.
    """
    cards = find_cards(choice.gpus)
    tls = None if choice.host is None else make_tls(choice.tls)
    with ExitStack() as undo:
        undo.enter_context(settings(PATIENT))
        if choice.workers_per_gpu == 1:
            undo.enter_context(settings({"distributed.nanny.pre-spawn-environ": thread_environment(choice.threads)}))
            cluster = _one_per_card(cards, choice, tls)
        else:
            cluster = cards_cluster(cards, choice.workers_per_gpu, choice.threads, choice.host, tls)
        undo.callback(cluster.close, timeout=30)
        total = len(cards) * choice.workers_per_gpu
        hopeless = partial(all_gone, cluster)
        return CudaExecutor(client_of(cluster), total, tls=tls, trouble=hopeless, closing=(undo.pop_all().close,))


def find_cards(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The cards to use, as CUDA_VISIBLE_DEVICES names them; what is missing is an InputError."""
    for package in ("dask_cuda", "pynvml", "cupy"):
        if importlib.util.find_spec(package) is None:
            raise InputError(NO_EXTRA.format(package=package.replace("_", "-")))
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        raise InputError(
            f"the engine cuda needs an NVIDIA card and its driver, and found none ({error}); there is --engine local"
        ) from error
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # "" is a way to hide all
    names = map(str, range(count)) if visible is None else (name.strip() for name in visible.split(","))
    there = tuple(name for name in names if name)
    missing = [name for name in wanted if name not in there]
    if not count or not there or missing:
        raise InputError(f"--gpus {','.join(wanted) or 'all'}: this machine offers {', '.join(there) or 'no card'}")
    return wanted or there


def _one_per_card(cards: tuple[str, ...], choice: EngineChoice, tls: Tls | None) -> Any:
    """LocalCUDACluster decides on the environment of its workers alone; threads come in through Dask's settings."""
    from dask_cuda import LocalCUDACluster

    return LocalCUDACluster(
        CUDA_VISIBLE_DEVICES=list(cards),
        n_workers=len(cards),
        threads_per_worker=1,
        memory_limit=0,
        data=dict,  # it would spill results to the host and to the disk, and ours are small
        worker_dashboard_address=DASHBOARD,
        silence_logs="ERROR",
        **listening(choice.host, tls),
    )


def cards_cluster(cards: tuple[str, ...], per_card: int, threads: int, host: str | None, tls: Tls | None) -> Any:
    """``per_card`` workers for each of ``cards``; a worker sees its own card and no other."""
    from distributed import Nanny, Scheduler, SpecCluster

    place = listening(host, tls)
    security = place.pop("security", None)
    common = {"nthreads": 1, "memory_limit": 0, "host": place["host"], "security": security}
    common |= {"dashboard_address": DASHBOARD, "protocol": place.get("protocol", "tcp://")}
    workers = {
        f"{card}-{number}": {
            "cls": Nanny,
            "options": {**common, "env": {**thread_environment(threads), "CUDA_VISIBLE_DEVICES": card}},
        }
        for card in cards
        for number in range(per_card)
    }
    scheduler = {"cls": Scheduler, "options": {**place, "security": security}}
    return SpecCluster(workers, scheduler, security=security, silence_logs="ERROR")
