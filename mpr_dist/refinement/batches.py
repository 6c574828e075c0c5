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


def even_shares(cost: Mapping[str, float], of: int) -> Batches:
    """Partition the keys of ``cost`` into ``of`` shares of about equal cost; a share may be empty.

    Costliest first, each to the share that has least: depends on names and costs alone, so that everybody who divides
    the same work the same way agrees who does what.
    """
    if of < 1:
        raise ValueError(f"the number of shares must be at least 1, got {of}")
    shares: list[list[str]] = [[] for _ in range(of)]
    load = [0.0] * of
    for name in sorted(cost, key=lambda name: (-cost[name], name)):
        least = load.index(min(load))
        shares[least].append(name)
        load[least] += cost[name]
    return tuple(tuple(share) for share in shares)
