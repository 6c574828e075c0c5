"""What of a population leaves for another program: every series and every particle as one iteration has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import PopulationError
from mpr_dist.model.population import Population, SeriesFiles, SpeciesFiles, SpeciesResult
from mpr_dist.model.pose import Particles
from mpr_dist.model.pose_changes import concatenated, selected
from mpr_dist.storage.population import last_iteration_with, last_iteration_with_maps
from mpr_dist.storage.poses import BLOCK, read_poses
from mpr_dist.storage.star import read_blocks

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class SpeciesAt:
    """A species as an iteration has it.

    Attributes:
        maps: where its half-maps are.
        names: (particles,) the series of each; particles: all of them, in the order of the imported table.
        columns: (particles, ...) what the imported table says besides poses.
    """

    files: SpeciesFiles
    maps: SpeciesResult
    names: tuple[str, ...]
    particles: Particles
    columns: pd.DataFrame


def series_at(population: Population, series: str, iteration: int) -> SeriesFiles:
    """Where the parameters of a series are: of the last iteration up to this one that refined it, or as imported."""
    return population.files(last_iteration_with(population, series, iteration + 1)).series(series)


def species_at(population: Population, files: SpeciesFiles, iteration: int) -> SpeciesAt:
    """A species with all its particles; those of series that an iteration left out are as they were before it.

    Raises:
        PopulationError: the imported table does not fit, or no poses are there.
    """
    name = files.name
    found: dict[str, Particles] = {}
    for _, entry in population.series:
        imported = read_poses(population.files(0).series(entry.name).poses)
        poses = imported | read_poses(series_at(population, entry.name, iteration).poses)
        if name in poses and files.particles_in(entry.name):
            found[entry.name] = poses[name]
    if not found:
        raise PopulationError(
            f"species {name} has no particles in the tilt series of {population.path}; to export the others: mpr-dist "
            "species remove"
        )
    together = concatenated(list(found.values()))
    order = np.argsort(together.row, kind="stable")
    particles = selected(together, order)
    names = np.repeat(list(found), [len(each) for each in found.values()])[order]
    table = read_blocks(population.files(0).species(name).particles).get(BLOCK)
    if table is None or isinstance(table, dict) or particles.row.max() >= len(table):
        raise PopulationError(
            f"{population.files(0).species(name).particles}: lacks particles that poses refer to; restore the file"
        )
    maps = population.files(last_iteration_with_maps(population, name, iteration + 1)).species(name)
    columns = table.iloc[particles.row].reset_index(drop=True)
    return SpeciesAt(files, maps, tuple(names.tolist()), particles, columns)
