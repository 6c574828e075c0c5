"""A simulated project becomes a population, as a user's commands would make it one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulation.simulate import SimulatedProject
from mpr_dist.workflow.state.create import create_population


def import_simulated(
    path: Path, made: SimulatedProject, name: str, species: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Create population ``name`` at ``path`` with the series of a project and its species, by their own names.

    species: those to add, None for all. Returns what the imports say. Raises InputError when the path is in use, and
    all that the imports raise.
    """
    create_population(path, name)
    movies = made.files.frame_settings if made.settings.frames else None
    lines = list(add_warp_source(path, SourceRequest("simulated", made.files.settings, movies=movies)).lines)
    for one in made.every_species:
        if species is None or one.species.name in species:
            files = (*one.half_maps, one.mask, one.run_data)
            diameter, symmetry = float(one.species.diameter_A), one.species.symmetry
            request = SpeciesRequest(one.species.name, *files, diameter, symmetry, helix=one.species.helix)
            lines += add_species(path, request).lines
    return tuple(lines)
