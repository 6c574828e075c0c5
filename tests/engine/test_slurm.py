"""Against a real SLURM: jobs with cards of their own, jobs that die, workers that are killed, a driver that is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue: pip install 'mpr_dist[slurm]'")
sys.path.insert(0, str(Path(__file__).parent))
import engine_tasks as tasks

from mpr_dist.engine.choice import EngineChoice, JobOptions
from mpr_dist.engine.dask_executor import EngineFailed
from mpr_dist.engine.jobqueue import open_queue
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project

pytestmark = pytest.mark.slow

SETTINGS = """
iterations = 2
image_warp = [2, 2]
particles = true
stage_angles = true
defocus = true

[engine]
engine = "slurm"
device = "cpu"  # its cards are pretended
workers = 3

[engine.job]
walltime = "0:30:00"
memory = "2GB"
gpus = 1
interface = "lo"
"""
JOB = JobOptions(walltime="0:30:00", memory="1GB", gpus=1, interface="lo")
PATIENCE_S = 180.0


def _jobs() -> set[str]:
    """Numbers of the jobs that wait or run."""
    done = subprocess.run(["squeue", "--noheader", "--format=%A"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def _wait(until: Callable[[], bool], seconds: float = PATIENCE_S) -> float:
    start = time.monotonic()
    while not until():
        assert time.monotonic() - start < seconds, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.fixture
def nobody_left(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test leaves an empty queue behind, so that the next one has all cards. Jobs can import engine_tasks."""
    here = (str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", ":".join(here))
    yield
    _wait(lambda: not _jobs(), 90)


def test_every_job_has_a_card_of_its_own(nobody_left: None, tmp_path: Path) -> None:
    """Three jobs of one card: three processes, three jobs, three different cards."""
    executor = open_queue(EngineChoice("slurm", workers=3, job=JOB), 3, tmp_path)
    try:
        _wait(lambda: len(executor.client.scheduler_info(n_workers=-1)["workers"]) == 3)
        places = {done.unwrap() for done in executor.map_unordered(tasks.place, range(12))}
    finally:
        executor.close()
    assert len(places) == 3
    assert [len(set(values)) for values in zip(*places, strict=True)] == [3, 3, 3]
    assert {cards for _, cards, _ in places} < {"0", "1", "2", "3"}
    assert not list(tmp_path.glob("tls-*"))


def test_a_job_of_several_cards_has_a_worker_for_each(nobody_left: None, tmp_path: Path) -> None:
    """One job, two cards, two workers; the one that is killed starts again in the same job and with the same card."""
    choice = EngineChoice("slurm", workers=2, job=replace(JOB, gpus=2))
    executor = open_queue(choice, 2, tmp_path)
    try:
        _wait(lambda: len(executor.client.scheduler_info(n_workers=-1)["workers"]) == 2)
        before = {done.unwrap() for done in executor.map_unordered(tasks.place, range(8))}
        os.kill(min(before)[0], signal.SIGKILL)
        _wait(lambda: len(executor.client.scheduler_info(n_workers=-1)["workers"]) == 1)
        _wait(lambda: len(executor.client.scheduler_info(n_workers=-1)["workers"]) == 2)
        after = {done.unwrap() for done in executor.map_unordered(tasks.place, range(8))}
    finally:
        executor.close()
    assert len(before) == len(after) == 2
    assert len({pid for pid, _, _ in before | after}) == 3
    assert {cards for _, cards, _ in before} == {cards for _, cards, _ in after}
    assert len({cards for _, cards, _ in before}) == 2
    assert len({job for _, _, job in before | after}) == 1


@pytest.mark.parametrize("cards", [1, 2])
def test_a_job_that_dies_is_replaced(nobody_left: None, tmp_path: Path, cards: int) -> None:
    """With a fixed number of jobs, of one worker and of two: scancel brings a new job, and the work goes on in it."""
    choice = EngineChoice("slurm", workers=cards, job=replace(JOB, gpus=cards))
    executor = open_queue(choice, cards, tmp_path)
    try:
        first = {done.unwrap()[2] for done in executor.map_unordered(tasks.place, range(2 * cards))}
        subprocess.run(["scancel", *first], check=True)
        _wait(lambda: not first & _jobs())
        second = {done.unwrap()[2] for done in executor.map_unordered(tasks.place, range(2 * cards))}
    finally:
        executor.close()
    assert len(first) == len(second) == 1
    assert first != second


def test_a_preempted_worker_finishes_its_task(nobody_left: None, tmp_path: Path) -> None:
    """SIGUSR1 from SLURM: the task at hand ends in the old job and is not done again; the next runs in a new one."""
    executor = open_queue(EngineChoice("slurm", workers=1, job=JOB), 1, tmp_path)
    try:
        results = executor.map_unordered(tasks.steps, [(i, str(tmp_path)) for i in range(3)])

        def begun() -> int:
            return len(list(tmp_path.glob("begun-*")))

        def preempt() -> None:
            _wait(lambda: begun() == 1)
            subprocess.run(["scancel", "--batch", "--signal=USR1", *_jobs()], check=True)

        thread = threading.Thread(target=preempt)
        thread.start()
        found = [done.unwrap() for done in results]
        thread.join()
    finally:
        executor.close()
    assert begun() == 3, "every task was begun once"
    assert sorted(asked for _, asked in found) == [False, False, True]
    assert len({pid for pid, _ in found}) == 2


def test_jobs_that_cannot_work_end_the_run(nobody_left: None, tmp_path: Path) -> None:
    """A job whose interpreter does not exist: not an endless stream of jobs, but a line that says where to look."""
    job = replace(JOB, python="/nonexistent/python")
    executor = open_queue(EngineChoice("slurm", workers=1, job=job), 1, tmp_path)
    try:
        with pytest.raises(EngineFailed, match=r"ended before they could work.*logs"):
            list(executor.map_unordered(tasks.place, [0]))
    finally:
        executor.close()
    assert any("nonexistent" in file.read_text() for file in (tmp_path / "logs").glob("*.err"))


def test_a_job_that_is_refused_ends_the_run(nobody_left: None, tmp_path: Path) -> None:
    """A partition that does not exist: what sbatch says about it, in one line and at once."""
    executor = open_queue(EngineChoice("slurm", workers=2, job=replace(JOB, queue="nonexistent")), 2, tmp_path)
    try:
        with pytest.raises(EngineFailed, match=r"does not take the job: sbatch: .*invalid partition") as caught:
            list(executor.map_unordered(tasks.place, [0]))
    finally:
        executor.close()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A population of eight simulated series and the settings of a run; the tests refine copies of it."""
    folder = tmp_path_factory.mktemp("simulated")
    made = simulate_project(folder / "project", replace(SimulateSettings.fixture(), n_series=8))
    path = folder / "population"
    import_simulated(path, made, "slurm")
    (folder / "slurm.toml").write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def oracle(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``--engine inline`` gives, never disturbed."""
    path = Path(shutil.copytree(imported, tmp_path_factory.mktemp("oracle") / "population"))
    assert _start(path, imported, "--engine", "inline", "--workers", "1").wait(PATIENCE_S) == 0
    return _bits(path)


@pytest.fixture
def population(imported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(imported, tmp_path / "population"))


def _start(path: Path, imported: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mpr_dist.cli.app", "refine", str(path)]
    command += ["--settings", str(imported.parent / "slurm.toml"), *more]
    with (path.parent / "out.txt").open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out)


def _bits(path: Path) -> dict[str, str]:
    """Hashes of everything that must not depend on who computed it."""
    kinds = ("*/species/*/half?.mrc", "*/species/*/map.mrc", "*/series/*.xml", "*/series/*.star")
    files = [file for kind in kinds for file in sorted((path / "iterations").glob(kind))]
    return {str(file.relative_to(path)): sha256(file.read_bytes()).hexdigest() for file in files}


def _published(path: Path, iteration: int) -> int:
    return len(list((path / "iterations" / f"{iteration:03d}" / "series").glob("*.summary.json")))


def _workers(path: Path) -> list[psutil.Process]:
    """Worker processes of the run of this population: their command names a file of it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "mpr_dist.engine.worker" in words and any(word.startswith(f"{path}/") for word in words):
            found.append(process)
    return found


def test_scancel_and_kill_change_nothing(nobody_left: None, population: Path, imported: Path, oracle) -> None:
    """Three jobs with a card each; one is cancelled, the worker of another killed with -9: the bits of ``inline``."""
    process = _start(population, imported)
    try:
        _wait(lambda: len(_workers(population)) == 3)
        jobs = _jobs()
        assert len(jobs) == 3
        _wait(lambda: _published(population, 1) >= 1)
        subprocess.run(["scancel", min(jobs)], check=True)
        _wait(lambda: min(jobs) not in _jobs() and len(_workers(population)) <= 2)
        victims = _workers(population)
        assert victims, "the run ended before it could be disturbed"
        victims[-1].send_signal(signal.SIGKILL)
        assert process.poll() is None
        assert process.wait(PATIENCE_S) == 0, (population.parent / "out.txt").read_text()
    finally:
        process.kill()
    assert _bits(population) == oracle
    assert len(oracle) > 20
    assert not _jobs()


def test_a_dead_driver_leaves_no_job(nobody_left: None, population: Path, imported: Path, oracle) -> None:
    """Kill -9 of the driver: within 60 s the jobs are gone; the same command then completes with the same bits."""
    process = _start(population, imported)
    try:
        _wait(lambda: len(_workers(population)) == 3 and _published(population, 1) >= 1)
    finally:
        process.kill()
    process.wait()
    assert not (population / "iterations" / "002" / "DONE").exists()
    assert _wait(lambda: not _jobs() and not _workers(population), 61) < 60
    again = _start(population, imported)
    assert again.wait(PATIENCE_S) == 0, (population.parent / "out.txt").read_text()
    assert _bits(population) == oracle
    assert not list(population.glob("tls-*")), "certificates of the dead driver were left behind"
    assert not (population / "CONNECTION.json").exists()


def test_asked_to_stop_and_run_again(nobody_left: None, population: Path, imported: Path, oracle) -> None:
    """SIGUSR1, SLURM's warning, to the driver: exit code 130, no jobs; the same command continues to the same bits."""
    process = _start(population, imported)
    try:
        _wait(lambda: len(_workers(population)) == 3 and _published(population, 1) >= 1)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE_S) == 130, (population.parent / "out.txt").read_text()
    finally:
        process.kill()
    _wait(lambda: not _jobs() and not _workers(population), 30)
    assert _start(population, imported).wait(PATIENCE_S) == 0
    assert "done before" in (population.parent / "out.txt").read_text()
    assert _bits(population) == oracle


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mpr-dist`` and ``dask`` of this environment, as the scripts of deploy/ call them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in (("mpr-dist", "mpr_dist.cli.app"), ("dask", "dask")):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


DEPLOY = Path(__file__).parents[2] / "deploy"
SMALL = ["--cpus-per-task=1", "--mem=2G", "--time=0:20:00"]


@pytest.mark.parametrize("script", ["one_allocation.sbatch", "array.sbatch"])
def test_slurm_takes_the_scripts(slurm: Path, script: str) -> None:
    """On a node as small as this one; the directives that are not replaced are SLURM's own words."""
    command = ["sbatch", "--test-only", *SMALL, "--nodes=1", "--gres=gpu:4", str(DEPLOY / script), "POP"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stderr


def test_one_allocation(nobody_left: None, programs: None, population: Path, imported: Path, oracle) -> None:
    """The script as it is, with two cards: the bits of ``inline``; certificate and scheduler file are gone after."""
    command = ["sbatch", "--wait", *SMALL, "--nodes=1", "--gres=gpu:2", f"--output={population.parent}/log"]
    command += [
        str(DEPLOY / "one_allocation.sbatch"),
        str(population),
        "--settings",
        str(imported.parent / "slurm.toml"),
        "--device",
        "cpu",  # the cards are pretended
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    log = (population.parent / "log").read_text()
    assert done.returncode == 0, done.stderr + log
    assert "engine foreign, workers: 2" in log
    assert _bits(population) == oracle
    assert not list(population.glob("allocation-*"))


def test_a_job_array(nobody_left: None, programs: None, population: Path, imported: Path, oracle) -> None:
    """Three shares as an array, then ``refine`` with the same options: nothing is refined twice, same bits."""
    command = ["sbatch", "--wait", "--parsable", *SMALL, "--array=1-3", f"--output={population.parent}/share-%a"]
    command += [str(DEPLOY / "array.sbatch"), str(population), "--settings", str(imported.parent / "slurm.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    logs = "".join(file.read_text() for file in sorted(population.parent.glob("share-*")))
    assert done.returncode == 0, done.stderr + logs
    assert logs.count("series done") == 3
    written = {file: file.stat().st_mtime_ns for file in (population / "iterations/001/series").iterdir()}
    assert len(written) == 4 * 8
    assert _start(population, imported, "--engine", "inline", "--workers", "1").wait(PATIENCE_S) == 0
    assert "iteration 001: 8 series, 8 of them done before" in (population.parent / "out.txt").read_text()
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert _bits(population) == oracle
