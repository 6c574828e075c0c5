"""Which series one task works through: guided self-scheduling, as a pure function.

The costliest series come first and every batch takes a fixed share of what is left, so batches are large at first (few
partials to write) and single series at the end (nobody waits for a straggler). Any grouping gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

Batches = tuple[tuple[str, ...], ...]


def guided_batches(cost: Mapping[str, float], workers: int, share: int = 2, largest: int | None = None) -> Batches:
    """Partition the keys of ``cost``; each batch holds about 1 / (share x workers) of the cost that is left.

    The result depends on names and costs alone, not on their order; equal costs are ordered by name.
    ``largest`` limits the number of series in a batch.
    """
    if workers < 1 or share < 1 or (largest is not None and largest < 1):
        raise ValueError(f"workers, share and largest must be at least 1, got {workers}, {share}, {largest}")
    names = sorted(cost, key=lambda name: (-cost[name], name))
    left = sum(cost[name] for name in names)
    batches: list[tuple[str, ...]] = []
    start = 0
    while start < len(names):
        goal = left / (share * workers)
        stop, taken = start + 1, cost[names[start]]
        while stop < len(names) and taken + cost[names[stop]] <= goal and (largest is None or stop - start < largest):
            taken += cost[names[stop]]
            stop += 1
        batches.append(tuple(names[start:stop]))
        left -= taken
        start = stop
    return tuple(batches)
