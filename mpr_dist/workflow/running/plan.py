"""The plan of a run, from the population's tables: no image, map or particle table is opened.

Of the XML files a few are read, those of the series with most images: their defocus decides how large the images are.
If movies are to be averaged again, one of each source is asked for its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from mpr_dist.errors import MprError
from mpr_dist.imaging.image_store import STREAM_BYTES
from mpr_dist.model.population import Population, SeriesEntry, Source
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.plan import (
    FILES_PER_SERIES,
    FILES_PER_SPECIES,
    MovieLoad,
    Plan,
    SeriesLoad,
    SpeciesLoad,
    make_plan,
    solver_bytes,
)
from mpr_dist.refinement.release import largest
from mpr_dist.storage import accumulators, ome_zarr
from mpr_dist.storage.accumulators import slab_starts
from mpr_dist.storage.movies import find_movie, open_movie, read_movie_source
from mpr_dist.storage.population import last_iteration_with
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.series.release_plan import last_of, refined_words, releases
from mpr_dist.workflow.state.footprint import PLANNED_DEFOCUS_UM, Conditions, movie_bytes
from mpr_dist.workflow.state.science import Footprint, Science

READ = 8
CHANNELS = 3  # of map.zarr: the map and both half-maps
AVERAGE_BYTES_PER_PX = 2  # float16
FILES_PER_MOVIE = 2  # the new average and its XML; a mask besides, where the old average has one


def conditions(population: Population) -> Conditions:
    """Largest defocus of the series with most images, and the largest tilt images; a guess where nothing is read."""
    most = sorted(population.series, key=lambda each: -each[1].tilts * population.particles_in(each[1].name))[:READ]
    found = []
    for source, entry in most:
        try:
            series = _imported(population, source, entry)
        except MprError:
            continue  # the run will say what is wrong with it
        found.append(float(np.abs(series.optics.defocus_um.values).max()))
    largest = max(population.sources, key=lambda each: each.image_size_px[0] * each.image_size_px[1], default=None)
    size = ((0, 0), 1.0) if largest is None else (largest.image_size_px, largest.pixel_size_A)
    return Conditions(max(found, default=PLANNED_DEFOCUS_UM), *size)


def plan(
    population: Population,
    science: Science,
    settings: RefineSettings,
    workers: int,
    memory_bytes: int | None = None,
) -> Plan:
    """What ``run`` would do with these settings and workers; changes nothing. memory_bytes: of one worker."""
    footprints = {files.name: science.footprint(files.species) for files in population.species}
    every, samples = last_of(settings), most_samples(population)
    movies = {source.name: _movie(population, source) for source in population.sources if settings.tilt_movies}
    series = tuple(
        _series_load(population, source, entry, footprints, every, samples, movies.get(source.name))
        for source, entry in population.series
    )
    species = tuple(
        SpeciesLoad(
            files.name,
            sum(count for _, count in files.particles),
            footprints[files.name].accumulator_shape,
            footprints[files.name].reference_bytes,
            footprints[files.name].prepare_bytes,
            footprints[files.name].finish_bytes,
            footprints[files.name].tilt_bytes,
            FILES_PER_SPECIES
            + accumulators.file_count(footprints[files.name].accumulator_shape)
            + ome_zarr.file_count((files.species.box_px,) * 3, CHANNELS),
        )
        for files in population.species
    )
    return make_plan(
        population=population.name,
        first=population.iteration + 1,
        iterations=settings.iterations,
        workers=workers,
        refines=refined_words(settings),
        series=series,
        species=species,
        slabs={name: len(slab_starts(footprint.accumulator_shape)) for name, footprint in footprints.items()},
        base_bytes=max((each.base_bytes for each in footprints.values()), default=0),
        memory_bytes=memory_bytes,
        releases=releases(population, settings),
    )


def _series_load(
    population: Population,
    source: Source,
    entry: SeriesEntry,
    footprints: Mapping[str, Footprint],
    settings: RefineSettings,
    samples: int,
    movie: MovieLoad | None,
) -> SeriesLoad:
    counts = {files.name: files.particles_in(entry.name) for files in population.species}
    of_particle = {name: footprint.bytes_per_image * entry.tilts for name, footprint in footprints.items()}
    if settings.protocol == "auto":
        settings = largest(settings, entry.tilts, sum(counts.values()), np.array(source.image_size_px, np.float64))
    if movie is not None and settings.refines_movies:
        of_frame = sum(count * footprints[name].bytes_per_image for name, count in counts.items())
        movie = replace(movie, image_bytes=movie.frames * of_frame)
    blocks = [min(count, max(1, STREAM_BYTES // max(1, of_particle[name]))) for name, count in counts.items()]
    return SeriesLoad(
        entry.name,
        entry.tilts,
        sum(counts.values()),
        sum(count * of_particle[name] for name, count in counts.items()),
        _solver(settings, entry.tilts, sum(counts.values()), samples),
        max((footprint.tables_per_tilt * entry.tilts for footprint in footprints.values()), default=0),
        sum(block * of_particle[name] for name, block in zip(counts, blocks, strict=True)),
        FILES_PER_SERIES + (FILES_PER_MOVIE * entry.tilts if movie else 0),
        movie,
    )


def _movie(population: Population, source: Source) -> MovieLoad | None:
    """Of the first movie that is there, without the images of particles; None where none is: the run will say so."""
    if source.movies is None:
        return None
    try:
        movies = read_movie_source(source.movies)
        found = (find_movie(movies, name) for entry in source.series for name in _images(population, source, entry))
        path = next((each for each in found if each is not None), None)
        if path is None:
            return None
        frames, height, width = open_movie(path, movies.eer_group).shape
    except MprError:
        return None
    average = AVERAGE_BYTES_PER_PX * source.image_size_px[0] * source.image_size_px[1]
    return MovieLoad(frames, width, height, average, movie_bytes((height, width)), 0)


def _images(population: Population, source: Source, entry: SeriesEntry) -> Iterator[str]:
    """Names of the images of a series, without suffix."""
    yield from (path.stem for path in _imported(population, source, entry).image_paths)


def _imported(population: Population, source: Source, entry: SeriesEntry) -> TiltSeries:
    return read_tilt_series(
        population.files(0).series(entry.name).xml,
        volume_size_A=[n * source.pixel_size_A for n in source.volume_size_px],
        processing_folder=entry.xml.parent,
    )


def _solver(settings: RefineSettings, tilts: int, particles: int, samples: int) -> int:
    return solver_bytes(settings, tilts, particles, samples) if settings.refines_anything else 0


def most_samples(population: Population) -> int:
    """Most temporal samples that a species has now; of each the poses of one series are read, where it has most."""
    most = 1
    for files in population.species:
        name = max(files.particles, key=lambda each: each[1], default=("", 0))[0]
        number = last_iteration_with(population, name, population.iteration + 1)
        try:
            found = read_poses(population.files(number).series(name).poses).get(files.name)
        except MprError:
            continue  # the run will say what is wrong with it
        most = max(most, found.n_samples if found is not None else 1)
    return most
