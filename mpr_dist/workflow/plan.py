"""The plan of a run, from the population's tables alone: no image, map or particle table is opened."""

from __future__ import annotations

from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.plan import Plan, SeriesLoad, SpeciesLoad, make_plan, solver_bytes
from mpr_dist.storage.accumulators import slab_starts
from mpr_dist.workflow.science import Science


def plan(population: Population, science: Science, settings: RefineSettings, workers: int) -> Plan:
    """What ``run`` would do with these settings and workers; changes nothing."""
    footprints = {files.name: science.footprint(files.species) for files in population.species}
    series = tuple(
        SeriesLoad(
            entry.name,
            entry.tilts,
            population.particles_in(entry.name),
            sum(
                footprints[files.name].bytes_per_image * files.particles_in(entry.name) * entry.tilts
                for files in population.species
            ),
            _solver(settings, entry.tilts, population.particles_in(entry.name)),
        )
        for _, entry in population.series
    )
    species = tuple(
        SpeciesLoad(
            files.name,
            sum(count for _, count in files.particles),
            footprints[files.name].accumulator_shape,
            footprints[files.name].reference_bytes,
        )
        for files in population.species
    )
    return make_plan(
        population=population.name,
        first=population.iteration + 1,
        iterations=settings.iterations,
        workers=workers,
        refines=settings.refined,
        series=series,
        species=species,
        slabs={name: len(slab_starts(footprint.accumulator_shape)) for name, footprint in footprints.items()},
    )


def _solver(settings: RefineSettings, tilts: int, particles: int) -> int:
    return solver_bytes(settings, tilts, particles) if settings.refines_anything else 0
