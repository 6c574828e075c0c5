"""Jobs that end without having been asked to are replaced.

dask-jobqueue keeps up a number of jobs only in adaptive mode, and with several workers per job not even there: it looks
for the job under the name of the worker.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

PATROL_S = 5.0
# jobs that end in their first minute, or before their worker joined: so many, for every job asked for and while none
# lives longer, are no accident
YOUNG_S = 60.0
HOPELESS = 4


class Recovering:
    """Mixed into a cluster of dask-jobqueue, before it in the order of bases."""

    def __init__(self, **keywords: Any) -> None:
        self._per_job = int(keywords["processes"])
        self._joined: dict[str, float] = {}  # job -> when its first worker came
        self._strikes: dict[str, int] = {}
        self._early, self._refused, self._was_taken = 0, 0, False
        self._why: str | None = None
        self._walk: asyncio.Task[None] | None = None
        super().__init__(**keywords)
        self._cluster.loop.add_callback(self._begin_patrol)

    @property
    def _cluster(self) -> Any:
        """This object, as the cluster that it also is."""
        return self

    def trouble(self) -> str | None:
        """Why no worker will ever come; None while there is hope."""
        return self._why

    def _get_worker_security(self, security: Any) -> None:
        """Workers read the certificates from the file that is named in their command."""

    def _update_worker_status(self, op: str, message: Any) -> None:
        """Dask calls this for every worker that comes or goes."""
        import dask
        from distributed.deploy import Cluster

        if op == "add":
            for worker in message["workers"].values():
                self._joined.setdefault(self._job_of(worker["name"]), time.monotonic())
        elif op == "remove":
            job = self._job_of(self._cluster.scheduler_info["workers"][message]["name"])
            delay = dask.utils.parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            asyncio.get_running_loop().call_later(delay, self._replace_if_dead, job)
        Cluster._update_worker_status(self._cluster, op, message)  # not SpecCluster's, which would forget the job

    def _job_of(self, worker: Any) -> str:
        """Jobs of several workers name them JOB-0, JOB-1, ..."""
        return str(worker) if self._per_job == 1 else str(worker).rpartition("-")[0]

    def _is_alive(self, job: str) -> bool:
        workers = self._cluster.scheduler_info["workers"].values()
        return any(self._job_of(worker["name"]) == job for worker in workers)

    def _replace_if_dead(self, job: str) -> None:
        cluster = self._cluster
        if job in cluster.workers and cluster.status.name == "running" and not self._is_alive(job):
            self._early += time.monotonic() - self._joined.pop(job, time.monotonic()) < YOUNG_S
            cluster._futures.add(asyncio.ensure_future(cluster.workers.pop(job).close()))
            cluster._correct_state()

    async def _correct_state_internal(self) -> None:
        """Dask submits jobs here. A system that takes none at all is the end; one that stumbles is asked again."""
        cluster = self._cluster
        try:
            await super()._correct_state_internal()  # type: ignore[misc]  # of the cluster
        except (OSError, RuntimeError) as error:
            for name in [name for name, job in cluster.workers.items() if job.job_id is None]:
                self._fail(cluster.workers.pop(name))
            self._refused += 1
            is_idle = not cluster.scheduler_info["workers"]
            if is_idle and (self._refused >= HOPELESS or not self._was_taken):
                self._why = f"the queueing system does not take the job: {_words(error)}"
        else:
            self._refused, self._was_taken = 0, self._was_taken or bool(cluster.worker_spec)

    @staticmethod
    def _fail(job: Any) -> None:
        from distributed import Status

        job.status = Status.failed

    def _begin_patrol(self) -> None:
        self._walk = asyncio.create_task(self._patrol())

    async def _close(self) -> None:
        if self._walk is not None:
            self._walk.cancel()
        await super()._close()  # type: ignore[misc]  # of the cluster

    async def _patrol(self) -> None:
        """Jobs that ended before any worker joined send no message: ask the queueing system for them."""
        cluster = self._cluster
        while True:
            await asyncio.sleep(PATROL_S)
            if set(cluster.worker_spec) - set(cluster.workers):
                cluster._correct_state()
            queued = await self._queued()
            for job in list(cluster.workers) if queued is not None else ():
                number = str(getattr(cluster.workers[job], "job_id", None))
                is_gone = number not in (queued or ()) and not self._is_alive(job)
                self._strikes[job] = self._strikes.get(job, 0) + 1 if is_gone else 0
                if self._strikes[job] >= 2:  # not one that has only just been submitted
                    self._strikes[job] = 0
                    self._replace_if_dead(job)
            if any(self._is_alive(job) and time.monotonic() - since > YOUNG_S for job, since in self._joined.items()):
                self._early = 0
            if self._early >= HOPELESS * max(1, len(cluster.worker_spec)):
                folder = cluster._job_kwargs["log_directory"]
                self._why = f"{self._early} jobs ended before they could work; what they said is in {folder}"

    async def _queued(self) -> set[str] | None:
        """Numbers of the jobs that wait or run; None where that cannot be asked."""
        job = self._cluster.job_cls
        if job.submit_command != "sbatch":
            return None
        try:
            text = await job._call(["squeue", "--noheader", "--me", "--format=%A"])
        except (OSError, RuntimeError):
            return None
        return set(str(text).split())


def _words(error: Exception) -> str:
    """What the command said, of all that dask-jobqueue tells about its failure."""
    said = str(error).partition("stderr:")[2] or str(error)
    return " ".join(said.split())
