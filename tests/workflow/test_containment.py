"""Trouble stays where it is, has a name, and is told of: bad hosts, poison, memory, damage, other versions."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, calls, content, make_population

from mpr_dist.engine.events import Event, Message, PartialAccepted
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import DaskExecutor, LocalExecutor
from mpr_dist.errors import InputError, Interrupted, PopulationError, SeriesError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.ledger import read_ledger
from mpr_dist.storage.poses import read_poses, write_poses
from mpr_dist.units import I64
from mpr_dist.workflow.reporting.iteration_report import _about_hosts
from mpr_dist.workflow.reporting.show import status_lines
from mpr_dist.workflow.reporting.status import decided, status
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings

ONE = RunSettings(RefineSettings(iterations=1))
HERE = Path(__file__).parent


@dataclass(frozen=True)
class TroubledScience(FakeScience):
    """``bad_host``: every series fails there. ``greedy``: series that want more memory than their process may have."""

    bad_host: str = ""
    greedy: tuple[str, ...] = ()

    def refine_and_backproject(self, job: Any, accumulators: Mapping[str, I64]) -> Any:
        if socket.gethostname() == self.bad_host:
            raise OSError(5, "Input/output error", "/scratch/of/this/host")
        if job.name in self.greedy:
            limit = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, limit[1]))
            try:
                np.ones(1 << 33)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limit)
        return super().refine_and_backproject(job, accumulators)


def _oracle(directory: Path, series: int) -> dict[str, str]:
    directory.mkdir()
    population = make_population(directory, series=series)
    run(population.path, FakeScience(directory / "calls"), ONE, InlineExecutor())
    return content(population)


# ------------------------------------------------------------------------------------------------------------ bad host


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[DaskExecutor]:
    """A scheduler and two workers, one of which believes to be on a host of another name."""
    from distributed import Client

    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--uts", "true"], capture_output=True, check=False).returncode:
        pytest.skip("another host name needs the right to unshare")
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"}
    dask = f"{sys.executable} -m distributed.cli"
    worker = f"{dask}.dask_worker --scheduler-file {file} --nthreads 1 --memory-limit 0 --no-dashboard --host 127.0.0.1"
    worker += f" --local-directory {tmp_path / 'dask'}"
    commands = [
        f"exec {dask}.dask_scheduler --scheduler-file {file} --host 127.0.0.1 --port 0 --no-dashboard",
        f"exec {worker}",
        f"exec {unshare} --uts sh -c 'hostname bad-host && exec {worker}'",
    ]
    with (tmp_path / "log").open("ab") as log:
        processes = [
            subprocess.Popen(["sh", "-c", one], stdout=log, stderr=log, env=environment, start_new_session=True)
            for one in commands
        ]
    client = Client(scheduler_file=str(file), timeout=60)
    client.wait_for_workers(2, timeout=60)
    executor = DaskExecutor(client, 2)
    yield executor
    executor.close()
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_a_bad_host_is_avoided_and_its_series_are_tried_elsewhere(tmp_path: Path, two_hosts: DaskExecutor) -> None:
    expected = _oracle(tmp_path / "oracle", 48)
    population = make_population(tmp_path, series=48)
    heard: list[Event] = []
    science = TroubledScience(tmp_path / "calls", seconds=0.02, bad_host="bad-host")
    run(population.path, science, ONE, two_hosts, (heard.append,))
    assert content(population) == expected
    records = [r for r in read_ledger(population.files(1).ledger) if r["kind"] == "host"]
    assert {(record["host"], record["outcome"]) for record in records} == {("bad-host", "bad host")}
    blamed = [name for record in records for name in record["series"]]
    assert len(blamed) >= 4
    assert any(isinstance(e, Message) and "bad-host" in e.text and "avoided" in e.text for e in heard)
    found = status(population)["iterations"][0]
    assert found["hosts_avoided"] == {"bad-host": blamed}
    assert found["counts"] == {"done": 48}
    assert any("AVOIDED, bad host" in line for line in status_lines(status(population)))
    (warning,) = _about_hosts(decided(population.files(1)))
    assert "bad-host was avoided" in warning


def test_where_there_is_no_other_host_series_fail_for_what_they_are(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=9)
    bad = tuple(f"TS_{i:02d}" for i in range(4))
    run(population.path, FakeScience(tmp_path / "calls", fail=bad), ONE, InlineExecutor())
    assert sorted(decided(population.files(1)).failed) == list(bad)
    assert status(population)["iterations"][0]["hosts_avoided"] == {}


# ----------------------------------------------------------------------------------------------------- poison, memory


def test_poison_and_greed_are_left_out_by_name(tmp_path: Path) -> None:
    """A series whose worker dies every time, and one that no memory suffices for: known by name, the others done."""
    population = make_population(tmp_path, series=5)
    executor = LocalExecutor(workers=2)
    science = TroubledScience(tmp_path / "calls", poison=("TS_02",), greedy=("TS_04",))
    try:
        run(population.path, science, ONE, executor)
    finally:
        executor.close()
    series = status(population)["iterations"][0]["series"]
    assert {name: one.get("outcome", one["state"]) for name, one in series.items()} == {
        "TS_00": "done",
        "TS_01": "done",
        "TS_02": "worker died",
        "TS_03": "done",
        "TS_04": "out of memory",
    }
    assert calls(tmp_path / "calls", "kill") == ["TS_02"] * 4  # the first and three more tries
    assert calls(tmp_path / "calls", "refine").count("TS_02") == 1  # its parameters were kept through all its deaths
    shown = status_lines(status(population))
    assert any("TS_04: LEFT OUT, out of memory" in line for line in shown)


# ---------------------------------------------------------------------------------------------------- two runs at once


def test_the_second_run_on_a_population_is_turned_away(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=4)
    command = [sys.executable, str(HERE / "drive.py"), str(tmp_path), "inline", "1", "0.5"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not calls(tmp_path / "calls", "refine"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(PopulationError, match=f"in use by process {first.pid} on {socket.gethostname()} since"):
        run(population.path, FakeScience(tmp_path / "calls"), ONE, InlineExecutor())
    assert status(population)["running"]["pid"] == first.pid
    assert first.wait(60) == 0
    assert calls(tmp_path / "calls", "refine") == sorted([f"TS_{i:02d}" for i in range(4)] * 2)


# ------------------------------------------------------------------------------------------------------------ integrity


def test_any_changed_byte_of_a_manifest_is_noticed_and_mended(tmp_path: Path) -> None:
    """Rejected in the ledger, added up anew, and the bits are the same."""
    expected = _oracle(tmp_path / "oracle", 4)
    positions = [3, 40, 101, 160, 222, 301, 377, -90, -9, -3]
    for position in positions:
        directory = tmp_path / f"at-{position}"
        directory.mkdir()
        population = make_population(directory, series=4)
        spoiled: list[str] = []

        def spoil(event: Event, population=population, spoiled=spoiled, position=position) -> None:
            if isinstance(event, PartialAccepted) and not spoiled:
                path = population.files(1).partials / event.partial / "manifest.json"
                data = bytearray(path.read_bytes())
                data[position] ^= 1
                path.write_bytes(bytes(data))
                spoiled.append(event.partial)

        run(population.path, FakeScience(directory / "calls"), ONE, InlineExecutor(), (spoil,))
        rejected = [r["partial"] for r in read_ledger(population.files(1).ledger) if r["kind"] == "reject"]
        assert rejected == spoiled, f"byte {position}"
        assert len(calls(directory / "calls", "refine")) == 4  # parameters were kept, only added up again
        assert content(population) == expected, f"byte {position}"


@pytest.mark.parametrize("what", ["manifest", "chunk"])
def test_a_changed_byte_is_noticed_by_the_next_session(tmp_path: Path, what: str) -> None:
    """Between two sessions, too: what was accepted is read byte by byte before it counts again."""
    expected = _oracle(tmp_path / "oracle", 4)
    population = _interrupted(tmp_path)
    (partial,) = population.files(1).partials.iterdir()
    chunks = [path for path in (partial / "apo" / "c").rglob("*") if path.is_file()]
    path = partial / "manifest.json" if what == "manifest" else chunks[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    run(population.path, FakeScience(tmp_path / "calls"), ONE, InlineExecutor())
    assert [r["partial"] for r in read_ledger(population.files(1).ledger) if r["kind"] == "reject"] == [partial.name]
    assert content(population) == expected


# ------------------------------------------------------------------------------------------------------- other versions


def _interrupted(directory: Path) -> Population:
    """Four series, stopped with the first partial."""
    population = make_population(directory, series=4)

    def stop(event: Event) -> None:
        if isinstance(event, PartialAccepted):
            population.files(1).stop.touch()

    with pytest.raises(Interrupted):
        run(population.path, FakeScience(directory / "calls"), ONE, InlineExecutor(), (stop,))
    return population


@pytest.mark.parametrize("library", ["numpy", "numba"])
def test_an_iteration_is_not_continued_with_other_libraries(tmp_path: Path, library: str) -> None:
    population = _interrupted(tmp_path)
    table = population.files(1).settings
    text = table.read_text()
    table.write_text(text.replace(f'\n{library} = "', f'\n{library} = "0.'))
    science = FakeScience(tmp_path / "calls")
    with pytest.raises(PopulationError, match=rf"begun with {library} 0\..*with the versions named.*--restart"):
        run(population.path, science, ONE, InlineExecutor())
    run(population.path, science, ONE, InlineExecutor(), restart=True)
    assert status(population)["iterations"][0]["state"] == "finished"


def test_other_formats_are_refused_in_words(tmp_path: Path) -> None:
    """Ledger, run.json and DONE say which format they are, and a newer one is not guessed at."""
    population = _interrupted(tmp_path)
    science = FakeScience(tmp_path / "calls")
    record = population.path / "run.json"
    for path in (record, population.files(1).ledger):
        text = path.read_text()
        assert '"format_version": 1' in text
        path.write_text(text.replace('"format_version": 1', '"format_version": 7'))
        with pytest.raises(PopulationError, match="format_version 7, but this mpr-dist reads 1"):
            run(population.path, science, ONE, InlineExecutor())
        path.write_text(text)
    run(population.path, science, ONE, InlineExecutor())
    done = population.files(1).done
    assert json.loads(done.read_text())["format_version"] == 1
    done.write_text(done.read_text().replace('"format_version": 1', '"format_version": 7'))
    with pytest.raises(PopulationError, match="format_version 7"):
        status(population)


def test_poses_say_which_format_they_are(tmp_path: Path) -> None:
    path = tmp_path / "TS_01.poses.star"
    write_poses(path, {})
    assert read_poses(path) == {}
    path.write_text(path.read_text().replace("_mprFormatVersion 1", "_mprFormatVersion 7"))
    with pytest.raises(SeriesError, match="format version 7"):
        read_poses(path)


def test_a_share_is_a_share(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=2)
    with pytest.raises(InputError, match="from 0 to 1; got 2"):
        run(population.path, FakeScience(tmp_path / "calls"), ONE, InlineExecutor(), max_failed=2)
