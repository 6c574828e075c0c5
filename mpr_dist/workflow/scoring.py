"""Images of the state in force compared with the half-maps in force, outside of any run: scores of particles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.image_store import ImageRoom
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.imaging.reference import Reference, prepare_reference
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.objective import SpeciesData, products
from mpr_dist.storage.mrc import read_volume
from mpr_dist.units import F64
from mpr_dist.workflow.jobs import series_jobs
from mpr_dist.workflow.reference_files import check_shape, read_mask
from mpr_dist.workflow.resources import available_memory
from mpr_dist.workflow.run_settings import ewald_in_force
from mpr_dist.workflow.science import Context
from mpr_dist.workflow.series_io import SeriesState, read_state, tilt_reader
from mpr_dist.workflow.species_state import latest_input

# of the memory that is free, what images may take; more goes to scratch files
MEMORY_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class LoadedSeries:
    """A series at the state in force; ``data``: images and reference of the species ``names`` that have particles."""

    name: str
    state: SeriesState
    names: tuple[str, ...]
    data: tuple[SpeciesData, ...]


def loaded_series(
    population: Population, species: Sequence[str], series: Sequence[str] | None = None
) -> Iterator[LoadedSeries]:
    """Series with particles of these species, one after another, with their images up to where the half-maps agree.

    Raises:
        InputError: the half-maps of a species share nothing, so that nothing can be compared with them.
        SeriesError: an image cannot be read, or no particle lies inside any.
    """
    settings = RefineSettings(ewald=ewald_in_force(population.path))
    inputs = tuple(latest_input(population, name) for name in species)
    inputs = tuple(replace(one, species=replace(one.species, ewald=settings.ewald_sign)) for one in inputs)
    references: dict[str, Reference] = {}
    for one in inputs:
        halves = [check_shape(read_volume(p)[0], one.species, str(p)) for p in (one.previous.half1, one.previous.half2)]
        references[one.name], _ = prepare_reference(halves[0], halves[1], read_mask(one), one.species)
        if not references[one.name].q_max > 0:
            raise InputError(f"species {one.name}: its half-maps share nothing; refine or reconstruct it first")
    context = Context(population.iteration + 1, True, settings, 0, "", inputs)
    for job in series_jobs(population, context):
        wanted = series is None or job.name in series
        if not wanted or not any(population.species_named(name).particles_in(job.name) for name in species):
            continue
        state = read_state(job, job.previous)
        read = tilt_reader(state.series, job.source.pixel_size_A)
        data, names = [], tuple(one.name for one in inputs if one.name in state.particles)
        with ImageRoom(int(MEMORY_SHARE * available_memory())) as room:
            for one in inputs:
                if one.name in names:
                    q_max, threshold = references[one.name].q_max, settings.weight_threshold
                    particles = state.particles[one.name]
                    images = load_particle_images(state.series, one.species, particles, read, q_max, threshold, room)
                    data.append(SpeciesData(one.species, images, references[one.name]))
            yield LoadedSeries(job.name, state, names, tuple(data))


@dataclass(frozen=True, eq=False)
class Scores:
    """Of the particles of one species, (particles,) in the order of the rows ``row`` of its table.

    score: amplitude of the particle in the half-map that it is no part of, over that of its whole series: 1 for one as
        good as the others, 0 for noise. sigma: its standard deviation; infinite for a particle that no image shows.
    """

    row: np.ndarray
    score: F64
    sigma: F64


def particle_scores(population: Population, species: str) -> Scores:
    """Scores of all particles of a species against the opposite half-map; one pass over the images."""
    rows, score, sigma = [], [], []
    for loaded in loaded_series(population, (species,)):
        particles, data = loaded.state.particles[species], loaded.data[0]
        weights = tilt_scales(loaded.state.series)
        product = products(loaded.state.series, particles, data, cross_half=True)
        xm, mm = (product.xm * weights).sum(1), (product.mm * weights**2).sum(1)
        amplitude = float(xm.sum() / mm.sum()) if mm.sum() > 0 else 0.0
        if not amplitude > 0:
            amplitude = np.inf  # nothing in this series agrees with the map: all scores are 0
        seen = mm > 0
        rows.append(particles.row)
        score.append(np.divide(xm, mm, out=np.zeros_like(xm), where=seen) / amplitude)
        sigma.append(np.where(seen, 1 / (np.sqrt(2 * np.where(seen, mm, 1.0)) * amplitude), np.inf))
    order = np.argsort(np.concatenate(rows), kind="stable")
    return Scores(*(np.concatenate(each)[order] for each in (rows, score, sigma)))
