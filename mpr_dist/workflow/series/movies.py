"""Movies of the tilts of one series: motion refined against the reference, and averages made again.

New averages lie in iterations/NNN/movies/SERIES, laid out as a folder of frame series of Warp's: average/, mask/, and
an XML per movie. Nothing that was there before is touched; later iterations find them through the XML of the series.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpr_dist.errors import NotSeen, SeriesError
from mpr_dist.imaging.dirt import scaled_mask
from mpr_dist.imaging.image_store import ImageRoom
from mpr_dist.imaging.movies import average_frames, frame_images
from mpr_dist.imaging.reference import Reference
from mpr_dist.model.movie import Motion, MovieSource
from mpr_dist.model.population import SeriesFiles
from mpr_dist.refinement.movies import FoundMotion, FrameData, refine_motion
from mpr_dist.storage.defects import read_defects
from mpr_dist.storage.movies import (
    Movie,
    find_movie,
    open_movie,
    read_gain,
    read_motion,
    read_movie_source,
    write_motion,
)
from mpr_dist.storage.mrc import read_header, read_image
from mpr_dist.storage.publish import disk, publish_bytes
from mpr_dist.storage.tiff import mask_path, read_mask
from mpr_dist.storage.warp_project import write_average
from mpr_dist.units import F32, Bool
from mpr_dist.workflow.state.footprint import movie_bytes
from mpr_dist.workflow.state.reference_files import load_references
from mpr_dist.workflow.state.science import SeriesJob
from mpr_dist.workflow.state.series_io import SeriesState

Rooms = Callable[[int], ImageRoom]


class Detector(NamedTuple):
    """What frames are corrected with, (height, width) each: gain to multiply by, pixels not to be trusted."""

    gain: F32 | None = None
    defects: Bool | None = None


SIZE_TOLERANCE = 0.01
# one of n frames correlates with their average by 1 / sqrt(n), noise as it is, and less by half for interpolation and
# hot pixels; with an average that lies otherwise not at all
AGREEING = 0.5


def movies_folder(files: SeriesFiles) -> Path:
    """Where an iteration keeps the movies' results of a series."""
    return files.directory.parent / "movies" / files.name


def with_movies(job: SeriesJob, state: SeriesState, rooms: Rooms) -> tuple[SeriesState, dict[str, float]]:
    """The state with new averages of the tilts that have movies, and a few numbers; as it is if that is not asked for.

    rooms: for the images of the frames of a tilt, beside so many bytes.

    Raises:
        SeriesError: the source has no movies, none of this series is there, or one is damaged.
    """
    if not job.context.settings.tilt_movies:
        return state, {}
    if job.source.movies is None:
        raise SeriesError(
            f"series {job.name}: source {job.source.name} was added without movies (source add --tilt-movies)"
        )
    source = read_movie_source(job.source.movies)
    gain = read_gain(source)
    references = load_references(job.context) if job.context.settings.refines_anything else {}
    images, better, made = list(state.series.image_paths), 0, 0
    for t in np.flatnonzero(state.series.active):
        path = find_movie(source, images[t].stem)
        if path is None:
            continue
        movie = open_movie(path, source.eer_group)
        detector = Detector(gain, read_defects(source, movie.shape[1:]))
        images[t], is_better = _remade(job, state, int(t), source, movie, detector, references, rooms)
        made, better = made + 1, better + is_better
    if not made:
        raise SeriesError(f"series {job.name}: none of its movies is in {source.folder}")
    series = replace(state.series, image_paths=tuple(images))
    return SeriesState(series, state.particles), {"movies": float(made), "movies_refined": float(better)}


def _remade(
    job: SeriesJob,
    state: SeriesState,
    tilt: int,
    source: MovieSource,
    movie: Movie,
    detector: Detector,
    references: dict[str, Reference],
    rooms: Rooms,
) -> tuple[Path, bool]:
    """The path of the new average of one tilt, and whether its motion was refined."""
    old = state.series.image_paths[tilt]
    shape, average_A = _size_of(old, job, movie, source)
    xml = old.parent.parent / f"{old.stem}.xml"
    motion = read_motion(xml) if xml.is_file() else Motion()
    movie = _as_average(movie, source, detector, motion, old)
    with rooms(movie_bytes(movie.shape[1:])) as room:
        found = _found(job, state, tilt, source, movie, detector, motion, references, room)
    if found is not None and found.motion is not None:
        motion = motion.plus(found.motion)
    frames, doses = movie.frames(*detector), source.frame_doses(movie.shape[0])
    average = average_frames(frames, motion, doses, source.pixel_A, shape)
    folder = movies_folder(job.output)
    for each in (folder / "average", folder / "mask"):
        disk().mkdir(each)
    mask = mask_path(old)
    if mask.is_file():
        publish_bytes(folder / "mask" / mask.name, mask.read_bytes())
    write_motion(folder / f"{old.stem}.xml", xml if xml.is_file() else None, motion)
    write_average(folder / "average" / old.name, average, average_A)
    return folder / "average" / old.name, found is not None and found.motion is not None


def _as_average(movie: Movie, source: MovieSource, detector: Detector, motion: Motion, old: Path) -> Movie:
    """The movie with its rows in the order of its average.

    Raises:
        SeriesError: it does not give the average that is there, in either order.
    """
    before = read_image(old)
    shape, n_frames = (before.shape[0], before.shape[1]), movie.shape[0]
    candidates = movie, replace(movie, is_flipped=not movie.is_flipped)
    found = []
    for candidate in candidates:
        frames = islice(candidate.frames(*detector), 1)
        first = average_frames(frames, motion, np.zeros(n_frames), source.pixel_A, shape)
        # differences between neighbours, so that a gradient of the ice does not look like agreement
        sharp = [np.diff(image, axis=1).ravel() for image in (first, before)]
        found.append(float(np.corrcoef(sharp[0], sharp[1])[0, 1]))
    best = int(np.argmax(found))
    if found[best] < AGREEING / np.sqrt(n_frames):
        raise SeriesError(
            f"{movie.path}: its first frame has a correlation of {found[best]:.3f} with {old}, about "
            f"{1 / np.sqrt(n_frames):.2f} is expected. Do the flips of the gain, EERGroupFrames and the folder in "
            f"{source.settings} belong to these averages?"
        )
    return candidates[best]


def _size_of(old: Path, job: SeriesJob, movie: Movie, source: MovieSource) -> tuple[tuple[int, int], float]:
    """(height, width) of the average, and its pixel in A."""
    width, height, _, _ = read_header(old)
    field = np.array([movie.shape[2], movie.shape[1]]) * source.pixel_A
    average = np.array([width, height]) * job.source.pixel_size_A
    if (np.abs(field / average - 1) > SIZE_TOLERANCE).any():
        raise SeriesError(
            f"{movie.path}: frames of {field[0]:.0f} x {field[1]:.0f} A, its average has {average[0]:.0f} x "
            f"{average[1]:.0f} A; is the pixel size in {source.settings} right?"
        )
    return (height, width), job.source.pixel_size_A


def _found(
    job: SeriesJob,
    state: SeriesState,
    tilt: int,
    source: MovieSource,
    movie: Movie,
    detector: Detector,
    motion: Motion,
    references: dict[str, Reference],
    room: ImageRoom,
) -> FoundMotion | None:
    """What the frames say about the motion; None where there is nothing to compare with."""
    settings = job.context.settings
    used = [
        (replace(each.species, ewald=settings.ewald_sign), state.particles[each.name], references[each.name])
        for each in job.context.species
        if each.name in state.particles and each.name in references and references[each.name].q_max > 0
    ]
    if not used or settings.movie_motion is None:
        return None
    wanted = [(species, particles, reference.q_max) for species, particles, reference in used]
    doses, threshold = source.frame_doses(movie.shape[0]), settings.weight_threshold
    dirt = mask_path(state.series.image_paths[tilt])
    mask = scaled_mask(read_mask(dirt), movie.shape[1:]) if dirt.is_file() else None
    try:
        cut = frame_images(
            state.series, tilt, wanted, movie.frames(*detector), motion, doses, source.pixel_A, threshold, room, mask
        )
    except NotSeen:
        return None
    data = tuple(
        FrameData(species, particles, reference, frames)
        for (species, particles, reference), frames in zip(used, cut, strict=True)
    )
    return refine_motion(state.series, tilt, data, settings.movie_motion)
