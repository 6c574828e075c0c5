"""The table [engine] of a file, and options that win over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpr_dist.engine.choice import EngineChoice, JobOptions
from mpr_dist.errors import InputError
from mpr_dist.workflow.running.engine_options import engine_choice
from mpr_dist.workflow.running.run_options import refine_settings

FILE = """
defocus = true
[engine]
engine = "pbs"
workers = 8
workers_per_gpu = 2
[engine.job]
queue = "q"
gpus = 2
logs = "somewhere/logs"
directives = ["-l place=scatter"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "refine.toml").write_text(FILE)
    return tmp_path / "refine.toml"


def test_one_file_for_both(file: Path) -> None:
    job = JobOptions(queue="q", gpus=2, logs=Path("somewhere/logs"), directives=("-l place=scatter",))
    assert engine_choice(file, {}, {}) == EngineChoice("pbs", workers=8, workers_per_gpu=2, job=job)
    assert refine_settings(file, {}, {}).defocus


def test_options_win(file: Path) -> None:
    given = {"engine": "slurm", "adaptive": "1:4", "workers": None, "threads": 3}
    choice = engine_choice(file, given, {"ca": None})
    assert (choice.kind, choice.adaptive, choice.workers, choice.threads) == ("slurm", (1, 4), None, 3)
    assert choice.job.queue == "q"
    assert engine_choice(None, {}, {}) == EngineChoice()
    assert engine_choice(None, {"engine": "cuda", "gpus": "0,2"}, {}).gpus == ("0", "2")


def test_memory_of_a_worker(tmp_path: Path) -> None:
    """What was given, its share of the job or of the machine; of foreign machines nobody knows."""
    (tmp_path / "f.toml").write_text('[engine]\nmemory_per_worker = "1.5GiB"\nscratch = "/local"')
    choice = engine_choice(tmp_path / "f.toml", {"memory_per_worker": "500MB"}, {})
    assert choice.scratch == Path("/local")
    assert choice.memory_of_worker(1, 1) == 500_000_000
    assert engine_choice(tmp_path / "f.toml", {}, {}).memory_of_worker(1, 1) == 1536 << 20
    assert EngineChoice().memory_of_worker(900, 3) == 300
    assert EngineChoice("slurm", job=JobOptions(memory="8GB", workers=4)).memory_of_worker(1, 1) == 2 * 10**9
    assert EngineChoice("tcp://host:1").memory_of_worker(1, 1) is None
    for text in ("lots", "4", "-1GiB"):
        with pytest.raises(InputError, match="the memory of a worker is given with its unit, such as 32GB"):
            EngineChoice(memory_per_worker=text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engine = 3", "engine must be a table"),
        ('[engine]\nengin = "slurm"', "'engin' is not known; known are engine"),
        ('[engine]\nworkers = "8"', "workers needs a whole number"),
        ("[engine]\nworkers = true", "workers needs a whole number"),
        ("[engine]\nengine = 5", "kind needs text"),
        ('[engine.job]\nwall_time = "1:00"', "'wall_time' is not known"),
        ('[engine.job]\nprologue = "module load x"', "prologue needs a list of texts"),
        ("[engine.job]\nprologue = [1]", "prologue needs a list of texts"),
        ('[engine.job]\nmemory = "lots"', "32GB"),
        ('[engine.tls]\nca = "nowhere.pem"', "three files"),
    ],
)
def test_mistakes_name_file_and_word(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        engine_choice(tmp_path / "bad.toml", {}, {})
