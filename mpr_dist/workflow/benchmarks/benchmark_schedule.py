"""How long workers wait for the last one: a simulation of many workers, event by event, with the batches of a run."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

from mpr_dist.refinement.batches import guided_batches


@dataclass(frozen=True)
class Schedule:
    """
    Attributes:
        idle: share of the workers' time, from start to end, that is spent waiting for the last one.
        longest: cost of the costliest series over the mean load of a worker; beyond 1 nothing can avoid waiting.
    """

    workers: int
    series: int
    batches: int
    idle: float
    longest: float


def simulate_schedule(
    workers: int, series: int, seed: int = 0, spread: float = 1.0, error: float = 0.3, overhead: float = 0.1
) -> Schedule:
    """Costs are log-normal (sigma ``spread``), known to the driver with a log-normal error (sigma ``error``).

    Every batch costs ``overhead`` (in mean costs of a series) besides: its partial has to be written. A worker that is
    free takes the next batch, as the engine's window has it.
    """
    draw = random.Random(seed)
    true = {f"series-{i}": draw.lognormvariate(0.0, spread) for i in range(series)}
    known = {name: cost * draw.lognormvariate(0.0, error) for name, cost in true.items()}
    batches = guided_batches(known, workers)
    mean = sum(true.values()) / series
    ends = [0.0] * workers  # when each worker is free: a heap
    for batch in batches:
        free = heapq.heappop(ends)
        heapq.heappush(ends, free + overhead * mean + sum(true[name] for name in batch))
    last = max(ends)
    idle = sum(last - end for end in ends) / (workers * last)
    return Schedule(workers, series, len(batches), idle, max(true.values()) * workers / sum(true.values()))
