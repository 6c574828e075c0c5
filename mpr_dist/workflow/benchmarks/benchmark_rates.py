"""What one core of this machine can do: floating-point operations and bytes per second, measured as kernels would."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numba as nb
import numpy as np

from mpr_dist.maths.kernels.vector import fma

# far beyond any cache, and little enough for a small machine
BYTES = 2**28
LANES, CHAIN, ROUNDS = 256, 16, 4000


@dataclass(frozen=True)
class Rates:
    """Of one core. operations_per_s: float32, a fused multiply-add counts two; read, updated: bytes per second that are
    read, and that are read and written back (both ways counted)."""

    operations_per_s: float
    read: float
    updated: float


def measure_rates() -> Rates:
    """Takes about a second."""
    numbers, long = np.ones(LANES, np.float32), np.ones(BYTES // 8, np.int64)
    operations = 2 * LANES * CHAIN * ROUNDS / least_seconds(lambda: _multiply(numbers))
    read = BYTES / least_seconds(lambda: _sum(long), 0.5)
    updated = 2 * BYTES / least_seconds(lambda: _increment(long), 0.5)
    return Rates(operations, read, updated)


def least_seconds(work: Callable[[], object], budget_s: float = 0.5, least: int = 5) -> float:
    """Least processor time of a call, over repetitions that take about this long; the first one is not counted.

    Others on the machine can only make a call slower, so the least of many short ones is what it takes.
    """
    work()
    best, end, done = float("inf"), time.process_time() + budget_s, 0
    while done < least or time.process_time() < end:
        start = time.process_time()
        work()
        best, done = min(best, time.process_time() - start), done + 1
    return best


@nb.njit(nogil=True, cache=True)
def _multiply(numbers):  # type: ignore[no-untyped-def]
    a, b = np.float32(0.999), np.float32(0.001)
    for _ in range(ROUNDS):
        for i in range(LANES):
            y = numbers[i]
            for _ in range(CHAIN):
                y = fma(y, a, b)
            numbers[i] = y


@nb.njit(nogil=True, cache=True)
def _sum(numbers):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(len(numbers)):
        total += numbers[i]
    return total


@nb.njit(nogil=True, cache=True)
def _increment(numbers):  # type: ignore[no-untyped-def]
    for i in range(len(numbers)):
        numbers[i] += 1
