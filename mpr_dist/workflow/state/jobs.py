"""From the population to the jobs of one iteration: which files each reads and writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import sha256

from mpr_dist.errors import PopulationError
from mpr_dist.model.population import IterationFiles, Population, SeriesEntry
from mpr_dist.storage.population import last_iteration_with, last_iteration_with_maps
from mpr_dist.workflow.state.science import Context, PrepareJob, SeriesJob, SpeciesInput


def species_inputs(population: Population, iteration: int) -> tuple[SpeciesInput, ...]:
    """Every species with its latest maps from before ``iteration``."""
    found = []
    for files in population.species:
        last = last_iteration_with_maps(population, files.name, iteration)
        maps, imported = (population.files(n).species(files.name) for n in (last, 0))
        found.append(SpeciesInput(files.species, files.mask, maps, imported.particles))
    return tuple(found)


def species_hash(inputs: tuple[SpeciesInput, ...]) -> str:
    """What the species are, their masks included; their maps never change once they are there."""
    masks = [_mask_hash(each) for each in inputs]
    maps = [each.previous.directory.parts[-3:] for each in inputs]
    return sha256(json.dumps([[asdict(each.species) for each in inputs], masks, maps]).encode()).hexdigest()


def _mask_hash(species: SpeciesInput) -> str:
    if species.mask is None:
        return ""
    try:
        return sha256(species.mask.read_bytes()).hexdigest()
    except OSError as error:
        raise PopulationError(
            f"species {species.name}: its mask {species.mask} cannot be read ({error.strerror}); restore it from a copy"
        ) from error


def prepare_jobs(context: Context, files: IterationFiles) -> list[PrepareJob]:
    return [PrepareJob(context, species, files.references) for species in context.species]


def series_jobs(population: Population, context: Context) -> Iterator[SeriesJob]:
    """One job per tilt series. A series that failed in the last iteration starts from the last one that refined it."""
    output = population.files(context.iteration)
    light = {source.name: replace(source, series=()) for source in population.sources}  # jobs travel: keep them small
    for source, entry in population.series:
        last = last_iteration_with(population, entry.name, context.iteration)
        yield SeriesJob(
            context=context,
            source=light[source.name],
            entry=entry,
            imported=population.files(0).series(entry.name),
            previous=population.files(last).series(entry.name),
            output=output.series(entry.name),
        )


def series_cost(population: Population, entry: SeriesEntry) -> float:
    """Particle images: what the time of a series is proportional to. Never zero, so that nothing is free."""
    return float(max(1, population.particles_in(entry.name) * entry.tilts))
