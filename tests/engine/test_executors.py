"""Every engine gives every result exactly once; errors are values, deaths are not the end."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import engine_tasks as tasks

from mpr_dist.engine.dask_executor import EngineFailed
from mpr_dist.engine.executor import Executor, WorkerDied
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.errors import SeriesError


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(workers=2)
    yield executor
    executor.close()


@pytest.fixture(params=["inline", "local"])
def executor(request: pytest.FixtureRequest) -> Executor:
    return InlineExecutor() if request.param == "inline" else request.getfixturevalue("local")


def test_every_item_once(executor: Executor) -> None:
    done = list(executor.map_unordered(tasks.square, range(20)))
    assert sorted((d.item, d.unwrap()) for d in done) == [(i, i * i) for i in range(20)]


def test_the_dashboard_is_there(local: LocalExecutor) -> None:
    """Dask's page of tasks, on loopback; it needs bokeh, which is an extra."""
    pytest.importorskip("bokeh")
    assert local.dashboard is not None
    assert local.dashboard.startswith("http://127.0.0.1:")
    with urlopen(local.dashboard, timeout=30) as page:
        assert b"Task Stream" in page.read()


def test_no_items_no_results(executor: Executor) -> None:
    assert list(executor.map_unordered(tasks.square, [])) == []


def test_errors_are_values(executor: Executor) -> None:
    done = {d.item: d for d in executor.map_unordered(tasks.square_or_fail, range(10))}
    assert sorted(i for i, d in done.items() if d.error) == [3, 8]
    assert isinstance(done[3].error, SeriesError)
    with pytest.raises(SeriesError, match="item 3 is bad"):
        done[3].unwrap()


def test_a_mistake_in_the_program_rises(executor: Executor) -> None:
    with pytest.raises(KeyError):
        list(executor.map_unordered(tasks.mistake, [1]))


def test_items_are_drawn_as_workers_become_free(executor: Executor) -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for i in range(30):
            drawn.append(i)
            yield i

    results = executor.map_unordered(tasks.square, items())
    next(results)
    assert len(drawn) <= 2 * executor.workers + 1
    assert len(list(results)) == 29


def test_the_death_of_a_worker_costs_a_retry(local: LocalExecutor, tmp_path: Path) -> None:
    items = [(i, str(tmp_path)) for i in range(8)]
    done = list(local.map_unordered(tasks.die_at_first, items))
    assert sorted(d.unwrap() for d in done) == list(range(8))


def test_threads_are_pinned_in_workers(local: LocalExecutor) -> None:
    (done,) = local.map_unordered(tasks.threads, [0])
    assert done.unwrap() == ("1", 1)


def test_only_the_guilty_item_fails() -> None:
    executor = LocalExecutor(workers=2)
    try:
        done = {d.item: d for d in executor.map_unordered(tasks.poison, range(8))}
    finally:
        executor.close()
    assert [i for i, d in done.items() if d.error] == [2]
    assert isinstance(done[2].error, WorkerDied)
    assert len(done) == 8


def test_another_client_of_the_process_does_not_matter(local: LocalExecutor) -> None:
    """The client that was made last is Dask's default. Its loop may stand still; ours goes on."""
    from distributed import Client, default_client

    held, release = threading.Event(), threading.Event()

    def stand_still() -> None:
        held.set()
        release.wait(60)

    other = LocalExecutor(workers=1)
    stray = Client(other.client.cluster)
    try:
        assert default_client() is stray
        assert stray.loop is not local.client.loop
        stray.loop.add_callback(stand_still)
        assert held.wait(10)
        results = local.map_unordered(tasks.square, range(3))
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.extend(d.unwrap() for d in results), daemon=True)
        reader.start()
        reader.join(20)
        assert sorted(found) == [0, 1, 4]
    finally:
        release.set()
        stray.close()
        other.close()


@pytest.mark.slow
def test_a_worker_that_takes_long_to_start_again_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than Dask waits by itself (15 s), as on a slow disk: the interpreter of the new process sleeps first."""
    slow = tmp_path / "slow"
    (tmp_path / "sitecustomize.py").write_text(
        f"import pathlib, time\nif pathlib.Path({str(slow)!r}).exists(): time.sleep(18)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    executor = LocalExecutor(workers=1)
    try:
        assert [d.unwrap() for d in executor.map_unordered(tasks.square, [2])] == [4]
        slow.touch()
        done = executor.map_unordered(tasks.die_at_first, [(3, str(tmp_path)), (4, str(tmp_path))])
        assert sorted(d.unwrap() for d in done) == [3, 4]
    finally:
        executor.close()


def test_nobody_waits_for_workers_that_never_come_back() -> None:
    executor = LocalExecutor(workers=2)
    try:
        cluster = executor.client.cluster
        for nanny in list(cluster.workers.values()):
            cluster.sync(nanny.close)
        with pytest.raises(EngineFailed, match="could not be started again"):
            list(executor.map_unordered(tasks.square, range(3)))
    finally:
        executor.close()
