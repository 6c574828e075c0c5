"""A population becomes a project of M: .population, .source and .species, XML files, maps and particle tables."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError, MprError
from mpr_dist.model.movie import MovieSource
from mpr_dist.model.population import Population, Source, SpeciesFiles
from mpr_dist.storage.defects import is_map
from mpr_dist.storage.m_files import (
    NO_HASH,
    MEntry,
    carried_population,
    carried_source,
    carried_species,
    guid_of,
    param_of,
    write_m_population,
    write_m_source,
    write_m_species,
)
from mpr_dist.storage.m_hash import data_hash, raw_movie
from mpr_dist.storage.m_project import read_m_source
from mpr_dist.storage.m_table import NOTHING, SOURCE_HASH, write_m_table, write_plain_table
from mpr_dist.storage.movies import find_movie, read_movie_source
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.particle_columns import list_of
from mpr_dist.storage.publish import disk
from mpr_dist.storage.warp_settings import read_settings
from mpr_dist.storage.warp_values import number_text
from mpr_dist.workflow.exporting.export_series import ExportedSeries, export_series, series_notes
from mpr_dist.workflow.state.export_request import ExportRequest, ExportSummary, chosen_iteration
from mpr_dist.workflow.state.export_state import SpeciesAt, species_at
from mpr_dist.workflow.state.fsc_table import CORRECTED, MASKED, RANDOMISED, RESOLUTION, UNMASKED, read_fsc


@dataclass(frozen=True)
class _Member:
    """Of the .population: its GUID, and its path relative to it."""

    guid: str
    path: str


@dataclass(frozen=True)
class _Hashes:
    """Of raw data by series: those that came from M, and those made from the movies; series without are missing.

    Attributes:
        strange: series whose hash from M is not that of the movie that is there.
    """

    kept: Mapping[str, str]
    made: Mapping[str, str]
    strange: tuple[str, ...]

    def of(self, series: str) -> str:
        """Empty when there is none."""
        return self.kept.get(series, self.made.get(series, ""))


def export_m(request: ExportRequest) -> ExportSummary:
    """Write an iteration as a project of M.

    Raises:
        InputError: the iteration is not finished, the folder is in use or cannot be written.
        PopulationError: files of the population are missing or contradict one another.
    """
    population, files = chosen_iteration(request)
    out = request.out
    species = [species_at(population, each, files.number) for each in population.species]
    disk().mkdir(out)
    written = {source.name: _series_of(population, source, files.number, out) for source in population.sources}
    hashes = _hashes(_kept_hashes(population, species), population, written)
    sources = [_source(population, s, files.number, out, written[s.name], hashes) for s in population.sources]
    links = {one.name: (one.file_name, hashes.of(one.name)) for series in written.values() for one in series}
    lines: list[str] = []
    members = []
    for each in species:
        member, notes = _species(population, each, files.number, out, links)
        members.append(member)
        lines += notes
    path = out / f"{population.name}.population"
    pairs = [(m.guid, m.path) for m in members], [(m.guid, m.path) for m in sources]
    write_m_population(path, carried_population(population.path), population.name, *pairs)
    return _summary(population, path, files.number, written, species, hashes, lines)


def _series_of(population: Population, source: Source, number: int, out: Path) -> tuple[ExportedSeries, ...]:
    is_of_m = carried_source(population.path, source.name).exists()
    return export_series(population, source, number, out / source.name, as_imported=is_of_m)


def _hashes(
    kept: Mapping[str, str], population: Population, written: Mapping[str, Sequence[ExportedSeries]]
) -> _Hashes:
    """Where M said none, the hash that it will compute itself from the movie of the first tilt."""
    seen = {}
    for source in population.sources:
        movies = _movies(source)
        for one in written[source.name]:
            first = raw_movie(one.movies[0]) if one.movies else None
            if first is None and one.movies and movies is not None:
                first = find_movie(movies, one.movies[0].stem)
            if first is not None:
                seen[one.name] = data_hash(one.file_name, first)
    strange = tuple(name for name, value in kept.items() if seen.get(name, value) != value)
    return _Hashes(kept, {name: value for name, value in seen.items() if name not in kept}, strange)


def _movies(source: Source) -> MovieSource | None:
    """What Warp's settings of the frame series say; None when the source has none, or they are gone."""
    try:
        return None if source.movies is None else read_movie_source(source.movies)
    except MprError:
        return None


def _kept_hashes(population: Population, species: Sequence[SpeciesAt]) -> dict[str, str]:
    """Hash of the raw data by series, from M's own files and tables; series without one are missing."""
    found: dict[str, str] = {}
    for each in species:
        if SOURCE_HASH in each.columns:
            pairs = zip(each.names, each.columns[SOURCE_HASH], strict=True)
            found |= {name: str(value) for name, value in pairs if str(value) not in ("", NOTHING)}
    for source in population.sources:
        carried = carried_source(population.path, source.name)
        if carried.exists():
            of_file = read_m_source(carried).hashes
            found |= {e.name: of_file[e.xml.stem] for e in source.series if of_file.get(e.xml.stem)}
    return {entry.name: found[entry.name] for _, entry in population.series if entry.name in found}


def _source(
    population: Population,
    source: Source,
    number: int,
    out: Path,
    series: Sequence[ExportedSeries],
    hashes: _Hashes,
) -> _Member:
    template = carried_source(population.path, source.name)
    own = param_of(template, "DataSource", "GUID")
    path = out / source.name / f"{source.name}.source"
    params: dict[str, str] = {}
    if own is None:
        params = {"GUID": guid_of("source", population.name, source.name), "Name": source.name}
        pixel_A, volume_px = _unbinned(source)
        params |= {"PixelSize": number_text(pixel_A), "RelativeWeight": "1", "RelativeBFactor": "0, 0, 0"}
        params |= {f"Dimensions{axis}": str(n) for axis, n in zip("XYZ", volume_px, strict=True)}
        params["FrameLimit"] = str(max(len(entry.active) for entry in source.series))
        params |= _about_movies(_movies(source), path.parent)
    xmls = [out / source.name / f"{one.file_name}.xml" for one in series]
    params |= _versions(template, "DataSource", number, [xml.read_bytes() for xml in xmls], 27)
    entries = [
        MEntry(hashes.of(one.name) or NO_HASH + one.name, f"{one.file_name}.tomostar", one.weight, one.bfactor)
        for one in series
    ]
    write_m_source(path, template, params, entries)
    return _Member(own or params["GUID"], f"{source.name}/{source.name}.source")


def _about_movies(movies: MovieSource | None, folder: Path) -> dict[str, str]:
    """What M needs to read movies; paths relative to the folder of the .source."""
    dose, group, gain, defects, flips = "0", 1, "", "", (False, False, False)
    if movies is not None:
        dose, group = number_text(movies.dose_per_frame), movies.eer_group
        flips = (movies.flip_x, movies.flip_y, movies.transpose)
        gain, defects = (
            "" if path is None else os.path.relpath(path.resolve(), folder.resolve())
            for path in (movies.gain, movies.defects if movies.defects and is_map(movies.defects) else None)
        )
    params = {f"Gain{words}": str(flag) for words, flag in zip(("FlipX", "FlipY", "Transpose"), flips, strict=True)}
    return params | {
        "DosePerAngstromFrame": dose,
        "EERGroupFrames": str(group),
        "GainPath": gain,
        "DefectsPath": defects,
    }


def _unbinned(source: Source) -> tuple[float, tuple[int, int, int]]:
    """Pixel in A and size of tomograms as Warp's settings have them; binned where there are no such settings."""
    try:
        settings = read_settings(source.settings)
    except MprError:
        return source.pixel_size_A, source.volume_size_px
    return settings.pixel_size_A, settings.volume_px


def _versions(template: Path, root: str, number: int, parts: Sequence[bytes], length: int) -> dict[str, str]:
    """A version of its own where something was refined; what was only taken over keeps M's."""
    before = param_of(template, root, "Version")
    if before is not None and number == 0:
        return {}
    digest = hashlib.sha1()
    for part in parts:
        digest.update(part)
    return {"Version": digest.hexdigest()[:length], "PreviousVersion": before or ""}


def _species(
    population: Population, species: SpeciesAt, number: int, out: Path, links: Mapping[str, tuple[str, str]]
) -> tuple[_Member, list[str]]:
    """``links``: name in the file, and hash, by the name of the series."""
    name, template = species.files.name, carried_species(population.path, species.files.name)
    own = param_of(template, "Species", "GUID")
    guid = own or guid_of("species", population.name, name)
    folder = Path("species") / f"{name}_{guid[:8]}"
    disk().mkdir(out / folder)
    parts = _maps(species, out / folder / name)
    table = out / folder / f"{name}_particles.star"
    names, hashes = zip(*(links[series] for series in species.names), strict=True)
    unreadable = write_m_table(table, species.particles, names, hashes, species.columns)
    params = _params(species.files, species.particles.n_samples, None if own else guid)
    curves = read_fsc(species.maps.fsc)
    if np.isfinite(curves.resolution_A) and (own is None or number > 0):
        params["GlobalResolution"] = number_text(curves.resolution_A)
    params |= _versions(template, "Species", number, [*parts, table.read_bytes()], 8)
    path = out / folder / f"{name}.species"
    write_m_species(path, template, params)
    notes = []
    if unreadable:
        notes.append(f"{name}: columns with blanks, which M cannot read, are left out: {', '.join(unreadable)}")
    return _Member(guid, f"{folder}/{name}.species"), notes


def _params(files: SpeciesFiles, samples: int, guid: str | None) -> dict[str, str]:
    """What we may change; and for a species that M does not know, what M needs besides."""
    s = files.species
    params = {"PixelSize": number_text(s.pixel_size_A), "DiameterAngstrom": str(round(s.diameter_A))}
    params |= {"Symmetry": s.symmetry, "TemporalResolutionMovement": str(samples)}
    params["TemporalResolutionRotation"] = str(samples)
    units, rise, twist = "1", "0", "0"
    if s.helix is not None:
        units, rise, twist = str(s.helix.units), number_text(s.helix.rise_A), number_text(s.helix.twist_deg)
    if s.helix is not None or guid is not None:  # what M says of one that is none is left as it is
        params |= {"HelicalUnits": units, "HelicalTwist": twist, "HelicalRise": rise}
    if guid is None:
        return params
    # without a weight M takes a mass for the diameter's sphere; 0.81 Da/A^3 is the usual density of protein
    mass_kDa = 0.81e-3 * np.pi / 6 * s.diameter_A**3
    known = {"GUID": guid, "Name": s.name, "MolecularWeightkDa": number_text(round(float(mass_kDa)))}
    rest = {"HelicalHeight": "0", "DoEwald": "False"}
    rest |= {"EwaldReverse": "False", "UseForAlignment": "True", "MaskUseManual": "True"}
    return known | params | rest


def _maps(species: SpeciesAt, stem: Path) -> list[bytes]:
    """Half-maps, mask, filtered map and FSC curves under M's names; returns the bytes that make a version."""
    mask, pixel_A = species.files.mask, species.files.species.pixel_size_A
    kinds = {"half1": species.maps.half1, "half2": species.maps.half2, "filt": species.maps.map}
    if mask is None:
        raise InputError(f"species {species.files.name} has no mask, which M needs; give it one first")
    parts = []
    for kind, source in {**kinds, "mask": mask}.items():
        volume, _ = read_volume(source)
        path = stem.with_name(f"{stem.name}_{kind}.mrc")
        write_volume(path, volume, pixel_A)
        if kind != "filt":
            parts.append(path.read_bytes())
    curves = read_fsc(species.maps.fsc)
    frequency = curves.frequency_per_A
    columns = {RESOLUTION: ["Infinity" if f == 0 else f"{1 / f:.5f}" for f in frequency]}
    of = {UNMASKED: curves.unmasked, RANDOMISED: curves.randomised, CORRECTED: curves.corrected, MASKED: curves.masked}
    columns |= {name: [f"{value:.5f}" for value in values] for name, values in of.items()}
    write_plain_table(stem.with_name(f"{stem.name}_fsc.star"), columns)
    return parts


def _summary(
    population: Population,
    path: Path,
    number: int,
    written: Mapping[str, Sequence[ExportedSeries]],
    species: Sequence[SpeciesAt],
    hashes: _Hashes,
    notes: Sequence[str],
) -> ExportSummary:
    series = [one for each in written.values() for one in each]
    unknown = [one for one in series if not hashes.of(one.name)]
    counts = ", ".join(f"{len(each.names)} of {each.files.name}" for each in species)
    lines = [f"iteration {number:03d} of {population.name} for M: {path}"]
    lines.append(
        f"  {len(series)} tilt series; particles: {counts or 'none'}; hashes of raw data: {len(hashes.kept)} from M, "
        f"{len(hashes.made)} made from movies"
    )
    notes = [*notes, *series_notes(series)]
    if hashes.strange:
        notes.append(
            f"the hash that M gave {list_of(hashes.strange)} is not that of the movie that is there now, or of its "
            "name; it was kept, but M will not link particles to this movie"
        )
    lines += [f"  {note}" for note in notes]
    needs = ""
    if unknown:
        movies = unknown[0].movies
        needs = (
            f"{len(unknown)} series have no hash of their raw data ({list_of([u.name for u in unknown])}), by which M "
            "links particles to them. M makes it from the movie of the first tilt, which is not there"
            + (f" ({movies[0]})" if movies else "")
            + "; M cannot refine without it. Bring the movies to where the XML files look for them, and export again."
        )
        lines.append(f"  NOTE: M WILL NEED raw movies: {needs}")
    table = {
        "population": str(path),
        "iteration": number,
        "series": [one.name for one in series],
        "hashes": {one.name: hashes.of(one.name) for one in series if hashes.of(one.name)},
        "hashes_made": sorted(hashes.made),
        "without_hash": [one.name for one in unknown],
        "needs": needs,
        "notes": list(notes),
    }
    return ExportSummary(tuple(lines), table)
