"""What may be asked for, what contradicts itself, and how many workers that makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpr_dist.engine.choice import (
    EngineChoice,
    JobOptions,
    TlsFiles,
    default_workers,
    parse_adaptive,
    parse_gpus,
)
from mpr_dist.errors import InputError


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "slrum"}, "slurm"),
        ({"kind": "http://host:1"}, "tcp://host:8786"),
        ({"workers": 0}, "1 or more"),
        ({"kind": "inline", "workers": 2}, "inline"),
        ({"gpus": ("0",)}, "cuda"),
        ({"adaptive": (3, 2)}, "MIN:MAX"),
        ({"adaptive": (0, 0)}, "MIN:MAX"),
        ({"adaptive": (1, 2), "workers": 2}, "exclude"),
        ({"kind": "cuda", "adaptive": (1, 2)}, "adaptive"),
    ],
)
def test_contradictions(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EngineChoice(**given)


@pytest.mark.parametrize(
    "given", [{"walltime": "4 hours"}, {"walltime": "90"}, {"memory": "16"}, {"memory": "lots"}, {"workers": 0}]
)
def test_jobs_are_described_with_units(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        JobOptions(**given)


def test_units_of_a_job() -> None:
    job = JobOptions(walltime="1:30:00", memory="16GB")
    assert (job.walltime_s, job.leave_after_s, job.memory_bytes) == (5400, 4800, 16 * 10**9)
    assert JobOptions(walltime="2:30").walltime_text == "2:30:00"
    assert JobOptions(walltime="0:10").leave_after_s == 480  # at most a fifth of the time is given up
    assert JobOptions(memory="1.5 GiB").memory_bytes == 3 * 2**29


def test_workers_and_jobs() -> None:
    """Jobs are whole: 5 workers of 2 per job are 3 jobs and 6 workers."""
    choice = EngineChoice("slurm", workers=5, job=JobOptions(gpus=2))
    assert (choice.workers_per_job, choice.jobs, choice.workers_for(100)) == (2, 3, 6)
    assert EngineChoice("slurm", workers_per_gpu=3, job=JobOptions(gpus=2)).workers_for(100) == 6
    assert EngineChoice("pbs", job=JobOptions(workers=4)).workers_for(1) == 4
    assert EngineChoice("cuda", gpus=("0", "3"), workers_per_gpu=2).workers_for(100) == 4
    assert EngineChoice("local", adaptive=(1, 7)).workers_for(100) == 7
    assert EngineChoice("local").workers_for(1) == 1
    assert EngineChoice("local").workers_for(10**6) == default_workers()
    assert EngineChoice("inline").workers_for(100) == 1


def test_words_of_the_command_line() -> None:
    assert parse_adaptive("1:8") == (1, 8)
    assert parse_adaptive(None) is None
    assert parse_gpus("0, 1") == ("0", "1")
    assert parse_gpus(None) == ()
    for bad in ("8", "a:b", ":", "-1:2"):
        with pytest.raises(InputError):
            parse_adaptive(bad)
    for bad in ("", "0,,1", "0,0"):
        with pytest.raises(InputError):
            parse_gpus(bad)


def test_certificates_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("")
    with pytest.raises(InputError, match="three files"):
        TlsFiles(ca=tmp_path / "a.pem")
    with pytest.raises(InputError, match="no such file"):
        TlsFiles(tmp_path / "a.pem", tmp_path / "a.pem", tmp_path / "none.pem")
