"""A real SLURM on the loopback address, with pretend cards, for as long as the tests of a file need it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("sbatch", "squeue", "scancel", "slurmctld", "slurmd", "munged")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _scripts(target: Path) -> Path:
    """A copy of the scripts that start it, with ports that nobody has."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"SLURM is not installed here: {', '.join(missing)} missing")
    scripts = Path(os.environ.get("MPR_DIST_SHARED", "/nowhere")) / "slurm"
    if not (scripts / "start_slurm.sh").exists():
        pytest.skip("MPR_DIST_SHARED has no folder slurm with the scripts that start one")
    if os.geteuid() != 0:
        pytest.skip("SLURM with pretend cards can only be started by root")
    target.mkdir()
    for file in scripts.iterdir():
        text = file.read_text().replace("16817", str(_free_port())).replace("16818", str(_free_port()))
        (target / file.name).write_text(text)
    return target


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a SLURM with one node, 8 processors and 4 cards; SLURM_CONF points to it."""
    folder = tmp_path_factory.mktemp("slurm")
    scripts = _scripts(folder / "scripts")
    run = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(run / "slurm.conf"))
        patch.setenv("PATH", os.environ["PATH"] + ":/usr/sbin:/sbin")
        started = subprocess.run(["bash", scripts / "start_slurm.sh", run], capture_output=True, text=True, check=False)
        try:
            assert "idle" in started.stdout, started.stdout + started.stderr
            yield run
        finally:
            subprocess.run(["scancel", "--user", str(os.geteuid())], check=False)
            subprocess.run(["bash", scripts / "stop_slurm.sh", run], check=False)
