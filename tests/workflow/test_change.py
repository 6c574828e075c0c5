"""One series more or less, exactly: the bits are those of a run that never had it, or always had it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_science import FakeScience, calls, make_population

from mpr_dist.engine.events import Event, StageFinished
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError, Interrupted, PopulationError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.accumulators import read_accumulator, verify
from mpr_dist.storage.population import load_population
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.reporting.iteration_report import write_report
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running.change import Change, change
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.run_settings import RunSettings

ONE = RunSettings(RefineSettings(iterations=1))
EVERYTHING = RefineSettings(iterations=1, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)


def _fake(directory: Path, without: tuple[str, ...] = ()) -> Population:
    """One iteration over five series; the last one has half as many particles."""
    directory.mkdir()
    population = make_population(directory, series=5, without=without)
    return run(population.path, FakeScience(directory / "calls"), ONE, InlineExecutor())


def _change(population: Population, listeners=(), **asked: tuple[str, ...]) -> Population:
    science = FakeScience(population.path.parent / "calls")
    return change(population.path, science, Change(**asked), InlineExecutor(), listeners)


def _maps(population: Population, number: int) -> dict[str, bytes]:
    """The maps, and the sums they were made from."""
    found = {}
    for species in population.species:
        files = population.files(number).species(species.name)
        found |= {f"{species.name}/{path.name}": path.read_bytes() for path in (files.half1, files.half2, files.map)}
        sums = read_accumulator(files.accumulator, species.name)
        found[f"{species.name}/sums"] = sha256(sums.tobytes()).hexdigest().encode()
    return found


def test_without_a_series_and_with_it_again(tmp_path: Path) -> None:
    whole, never = _fake(tmp_path / "whole"), _fake(tmp_path / "never", without=("TS_02",))
    refined = calls(tmp_path / "whole" / "calls", "refine")
    less = _change(whole, without=("TS_02",))
    assert less.iteration == 2
    assert _maps(less, 2) == _maps(never, 1)
    assert sorted(verify(less.files(2).species("apo").accumulator).series) == ["TS_00", "TS_01", "TS_03", "TS_04"]
    again = _change(less, added=("TS_02",))
    assert _maps(again, 3) == _maps(whole, 1)
    assert calls(tmp_path / "whole" / "calls", "refine") == refined  # nothing was refined for any of this
    assert len(calls(tmp_path / "whole" / "calls", "backproject")) == 5 + 1 + 1


def test_exchange_in_one_step(tmp_path: Path) -> None:
    whole, never = _fake(tmp_path / "whole"), _fake(tmp_path / "never", without=("TS_00", "TS_03"))
    _change(whole, without=("TS_00", "TS_01"))
    both = _change(load_population(whole.path), without=("TS_03",), added=("TS_01",))
    assert _maps(both, 3) == _maps(never, 1)


def test_status_and_report_tell_of_it(tmp_path: Path) -> None:
    population = _change(_fake(tmp_path / "a"), without=("TS_02",))
    iteration = status(population)["iterations"][1]
    assert iteration["series"]["TS_02"] == {"state": "removed"}
    assert iteration["counts"] == {"done": 4, "removed": 1}
    assert not (population.path / "LOCK").exists()


def test_interrupted_and_continued(tmp_path: Path) -> None:
    """Stopped after the subtraction: the same call ends with the same bits, another one is refused."""
    whole, never = _fake(tmp_path / "whole"), _fake(tmp_path / "never", without=("TS_02",))

    def stop(event: Event) -> None:
        if isinstance(event, StageFinished) and event.stage == "subtract":
            whole.files(2).stop.touch()

    with pytest.raises(Interrupted):
        _change(whole, (stop,), without=("TS_02",))
    with pytest.raises(PopulationError, match=r"change\.without"):
        _change(whole, without=("TS_03",))
    assert _maps(_change(whole, without=("TS_02",)), 2) == _maps(never, 1)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match="nothing was refined"):
        _change(make_population(tmp_path / "new"), without=("TS_02",))
    population = _fake(tmp_path / "a")
    with pytest.raises(InputError, match="TS_77 is not part"):
        _change(population, without=("TS_77",))
    with pytest.raises(InputError, match=r"is in iteration 001.*counts once"):
        _change(population, added=("TS_02",))
    with pytest.raises(InputError, match="no tilt series would be left of iteration"):
        _change(population, without=tuple(f"TS_{i:02d}" for i in range(5)))
    assert load_population(population.path).iteration == 1


def test_sums_or_parameters_that_are_not_as_they_were(tmp_path: Path) -> None:
    """What was added can only be taken away when it is exactly known."""
    population = _fake(tmp_path / "a")
    files = population.files(1)
    xml = files.series("TS_02").xml
    text = xml.read_text()
    xml.write_text(text + " ")
    with pytest.raises(PopulationError, match="parameters of TS_02 are not those"):
        _change(population, without=("TS_02",))
    xml.write_text(text)
    chunk = next(path for path in (files.species("apo").accumulator / "apo" / "c").rglob("*") if path.is_file())
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(bytes(data))
    with pytest.raises(PopulationError, match="damaged or gone"):
        _change(population, without=("TS_02",))
    assert load_population(population.path).iteration == 1


def test_other_versions_are_refused(tmp_path: Path) -> None:
    population = _fake(tmp_path / "a")
    table = population.files(1).settings
    table.write_text(table.read_text().replace('numpy = "', 'numpy = "0.'))
    with pytest.raises(PopulationError, match=r"made with numpy 0\..*, but here is numpy"):
        _change(population, without=("TS_02",))


# ------------------------------------------------------------------------------------------------- the real science


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> SimulatedProject:
    return simulate_project(tmp_path_factory.mktemp("made") / "sim", replace(SimulateSettings.fixture(), n_series=3))


def _real(directory: Path, made: SimulatedProject, files: tuple[str, ...] | None = None) -> Population:
    _build(directory, made, files)
    return run(directory, Physics(), RunSettings(EVERYTHING), InlineExecutor())


def _build(directory: Path, made: SimulatedProject, files: tuple[str, ...] | None = None) -> None:
    create_population(directory, "change")
    add_warp_source(directory, SourceRequest("source", made.files.settings, files=files))
    species = made.species
    request = SpeciesRequest(
        species.name,
        *made.half_maps,
        made.mask,
        made.files.run_data,
        species.diameter_A,
        species.symmetry,
        ignore_unmatched=True,
    )
    add_species(directory, request)


def test_real_half_maps_have_the_bits_of_a_run_that_never_had_the_series(
    tmp_path: Path, three: SimulatedProject
) -> None:
    whole = _real(tmp_path / "whole", three)
    never = _real(tmp_path / "never", three, ("TS_01", "TS_03"))
    before = {path: path.read_bytes() for path in whole.files(1).root.rglob("*") if path.is_file()}

    less = change(whole.path, Physics(), Change(without=("TS_02",)), InlineExecutor())
    assert _maps(less, 2) == _maps(never, 1)
    assert less.files(2).species("phantom").fsc.read_bytes() == never.files(1).species("phantom").fsc.read_bytes()
    assert "--without" in write_report(less, 2).read_text()

    again = change(less.path, Physics(), Change(added=("TS_02",)), InlineExecutor())
    assert _maps(again, 3) == _maps(whole, 1)
    assert _maps(again, 3) != _maps(again, 2)
    particles = [whole.files(n).species("phantom").particles.read_bytes() for n in (1, 3)]
    assert particles[0] == particles[1]
    assert {path: path.read_bytes() for path in before} == before  # a finished iteration stays as it is


def test_a_series_that_was_left_out_from_the_start_is_added(tmp_path: Path, three: SimulatedProject) -> None:
    """Its images had vanished in the first iteration; they are back: it comes in as it was imported.

    Only its scales are brought to where those of refined series are, so that it does not count many times over: the
    sums of images with the scale, the weights with its square.
    """
    moved = tmp_path / "project"
    shutil.copytree(three.files.root, moved)
    images = sorted(path for path in moved.rglob("*.mrc") if "TS_03" in path.name and "average" in str(path))
    assert images
    made = replace(three, files=replace(three.files, root=moved))
    _build(tmp_path / "pop", made)
    for path in images:
        path.rename(path.with_suffix(".away"))
    population = run(tmp_path / "pop", Physics(), RunSettings(EVERYTHING), InlineExecutor())
    one = status(population)["iterations"][0]["series"]["TS_03"]
    assert (one["state"], one["outcome"]) == ("failed", "file missing")
    for path in images:
        path.with_suffix(".away").rename(path)
    more = change(population.path, Physics(), Change(added=("TS_03",)), InlineExecutor())
    _build(tmp_path / "alone", made, ("TS_03",))
    alone = run(tmp_path / "alone", Physics(), ONE, InlineExecutor())
    name = more.species[0].name
    states = (population.files(1), alone.files(1), more.files(2))
    then, its, now = (read_accumulator(files.species(name).accumulator, name) for files in states)
    ratio = np.sqrt(float((now - then)[..., 2].sum()) / float(its[..., 2].sum()))
    refined = [read_tilt_series(population.files(1).series(n).xml, volume_size_A=None) for n in ("TS_01", "TS_02")]
    # the largest scale of a series; those of its other tilts of low dose are a little smaller
    assert ratio == pytest.approx(np.mean([series.weights.series_weight for series in refined]), rel=0.2)
    for parts, factor in ((slice(0, 2), ratio), (slice(2, 3), ratio**2)):
        expected = factor * its[..., parts]
        # integers are rounded, those of weak samples to a few units
        assert np.abs((now - then)[..., parts] - expected).max() < 1e-4 * np.abs(expected).max()
    assert sorted(verify(more.files(2).species(name).accumulator).series) == ["TS_01", "TS_02", "TS_03"]
