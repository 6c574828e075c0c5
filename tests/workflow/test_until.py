"""refine --until N: the same command, submitted again and again, ends with iteration N and in the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_science import FakeScience, calls, content, make_population

from mpr_dist.engine.events import Event, IterationFinished, Message
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.running.launch import refine_population
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.running.run_options import refine_settings
from mpr_dist.workflow.state.run_settings import RunSettings

UNTIL = RefineSettings(until=3, particles=True, first_iteration_fraction=0.5)
NO_PRIORS: dict[str, float | None] = {}


class Killed(Exception):
    """Ends a run as nothing in it would."""


def submitted(population: Population, settings: RefineSettings = UNTIL, kill_after: int = 0) -> list[str]:
    """What a run says; the process dies when iteration ``kill_after`` is finished."""
    said: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Message):
            said.append(event.text)
        if isinstance(event, IterationFinished) and event.iteration == kill_after:
            raise Killed

    science = FakeScience(population.path.parent / "calls")
    run(population.path, science, RunSettings(settings), InlineExecutor(), (listen,))
    return said


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, str]:
    """All of it in one go."""
    (tmp_path / "whole").mkdir()
    whole = make_population(tmp_path / "whole", series=2)
    submitted(whole)
    return content(whole)


def test_so_many_and_until_are_one_thing(tmp_path: Path, expected: dict[str, str]) -> None:
    """The iterations begin with the same settings.toml."""
    (tmp_path / "many").mkdir()
    population = make_population(tmp_path / "many", series=2)
    submitted(population, replace(UNTIL, iterations=3, until=0))
    ours = {name: value for name, value in content(population).items() if name.endswith("settings.toml")}
    assert len(ours) == 3
    assert ours.items() <= expected.items()


def test_submitted_again_after_every_iteration(tmp_path: Path, expected: dict[str, str]) -> None:
    """Killed twice, it goes on as the run that it was: only its first iteration is a first one."""
    (tmp_path / "parts").mkdir()
    population = make_population(tmp_path / "parts", series=2)
    for last in (1, 2):
        with pytest.raises(Killed):
            submitted(population, kill_after=last)
    submitted(population)
    assert load_population(population.path).iteration == 3
    assert content(population) == expected
    assert not (population.path / "run.json").exists()


def test_a_finished_one_is_left_alone(tmp_path: Path, expected: dict[str, str]) -> None:
    """Nothing is done, and no record of a run stays; the next number adds what is missing."""
    (tmp_path / "done").mkdir()
    population = make_population(tmp_path / "done", series=2)
    submitted(population)
    before, done = content(population), calls(tmp_path / "done/calls", "refine")
    said = submitted(population)
    assert said[-1] == "iteration 003 is finished, 003 is in force: nothing to do"
    assert content(population) == before == expected
    assert calls(tmp_path / "done/calls", "refine") == done
    submitted(population, RefineSettings(until=4, particles=True))
    assert load_population(population.path).iteration == 4
    assert not (population.path / "run.json").exists()


def test_killed_after_the_last_iteration(tmp_path: Path) -> None:
    """The driver could not say so any more: what it left is put in order, nothing is done again."""
    (tmp_path / "last").mkdir()
    population = make_population(tmp_path / "last", series=2)
    with pytest.raises(Killed):
        submitted(population, kill_after=3)
    done = calls(tmp_path / "last/calls", "refine")
    submitted(population)
    assert load_population(population.path).iteration == 3
    assert calls(tmp_path / "last/calls", "refine") == done
    assert not (population.path / "run.json").exists()


def test_the_command_forgets_such_a_run_too(tmp_path: Path) -> None:
    """Nothing is opened for it, but the next ``--iterations`` is not taken for the run that was killed."""
    (tmp_path / "command").mkdir()
    population = make_population(tmp_path / "command", series=2)
    with pytest.raises(Killed):
        submitted(population, kill_after=2)
    record = (population.path / "run.json").read_bytes()
    submitted(population)
    (population.path / "run.json").write_bytes(record)  # as if killed between the last iteration and its removal
    outcome = refine_population(population.path, UNTIL)
    assert outcome.population.iteration == 3
    assert not (population.path / "run.json").exists()
    submitted(population, replace(UNTIL, iterations=3, until=0))
    assert load_population(population.path).iteration == 6


def test_one_of_iterations_and_until(tmp_path: Path) -> None:
    """Options that contradict each other are refused; one given on the command line wins over the file."""
    file = tmp_path / "slurm.toml"
    file.write_text("[refine]\niterations = 7\nparticles = true\n")
    asked = refine_settings(file, {"until": 5}, NO_PRIORS)
    assert [asked.count_after(n) for n in (0, 3, 5, 6)] == [5, 2, 0, 0]
    file.write_text("[refine]\nuntil = 7\nparticles = true\n")
    assert refine_settings(file, {}, NO_PRIORS).count_after(2) == 5
    assert refine_settings(file, {"iterations": 2}, NO_PRIORS).count_after(2) == 2
    with pytest.raises(InputError, match="give one of them"):
        refine_settings(file, {"iterations": 2, "until": 3}, NO_PRIORS)
    with pytest.raises(InputError, match="1 or more; got 0"):
        refine_settings(None, {"until": 0, "particles": True}, NO_PRIORS)
