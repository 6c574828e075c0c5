"""A species as a value: its maps, its mask and all its particles, read at the iteration in force or about to be added.

Whatever becomes a species, an import or a change of another one, is published here, into the state that was imported:
finished iterations never change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import PopulationError
from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.imaging.reference import filter_halves, species_fsc
from mpr_dist.model.population import Population, SpeciesFiles
from mpr_dist.model.pose import Particles
from mpr_dist.model.pose_changes import renumbered, selected
from mpr_dist.model.species import Species
from mpr_dist.storage import population as storage
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.particle_table import write_particle_table
from mpr_dist.storage.poses import read_poses, write_poses
from mpr_dist.storage.publish import disk, publish_json
from mpr_dist.units import F32
from mpr_dist.workflow.state.create import free_species_name
from mpr_dist.workflow.state.export_state import species_at
from mpr_dist.workflow.state.fsc_table import write_fsc
from mpr_dist.workflow.state.reference_files import check_shape, read_mask
from mpr_dist.workflow.state.science import SpeciesInput, SpeciesOutcome

if TYPE_CHECKING:
    import pandas as pd

SHARE_BELOW_A = 40.0


@dataclass(frozen=True, eq=False)
class SpeciesState:
    """Attributes:
    half1, half2, mask: (box, box, box) float32; the mask is 0 and 1.
    names: (particles,) the series of each; particles: all of them, in the order of ``columns``, rows 0, 1, ...
    columns: (particles, ...) what the table says of each; what it says of poses does not count.
    """

    species: Species
    half1: F32
    half2: F32
    mask: F32
    names: tuple[str, ...]
    particles: Particles
    columns: pd.DataFrame


def latest_poses(population: Population, series: str) -> dict[str, Particles]:
    """Species -> particles in a series, refined as far as the iteration in force; as imported where none did."""
    imported = population.files(0).series(series).poses
    last = storage.last_iteration_with(population, series, population.iteration + 1)
    return read_poses(imported) | (read_poses(population.files(last).series(series).poses) if last else {})


def latest_input(population: Population, name: str) -> SpeciesInput:
    """A species with its maps at the iteration in force. Raises PopulationError when there is no such species."""
    files = population.species_named(name)
    last = storage.last_iteration_with_maps(population, name, population.iteration + 1)
    maps = population.files(last).species(name)
    return SpeciesInput(files.species, files.mask, maps, population.files(0).species(name).particles)


def read_species(population: Population, name: str) -> SpeciesState:
    """The species as it stands. Raises PopulationError, InputError when a file is missing or contradicts another."""
    files, known = population.species_named(name), latest_input(population, name)
    now = species_at(population, files, population.iteration)
    found = Counter(now.names)
    for series, count in files.particles:
        if found[series] != count:
            raise PopulationError(
                f"species {name}: tilt series {series} has poses of {found[series]} particles, species.toml says "
                f"{count}; restore the files from a copy"
            )
    paths = known.previous.half1, known.previous.half2
    first, second = (check_shape(read_volume(path)[0], files.species, str(path)) for path in paths)
    mask = read_mask(known)
    return SpeciesState(files.species, first, second, mask, now.names, renumbered(now.particles), now.columns)


def publish_species(
    population: Population, state: SpeciesState, curves: FscCurves | None = None
) -> tuple[Population, FscCurves]:
    """Write a species into the state that was imported, then name it in population.toml, which is saved as it is given.

    curves: of the half-maps, if they are known already. Returns the population with it, and the curves.
    """
    files, curves = _write_files(population, state, curves)
    grown = storage.add_species(population, files)
    storage.finish_import(grown)
    return grown, curves


def free_name(population: Population, name: str) -> tuple[Population, str]:
    """Give a species that was removed another name, so that a new one can have its own; returns it, too.

    Only where ``can_be_freed`` says so. It stays whole under one of both names if this ends halfway.
    """
    state = read_species(storage.with_restored(population, "species", name), name)
    aside = free_species_name(population, f"{name}.removed-", 1)
    files, _ = _write_files(population, replace(state, species=replace(state.species, name=aside)), None)
    freed = storage.rename_removed(population, name, files)
    _write_poses(freed, aside, state.names, state.particles)  # drops those under the old name
    return freed, aside


def _write_files(
    population: Population, state: SpeciesState, curves: FscCurves | None
) -> tuple[SpeciesFiles, FscCurves]:
    species = state.species
    if curves is None:
        curves = species_fsc(state.half1, state.half2, state.mask, species)
    mask = population.path / "species" / species.name / "mask.mrc"
    files = SpeciesFiles(species, mask, tuple(sorted(Counter(state.names).items())))
    _write_maps(population, files, state, curves)
    result = population.files(0).species(species.name)
    write_particle_table(result.particles, state.names, state.particles, state.columns)
    _write_poses(population, species.name, state.names, state.particles)
    return files, curves


def _write_maps(population: Population, files: SpeciesFiles, state: SpeciesState, curves: FscCurves) -> None:
    result, pixel = population.files(0).species(files.name), files.species.pixel_size_A
    assert files.mask is not None
    disk().mkdir(files.mask.parent)
    disk().mkdir(result.directory)
    write_volume(files.mask, state.mask, pixel)
    write_volume(result.half1, state.half1, pixel)
    write_volume(result.half2, state.half2, pixel)
    filtered = filter_halves(state.half1, state.half2, curves, SHARE_BELOW_A)
    write_volume(result.map, np.asarray((filtered[0] + filtered[1]) / 2, np.float32), pixel)
    write_fsc(result.fsc, curves)
    publish_json(result.result, SpeciesOutcome(curves.resolution_A).table())


def _write_poses(population: Population, name: str, names: Sequence[str], everything: Particles) -> None:
    """Poses of all species of every series with particles of this one; species of an import that failed are dropped."""
    others = {files.name for files in population.species} | set(population.removed_species)
    of_series = np.array(names, dtype=object)
    for series in dict.fromkeys(names):
        path = population.files(0).series(series).poses
        before = read_poses(path)
        own = selected(everything, np.flatnonzero(of_series == series))
        write_poses(path, {key: value for key, value in before.items() if key in others} | {name: own})
