"""What this machine has, what is missing, and whether it computes what it should."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import mpr_dist
from mpr_dist.arrays import HOST, open_device, why_no_card
from mpr_dist.errors import MprError
from mpr_dist.workflow.checking.self_test import failed_parts
from mpr_dist.workflow.state.resources import available_memory
from mpr_dist.workflow.state.run_settings import versions

OK, WARNING, ABSENT, FAILED = "ok", "warning", "absent", "failed"
# package to import -> what it is for, and the extra that brings it
EXTRAS = {
    "cupy": ("computing on NVIDIA cards", "cuda12 or cuda13"),
    "dask_cuda": ("--engine cuda", "cuda12 or cuda13"),
    "dask_jobqueue": ("--engine slurm, pbs, lsf, sge", "slurm"),
    "cryptography": ("workers on other machines, encrypted", "tls"),
    "gemmi": ("atomic models (simulate --model)", "models"),
}
LITTLE_SCRATCH = 20e9
CARD_NEEDS = 2e9
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=index,name,compute_cap,driver_version,memory.total,memory.free")
SMI_S = 20.0


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: ok, warning, absent (not needed by everybody) or failed."""

    name: str
    state: str
    text: str


def examine(scratch: Path | None = None, needs_card: bool = False) -> tuple[Finding, ...]:
    """All findings, one after the other. needs_card: then a machine without one fails."""
    found = [*_machine(scratch), *_packages()]
    cards = list(_cards())
    if needs_card:
        cards = [Finding(f.name, FAILED, f.text) if f.state == ABSENT else f for f in cards]
    found += cards
    found.append(_self_test("cpu"))
    if why_no_card() is None:
        found.append(_self_test("gpu"))
    return tuple(found)


def is_well(findings: tuple[Finding, ...]) -> bool:
    """Whether nothing failed."""
    return all(each.state != FAILED for each in findings)


def _machine(scratch: Path | None) -> Iterator[Finding]:
    known = versions() | {"mpr_dist": mpr_dist.__version__}
    yield Finding("versions", OK, ", ".join(f"{name} {value}" for name, value in known.items()))
    yield _threads()
    memory = available_memory()
    yield Finding("memory", OK if memory > 4e9 else WARNING, f"{memory / 2**30:.1f} GiB can be used now")
    yield _scratch(scratch or Path(tempfile.gettempdir()))


def _threads() -> Finding:
    import numba

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = numba.get_num_threads()
    text = f"{cores} cores can be used; numba takes {threads} threads where a run does not say otherwise (--threads)"
    return Finding("threads", OK if threads <= cores else WARNING, text)


def _scratch(folder: Path) -> Finding:
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("scratch", FAILED, f"{folder} cannot be written; name a local disk with --scratch")
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.0f} GB free in {folder}"
    if free < LITTLE_SCRATCH:
        return Finding("scratch", WARNING, f"{text}: images that exceed the memory go there (--scratch names another)")
    return Finding("scratch", OK, text)


def _packages() -> Iterator[Finding]:
    for package, (purpose, extra) in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        name = package.replace("_", "-")
        missing = f"{purpose}: needs pip install 'mpr_dist[{extra.split()[0]}]'" + extra[len(extra.split()[0]) :]
        yield Finding(name, OK if there else ABSENT, purpose if there else missing)
    mixed = mixed_cuda({str(d.metadata["Name"]).lower(): d.version for d in distributions() if d.metadata["Name"]})
    if mixed:
        yield Finding("CUDA packages", FAILED, mixed)


def mixed_cuda(installed: Mapping[str, str]) -> str | None:
    """What speaks for two versions of CUDA in one environment (name -> version of packages); None: nothing does.

    pip lets the extras cuda12 and cuda13 be installed over each other, or a package of one beside those of the other.
    """
    by_major: dict[int, list[str]] = {}
    for name, version in sorted(installed.items()):
        major = _cuda_major(name, version)
        if major is not None:
            by_major.setdefault(major, []).append(name)
    if len(by_major) < 2:
        return None
    sides = " beside ".join(f"CUDA {major} ({', '.join(names[:3])})" for major, names in sorted(by_major.items()))
    return f"{sides}: make a fresh environment with one of the extras cuda12 and cuda13"


def _cuda_major(name: str, version: str) -> int | None:
    """The version of CUDA that a package belongs to, by its name or, for two of them, its own version."""
    named = re.fullmatch(r"(?:cupy-cuda(\d+)x|nvidia-[a-z-]+-cu(\d+))", name)
    if named is not None:
        return int(named[1] or named[2])
    return int(version.split(".")[0]) if name in ("cuda-bindings", "cuda-toolkit") else None


def _cards() -> Iterator[Finding]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        yield Finding("CUDA_VISIBLE_DEVICES", OK if visible else WARNING, visible or "empty: all cards are hidden")
    rows = smi_rows()
    for index, name, capability, driver, total, free in rows:
        text = f"{name}, compute capability {capability}, driver {driver}, {free} of {total} MiB free"
        enough = free.isdigit() and int(free) * 2**20 >= CARD_NEEDS
        yield Finding(f"card {index}", OK if enough else WARNING, text if enough else f"{text}; a worker needs 2 GB")
    missing = why_no_card()
    if missing is not None:
        yield Finding("computing on cards", ABSENT if not rows else WARNING, missing)
    else:
        yield _toolkit()


def smi_rows() -> list[list[str]]:
    """What nvidia-smi says of every card; none without a driver. It takes nothing from a card."""
    if shutil.which(NVIDIA_SMI[0]) is None:
        return []
    try:
        done = subprocess.run(
            [*NVIDIA_SMI, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=SMI_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == 6]


def _toolkit() -> Finding:
    try:
        device = open_device("gpu")
        cuda = device.xp.cuda
        parts = {"driver's CUDA": cuda.runtime.driverGetVersion(), "runtime": cuda.runtime.runtimeGetVersion()}
        compiler = ".".join(str(n) for n in cuda.nvrtc.getVersion())
    except (MprError, RuntimeError, ImportError) as error:
        return Finding("toolkit", FAILED, " ".join(str(error).split())[:400])
    texts = [f"{name} {value // 1000}.{value % 1000 // 10}" for name, value in parts.items()]
    room = f"{device.room_bytes() / 1e9:.1f} GB for one worker"
    return Finding("toolkit", OK, f"cupy {device.xp.__version__}, {', '.join(texts)}, compiler {compiler}; {room}")


def _self_test(name: str) -> Finding:
    try:
        failed = failed_parts(HOST if name == "cpu" else open_device(name))
    except (MprError, RuntimeError, MemoryError) as error:  # cupy's are RuntimeErrors
        return Finding(f"self-test {name}", FAILED, " ".join(str(error).split())[:400])
    text = "; ".join(f"{part}: {how}" for part, how in failed.items())
    passed = "fused pass, insertion, transforms and solver give known answers"
    return Finding(f"self-test {name}", FAILED if failed else OK, text or passed)
