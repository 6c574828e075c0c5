"""Scripts of jobs as text: resources, environment and command for SLURM, PBS, LSF and SGE. Nothing is submitted."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue: pip install 'mpr_dist[slurm]'")

from mpr_dist.engine.choice import QUEUES, EngineChoice, JobOptions
from mpr_dist.engine.jobqueue import job_script
from mpr_dist.engine.worker import _parser

JOB = JobOptions(
    queue="gpu",
    account="lab7",
    walltime="2:30:00",
    memory="64GB",
    cores=16,
    gpus=2,
    prologue=("module load cuda",),
    interface="ib0",
    python="/opt/my env/bin/python",
)
# in the words of each system: queue, account, time, processors, memory, cards
RESOURCES = {
    "slurm": ["-p gpu", "-A lab7", "-t 2:30:00", "--cpus-per-task=16", "--mem=60G", "--gres=gpu:2", "-n 1"],
    "pbs": ["-q gpu", "-A lab7", "-l walltime=2:30:00", "-l select=1:ncpus=16:ngpus=2:mem=64000mb"],
    "lsf": ["-q gpu", '-P "lab7"', "-W 2:30", "-n 16", '-R "span[hosts=1]"', "-M 64000", '-gpu "num=2"'],
    "sge": ["-q gpu", "-P lab7", "-l h_rt=2:30:00", "-pe smp 16", "-l h_vmem=4000M,gpu=2"],
}
MARK = {"slurm": "#SBATCH", "pbs": "#PBS", "lsf": "#BSUB", "sge": "#$"}


@pytest.fixture(params=QUEUES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def script(kind: str, tmp_path: Path) -> str:
    choice = EngineChoice(kind, workers=4, threads=3, workers_per_gpu=2, job=JOB)
    return job_script(choice, tmp_path / "a b" / "tls-RUN.json", tmp_path / "logs")


def test_resources(script: str, kind: str) -> None:
    directives = [line.removeprefix(MARK[kind]).strip() for line in script.splitlines() if line.startswith(MARK[kind])]
    missing = [wanted for wanted in RESOURCES[kind] if wanted not in directives]
    assert not missing, directives


def test_environment(script: str) -> None:
    lines = script.splitlines()
    assert lines[0].startswith("#!/")
    assert lines.index("module load cuda") < lines.index("export NUMBA_NUM_THREADS=3")
    assert "export OMP_NUM_THREADS=3" in lines


def test_command(script: str, tmp_path: Path) -> None:
    """The last line replaces the shell by the worker, which understands every word of it."""
    words = shlex.split(script.strip().splitlines()[-1])
    assert words[:4] == ["exec", "/opt/my env/bin/python", "-m", "mpr_dist.engine.worker"]
    asked = _parser().parse_args(words[4:])
    assert asked.address == "tls://DRIVER:PORT"
    assert (asked.processes, asked.threads, asked.interface) == (4, 3, "ib0")
    assert asked.tls == tmp_path / "a b" / "tls-RUN.json"
    assert asked.death_timeout == 60
    assert asked.leave_after == 9000 - 600


def test_logs_and_syntax(script: str, kind: str, tmp_path: Path) -> None:
    assert str(tmp_path / "logs") in script or kind == "pbs"
    assert not (tmp_path / "logs").exists(), "describing a job makes no folder"
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_own_lines_and_lines_left_out(tmp_path: Path) -> None:
    job = JobOptions(directives=("--qos=low", "--signal=USR1@120"), skip=("--mem",))
    text = job_script(EngineChoice("slurm", job=job), tmp_path / "tls.json", tmp_path)
    assert "#SBATCH --qos=low" in text
    assert "#SBATCH --signal=USR1@120" in text
    assert "--mem=" not in text
    assert "--gres" not in text


def test_ctrl_c_stays_ours() -> None:
    """dask_jobqueue installs a handler of its own when it is imported."""
    code = (
        "import signal; before = signal.getsignal(signal.SIGINT)\n"
        "from mpr_dist.engine.jobqueue import _cluster_class\n"
        "_cluster_class('slurm')\n"
        "import dask_jobqueue.runner\n"
        "print(signal.getsignal(signal.SIGINT) is before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
    assert signal.getsignal(signal.SIGINT) is not None


@pytest.mark.parametrize(
    ("package", "kind", "words"),
    [("dask_jobqueue", "lsf", "pip install 'mpr_dist[lsf]'"), ("cryptography", "slurm", "pip install 'mpr_dist[tls]'")],
)
def test_without_the_extra_one_line_names_it(tmp_path: Path, package: str, kind: str, words: str) -> None:
    """In a process in which the package cannot be imported."""
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from pathlib import Path\n"
        "from mpr_dist.engine.choice import EngineChoice\n"
        "from mpr_dist.engine.opening import open_executor\n"
        "from mpr_dist.errors import InputError\n"
        "try: open_executor(EngineChoice(sys.argv[2]), 1, Path(sys.argv[3]))\n"
        "except InputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, package, kind, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert words in done.stdout
    assert done.stdout.count("\n") == 1


def test_without_a_queueing_system_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mpr_dist.engine.jobqueue import open_queue
    from mpr_dist.errors import InputError

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"engine sge: qsub is not on this machine"):
        open_queue(EngineChoice("sge"), 1, tmp_path)
    assert not list(tmp_path.glob("tls-*"))
