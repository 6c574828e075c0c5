"""Images of the state in force compared with the half-maps in force, outside of any run: scores of particles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.errors import InputError, NotSeen
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.image_store import ImageRoom
from mpr_dist.imaging.particle_images import TiltImage, TiltReader, load_particle_images
from mpr_dist.imaging.reference import Reference, prepare_reference
from mpr_dist.model.population import Population
from mpr_dist.model.pose_changes import selected
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.products import SpeciesData, products
from mpr_dist.storage.mrc import read_volume
from mpr_dist.units import F32, F64
from mpr_dist.workflow.state.jobs import series_jobs
from mpr_dist.workflow.state.reference_files import check_shape, read_mask
from mpr_dist.workflow.state.resources import available_memory
from mpr_dist.workflow.state.run_settings import ewald_in_force
from mpr_dist.workflow.state.science import Context, SeriesJob, SpeciesInput
from mpr_dist.workflow.state.series_io import SeriesState, read_state, tilt_reader
from mpr_dist.workflow.state.species_state import latest_input

# of the memory that is free, what images may take; more goes to scratch files
MEMORY_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class LoadedSeries:
    """A series at the state in force; ``data``: images and reference of the species ``names`` that have particles."""

    name: str
    state: SeriesState
    names: tuple[str, ...]
    data: tuple[SpeciesData, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The half-maps in force, ready to be compared with images, and the jobs of the series with particles."""

    inputs: tuple[SpeciesInput, ...]
    references: dict[str, Reference]
    jobs: dict[str, SeriesJob]

    @staticmethod
    def of(population: Population, species: Sequence[str]) -> Comparison:
        """Of those species whose half-maps agree to some resolution. Raises InputError when none do."""
        settings = RefineSettings(ewald=ewald_in_force(population.path))
        inputs = tuple(latest_input(population, name) for name in species)
        inputs = tuple(replace(one, species=replace(one.species, ewald=settings.ewald_sign)) for one in inputs)
        references = {one.name: _reference(one) for one in inputs}
        inputs = tuple(one for one in inputs if references[one.name].q_max > 0)
        if not inputs:
            raise InputError(f"the half-maps of {', '.join(species)} share nothing; refine or reconstruct first")
        context = Context(population.iteration + 1, True, settings, 0, "", inputs)
        names = {one.name for one in inputs}
        full = {series for one in population.species if one.name in names for series, _ in one.particles}
        jobs = {job.name: job for job in series_jobs(population, context) if job.name in full}
        return Comparison(inputs, references, jobs)

    @contextmanager
    def load(
        self,
        series: str,
        most_tilts: int | None = None,
        most_particles: int | None = None,
        tell: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> Iterator[LoadedSeries]:
        """A series with its images up to where the half-maps agree.

        most_tilts: only those of lowest dose; most_particles: of each species, evenly out of all; None: all. tell: how
        many tilt images were read, of how many.

        Raises:
            SeriesError: an image cannot be read. A species that no tilt shows is missing.
        """
        job = self.jobs[series]
        state = _part(read_state(job, job.previous), most_tilts, most_particles)
        read = _told(tilt_reader(state.series, job.source.pixel_size_A), series, state, len(self.inputs), tell)
        threshold = job.context.settings.weight_threshold
        data: dict[str, SpeciesData] = {}
        with ImageRoom(int(MEMORY_SHARE * available_memory())) as room:
            for one in self.inputs:
                if one.name not in state.particles:
                    continue
                reference, particles = self.references[one.name], state.particles[one.name]
                with suppress(NotSeen):
                    images = load_particle_images(
                        state.series, one.species, particles, read, reference.q_max, threshold, room
                    )
                    data[one.name] = SpeciesData(one.species, images, reference)
            yield LoadedSeries(series, state, tuple(data), tuple(data.values()))


def _part(state: SeriesState, most_tilts: int | None, most_particles: int | None) -> SeriesState:
    """The tilts of lowest dose, and some of the particles of every species."""
    series, particles = state.series, dict(state.particles)
    if most_tilts is not None:
        dose = np.where(series.active, series.dose, np.inf)
        chosen = np.isin(np.arange(series.n_tilts), np.argsort(dose, kind="stable")[:most_tilts])
        series = replace(series, active=series.active & chosen)
    if most_particles is not None:
        for name, each in particles.items():
            if len(each) > most_particles:
                particles[name] = selected(each, np.linspace(0, len(each) - 1, most_particles).astype(np.int64))
    return replace(state, series=series, particles=particles)


def _told(
    read: TiltReader, name: str, state: SeriesState, species: int, tell: Callable[[str, int, int], None]
) -> TiltReader:
    """The same reader, which tells how far it is; every species reads the tilts once."""
    total, done = int(state.series.active.sum()) * species, 0

    def reading(tilt: int) -> TiltImage | tuple[F32, float]:
        nonlocal done
        done += 1
        tell(f"{name}, tilt images", min(done, total), total)
        return read(tilt)

    return reading


def _reference(one: SpeciesInput) -> Reference:
    paths = one.previous.half1, one.previous.half2
    first, second = (check_shape(read_volume(path)[0], one.species, str(path)) for path in paths)
    reference, _ = prepare_reference(first, second, read_mask(one), one.species)
    return reference


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
    comparison = Comparison.of(population, (species,))
    for name in comparison.jobs:
        with comparison.load(name) as loaded:
            of_series = _scores(loaded, species)
        rows.append(of_series.row)
        score.append(of_series.score)
        sigma.append(of_series.sigma)
    order = np.argsort(np.concatenate(rows), kind="stable")
    return Scores(*(np.concatenate(each)[order] for each in (rows, score, sigma)))


def _scores(loaded: LoadedSeries, species: str) -> Scores:
    particles = loaded.state.particles[species]
    if not loaded.data:
        return Scores(particles.row, np.zeros(len(particles)), np.full(len(particles), np.inf))
    (data,) = loaded.data
    weights = tilt_scales(loaded.state.series)
    product = products(loaded.state.series, particles, data, cross_half=True)
    xm, mm = (product.xm * weights).sum(1), (product.mm * weights**2).sum(1)
    amplitude = float(xm.sum() / mm.sum()) if mm.sum() > 0 else 0.0
    if not amplitude > 0:
        amplitude = np.inf  # nothing in this series agrees with the map: all scores are 0
    seen = mm > 0
    score = np.divide(xm, mm, out=np.zeros_like(xm), where=seen) / amplitude
    return Scores(particles.row, score, np.where(seen, 1 / (np.sqrt(2 * np.where(seen, mm, 1.0)) * amplitude), np.inf))
