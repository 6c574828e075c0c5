"""A lock of another machine: respected while its holder shows that it lives, taken over when it does not.

The other machine is a process in a UTS namespace with a host name of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpr_dist.errors import PopulationError
from mpr_dist.storage.lock import locked, read_holder

PULSE_S, PATIENCE_S = 0.1, 2.0
HOLD = """
import sys, time
from pathlib import Path
from mpr_dist.storage.lock import locked
with locked(Path(sys.argv[1]), pulse_s=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


def _can_have_a_name() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--uts", "hostname", "elsewhere"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _can_have_a_name(), reason="host names of one's own need root and unshare")


@contextmanager
def _held_elsewhere(population: Path) -> Iterator[subprocess.Popen[str]]:
    shell = 'hostname elsewhere && exec "$@"'
    command = ["unshare", "--uts", "sh", "-c", shell, "sh", sys.executable, "-c", HOLD, str(population), str(PULSE_S)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_holder_elsewhere_that_lives_is_respected(tmp_path: Path) -> None:
    with _held_elsewhere(tmp_path):
        holder = read_holder(tmp_path / "LOCK")
        assert holder is not None
        assert holder.host == "elsewhere"
        with pytest.raises(PopulationError, match="on elsewhere"), locked(tmp_path, patience_s=PATIENCE_S):
            pass
        assert read_holder(tmp_path / "LOCK") == holder


def test_a_holder_elsewhere_that_died_is_followed(tmp_path: Path) -> None:
    said: list[str] = []
    with _held_elsewhere(tmp_path) as process:
        process.kill()
        process.wait()
        with locked(tmp_path, said.append, patience_s=PATIENCE_S):
            assert "on elsewhere, which no longer runs" in said[-1]
            holder = read_holder(tmp_path / "LOCK")
            assert holder is not None
            assert holder.pid == os.getpid()


def test_a_holder_that_slept_too_long_ends_when_it_wakes_up(tmp_path: Path) -> None:
    with _held_elsewhere(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        with locked(tmp_path, patience_s=PATIENCE_S):
            process.send_signal(signal.SIGCONT)
            assert process.wait(timeout=20) == -signal.SIGKILL
            assert process.stderr is not None
            assert "was taken over" in process.stderr.read()
            # what it left is the lock of this process
            holder = read_holder(tmp_path / "LOCK")
            assert holder is not None
            assert holder.pid == os.getpid()


def test_a_pulse_ends_with_the_lock(tmp_path: Path) -> None:
    with locked(tmp_path, pulse_s=0.02):
        time.sleep(0.1)
    (tmp_path / "LOCK").write_text("{}")
    before = (tmp_path / "LOCK").stat().st_mtime_ns
    time.sleep(0.1)
    assert (tmp_path / "LOCK").stat().st_mtime_ns == before
