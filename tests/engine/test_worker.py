"""Workers that join a run, leave with grace, and are refused without a certificate. Real schedulers, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

pytest.importorskip("cryptography", reason="needs cryptography: pip install 'mpr_dist[tls]'")
sys.path.insert(0, str(Path(__file__).parent))
import engine_tasks as tasks

from mpr_dist.engine.choice import EngineChoice, TlsFiles
from mpr_dist.engine.connection import Connection, publish_connection, read_connection, withdraw_connection
from mpr_dist.engine.foreign import open_foreign
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.engine.security import Tls, make_tls, read_tls, write_tls
from mpr_dist.errors import InputError

PATIENCE_S = 30.0


def _wait(until: Callable[[], bool], seconds: float = PATIENCE_S) -> float:
    start = time.monotonic()
    while not until():
        assert time.monotonic() - start < seconds, "waited in vain"
        time.sleep(0.05)
    return time.monotonic() - start


def _start(address: str, *more: str) -> subprocess.Popen[str]:
    here = (str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))
    command = [sys.executable, "-m", "mpr_dist.engine.worker", address, *more]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": ":".join(here)}, stderr=subprocess.PIPE, text=True
    )


def _end(worker: subprocess.Popen[str]) -> int:
    """Its exit code; a worker that does not go is killed with its children, so that no test leaves one behind."""
    try:
        return worker.wait(2 * PATIENCE_S)
    except subprocess.TimeoutExpired:
        for process in (*psutil.Process(worker.pid).children(recursive=True), worker):
            process.kill()
        raise


def _count(executor: LocalExecutor) -> int:
    return len(executor.client.scheduler_info(n_workers=-1)["workers"])


@pytest.fixture(scope="module")
def tls() -> Tls:
    return make_tls(TlsFiles())


@pytest.fixture(scope="module")
def encrypted(tls: Tls) -> Iterator[LocalExecutor]:
    """A cluster without workers of its own, open to whoever has the certificate."""
    executor = LocalExecutor(0, host="127.0.0.1", tls=tls)
    yield executor
    executor.close()


@pytest.fixture
def secret(tls: Tls, tmp_path: Path) -> Path:
    write_tls(tmp_path / "tls.json", tls)
    return tmp_path / "tls.json"


def test_a_client_without_the_certificate_is_refused(encrypted: LocalExecutor) -> None:
    """Neither plain nor with a certificate of one's own does one get in; with the right one, one does."""
    from distributed import Client

    address = encrypted.address
    assert address.startswith("tls://")
    with pytest.raises(OSError, match=r"(?i)timed out|tls|closed|ssl"):
        Client(address.replace("tls://", "tcp://"), timeout=3, set_as_default=False)
    with pytest.raises(OSError, match=r"(?i)timed out|certificate|tls|ssl"):
        Client(address, timeout=3, set_as_default=False, security=make_tls(TlsFiles()).security())
    with pytest.raises((TypeError, RuntimeError, OSError, ValueError)):
        Client(address, timeout=3, set_as_default=False)
    assert encrypted.tls is not None
    with Client(address, timeout=10, set_as_default=False, security=encrypted.tls.security()) as client:
        assert client.scheduler_info()["address"] == address


def test_a_worker_without_the_certificate_is_refused(encrypted: LocalExecutor, tmp_path: Path) -> None:
    write_tls(tmp_path / "other.json", make_tls(TlsFiles()))
    worker = _start(encrypted.address, "--tls", str(tmp_path / "other.json"), "--death-timeout", "3")
    _, err = worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == 1
    assert f"worker: cannot join {encrypted.address}" in err
    assert _count(encrypted) == 0


def test_joined_workers_share_the_cards(encrypted: LocalExecutor, secret: Path) -> None:
    """Two cards, two workers for each: every worker sees one card."""
    worker = _start(encrypted.address, "--tls", str(secret), "--processes", "4", "--gpus", "0,1")
    try:
        _wait(lambda: _count(encrypted) == 4)
        places = {done.unwrap()[:2] for done in encrypted.map_unordered(tasks.place, range(16))}
    finally:
        worker.send_signal(signal.SIGTERM)
        code = _end(worker)
    assert code == 0
    assert sorted(cards for _, cards in places) == ["0", "0", "1", "1"]
    _wait(lambda: _count(encrypted) == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_worker_asked_to_leave_finishes_its_task(
    encrypted: LocalExecutor, secret: Path, tmp_path: Path, number: int
) -> None:
    """The task at hand ends, knows that it should be the last, is not done again; the worker ends with 0."""
    worker = _start(encrypted.address, "--tls", str(secret))
    second: list[subprocess.Popen[str]] = []

    def disturb() -> None:
        _wait(lambda: bool(list(tmp_path.glob("begun-*"))))
        worker.send_signal(number)
        assert worker.wait(PATIENCE_S) == 0
        second.append(_start(encrypted.address, "--tls", str(secret)))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        found = [done.unwrap() for done in encrypted.map_unordered(tasks.steps, [(i, str(tmp_path)) for i in range(2)])]
    finally:
        thread.join()
        for each in (worker, *second):
            each.kill()
            each.wait()
    assert found == [(worker.pid, True), (second[0].pid, False)]
    assert len(list(tmp_path.glob("begun-*"))) == 2


def test_the_clock_asks_to_leave_too(encrypted: LocalExecutor, secret: Path, tmp_path: Path) -> None:
    """A worker whose time is nearly over ends by itself after the task at hand."""
    worker = _start(encrypted.address, "--tls", str(secret), "--leave-after", "2")
    (done,) = encrypted.map_unordered(tasks.steps, [(0, str(tmp_path))])
    assert done.unwrap() == (worker.pid, True)
    assert worker.wait(PATIENCE_S) == 0


def test_a_worker_does_not_outlive_its_scheduler(secret: Path, tls: Tls, tmp_path: Path) -> None:
    """Kill -9 of the process that holds the scheduler, in the middle of a task: the worker ends within 60 s."""
    code = (
        "import sys, time; from mpr_dist.engine.local import LocalExecutor; "
        "from mpr_dist.engine.security import read_tls; from pathlib import Path; import engine_tasks as t\n"
        "if __name__ == '__main__':\n"
        "    e = LocalExecutor(0, host='127.0.0.1', tls=read_tls(Path(sys.argv[1]))); print(e.address, flush=True)\n"
        "    list(e.map_unordered(t.steps, [(i, sys.argv[2]) for i in range(9)]))\n"
    )
    here = (str(Path(__file__).parent), str(Path(__file__).parents[2]))
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(secret), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": ":".join(here)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    worker = _start(driver.stdout.readline().strip(), "--tls", str(secret))
    try:
        _wait(lambda: bool(list(tmp_path.glob("begun-*"))))
        driver.kill()
        start = time.monotonic()
        worker.wait(60)
        assert time.monotonic() - start < 60
    finally:
        for each in (driver, worker):
            each.kill()
            each.wait()


def test_secrets_are_for_their_owner_alone(tmp_path: Path, tls: Tls) -> None:
    connection = Connection("tls://10.0.0.1:8786", tls)
    publish_connection(tmp_path, connection)
    write_tls(tmp_path / "tls.json", tls)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "CONNECTION.json": 0o600,
        "tls.json": 0o600,
    }
    assert read_connection(tmp_path) == connection
    assert asdict(read_tls(tmp_path / "tls.json")) == asdict(tls)
    withdraw_connection(tmp_path)
    with pytest.raises(InputError, match="nothing runs in this population"):
        read_connection(tmp_path)


def test_another_version_does_not_join(tmp_path: Path) -> None:
    publish_connection(tmp_path, Connection("tcp://127.0.0.1:1", software="0.0.0"))
    with pytest.raises(InputError, match=r"has mpr_dist 0\.0\.0"):
        read_connection(tmp_path)


def test_nothing_listens_beyond_loopback(encrypted: LocalExecutor, secret: Path) -> None:
    """Every listening socket of a local cluster and of its workers, dashboards included."""
    executor = LocalExecutor(workers=1)
    worker = _start(encrypted.address, "--tls", str(secret), "--interface", "lo")
    try:
        _wait(lambda: _count(encrypted) == 1)
        me = psutil.Process()
        sockets = [
            socket.laddr.ip
            for process in (me, *me.children(recursive=True))
            for socket in process.net_connections(kind="tcp")
            if socket.status == psutil.CONN_LISTEN
        ]
    finally:
        worker.terminate()
        _end(worker)
        executor.close()
    assert len(sockets) >= 6
    assert set(sockets) == {"127.0.0.1"}


def test_the_scheduler_of_others(encrypted: LocalExecutor, secret: Path, tls: Tls, tmp_path: Path) -> None:
    """By address with the site's certificates; and by a scheduler file. The scheduler lives on afterwards."""
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    for name, file in files.items():
        file.write_text(getattr(tls, name))
    (tmp_path / "scheduler.json").write_text(f'{{"address": "{encrypted.address}"}}')
    worker = _start(encrypted.address, "--tls", str(secret))
    try:
        _wait(lambda: _count(encrypted) == 1)
        for choice in (
            EngineChoice(encrypted.address, tls=TlsFiles(**files)),
            EngineChoice(scheduler_file=tmp_path / "scheduler.json", tls=TlsFiles(**files)),
        ):
            executor = open_foreign(choice, 1)
            assert sorted(d.unwrap() for d in executor.map_unordered(tasks.square, range(5))) == [0, 1, 4, 9, 16]
            executor.close()
        assert _count(encrypted) == 1
        with pytest.raises(InputError, match="asks for certificates"):
            open_foreign(EngineChoice(encrypted.address), 1)
    finally:
        worker.terminate()
        _end(worker)


def test_nobody_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpr_dist.engine.foreign.CONNECT_S", 2)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        open_foreign(EngineChoice("tcp://127.0.0.1:9"), 1)
    with pytest.raises(InputError, match="does the scheduler run"):
        open_foreign(EngineChoice(scheduler_file=tmp_path / "none.json"), 1)
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(InputError, match="not a scheduler file"):
        open_foreign(EngineChoice(scheduler_file=tmp_path / "bad.json"), 1)
