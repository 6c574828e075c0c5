"""What ``mpr-dist export`` was asked for, and what every target answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpr_dist.errors import InputError
from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.storage.population import load_population


@dataclass(frozen=True)
class ExportRequest:
    """One ``export`` command.

    Attributes:
        population: its directory, only ever read.
        out: folder to write into; new or empty.
        iteration: which one; None = the one in force.
    """

    population: Path
    out: Path
    iteration: int | None = None


@dataclass(frozen=True)
class ExportSummary:
    """Lines for people, and the same as plain values for ``--json``."""

    lines: tuple[str, ...]
    table: Mapping[str, Any] = field(default_factory=dict)


def chosen_iteration(request: ExportRequest) -> tuple[Population, IterationFiles]:
    """The population and the iteration to export, and a folder that is free.

    Raises:
        PopulationError: no population there.
        InputError: the iteration is not finished, or the folder is in use.
    """
    population = load_population(request.population)
    number = population.iteration if request.iteration is None else request.iteration
    files = population.files(number)
    if not files.is_finished and number == population.iteration:
        raise InputError(f"{files.root}: is in force, but not whole any more; see mpr-dist population verify")
    if not files.is_finished:
        raise InputError(
            f"{population.path}: iteration {number} is not finished; the last one that is, is {population.iteration}"
        )
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise InputError(f"{request.out}: exists and is not an empty folder; choose another")
    return population, files
