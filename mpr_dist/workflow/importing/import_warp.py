"""Tilt series of a Warp project become a source: which can be used, with which tilts, and why not the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError, MprError, SeriesError
from mpr_dist.imaging.dirt import check_field
from mpr_dist.model.movie import MovieSource
from mpr_dist.model.population import Population, SeriesEntry, Source
from mpr_dist.model.reading import Dropped, Reading, counted
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage import population as storage
from mpr_dist.storage.defects import read_defects
from mpr_dist.storage.movies import find_movie, open_movie, read_gain, read_movie_source
from mpr_dist.storage.mrc import read_header
from mpr_dist.storage.particle_columns import series_key
from mpr_dist.storage.publish import publish_bytes
from mpr_dist.storage.tiff import mask_path, read_mask
from mpr_dist.storage.warp_roots import is_deselected
from mpr_dist.storage.warp_settings import WarpSettings, find_series, find_unprocessed, read_settings
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.units import Bool
from mpr_dist.workflow.state.create import check_name, check_new_source, opened, told
from mpr_dist.workflow.state.source_reading import SeriesFacts, source_reading

PIXEL_TOLERANCE = 5e-3  # relative; headers hold rounded pixel sizes
SIZE_TOLERANCE = 0.01  # relative; Warp rounds binned image sizes to even numbers


@dataclass(frozen=True)
class SourceRequest:
    """One ``source add`` command.

    Attributes:
        settings: Warp's .settings, or RELION's tomograms.star.
        max_tilts: use only so many tilts of each series, those of lowest dose; None = all.
        include_deselected: use tilts (UseTilt False) and series (UnselectManual True) deselected in Warp, too.
        files: names of the series to take; None = all.
        movies: Warp's .settings of the frame series; None = without movies.
    """

    name: str
    settings: Path
    max_tilts: int | None = None
    include_deselected: bool = False
    files: tuple[str, ...] | None = None
    movies: Path | None = None

    def __post_init__(self) -> None:
        check_name("source", self.name)
        if self.max_tilts is not None and self.max_tilts < 1:
            raise InputError(f"at least 1 tilt must be used, got a limit of {self.max_tilts}")


@dataclass(frozen=True)
class SourceSummary:
    """What was taken and what was left, with the reasons. ``rows``: tilts in the file, by name of the series."""

    source: Source
    rows: dict[str, int]
    left_out: tuple[tuple[str, str], ...]
    reading: Reading = field(default_factory=Reading)

    @property
    def lines(self) -> list[str]:
        s = self.source
        headline = (
            f"source {s.name}: {len(s.series)} tilt series, {counted(sum(e.tilts for e in s.series), 'tilt')}; images "
            f"of {s.image_size_px[0]} x {s.image_size_px[1]} px at {s.pixel_size_A:g} A, tomograms of "
            f"{' x '.join(map(str, s.volume_size_px))} px"
        )
        series = [f"  {e.name}: {e.tilts} of {self.rows[e.name]} tilts" for e in s.series]
        return [headline, *told(self.reading), *series, *(f"  {n}: LEFT OUT: {why}" for n, why in self.left_out)]

    def record(self) -> dict[str, Any]:
        """The same for scripts."""
        s = self.source
        return {
            "source": s.name,
            "series": {e.name: {"tilts": e.tilts, "of": self.rows[e.name]} for e in s.series},
            "left_out": dict(self.left_out),
            "pixel_size_A": s.pixel_size_A,
            "image_size_px": list(s.image_size_px),
            "volume_size_px": list(s.volume_size_px),
            "reading": self.reading.record(),
        }


@dataclass(frozen=True)
class _Candidate:
    entry: SeriesEntry
    rows: int
    image_px: tuple[int, int]
    pixel_A: float
    facts: SeriesFacts
    images: tuple[str, ...]
    masked: int = 0


def add_warp_source(path: Path, request: SourceRequest) -> SourceSummary:
    """Add the tilt series of a Warp project to the population at ``path``; the project's files are only read.

    A series whose XML or images cannot be used is left out, with the reason.

    Raises:
        InputError: the settings cannot be read, a name of ``files`` is not there, or no series can be used.
        PopulationError: locked, or a name is in use already.
    """
    with opened(path) as population:
        settings = read_settings(request.settings)
        found = _chosen(find_series(settings), request)
        without = [(name, "it has no XML in the processing folder") for name in _unprocessed(settings, request)]
        if not request.include_deselected:
            reason = "deselected in Warp (UnselectManual); --include-deselected takes it all the same"
            without += [(path.stem, reason) for path in found if is_deselected(path)]
            found = [path for path in found if not is_deselected(path)]
        return take_series(population, settings, request, found, without)


def take_series(
    population: Population,
    settings: WarpSettings,
    request: SourceRequest,
    found: Sequence[Path],
    without: Sequence[tuple[str, str]] = (),
    names: Mapping[Path, str] | None = None,
) -> SourceSummary:
    """The same with settings that were read already, and XML files that were found, in a population that is locked.

    Args:
        without: series that cannot be taken, with the reasons.
        names: of series that are not called as their files.
    """
    candidates: list[_Candidate] = []
    left_out = list(without)
    for xml in found:
        name = (names or {}).get(xml, xml.stem)
        try:
            candidates.append(_examine(name, xml, settings, request))
        except MprError as error:
            left_out.append((name, str(error)))
    kept, others = _of_one_kind(candidates)
    left_out = sorted(left_out + others)
    if not kept:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise InputError(
            f"{settings.path}: none of {len(left_out)} tilt series can be used. The first reasons: {reasons}"
        )
    source, notes = _source(kept, settings, request)
    _publish(population, source)
    reading = source_reading(
        source, [c.facts for c in kept], origins="AxisOffsetX/Y of the XML, in A, added in the image.",
        names="those of the XML files.",
    ).plus(*notes, dropped=[Dropped("series", len(left_out), "listed below")])  # fmt: skip
    return SourceSummary(source, {c.entry.name: c.rows for c in kept}, tuple(left_out), reading)


def _unprocessed(settings: WarpSettings, request: SourceRequest) -> list[str]:
    return [name for name in find_unprocessed(settings) if request.files is None or name in _keys(request.files)]


def _keys(files: Sequence[str]) -> set[str]:
    return {series_key(name) for name in files}


def _chosen(found: Sequence[Path], request: SourceRequest) -> list[Path]:
    if request.files is None:
        return list(found)
    wanted = _keys(request.files)
    chosen = [path for path in found if path.stem in wanted]
    missing = sorted(wanted - {path.stem for path in chosen})
    if missing or not chosen:
        raise InputError(
            f"{request.settings}: the project has no tilt series named {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}; it has {', '.join(path.stem for path in found[:5])}"
        )
    return chosen


def _examine(name: str, xml: Path, settings: WarpSettings, request: SourceRequest) -> _Candidate:
    series = read_tilt_series(xml, volume_size_A=settings.volume_size_A, processing_folder=settings.processing_folder)
    active = chosen_tilts(series, request.max_tilts, request.include_deselected)
    if not active.any():
        raise SeriesError(f"all {series.n_tilts} tilts are deselected; --include-deselected uses them all the same")
    if not series.image_paths:
        raise SeriesError("its XML has no <MoviePath>, which says where the images are")
    image_px, pixel_A = _image_header(series, active, settings)
    entry = SeriesEntry(name, xml.absolute(), tuple(active.tolist()))
    masked = _masked_tilts(series, active, image_px)
    facts = SeriesFacts.of(series, active)
    images = tuple(path.stem for path in series.image_paths)
    return _Candidate(entry, series.n_tilts, image_px, pixel_A, facts, images, masked)


def _masked_tilts(series: TiltSeries, active: Bool, image_px: tuple[int, int]) -> int:
    """Number of active tilts with a mask of dirt; every mask is read, so that a bad one is told at once."""
    paths = [mask_path(path) for path, use in zip(series.image_paths, active, strict=True) if use]
    masks = [path for path in paths if path.exists()]
    for path in masks:
        height, width = read_mask(path).shape
        try:
            check_field(width, height, *image_px)
        except SeriesError as error:
            raise SeriesError(f"{path}: {error}") from error
    return len(masks)


def chosen_tilts(series: TiltSeries, max_tilts: int | None, include_deselected: bool) -> Bool:
    """(tilts,) those to work with: selected in Warp (or all), and of these the ``max_tilts`` of lowest dose."""
    usable = np.flatnonzero(np.ones(series.n_tilts, bool) if include_deselected else series.use_tilt)
    order = usable[np.argsort(series.dose[usable], kind="stable")]
    active = np.zeros(series.n_tilts, bool)
    active[order[:max_tilts]] = True
    return active


def _image_header(series: TiltSeries, active: Bool, settings: WarpSettings) -> tuple[tuple[int, int], float]:
    """Size (x, y) and pixel of the averages of all active tilts; their headers only are read."""
    paths = [path for path, use in zip(series.image_paths, active, strict=True) if use]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise SeriesError(f"{len(missing)} of {len(paths)} averages are missing, the first is {missing[0]}")
    headers = [read_header(path) for path in paths]
    sizes = {header[:3] for header in headers}
    if len(sizes) > 1:
        raise SeriesError(f"its averages differ in size: {', '.join(f'{x} x {y} x {z}' for x, y, z in sorted(sizes))}")
    nx, ny, nz = sizes.pop()
    if nz != 1:
        raise SeriesError(f"{paths[0]}: expected one image, got {nz} slices")
    pixel_A = _pixel(paths[0], headers[0][3], settings)
    size_A, stated = np.array([nx, ny]) * pixel_A, series.image_size_A
    if stated.min() > 0 and np.abs(size_A / stated - 1).max() > SIZE_TOLERANCE:
        raise SeriesError(
            f"its XML gives images of {stated[0]:g} x {stated[1]:g} A, but the averages have {size_A[0]:g} x "
            f"{size_A[1]:g} A"
        )
    return (nx, ny), pixel_A


def _pixel(path: Path, header_A: float, settings: WarpSettings) -> float:
    """The project's own number for the pixel of its averages: binned as a rule, unbinned if they say so."""
    for pixel in (settings.binned_pixel_size_A, settings.pixel_size_A):
        if header_A == 0 or abs(header_A / pixel - 1) < PIXEL_TOLERANCE:
            return pixel
    raise SeriesError(
        f"{path}: has pixels of {header_A:g} A, but the settings say {settings.pixel_size_A:g} A"
        f" ({settings.binned_pixel_size_A:g} A binned)"
    )


def _of_one_kind(candidates: Sequence[_Candidate]) -> tuple[list[_Candidate], list[tuple[str, str]]]:
    """Those with the most common image size and pixel; the others, with the reason, need a source of their own."""
    if not candidates:
        return [], []
    common = Counter((c.image_px, c.pixel_A) for c in candidates).most_common(1)[0][0]
    kept = [c for c in candidates if (c.image_px, c.pixel_A) == common]
    others = [c for c in candidates if (c.image_px, c.pixel_A) != common]
    (x, y), pixel = common
    reason = "images of {} x {} px at {:g} A, the others have {} x {} at {:g} A; add it as a source of its own"
    return kept, [(c.entry.name, reason.format(*c.image_px, c.pixel_A, x, y, pixel)) for c in others]


def _source(
    kept: Sequence[_Candidate], settings: WarpSettings, request: SourceRequest
) -> tuple[Source, tuple[str, ...]]:
    pixel = kept[0].pixel_A
    exact = np.array(settings.volume_size_A) / pixel
    x, y, z = (int(n) for n in np.rint(exact))
    notes: tuple[str, ...] = ()
    if np.abs(exact - (x, y, z)).max() > 0.01:
        notes = (f"Tomograms of {' x '.join(f'{n:.2f}' for n in exact)} binned px were rounded to whole pixels.",)
    masked = [c.masked for c in kept if c.masked]
    if masked:
        tilts = counted(sum(masked), "tilt")
        notes += (f"Masks: {tilts} of {len(masked)} series have dirt masked, which is filled in.",)
    series = tuple(c.entry for c in kept)
    if request.movies is not None:
        notes += (_movies_found(request.movies, kept),)
    source = Source(
        request.name, settings.path, series, pixel, kept[0].image_px, (x, y, z), request.max_tilts, request.movies
    )
    return source, notes


def _movies_found(path: Path, kept: Sequence[_Candidate]) -> str:
    """
    Raises:
        InputError: the settings or the gain cannot be read, or there is no movie of any tilt.
    """
    movies = read_movie_source(path)
    read_gain(movies)
    names = [name for c in kept for name, use in zip(c.images, c.entry.active, strict=True) if use]
    found = [path for path in (find_movie(movies, name) for name in names) if path is not None]
    if not found:
        raise InputError(
            f"{path}: no movie of any tilt is in {movies.folder}, the first looked for was {names[0]}{movies.suffix}"
        )
    gain = f"gain reference {movies.gain.name}" if movies.gain else "no gain reference"
    gain += _defects_found(movies, found[0])
    dose = f"{abs(movies.dose_per_frame):g} e/A^2 per {'movie' if movies.dose_per_frame < 0 else 'frame'}"
    return f"Movies: of {len(found)} of {len(names)} tilts, *{movies.suffix} at {movies.pixel_A:g} A, {gain}, {dose}."


def _defects_found(movies: MovieSource, movie: Path) -> str:
    """
    Raises:
        InputError: the file of defects cannot be read, or is of another detector.
    """
    if movies.defects is None:
        return ""
    try:
        bad = read_defects(movies, open_movie(movie, movies.eer_group).shape[1:])
    except SeriesError as error:
        raise InputError(str(error)) from error
    count = 0 if bad is None else int(bad.sum())
    return f", {counted(count, 'bad pixel')} of {movies.defects.name} to be repaired"


def _publish(population: Population, source: Source) -> None:
    check_new_source(population, source)  # raises before anything is written
    imported = population.files(0)
    for entry in source.series:
        publish_bytes(imported.series(entry.name).xml, entry.xml.read_bytes())
    storage.add_source(population, source)


def read_names(path: Path) -> tuple[str, ...]:
    """Names of series from a text file, one per line; empty lines and those that begin with # mean nothing.

    Raises:
        InputError: it cannot be read.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as a list of names ({error})") from error
    return tuple(line for line in lines if line and not line.startswith("#"))
