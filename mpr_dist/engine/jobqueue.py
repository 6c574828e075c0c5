"""SLURM, PBS, LSF and SGE through dask-jobqueue: jobs of one or several workers, replaced when they die."""

from __future__ import annotations

import math
import shlex
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpr_dist.engine.choice import EngineChoice, JobOptions
from mpr_dist.engine.dask_executor import DaskExecutor, thread_environment
from mpr_dist.engine.local import DASHBOARD, settings
from mpr_dist.engine.recovering import Recovering
from mpr_dist.engine.security import make_tls, write_tls
from mpr_dist.engine.worker import DEATH_TIMEOUT_S, MODULE
from mpr_dist.errors import InputError

CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub"}


class QueueExecutor(DaskExecutor):
    """Workers in jobs of a queueing system."""


def open_queue(choice: EngineChoice, workers: int, folder: Path) -> QueueExecutor:
    """Submit the jobs and return at once; tasks wait until the first of them runs. Certificates lie in ``folder``.

    Raises:
        InputError: dask-jobqueue is missing, or the queueing system is not on this machine. A job that is refused is an
        EngineFailed as soon as somebody waits for it.
    """
    with ExitStack() as undo:
        undo.enter_context(settings())
        base = _cluster_class(choice.kind)
        command = base.job_cls.submit_command
        if shutil.which(command) is None:
            raise InputError(f"engine {choice.kind}: {command} is not on this machine; start where jobs are submitted")
        tls = make_tls(choice.tls)
        secret = folder / f"tls-{uuid.uuid4().hex[:8]}.json"
        undo.callback(secret.unlink, missing_ok=True)
        write_tls(secret, tls)
        try:
            cluster = type("Recovering", (Recovering, base), {})(
                security=tls.security(),
                protocol="tls://",
                scheduler_options={"dashboard_address": DASHBOARD},
                silence_logs="critical",
                interface=choice.job.interface,
                **job_keywords(choice, secret, folder / "logs"),
            )
            undo.callback(cluster.close, timeout=60)
            if choice.adaptive:
                least, most = (math.ceil(n / choice.workers_per_job) for n in choice.adaptive)
                cluster.adapt(minimum_jobs=least, maximum_jobs=most, interval="5s")
            else:
                cluster.scale(jobs=choice.jobs)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"engine {choice.kind}: {' '.join(str(error).split())}") from error
        from distributed import Client

        client = Client(cluster)
        return QueueExecutor(client, workers, tls=tls, trouble=cluster.trouble, closing=(undo.pop_all().close,))


def job_script(choice: EngineChoice, secret: Path, logs: Path) -> str:
    """The script of one job as it would be submitted; nothing is."""
    base = _cluster_class(choice.kind)
    with TemporaryDirectory() as there:  # dask-jobqueue makes the folder of the logs at once; this one may go again
        keywords = job_keywords(choice, secret, logs)
        folder, keywords["log_directory"] = keywords["log_directory"], there
        job = base.job_cls("tls://DRIVER:PORT", name="mpr-dist-0", interface=choice.job.interface, **keywords)
        return str(job.job_script()).replace(there, folder)


def job_keywords(choice: EngineChoice, secret: Path, logs: Path) -> dict[str, Any]:
    """What dask-jobqueue is told: resources of one job, its environment and its command."""
    job, per_job = choice.job, choice.workers_per_job
    cores = job.cores or per_job * choice.threads
    words = ["--processes", per_job, "--threads", choice.threads, "--tls", shlex.quote(str(secret.absolute()))]
    words += ["--leave-after", f"{job.leave_after_s:.0f}"]
    environment = [f"export {name}={value}" for name, value in thread_environment(choice.threads).items()]
    own = {"slurm": _slurm, "pbs": _pbs, "lsf": _lsf, "sge": _sge}[choice.kind](job, cores)
    return {
        "queue": job.queue,
        "cores": per_job,  # Dask's cores are threads of its own: one per worker
        "processes": per_job,
        "memory": job.memory,
        "walltime": job.walltime_text,
        "death_timeout": f"{DEATH_TIMEOUT_S:.0f}",
        "job_name": job.name,
        "job_script_prologue": [*job.prologue, *environment],
        "job_directives_skip": list(job.skip),
        "log_directory": str((job.logs or logs).absolute()),
        "worker_command": MODULE,
        "worker_extra_args": [str(word) for word in words],
        # exec: signals of the queueing system reach the worker and not a shell that ignores them
        "python": f"exec {shlex.quote(job.python or sys.executable)}",
        **own,
        "job_extra_directives": [*own.get("job_extra_directives", ()), *job.directives],
    }


def _slurm(job: JobOptions, cores: int) -> dict[str, Any]:
    gpus = [f"--gres=gpu:{job.gpus}"] if job.gpus else []
    return {"account": job.account, "job_cpu": cores, "job_extra_directives": gpus}


def _pbs(job: JobOptions, cores: int) -> dict[str, Any]:
    gpus = f":ngpus={job.gpus}" if job.gpus else ""
    return {"account": job.account, "resource_spec": f"select=1:ncpus={cores}{gpus}:mem={_megabytes(job)}mb"}


def _lsf(job: JobOptions, cores: int) -> dict[str, Any]:
    minutes = math.ceil(job.walltime_s / 60)
    gpus = [f'-gpu "num={job.gpus}"'] if job.gpus else []
    return {
        "project": job.account,
        "ncpus": cores,
        "mem": job.memory_bytes,
        "lsf_units": "mb",
        "walltime": f"{minutes // 60}:{minutes % 60:02d}",
        "job_extra_directives": gpus,
    }


def _sge(job: JobOptions, cores: int) -> dict[str, Any]:
    per_slot = math.ceil(job.memory_bytes / cores / 1e6)  # SGE counts memory per slot
    gpus = f",gpu={job.gpus}" if job.gpus else ""
    slots = [f"-pe smp {cores}"] if cores > 1 else []
    return {"project": job.account, "resource_spec": f"h_vmem={per_slot}M{gpus}", "job_extra_directives": slots}


def _megabytes(job: JobOptions) -> int:
    return math.ceil(job.memory_bytes / 1e6)


def _cluster_class(kind: str) -> Any:
    try:
        with _interrupt_kept():
            import dask_jobqueue
    except ImportError as error:
        raise InputError(
            f"the engine {kind} needs the package dask-jobqueue, which is missing: pip install 'mpr_dist[{kind}]'"
        ) from error
    return getattr(dask_jobqueue, CLUSTERS[kind])


@contextmanager
def _interrupt_kept() -> Iterator[None]:
    """dask_jobqueue takes Ctrl-C for itself when it is imported; it is ours."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)
