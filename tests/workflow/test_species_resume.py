"""A species or source that is removed while an iteration is unfinished: it is finished as if they had never been."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, calls, make_population

from mpr_dist.engine.events import Event, SeriesDone
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import Interrupted
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.accumulators import read_accumulator
from mpr_dist.storage.population import load_population, save_population, without_species
from mpr_dist.workflow.changing.remove import remove_species, restore_species
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.state.run_settings import RunSettings

ONE = RunSettings(RefineSettings(iterations=1))


def _run(folder: Path, listener: Callable[[Event], None] | None = None) -> None:
    listeners = () if listener is None else (listener,)
    run(folder / "pop", FakeScience(folder / "calls"), ONE, InlineExecutor(), listeners)


def _sums(folder: Path) -> bytes:
    path = load_population(folder / "pop").files(1).species("apo").accumulator
    return read_accumulator(path, "apo").tobytes()


def test_removed_in_the_middle_of_an_iteration(tmp_path: Path) -> None:
    middle, never = tmp_path / "middle", tmp_path / "never"
    for folder in (middle, never):
        folder.mkdir()
        make_population(folder, series=4)
    save_population(without_species(load_population(never / "pop"), "ribo"))
    _run(never)

    def stop_after_one(event: Event) -> None:
        if isinstance(event, SeriesDone):
            load_population(middle / "pop").files(1).stop.touch()

    with pytest.raises(Interrupted):
        _run(middle, stop_after_one)
    begun = len(calls(middle / "calls", "refine"))
    assert 1 <= begun < 4
    remove_species(middle / "pop", "ribo")
    _run(middle)
    population = load_population(middle / "pop")
    assert [files.name for files in population.species] == ["apo"]
    assert not population.files(1).species("ribo").directory.exists()
    assert _sums(middle) == _sums(never)
    assert status(population)["iterations"][0]["counts"] == {"done": 4}
    # it comes back as it was imported, since no iteration has maps of it
    assert restore_species(middle / "pop", "ribo") == ["species ribo: is back"]
    _run(middle)
    assert load_population(middle / "pop").files(2).species("ribo").half1.exists()
