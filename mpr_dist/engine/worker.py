"""The worker process of a job, or of ``mpr-dist worker``: joins a scheduler and leaves with grace.

Asked to leave by a signal or by the clock, it takes no new series, finishes the one at hand, hands its result over and
ends. When the scheduler is gone it ends by itself, whatever it was at. There is no nanny: the death of the process is
the end of the job, which the driver sees and makes good. Started as ``python -m mpr_dist.engine.worker ADDRESS``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpr_dist.arrays import WORKERS_PER_CARD
from mpr_dist.engine.dask_executor import SETTINGS, thread_environment
from mpr_dist.engine.leaving import SIGNALS, is_leaving, leave
from mpr_dist.engine.local import DASHBOARD
from mpr_dist.engine.security import read_tls
from mpr_dist.errors import InputError, MprError

MODULE = "mpr_dist.engine.worker"
DEATH_TIMEOUT_S = 60.0
RESTARTS = 10  # of a process that was killed; more is no accident
HAND_OVER_S = 30.0
STEP_S = 0.2


def main(arguments: Sequence[str]) -> int:
    """Work until the run ends or this process is asked to leave; 0 when all is well."""
    asked = _parser().parse_args(list(arguments))
    os.environ.update(thread_environment(asked.threads))  # before numba is imported
    if asked.processes > 1:
        return _several(asked, list(arguments))
    cards = _cards(asked)
    if cards:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[0] if asked.gpus else ",".join(cards)
    return asyncio.run(_serve(asked))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mpr_dist.engine.worker", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("--name")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gpus", help="cards, such as 0,1, shared out among the processes")
    parser.add_argument("--tls", type=Path, help="file with the certificates of the run")
    parser.add_argument("--interface")
    parser.add_argument("--local-directory")
    parser.add_argument("--death-timeout", type=float, default=DEATH_TIMEOUT_S)
    parser.add_argument("--leave-after", type=float, help="seconds after which no new series is taken")
    for ignored in ("--nthreads", "--memory-limit", "--protocol"):  # what dask-jobqueue adds for Dask's own worker
        parser.add_argument(ignored, help=argparse.SUPPRESS)
    return parser


def _cards(asked: argparse.Namespace) -> list[str]:
    text = asked.gpus or os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [card.strip() for card in text.split(",") if card.strip()]


async def _serve(asked: argparse.Namespace) -> int:
    import dask
    from distributed import Worker

    dask.config.set(SETTINGS)
    logging.getLogger("distributed.batched").setLevel(logging.WARNING)  # or the end of every run looks like a mishap
    options: dict[str, Any] = {} if asked.tls is None else {"security": read_tls(asked.tls).security()}
    worker = Worker(
        asked.address,
        name=asked.name,
        nthreads=1,
        memory_limit=0,
        interface=asked.interface,
        local_directory=asked.local_directory,
        death_timeout=asked.death_timeout,
        dashboard_address=DASHBOARD,
        **options,
    )
    try:
        await worker
    except (OSError, RuntimeError, ValueError) as error:  # Dask wraps what went wrong in a RuntimeError
        raise MprError(f"cannot join {asked.address}: {(str(error).splitlines() or ['no answer'])[0]}") from error
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, _asked_to_leave, number)
    if asked.leave_after is not None:
        loop.call_later(asked.leave_after, leave)
    watch = asyncio.create_task(_leave_when_asked(worker))
    await worker.finished()
    watch.cancel()
    return 0


def _asked_to_leave(number: int) -> None:
    if is_leaving() and number == signal.SIGINT:  # Ctrl-C twice
        os._exit(130)
    leave()


async def _leave_when_asked(worker: Any) -> None:
    """A paused worker is given no new tasks; when its result was fetched nothing keeps it."""
    from distributed.core import Status

    while not is_leaving():
        await asyncio.sleep(STEP_S)
    worker.status = Status.paused
    while worker.state.executing or worker.state.in_flight_tasks_count:
        await asyncio.sleep(STEP_S)
    end = time.monotonic() + HAND_OVER_S
    while worker.data and time.monotonic() < end:
        await asyncio.sleep(STEP_S)
    await worker.close_gracefully(restart=False)


def _several(asked: argparse.Namespace, arguments: list[str]) -> int:
    """One process per share, each with its own card; one that is killed starts anew."""
    cards = _cards(asked)
    if cards:
        os.environ[WORKERS_PER_CARD] = str(-(-asked.processes // len(cards)))
    commands = [_command(asked, arguments, i, cards[i % len(cards)] if cards else None) for i in range(asked.processes)]
    children: list[subprocess.Popen[bytes]] = [subprocess.Popen(command) for command in commands]

    def forward(number: int, frame: Any) -> None:
        leave()
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    for number in SIGNALS:
        signal.signal(number, forward)
    restarts = 0
    while any(child.poll() is None for child in children):
        for i, child in enumerate(children):
            killed = (child.poll() or 0) < 0
            if killed and not is_leaving() and restarts < RESTARTS:
                restarts += 1
                children[i] = subprocess.Popen(commands[i])
        time.sleep(STEP_S)
    return max(abs(child.wait()) for child in children)


def _command(asked: argparse.Namespace, arguments: list[str], number: int, card: str | None) -> list[str]:
    own = ["--processes", "1", "--name", f"{asked.name or f'{os.uname().nodename}-{os.getpid()}'}-{number}"]
    return [sys.executable, "-m", MODULE, *arguments, *own, *(("--gpus", card) if card is not None else ())]


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except MprError as error:
        print(f"worker: {error}", file=sys.stderr)
        code = 2 if isinstance(error, InputError) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a task may still run in its thread: nobody waits for its result any more
