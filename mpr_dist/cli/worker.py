"""mpr-dist worker, batch"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli import options as o
from mpr_dist.cli.engine_options import SchedulerFile, certificates, memory
from mpr_dist.cli.refine import FAILED_SERIES
from mpr_dist.cli.refine_options import refinement, settings_asked
from mpr_dist.cli.shared import with_options

_REFINE = "POP --iterations 1 --image-warp 6x4 --particles"


def register(app: typer.Typer) -> None:
    app.command(
        epilog=o.examples(
            "mpr-dist worker POP --workers 4",
            "mpr-dist worker POP --gpus 0,1",
            "mpr-dist worker --address tcp://node7:8786",
            "mpr-dist worker --scheduler-file scheduler.json",
        )
    )(worker)
    app.command(
        epilog=o.examples(
            f"mpr-dist batch {_REFINE} --index 3 --of 20",
            f"sbatch --array=1-20 --wrap 'mpr-dist batch {_REFINE} --index $SLURM_ARRAY_TASK_ID --of 20'",
            f"mpr-dist refine {_REFINE}      (afterwards, with the same options)",
        )
    )(batch)


@with_options(certificates)
def worker(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Population whose running refine is to be joined.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Scheduler to join instead, tcp://HOST:PORT or tls://HOST:PORT.")
    ] = None,
    scheduler_file: SchedulerFile = None,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    threads: Annotated[int, typer.Option(help="Threads of each worker.")] = 1,
    gpus: Annotated[str | None, typer.Option(metavar="LIST", help="Cards to use, such as 0,1.")] = None,
    workers_per_gpu: Annotated[int, typer.Option(help="Worker processes that share one card.")] = 1,
    name: Annotated[str | None, typer.Option(help="Name in Dask's pages [default: its address].")] = None,
    interface: Annotated[str | None, typer.Option(help="Network to use, such as ib0.")] = None,
    leave_after: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Take no new series after this time; for short jobs.")
    ] = None,
) -> None:
    """Add workers to a refine that is running, from any machine that sees its files.

    The run tells its address and certificates in POP/CONNECTION.json, which only its owner can read. For machines other
    than the run's own, start that with --host or with a scheduler of its own. Ctrl-C, SIGTERM and SIGUSR1 let the
    series at hand end; when the run ends, so does the worker.
    """
    from mpr_dist.engine.choice import TlsFiles
    from mpr_dist.workflow.running.join import join

    tls = TlsFiles(*(context.params[f"tls_{part}"] for part in ("ca", "cert", "key")))
    processes = len(gpus.split(",")) * workers_per_gpu if gpus else workers
    more = ["--processes", processes, "--threads", threads]
    for word, value in (("gpus", gpus), ("name", name), ("interface", interface), ("leave-after", leave_after)):
        more += [f"--{word}", value] if value is not None else []
    code = join(directory, address, scheduler_file, tls, [str(word) for word in more])
    raise typer.Exit(code)


@with_options(refinement, memory)
def batch(
    context: typer.Context,
    directory: o.PopulationDir,
    index: Annotated[int, typer.Option(help="Which share to do, 1 to --of.")],
    of: Annotated[int, typer.Option(help="Into how many shares the tilt series are divided, by their particles.")],
    threads: o.Threads = None,
    device: o.Device = None,
) -> None:
    """Do one share of the next iteration in this process, without any scheduler: for job arrays.

    Takes the options of refine. Shares may run at the same time on different machines; then run refine with the same
    options: it takes in what the shares left, does what is missing, and makes the maps. --iterations 1 lets arrays and
    refine alternate.
    """
    from mpr_dist.workflow.running.launch import batch_population

    may_use = (context.params["memory_per_worker"], context.params["scratch"], device)
    share = batch_population(directory, settings_asked(context), index, of, threads or 1, *may_use)
    o.say(f"  {name}: LEFT OUT: {reason}" for name, reason in sorted(share.failed.items()))
    o.say([f"iteration {share.iteration:03d}, share {index} of {of}: {len(share.done)} series done"])
    if share.failed:
        raise typer.Exit(FAILED_SERIES)
