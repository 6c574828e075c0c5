"""A run in a process of its own: what the plan predicted, and the peak that the kernel counted.

Arguments: population, bytes that the worker may use (0: no limit), iterations. Prints "PREDICTED PEAK STREAMED SERIES".
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.running.plan import conditions, plan
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.state.resources import Resources
from mpr_dist.workflow.state.run_settings import RunSettings

SETTINGS = RefineSettings(
    iterations=1, image_warp=(4, 4), particles=True, stage_angles=True, defocus=True, max_passes=10
)


def main(path: Path, limit: int | None, iterations: int) -> str:
    settings = replace(SETTINGS, iterations=iterations)
    population = load_population(path)
    planned = plan(population, Physics(conditions=conditions(population)), settings, 1, limit)
    run(path, Physics(resources=Resources(limit)), RunSettings(settings), InlineExecutor())
    # of this program alone: what getrusage says includes the process that started it
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    return f"{planned.worker_bytes} {peak} {len(planned.streamed)} {len(population.series)}"


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2]) or None, int(sys.argv[3])))
