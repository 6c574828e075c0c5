"""A population from a simulated project: a few series of eight particles each."""

from __future__ import annotations

from pathlib import Path

from mpr_dist.model.population import Population
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.create import create_population
from mpr_dist.workflow.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulate import SimulatedProject


def build_population(directory: Path, made: SimulatedProject) -> Population:
    create_population(directory, "small")
    add_warp_source(directory, SourceRequest("source", made.files.settings))
    half1, half2 = made.half_maps
    species = made.species
    request = SpeciesRequest(
        species.name, half1, half2, made.mask, made.files.run_data, species.diameter_A, species.symmetry
    )
    add_species(directory, request)
    return load_population(directory)
