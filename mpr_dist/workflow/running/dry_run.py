"""What a run would submit and how it would divide the work, as text; nothing is started."""

from __future__ import annotations

from pathlib import Path

from mpr_dist.engine.choice import EngineChoice
from mpr_dist.model.reading import counted
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.plan import Plan
from mpr_dist.workflow.running.launch import idle_words, plan_population, refusal

NAMES_PER_LINE = 8


def dry_run(path: Path, settings: RefineSettings, engine: EngineChoice) -> list[str]:
    """Plan, batches of the first pass, and the script of one job where there are jobs.

    Raises:
        InputError: as the run itself would, for what can be known without starting anything.
    """
    idle = idle_words(path, settings)
    if idle:
        return [idle]
    planned = plan_population(path, settings, engine)
    lines = [
        str(planned),
        *refusal(path, settings, engine, planned),
        "",
        *_batches(planned),
        "",
        _where(engine, planned.workers),
    ]
    if engine.is_queue:
        from mpr_dist.engine.jobqueue import job_script

        folder = path.absolute()
        lines += ["", job_script(engine, folder / "tls-RUN.json", folder / "logs").rstrip()]
    return [*lines, "", "dry run: nothing was started, submitted or written"]


def _batches(planned: Plan) -> list[str]:
    lines = ["batches of the first pass (they shrink towards the end; any grouping gives the same maps)"]
    width = len(str(len(planned.batches)))
    for number, names in enumerate(planned.batches, start=1):
        more = f" and {len(names) - NAMES_PER_LINE} more" if len(names) > NAMES_PER_LINE else ""
        lines.append(f"  {number:{width}d}  {' '.join(names[:NAMES_PER_LINE])}{more}")
    return lines


def _where(engine: EngineChoice, workers: int) -> str:
    if engine.is_foreign:
        return f"scheduler {engine.scheduler_file or engine.kind}, with the workers it has"
    if engine.is_queue:
        jobs = (
            counted(engine.jobs, "job")
            if engine.adaptive is None
            else f"{engine.adaptive[0]} to {engine.adaptive[1]} workers"
        )
        return f"engine {engine.kind}: {jobs} of {counted(engine.workers_per_job, 'worker')}, each by this script:"
    return f"engine {engine.kind}: {counted(workers, 'worker')} of {counted(engine.threads, 'thread')} on this machine"
