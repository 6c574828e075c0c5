"""The first signal asks, the second aborts; a stale request is forgotten."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mpr_dist.workflow.state.stopping import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_first_asks_second_aborts(tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    file = tmp_path / "STOP"
    with StopRequest() as stop:
        file.touch()
        stop.watch(file)
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert file.exists()
        assert "aborted" not in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert "aborted; the same command continues" in capfd.readouterr().err
    assert signal.getsignal(number) == before


def test_asked_before_there_was_a_file(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.ask()
    stop.watch(tmp_path / "STOP")
    assert (tmp_path / "STOP").exists()


def test_the_file_alone_is_a_request(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.watch(tmp_path / "STOP")
    (tmp_path / "STOP").touch()
    assert stop()
