"""Tilt series leave for Warp and M: their XML files as an iteration has them, in a folder of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.geometry import project
from mpr_dist.model.population import Population, SeriesEntry, SeriesFiles, Source
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.image_file import file_and_slice
from mpr_dist.storage.mrc import read_image
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.publish import disk
from mpr_dist.storage.warp_project import write_average
from mpr_dist.storage.warp_values import IMAGE_PATHS, WarpFile, number_text, serialise
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.state.export_state import series_at


@dataclass(frozen=True)
class ExportedSeries:
    """Attributes:
    file_name: of the XML, without extension; name: in the population.
    weight, bfactor: of the whole series, as text.
    data: folder where the paths of its movies start.
    movies: their paths, tilt by tilt; empty when the XML names none.
    is_stand_in: its images stand in for movies, which it never had in Warp.
    idle: tilts that are selected (UseTilt), but that this population leaves out.
    rigid_error_A: how far from ours Warp and M predict its particles on average, because their stage moves none.
    """

    name: str
    file_name: str
    weight: str
    bfactor: str
    data: Path
    movies: tuple[Path, ...]
    rigid_error_A: float = 0.0
    idle: int = 0
    is_stand_in: bool = False


def export_series(
    population: Population, source: Source, iteration: int, folder: Path, *, as_imported: bool = False
) -> tuple[ExportedSeries, ...]:
    """Write the XML of every series of a source into ``folder``, which is made.

    Args:
        as_imported: under the names they came with, where those of the population differ.

    The files name their data where they lie now: only DataDirectory changes, and what was refined. Images that did not
    come from Warp become averages in a folder beside it.

    Raises:
        SeriesError: an XML cannot be read.
        InputError: the folder cannot be written.
    """
    disk().mkdir(folder)
    return tuple(
        _export_one(source, e, series_at(population, e.name, iteration), folder / f"{_file_name(e, as_imported)}.xml")
        for e in source.series
    )


def _file_name(entry: SeriesEntry, as_imported: bool) -> str:
    return entry.xml.stem if as_imported and entry.xml.suffix.lower() == ".xml" else entry.name


def _as_averages(file: WarpFile, series: TiltSeries, pixel_A: float, frames: Path) -> bool:
    """Images of other programs as Warp looks for them: links to files, and copies of what lies in stacks.

    Warp and M open the movie of the first tilt even where they use averages alone, so every image stands in for its
    movie, too. Averages that were made again from Warp's movies are not for Warp, whose own lie beside the movies.

    Returns whether this was done.
    """
    own, movies = file.find(IMAGE_PATHS), file.find("MoviePath")
    if own is None or movies is None:
        return False
    file.root.remove(own)
    if (own.text or "").split() != (movies.text or "").split():
        return False
    disk().mkdir(frames / "average")
    names = [f"{series.name}_{tilt:03d}" for tilt in range(series.n_tilts)]
    for name, path in zip(names, series.image_paths, strict=True):
        average, (image, place) = frames / "average" / f"{name}.mrc", file_and_slice(path)
        if place is None:
            average.symlink_to(image.resolve())
        else:
            write_average(average, read_image(path), pixel_A)
        (frames / average.name).symlink_to(Path("average") / average.name)
    movies.text = "\n".join(f"{name}.mrc" for name in names)
    file.root.set("DataDirectory", str(frames.resolve()))
    return True


def _export_one(source: Source, entry: SeriesEntry, files: SeriesFiles, path: Path) -> ExportedSeries:
    file = WarpFile.parse(files.xml, SeriesError, ("TiltSeries",))
    series = read_tilt_series(
        files.xml,
        volume_size_A=[n * source.pixel_size_A for n in source.volume_size_px],
        processing_folder=entry.xml.parent,
    )
    is_stand_in = _as_averages(file, series, source.pixel_size_A, path.parent.with_name(f"{path.parent.name}_frames"))
    given = entry.xml.parent / file.root.get("DataDirectory", "").strip().replace("\\", "/")
    data = (given if given.is_dir() else entry.xml.parent).resolve()
    file.root.set("DataDirectory", str(data))
    write_atomically(path, serialise(file.root))
    movies = file.find("MoviePath")
    lines = (movies.text or "").strip().splitlines() if movies is not None else []
    return ExportedSeries(
        entry.name,
        path.stem,
        number_text(series.weights.series_weight),
        number_text(series.weights.series_bfactor),
        data,
        tuple(data / line.strip().replace("\\", "/") for line in lines),
        _rigid_error_A(series, list(read_poses(files.poses).values())),
        int((series.use_tilt & ~np.array(entry.active, bool)).sum()),
        is_stand_in,
    )


def series_notes(series: Sequence[ExportedSeries]) -> list[str]:
    """What a reader should know of rigid stages, unused tilts, and movies that are none; nothing where all is well."""
    notes, worst, idle = [], max((one.rigid_error_A for one in series), default=0.0), sum(one.idle for one in series)
    if worst > 0:
        notes.append(
            "stages were refined as rigid, but those of Warp and M turn particles without moving them: they predict "
            f"positions up to {worst:.2f} A (rms of a series) from ours"
        )
    stand_ins = [one.name for one in series if one.is_stand_in]
    if stand_ins:
        notes.append(
            f"{len(stand_ins)} series never were in Warp: their images stand in for movies, so that it opens them; "
            "nothing can be refined within tilts there"
        )
    if idle:
        notes.append(
            f"{idle} tilts that this population leaves out (--max-tilts) are selected there, as in the XML files"
        )
    return notes


def _rigid_error_A(series: TiltSeries, species: Sequence[Particles]) -> float:
    """Root mean square over all particles and tilts."""
    if not series.is_stage_rigid or not species:
        return 0.0
    if not series.image_size_A.all():
        series = replace(series, image_size_A=np.ones(2))  # only moves the origin, unless there is an image warp
    loose = replace(series, is_stage_rigid=False)
    difference = [project(series, each).xy_A - project(loose, each).xy_A for each in species]
    return float(np.sqrt(np.mean(np.concatenate([d.reshape(-1, 2) for d in difference]) ** 2) * 2))
