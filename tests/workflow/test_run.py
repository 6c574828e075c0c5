"""The same bits however the work was done; every series counted once; nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import SHAPE, FakeScience, calls, content, make_population

from mpr_dist.engine.events import Event, SeriesFailed
from mpr_dist.engine.executor import Executor
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.errors import Interrupted, MprError, PopulationError
from mpr_dist.model.population import Population, SpeciesFiles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.species import Species
from mpr_dist.storage.accumulators import read_accumulator, verify
from mpr_dist.storage.ledger import read_ledger
from mpr_dist.storage.population import add_species, load_population
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings

SETTINGS = RunSettings(RefineSettings(iterations=2))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the inline engine makes of nine series in two iterations."""
    directory = tmp_path_factory.mktemp("oracle")
    population = make_population(directory)
    run(population.path, FakeScience(directory / "calls"), SETTINGS, InlineExecutor())
    return content(population)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(workers=2)
    yield executor
    executor.close()


def _run(population: Population, executor: Executor | None = None, **options: Any) -> Population:
    science = FakeScience(population.path.parent / "calls", **options)
    return run(population.path, science, SETTINGS, executor or InlineExecutor())


def _same(population: Population, expected: dict[str, str]) -> bool:
    """Every result equal; the hashes of DONE and manifests included."""
    return content(population) == expected


def test_the_population_moves_on(tmp_path: Path, expected: dict[str, str]) -> None:
    population = make_population(tmp_path)
    assert _run(population).iteration == 2
    assert load_population(population.path).iteration == 2
    files = population.files(2)
    assert files.is_finished
    assert not files.scratch.exists()
    assert not (population.path / "LOCK").exists()
    assert not (population.path / "run.json").exists()
    assert calls(tmp_path / "calls", "refine") == sorted([f"TS_{i:02d}" for i in range(9)] * 2)
    assert _same(population, expected)


def test_the_accumulator_is_the_sum_of_its_series(tmp_path: Path) -> None:
    """Each series counted exactly once: recomputed here from what was published."""
    population = make_population(tmp_path)
    _run(population)
    files = population.files(1)
    science = FakeScience(tmp_path / "calls")
    manifest = verify(files.species("apo").accumulator)
    assert sorted(manifest.series) == [f"TS_{i:02d}" for i in range(9)]
    total = {"apo": np.zeros((2, *SHAPE, 3), np.int64)}
    from hashlib import sha256

    for name in manifest.series:
        published = files.series(name).xml.read_text() + files.series(name).poses.read_text() + "apo"
        seed = int.from_bytes(sha256(published.encode()).digest()[:8], "little")
        total["apo"] += np.random.default_rng(seed).integers(-(2**40), 2**40, (2, *SHAPE, 3))
    np.testing.assert_array_equal(read_accumulator(files.species("apo").accumulator, "apo"), total["apo"])
    assert science.version


def test_same_bits_with_one_worker(tmp_path: Path, expected: dict[str, str]) -> None:
    executor = LocalExecutor(workers=1)
    try:
        population = make_population(tmp_path)
        _run(population, executor, seconds=0.02)
    finally:
        executor.close()
    assert _same(population, expected)


def test_same_bits_with_two_workers(tmp_path: Path, local: LocalExecutor, expected: dict[str, str]) -> None:
    population = make_population(tmp_path)
    _run(population, local, seconds=0.05)
    assert _same(population, expected)
    accepted = [r for r in read_ledger(population.files(1).ledger) if r["kind"] == "accept"]
    assert len(accepted) > 2
    assert sorted(name for r in accepted for name in r["series"]) == [f"TS_{i:02d}" for i in range(9)]


def test_same_bits_when_a_worker_is_killed(tmp_path: Path, local: LocalExecutor, expected: dict[str, str]) -> None:
    population = make_population(tmp_path)
    _run(population, local, seconds=0.05, kill=("TS_03", "TS_06"))
    assert calls(tmp_path / "calls", "kill") == ["TS_03", "TS_06"]
    assert calls(tmp_path / "calls", "refine").count("TS_03") == 2  # once per iteration: reused after the kill
    assert _same(population, expected)


def test_a_series_that_kills_every_worker_is_left_out(tmp_path: Path) -> None:
    executor = LocalExecutor(workers=2)
    population = make_population(tmp_path, series=4)
    settings = RunSettings(RefineSettings(iterations=1))
    try:
        run(population.path, FakeScience(tmp_path / "calls", poison=("TS_02",)), settings, executor)
    finally:
        executor.close()
    done = json.loads(population.files(1).done.read_text())
    assert list(done["failed"]) == ["TS_02"]
    assert "died" in done["failed"]["TS_02"]
    assert done["series"] == ["TS_00", "TS_01", "TS_03"]


@pytest.mark.parametrize("how", ["fail", "fail_late"])
def test_a_failed_series_is_left_out_and_the_others_are_untouched(tmp_path: Path, how: str) -> None:
    """Also when it fails after it has begun to add: then its batch is added up again without it."""
    heard: list[Event] = []
    (tmp_path / "a").mkdir()
    population = make_population(tmp_path / "a")
    science = FakeScience(tmp_path / "a" / "calls", **{how: ("TS_00", "TS_07")})
    run(population.path, science, SETTINGS, InlineExecutor(), (heard.append,))
    assert {e.series for e in heard if isinstance(e, SeriesFailed)} == {"TS_00", "TS_07"}
    done = json.loads(population.files(1).done.read_text())
    assert sorted(done["failed"]) == ["TS_00", "TS_07"]
    assert not population.files(1).series("TS_07").summary.exists()

    (tmp_path / "b").mkdir()
    other = make_population(tmp_path / "b")
    run(other.path, FakeScience(tmp_path / "b" / "calls", fail=("TS_00", "TS_07")), SETTINGS, InlineExecutor())
    for iteration in (1, 2):
        a, b = (p.files(iteration).species("apo").half1.read_text() for p in (population, other))
        assert a == b


def test_when_all_series_fail_the_run_says_why(tmp_path: Path) -> None:
    population = make_population(tmp_path, series=2)
    with pytest.raises(MprError, match=r"every one of 2 tilt series failed.*TS_00: series TS_00: no images"):
        _run(population, fail=("TS_00", "TS_01"))
    assert _run(population).iteration == 2  # the cause is gone, the same command continues


def test_a_changed_byte_in_a_partial_is_noticed_and_mended(tmp_path: Path, expected: dict[str, str]) -> None:
    population = make_population(tmp_path)

    class Spoiler:
        """Changes one byte of one partial when it has been accepted."""

        spoiled = False

        def __call__(self, event: Event) -> None:
            if type(event).__name__ == "PartialAccepted" and not self.spoiled:
                name: str = event.partial  # type: ignore[attr-defined]
                partial = population.files(1).partials / name
                chunk = next(p for p in (partial / "apo" / "c").rglob("*") if p.is_file())
                data = bytearray(chunk.read_bytes())
                data[len(data) // 2] ^= 1
                chunk.write_bytes(bytes(data))
                Spoiler.spoiled = True

    run(population.path, FakeScience(tmp_path / "calls"), SETTINGS, InlineExecutor(), (Spoiler(),))
    assert Spoiler.spoiled
    assert [r["kind"] for r in read_ledger(population.files(1).ledger)].count("reject") == 1
    assert calls(tmp_path / "calls", "refine").count("TS_03") == 2  # parameters were kept, only added up again
    assert _same(population, expected)


def test_parameters_written_again_by_a_straggler_are_noticed(tmp_path: Path, expected: dict[str, str]) -> None:
    """Workers of a killed run may outlive it: what they overwrite is refined and added up again."""
    population = make_population(tmp_path)
    overwritten: list[str] = []

    def straggler(event: Event) -> None:
        if type(event).__name__ == "PartialAccepted" and not overwritten:
            files = population.files(1)
            name = next(iter(verify(files.partials / event.partial).series))  # type: ignore[attr-defined]
            files.series(name).xml.write_text("something else")
            overwritten.append(name)

    run(population.path, FakeScience(tmp_path / "calls"), SETTINGS, InlineExecutor(), (straggler,))
    (record,) = (r for r in read_ledger(population.files(1).ledger) if r["kind"] == "reject")
    assert overwritten[0] in record["reason"]
    assert calls(tmp_path / "calls", "refine").count(overwritten[0]) == 3
    assert _same(population, expected)


def _drive(directory: Path, engine: str, workers: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).parent / "drive.py"), str(directory), engine, str(workers)]
    return subprocess.Popen([*command, str(seconds)], stderr=subprocess.PIPE, text=True, start_new_session=True)


def _wait_for(directory: Path, what: str, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(calls(directory / "calls", what)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("engine", ["inline", "local"])
def test_interrupted_and_continued(tmp_path: Path, expected: dict[str, str], engine: str, number: int) -> None:
    population = make_population(tmp_path)
    process = _drive(tmp_path, engine, 2, 0.15)
    _wait_for(tmp_path, "refine", 4, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does it: to the workers, too
    else:
        process.send_signal(number)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == Interrupted.exit_code, text
    assert "the same command continues" in text
    assert load_population(population.path).iteration == 0
    refined = calls(tmp_path / "calls", "refine")
    assert 4 <= len(refined) < 9
    assert read_ledger(population.files(1).ledger)[-1]["kind"] == "interrupted"
    kept = [r for r in read_ledger(population.files(1).ledger) if r["kind"] == "accept"]
    assert sorted(name for r in kept for name in r["series"]) == refined  # what was finished was kept

    assert _run(population).iteration == 2
    assert calls(tmp_path / "calls", "refine") == sorted([f"TS_{i:02d}" for i in range(9)] * 2)
    assert _same(population, expected)


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_the_driver_is_killed_and_run_again(tmp_path: Path, expected: dict[str, str], engine: str) -> None:
    population = make_population(tmp_path)
    process = _drive(tmp_path, engine, 2, 0.1)
    _wait_for(tmp_path, "refine", 6, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (population.path / "LOCK").exists()
    (population.files(1).ledger).open("ab").write(b'{"kind": "acc')  # and it was torn while writing
    assert _run(population).iteration == 2
    assert len(calls(tmp_path / "calls", "refine")) <= 9 * 2 + 2
    assert _same(population, expected)


def test_what_is_no_population_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".tmp-mine").write_text("")
    with pytest.raises(PopulationError, match="does not exist"):
        run(tmp_path, FakeScience(tmp_path), SETTINGS, InlineExecutor())
    with pytest.raises(PopulationError, match="does not exist"):
        run(tmp_path / "nowhere", FakeScience(tmp_path), SETTINGS, InlineExecutor())
    assert [p.name for p in tmp_path.iterdir()] == [".tmp-mine"]


def test_other_settings_do_not_continue_an_unfinished_iteration(tmp_path: Path, expected: dict[str, str]) -> None:
    population = make_population(tmp_path)
    with pytest.raises(MprError, match="5 of 9 tilt series failed"):
        _run(population, fail=tuple(f"TS_{i:02d}" for i in range(9)))
    other = RunSettings(RefineSettings(iterations=2, particles=True))
    science = FakeScience(tmp_path / "calls")
    with pytest.raises(PopulationError, match=r"refine\.particles: False then, True now.*--restart"):
        run(population.path, science, other, InlineExecutor())
    run(population.path, science, other, InlineExecutor(), restart=True)
    assert load_population(population.path).iteration == 2
    assert not _same(population, expected)


def test_a_species_changed_or_added_in_an_unfinished_iteration(tmp_path: Path) -> None:
    """Nothing made for the old state is used again; the result is that of a fresh population."""
    population = make_population(tmp_path, series=3)
    with pytest.raises(MprError, match="tilt series failed"):
        _run(population, fail=("TS_00", "TS_01", "TS_02"))
    table = population.path / "species" / "apo" / "species.toml"
    table.write_text(table.read_text().replace("diameter_A = 10.0", "diameter_A = 11.0"))
    added = SpeciesFiles(Species("late", 1.0, 12, 10.0), None, (("TS_00", 5),))
    population = add_species(load_population(population.path), added)
    maps = population.files(0).species("late")
    maps.directory.mkdir()
    maps.half1.write_text("3")
    maps.half2.write_text("4")
    prepared = len(calls(tmp_path / "calls", "prepare"))
    assert _run(population).iteration == 2
    assert len(calls(tmp_path / "calls", "prepare")) == prepared + 6
    assert sorted(json.loads(population.files(2).done.read_text())["resolution_A"]) == ["apo", "late", "ribo"]


def test_a_driver_killed_after_done_is_healed(tmp_path: Path, expected: dict[str, str]) -> None:
    population = make_population(tmp_path)
    _run(population)
    table = population.path / "population.toml"
    table.write_text(table.read_text().replace("iteration = 2", "iteration = 1"))
    settings = RunSettings(RefineSettings(iterations=1))
    assert run(population.path, FakeScience(tmp_path / "calls"), settings, InlineExecutor()).iteration == 3
    assert {k: v for k, v in content(population).items() if "/003/" not in k} == expected


def test_finished_iterations_are_never_changed(tmp_path: Path, expected: dict[str, str]) -> None:
    population = make_population(tmp_path)
    _run(population)
    assert _run(population).iteration == 4
    assert {k: v for k, v in content(population).items() if "/001/" in k or "/002/" in k} == expected


def test_the_next_series_is_read_while_one_is_refined(tmp_path):
    """Within a batch every series but the first is asked for ahead, when the one before it is about to begin."""
    population = make_population(tmp_path)
    settings = RunSettings(RefineSettings(iterations=1, defocus=True))
    run(population.path, FakeScience(tmp_path / "calls"), settings, InlineExecutor())
    done = sorted((int(path.name.split("-")[2]), *path.name.split("-")[:2]) for path in (tmp_path / "calls").iterdir())
    order = [(what, name) for _, what, name in done if what in ("ahead", "refine")]
    ahead = [name for what, name in order if what == "ahead"]
    assert len(ahead) >= 3  # nine series in a few batches
    for name in ahead:
        place = order.index(("ahead", name))
        assert order[place + 1][0] == "refine"
        assert order.index(("refine", name)) == place + 2 + (order[place + 2][0] == "ahead")
