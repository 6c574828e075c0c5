"""Sources and species that are no longer worked with, and how they come back. No file is deleted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mpr_dist.storage import population as storage
from mpr_dist.workflow.changing.species_changes import NOTHING_CHANGED, new_name, opened_for, publish_changed
from mpr_dist.workflow.state.create import opened
from mpr_dist.workflow.state.species_state import read_species


def remove_species(path: Path, name: str, dry_run: bool = False) -> list[str]:
    """Leave a species out of everything that follows. Raises PopulationError when there is none of this name.

    dry_run: only say so.
    """
    with opened_for(path, dry_run) as population:
        left = storage.without_species(population, name)
        if not dry_run:
            storage.save_population(left)
            storage.forget_unfinished(left, (name,))
    return [
        f"species {name}: left out from now on; {len(left.species)} species stay. Its files and its maps in finished "
        f"iterations stay, too: mpr-dist species restore {path} {name}",
        *([NOTHING_CHANGED] if dry_run else []),
    ]


def remove_source(path: Path, name: str, dry_run: bool = False) -> list[str]:
    """Leave a source and the particles in it out of everything that follows; dry_run: only say so."""
    with opened_for(path, dry_run) as population:
        left = storage.without_source(population, name)
        if not dry_run:
            storage.save_population(left)
    lost = sum(population.particles_in(entry.name) for _, entry in population.series)
    lost -= sum(left.particles_in(entry.name) for _, entry in left.series)
    lines = [
        f"source {name}: left out from now on, with {len(population.series) - len(left.series)} tilt series and {lost} "
        f"particles in them. No file is deleted: mpr-dist source restore {path} {name}"
    ]
    lines += [f"  species {one.name}: has no particles left" for one in left.species if not one.particles]
    if population.iteration > 0:
        lines.append("  Half-maps still hold these series; mpr-dist reconstruct makes them without.")
    return [*lines, *([NOTHING_CHANGED] if dry_run else [])]


def restore_source(path: Path, name: str) -> list[str]:
    """Bring a removed source back, with the particles in it."""
    with opened(path) as population:
        grown = storage.with_restored(population, "source", name)
        storage.save_population(grown)
    return [f"source {name}: is back, with {len(grown.series) - len(population.series)} tilt series"]


def restore_species(path: Path, name: str, named: str | None = None) -> list[str]:
    """Bring a removed species back as it was.

    If iterations were finished without it, it comes back under another name, with the maps and poses that it had last:
    under its own, they would be taken for those of the iteration in force.
    """
    with opened(path) as population:
        grown = storage.with_restored(population, "species", name)
        last = storage.last_iteration_with_maps(grown, name, grown.iteration + 1)
        if named is None and last in (0, population.iteration):
            storage.save_population(grown)
            return [f"species {name}: is back"]
        state = read_species(replace(grown, iteration=last), name)
        new = new_name(population, named, f"{name}-restored")
        state = replace(state, species=replace(state.species, name=new))
        note = f"As {name} was in iteration {last:03d}."
        return publish_changed(population, (state,), (), (note,)).lines
