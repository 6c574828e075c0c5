"""The real command on real (simulated) series: the same half-maps for every engine, after kills and interruptions."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project

pytestmark = pytest.mark.slow

OPTIONS = ["--iterations", "2", "--image-warp", "2x2", "--particles", "--stage-angles", "--defocus"]
PATIENCE_S = 240


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    """A population of four series; the tests refine copies of it."""
    folder = tmp_path_factory.mktemp("kills")
    made = simulate_project(folder / "project", replace(SimulateSettings.fixture(), n_series=4))
    path = folder / "population"
    import_simulated(path, made, "kills")
    return path


@pytest.fixture(scope="module")
def oracle(imported, tmp_path_factory) -> dict[str, str]:
    """What ``--engine inline`` gives, never disturbed."""
    path = Path(shutil.copytree(imported, tmp_path_factory.mktemp("oracle") / "population"))
    assert _start(path, "inline").wait(PATIENCE_S) == 0
    return _bits(path)


@pytest.fixture
def population(imported, tmp_path) -> Path:
    return Path(shutil.copytree(imported, tmp_path / "population"))


def _start(path: Path, engine: str, workers: int | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mpr_dist.cli.app", "refine", str(path), *OPTIONS, "--engine", engine]
    command += ["--workers", str(workers)] if workers else []
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _bits(path: Path) -> dict[str, str]:
    """Hashes of everything that must not depend on who computed it."""
    kinds = ("*/species/*/half?.mrc", "*/species/*/map.mrc", "*/series/*.xml", "*/series/*.star")
    files = [file for kind in kinds for file in sorted((path / "iterations").glob(kind))]
    return {str(file.relative_to(path)): sha256(file.read_bytes()).hexdigest() for file in files}


def _wait_for_series(path: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Until ``count`` series of the first iteration have published their parameters."""
    start = time.monotonic()
    while len(list((path / "iterations" / "001" / "series").glob("*.summary.json"))) < count:
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() - start < PATIENCE_S
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_local_workers_give_the_bits_of_inline(population, oracle, workers):
    """One and two worker processes give the half-maps, maps and parameters of the inline engine bit for bit."""
    assert _start(population, "local", workers).wait(PATIENCE_S) == 0
    assert _bits(population) == oracle


def test_a_killed_worker_changes_nothing(population, oracle):
    """SIGKILL of one of two workers in the middle: the run completes by itself with the same bits."""
    process = _start(population, "local", 2)
    _wait_for_series(population, process, 1)
    children = psutil.Process(process.pid).children(recursive=True)
    victims = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    assert victims, "no worker process was found"
    victims[-1].send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE_S) == 0
    assert _bits(population) == oracle


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_interrupted_and_run_again(population, oracle, engine):
    """Ctrl-C leaves a state that the same command continues to the same bits; the exit code says resumable."""
    process = _start(population, engine)
    _wait_for_series(population, process, 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    assert _start(population, engine).wait(PATIENCE_S) == 0
    assert _bits(population) == oracle
