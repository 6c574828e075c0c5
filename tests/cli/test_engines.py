"""What the command line says of engines: dry runs, what is missing, what cannot be joined."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import write_table
from mpr_dist.storage.publish import is_temporary
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.state.run_settings import RunSettings

JOBS = """
[engine]
engine = "slurm"
workers = 6
[engine.job]
gpus = 2
memory = "48GB"
queue = "gpu"
"""
CHOICE = ("--image-warp", "2x2", "--particles")


@pytest.fixture
def population(own_project, add_source, add_species, tmp_path) -> Path:
    assert add_source(own_project).code == 0
    assert add_species(own_project).code == 0
    return tmp_path / "pop"


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not is_temporary(path)}


def test_dry_run_shows_script_and_batches(mpr, population, tmp_path) -> None:
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue: pip install 'mpr_dist[slurm]'")
    (tmp_path / "jobs.toml").write_text(JOBS)
    before = _files(population)
    done = mpr("refine", population, *CHOICE, "--settings", tmp_path / "jobs.toml", "--dry-run")
    assert done.code == 0, done.err
    assert "#SBATCH --gres=gpu:2" in done.out
    assert "#SBATCH -p gpu" in done.out
    assert "engine slurm: 3 jobs of 2 workers, each by this script" in done.out
    assert "  1  TS_" in done.out
    assert done.out.rstrip().endswith("nothing was started, submitted or written")
    assert _files(population) == before


def test_dry_run_of_local_workers(mpr, population) -> None:
    done = mpr("refine", population, *CHOICE, "--workers", 2, "--threads", 3, "--dry-run")
    assert done.code == 0
    assert "engine local: 2 workers of 3 threads" in done.out
    assert "#SBATCH" not in done.out


@pytest.mark.skipif(importlib.util.find_spec("dask_cuda") is not None, reason="dask-cuda is installed")
def test_cuda_without_its_packages(mpr, population) -> None:
    done = mpr("refine", population, *CHOICE, "--engine", "cuda")
    assert done.code == 2
    assert done.is_one_line()
    assert "pip install 'mpr_dist[cuda12]'" in done.err
    planned = mpr("plan", population, *CHOICE, "--engine", "cuda")
    assert planned.code == 0
    assert f"refine would refuse: {done.err.removeprefix('mpr-dist: ').strip()}" in planned.out


def test_plan_foretells_what_refine_refuses(mpr, population) -> None:
    """No iteration, and an unfinished iteration that was begun otherwise; plan itself changes nothing."""
    for command in ("plan", "refine"):
        none = mpr(command, population, *CHOICE, "--iterations", 0, "--engine", "inline")
        assert (none.code, none.is_one_line()) == (2, True)
        assert "at least 1 iteration" in none.err
    (population / "iterations" / "001").mkdir()
    begun = RunSettings(RefineSettings(image_warp=(3, 3), particles=True))
    write_table(population / "iterations" / "001" / "settings.toml", begun.table(Physics.version, True))
    before = _files(population)
    planned = mpr("plan", population, *CHOICE, "--engine", "inline")
    assert planned.code == 0
    assert "refine would refuse: iteration 001 is unfinished and was begun otherwise (refine.image_warp" in planned.out
    assert "--restart" in planned.out
    same = mpr("plan", population, "--image-warp", "3x3", "--particles", "--engine", "inline")
    assert "would refuse" not in same.out
    assert _files(population) == before


def test_a_job_too_small_for_its_workers(mpr, population, tmp_path) -> None:
    (tmp_path / "jobs.toml").write_text(JOBS.replace("48GB", "10MB"))
    done = mpr("refine", population, *CHOICE, "--settings", tmp_path / "jobs.toml")
    assert done.code == 2
    assert done.is_one_line()
    assert "a job has 10MB" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say which run to join"),
        (("--address", "tls://127.0.0.1:1"), "asks for certificates"),
        (("--address", "somewhere"), "tcp://host:8786"),
        (("--scheduler-file", "none.json"), "does the scheduler run"),
    ],
)
def test_a_worker_must_know_where_to_go(mpr, arguments, words) -> None:
    done = mpr("worker", *arguments)
    assert done.code == 2
    assert done.is_one_line()
    assert words in done.err


def test_a_worker_where_nothing_runs(mpr, population) -> None:
    done = mpr("worker", population)
    assert done.code == 2
    assert done.is_one_line()
    assert "start mpr-dist refine first" in done.err


def test_a_share_that_does_not_exist(mpr, population) -> None:
    done = mpr("batch", population, *CHOICE, "--index", 3, "--of", 2)
    assert done.code == 2
    assert done.is_one_line()
