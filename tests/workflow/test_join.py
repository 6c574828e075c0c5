"""Workers that join a run by its population alone: they do the work, and the maps are those of ``inline``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_population import build_population

from mpr_dist.engine.choice import TlsFiles
from mpr_dist.engine.security import Tls, make_tls
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project

pytest.importorskip("cryptography", reason="needs cryptography: pip install 'mpr_dist[tls]'")
pytestmark = pytest.mark.slow
CHOICE = ["--iterations", "1", "--image-warp", "2x2", "--particles", "--defocus"]
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("join")
    made = simulate_project(folder / "project", replace(SimulateSettings.fixture(), n_series=4))
    return build_population(folder / "population", made).path


def _start(*words: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mpr_dist.cli.app", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _bits(path: Path) -> dict[str, str]:
    files = sorted((path / "iterations" / "001").glob("s*/**/*"))
    kept = [file for file in files if file.suffix in (".mrc", ".xml", ".star")]
    return {str(file.relative_to(path)): sha256(file.read_bytes()).hexdigest() for file in kept}


def _wait(until: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not until():
        assert time.monotonic() - start < PATIENCE_S, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def certificates(tmp_path: Path) -> list[str]:
    """Those of a site: three files, and the options that name them."""
    made: Tls = make_tls(TlsFiles())
    options = []
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text(getattr(made, name))
        options += [f"--tls-{name}", str(tmp_path / f"{name}.pem")]
    return options


def test_workers_find_a_run_by_its_population(imported: Path, tmp_path: Path, certificates: list[str]) -> None:
    """A scheduler of others with the site's certificates and no workers: those that join the population do it all."""
    oracle = Path(shutil.copytree(imported, tmp_path / "oracle"))
    assert _start("refine", oracle, *CHOICE, "--engine", "inline").wait(PATIENCE_S) == 0
    population = Path(shutil.copytree(imported, tmp_path / "population"))
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask", "scheduler", "--host", "tls://127.0.0.1", "--port", "0"]
    dask += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    dask += [word.replace("--tls-ca", "--tls-ca-file") for word in certificates]
    scheduler = subprocess.Popen(dask, stderr=subprocess.DEVNULL)
    started = [scheduler]
    try:
        _wait(file.exists)
        driver = _start("refine", population, *CHOICE, "--scheduler-file", file, *certificates)
        _wait(lambda: (population / "CONNECTION.json").exists())
        assert (population / "CONNECTION.json").stat().st_mode & 0o777 == 0o600
        worker = _start("worker", population, "--workers", "2")
        started += [driver, worker]
        out, _ = driver.communicate(timeout=PATIENCE_S)
        assert driver.returncode == 0, out
        assert "no worker has joined yet" in out
        assert not (population / "CONNECTION.json").exists()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
        assert scheduler.poll() is None, "the scheduler is not ours to end"
    finally:
        for each in started:
            each.kill()
            each.wait()
    assert _bits(population) == _bits(oracle)
    assert len(_bits(oracle)) > 10


def test_joining_a_local_run_on_this_machine(imported: Path, tmp_path: Path) -> None:
    """``local`` with --host is encrypted and tells its certificate; a worker that joins ends when the run does."""
    population = Path(shutil.copytree(imported, tmp_path / "population"))
    driver = _start("refine", population, *CHOICE, "--workers", "1", "--host", "127.0.0.1")
    worker = None
    try:
        _wait(lambda: (population / "CONNECTION.json").exists())
        assert '"tls://127.0.0.1:' in (population / "CONNECTION.json").read_text()
        worker = _start("worker", population)
        out, _ = driver.communicate(timeout=PATIENCE_S)
        assert driver.returncode == 0, out
        said, _ = worker.communicate(timeout=60)
        assert "Registered to:      tls://127.0.0.1" in said
        assert "Traceback" not in said
        assert worker.returncode == 0
    finally:
        for each in (driver, worker):
            if each is not None:
                each.kill()
                each.wait()
    assert os.path.exists(population / "iterations" / "001" / "DONE")
