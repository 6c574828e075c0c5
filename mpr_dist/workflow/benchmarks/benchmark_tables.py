"""Measurements as JSON, and as tables for people; every one says what it was measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from mpr_dist.workflow.benchmarks.benchmark_driver import DriverCost
from mpr_dist.workflow.benchmarks.benchmark_iteration import MOST, IterationTime
from mpr_dist.workflow.benchmarks.benchmark_kernels import KernelTimes
from mpr_dist.workflow.benchmarks.benchmark_machine import machine
from mpr_dist.workflow.benchmarks.benchmark_scaling import Scaling
from mpr_dist.workflow.benchmarks.benchmark_schedule import Schedule

FORMAT_VERSION = 1


def scaling_record(measured: Scaling) -> dict[str, Any]:
    points = [
        asdict(point) | {"efficiency": efficiency}
        for point, efficiency in zip(measured.points, measured.efficiency, strict=True)
    ]
    return {**_head(), "series": measured.series, "points": points}


def scaling_lines(measured: Scaling) -> list[str]:
    rows = [("workers", "refine", "merge", "finish", "per series", "efficiency", "used by others", "half-maps")]
    for p, efficiency in zip(measured.points, measured.efficiency, strict=True):
        rows.append((
            str(p.workers), f"{p.refine_s:.2f} s", f"{p.merge_s:.2f} s", f"{p.finish_s:.2f} s",
            f"{p.task_s / measured.series:.2f} s", f"{efficiency:.2f}", f"{100 * p.others:.0f} %", p.bits,
        ))  # fmt: skip
    same = len({p.bits for p in measured.points}) == 1
    words = "the half-maps are the same bit for bit" if same else "THE HALF-MAPS DIFFER"
    return [*_foot(), f"{measured.series} simulated tilt series; {words}", *_aligned(rows)]


def driver_record(measured: DriverCost) -> dict[str, Any]:
    return {**_head(), **asdict(measured)}


def driver_lines(measured: DriverCost) -> list[str]:
    m, before_after = measured, measured.memory_MB
    others = m.driver.bytes.get("others", 0) + m.tasks.bytes.get("others", 0)
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in m.stages.items())
    rows = [
        ("series, workers, batches", f"{m.series}, {m.workers}, {m.batches}"),
        ("wall time", f"{m.seconds:.1f} s ({stages})"),
        ("tasks, publishing included", f"{1e3 * m.task_seconds / m.series:.1f} ms per series"),
        ("overhead: wall time beyond busy workers", f"{m.overhead_ms:.2f} ms per series"),
        ("CPU of driver and scheduler", f"{m.driver_cpu_ms:.2f} ms per series"),
        ("memory of driver and scheduler", f"{before_after[0]:.0f} MB before, {before_after[1]:.0f} MB at its peak"),
        ("written: parameters of the series", f"{m.tasks.bytes.get('series', 0) / m.series:.0f} bytes per series"),
        ("written: all else", f"{others / max(1, m.batches):.0f} bytes per batch"),
        ("operations of the driver on the disk", f"{m.driver.operations / max(1, m.batches):.1f} per batch"),
    ]
    return [*_foot(), *_aligned(rows)]


def schedule_record(simulated: Sequence[Schedule]) -> dict[str, Any]:
    idle = [one.idle for one in simulated]
    return {**_head(), "idle_mean": mean(idle), "idle_worst": max(idle), "runs": [asdict(one) for one in simulated]}


def schedule_lines(simulated: Sequence[Schedule]) -> list[str]:
    idle, first = [one.idle for one in simulated], simulated[0]
    rows = [
        ("workers, series", f"{first.workers}, {first.series}"),
        ("batches", f"{mean(one.batches for one in simulated):.0f}"),
        ("waiting for the last worker", f"{100 * mean(idle):.2f} % on average, {100 * max(idle):.2f} % at worst"),
        ("costliest series over the load of a worker", f"{max(one.longest for one in simulated):.2f} at worst"),
    ]
    return [f"{len(simulated)} simulations", *_aligned(rows)]


def kernels_record(measured: KernelTimes) -> dict[str, Any]:
    return {**_head(), **asdict(measured)}


def kernels_lines(measured: KernelTimes) -> list[str]:
    rates = measured.rates
    rows = [("kernel", "box", "ns", "bound: bytes", "bound: operations", "peer", "ratio")]
    for t in measured.times:
        rows.append((
            t.kernel, f"{t.box_px} px", f"{t.ns:.1f}", f"{t.bytes_ns:.1f} ({t.bytes_per_sample:.0f} B)",
            f"{t.operations_ns:.1f} ({t.operations_per_sample:.0f})", f"{t.peer_ns:.1f} ({t.peer})",
            f"{t.peer_ns / t.ns:.1f}",
        ))  # fmt: skip
    speed = (
        f"one core of the {measured.device}: {rates.operations_per_s / 1e9:.1f} Gflop/s, reads "
        f"{rates.read / 1e9:.1f} GB/s, reads and writes {rates.updated / 1e9:.1f} GB/s"
    )
    return [*_foot(), speed, "nanoseconds per Fourier sample and core:", *_aligned(rows)]


def iteration_record(measured: IterationTime) -> dict[str, Any]:
    return {**_head(), **asdict(measured), "share": measured.share}


def iteration_lines(measured: IterationTime) -> list[str]:
    m = measured
    rows = [("phase", "CPU", "share")]
    rows += [(name, f"{m.seconds[name]:.2f} s", f"{100 * share:.1f} %") for name, share in m.share.items()]
    rows.append(("other threads", f"{m.other_threads_s:.2f} s", f"{100 * m.other_threads_s / m.total_s:.1f} %"))
    load = f"{m.series} series, {m.tilts} tilts, {m.particles} particles each, box {m.box_px} px"
    what = f"more than {100 * MOST:.0f} % besides the two passes: {', '.join(m.too_long) or 'none'}"
    return [*_foot(), f"{load}: {m.total_s:.1f} s of one core, {m.wall_s:.1f} s by the clock", *_aligned(rows), what]


def _head() -> dict[str, Any]:
    return {"format_version": FORMAT_VERSION, "machine": machine()}


def _foot() -> list[str]:
    about = machine()
    return [about.pop("machine"), ", ".join(f"{name} {version}" for name, version in about.items())]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
