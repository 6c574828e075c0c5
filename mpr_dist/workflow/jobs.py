"""From the population to the jobs of one iteration: which files each reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mpr_dist.model.population import IterationFiles, Population, SeriesEntry
from mpr_dist.storage.population import last_iteration_with
from mpr_dist.workflow.science import Context, PrepareJob, SeriesJob, SpeciesInput


def species_inputs(population: Population, iteration: int) -> tuple[SpeciesInput, ...]:
    """Every species with the maps of the iteration before ``iteration``."""
    before = population.files(iteration - 1)
    return tuple(SpeciesInput(files.species, files.mask, before.species(files.name)) for files in population.species)


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
