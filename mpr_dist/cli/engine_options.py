"""Where a run takes place: the options of plan, refine and reconstruct, and those that worker shares with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpr_dist.cli import options as o

if TYPE_CHECKING:
    from mpr_dist.engine.choice import EngineChoice

SchedulerFile = Annotated[
    Path | None,
    typer.Option(help="File of a Dask scheduler that runs already (dask scheduler --scheduler-file F)."),
]
_NAMES = (
    "engine",
    "workers",
    "threads",
    "scheduler_file",
    "gpus",
    "device",
    "workers_per_gpu",
    "adaptive",
    "host",
    "memory_per_worker",
    "scratch",
)


def certificates(
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="The site's certificate authority, PEM [default: one of its own for every run]."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for scheduler, workers and driver, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of that certificate, PEM.")] = None,
) -> None:
    """What connections to other machines are encrypted with."""


def memory(
    memory_per_worker: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What a worker may use, such as 4GiB; images that exceed it are read from scratch files, block by "
            "block [default: its share of the machine or of the job].",
        ),
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For those files: a local disk [default: the system's temporary directory]."),
    ] = None,
) -> None:
    """What a worker may use; none of it changes the result."""


def placement(
    engine: o.Engine = None,
    scheduler_file: SchedulerFile = None,
    workers: o.Workers = None,
    threads: o.Threads = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="LIST", help="Cards that cuda uses, such as 0,1 [default: all].")
    ] = None,
    device: o.Device = None,
    workers_per_gpu: Annotated[
        int | None, typer.Option(help="Worker processes that share one card and its memory [default: 1].")
    ] = None,
    adaptive: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX", help="As many workers as the work asks for, instead of --workers: local and jobs."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address of this machine at which others may join (mpr-dist worker), with TLS; for local and cuda "
            "[default: this machine alone]."
        ),
    ] = None,
) -> None:
    """Engine and number of workers; none of it changes the result."""


def engine_asked(context: typer.Context) -> EngineChoice:
    """The engine that the options of a command and the table [engine] of its --settings ask for."""
    from mpr_dist.workflow.running.engine_options import engine_choice

    options = context.params
    tls = {name: options.get(f"tls_{name}") for name in ("ca", "cert", "key")}
    return engine_choice(options.get("settings"), {name: options.get(name) for name in _NAMES}, tls)
