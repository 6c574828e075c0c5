"""A simulated project becomes a population, as a user's commands would make it one."""

from __future__ import annotations

from pathlib import Path

from mpr_dist.workflow.create import create_population
from mpr_dist.workflow.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulate import SimulatedProject


def import_simulated(path: Path, made: SimulatedProject, name: str) -> tuple[str, ...]:
    """Create population ``name`` at ``path`` with the series of a project and its first species, by its own name.

    Returns what the imports say. Raises InputError when the path is in use, and all that the imports raise.
    """
    create_population(path, name)
    source = add_warp_source(path, SourceRequest("simulated", made.files.settings))
    species, tables = made.species, (*made.half_maps, made.mask, made.files.run_data)
    request = SpeciesRequest(species.name, *tables, float(species.diameter_A), species.symmetry)
    return (*source.lines, *add_species(path, request).lines)
