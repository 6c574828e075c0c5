"""A project of M becomes a population: its sources, its species, all that M knows of them. M's files are only read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError, MprError
from mpr_dist.model.population import Population
from mpr_dist.model.species import Helix
from mpr_dist.storage.m_files import carried_population, carried_source, carried_species
from mpr_dist.storage.m_project import MPopulation, MSource, MSpecies, read_m_population
from mpr_dist.storage.m_table import SOURCE_HASH
from mpr_dist.storage.mrc import read_header
from mpr_dist.storage.population import load_population
from mpr_dist.storage.publish import disk, publish_bytes
from mpr_dist.storage.relion import ParticleTable, read_particles
from mpr_dist.storage.warp_settings import WarpSettings
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.importing.import_species import SpeciesRequest, SpeciesSummary, take_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, SourceSummary, take_series
from mpr_dist.workflow.state.create import create_population, opened

# options of M's last refinement and ours; grids are put together by ``_advice``
_SWITCHES = {
    "DoParticlePoses": "--particles",
    "DoAxisAngles": "--stage-angles",
    "DoDefocus": "--defocus",
    "DoDefocusGridSearch": "--defocus-search",
    "DoAstigmatismDelta": "--astigmatism",
    "DoPhaseShift": "--phase-shift",
    "DoCs": "--cs",
    "DoMagnification": "--magnification",
}
_ABERRATIONS = {"DoZernike2": "2", "DoZernike13": "3", "DoZernike4": "4", "DoZernike5": "5"}
MASK_AT = 0.5  # of a mask that is not binary: M takes any


@dataclass(frozen=True)
class MImportSummary:
    """What was taken over, and how every part of it was understood."""

    population: Population
    sources: tuple[SourceSummary, ...]
    species: tuple[SpeciesSummary, ...]
    left_out: tuple[tuple[str, str], ...]
    advice: str

    @property
    def lines(self) -> list[str]:
        lines = [f"population {self.population.name} in {self.population.path}, from M"]
        lines += [line for source in self.sources for line in source.lines]
        lines += [line for species in self.species for line in species.lines]
        lines += [f"{what}: LEFT OUT: {reason}" for what, reason in self.left_out]
        return lines + ([self.advice] if self.advice else [])

    def record(self) -> dict[str, Any]:
        """The same for scripts."""
        return {
            "population": self.population.name,
            "sources": [each.record() for each in self.sources],
            "species": [each.record() for each in self.species],
            "left_out": dict(self.left_out),
            "advice": self.advice,
        }


def import_m(path: Path, m_population: Path) -> MImportSummary:
    """Make a new population at ``path`` from a .population of M.

    A source of single images, and a species that cannot be used, are left out with the reason; particles are linked to
    series by the hash of their raw data, as M does, and by name where there is none.

    Raises:
        InputError: a file of M cannot be read, or no source or no species can be used.
        PopulationError: there is a population already, or two sources have series of the same name.
    """
    project = read_m_population(m_population)
    with _nothing_left_on_failure(path):
        create_population(path, _plain(project.name))
        sources, left_out = _take_sources(path, project)
        species, others = _take_species(path, project)
        publish_bytes(carried_population(path), project.path.read_bytes())
    population = load_population(path)
    return MImportSummary(population, sources, species, (*left_out, *others), _advice(project.options))


@contextmanager
def _nothing_left_on_failure(path: Path) -> Iterator[None]:
    """Half a population would stand in the way of a second try."""
    there = set(path.iterdir()) if path.is_dir() else None
    try:
        yield
    except MprError:
        if there is None:
            disk().remove_tree(path)
        elif path / "population.toml" not in there:
            for name in ("sources", "species", "iterations"):
                disk().remove_tree(path / name)
            for name in ("population.toml", "m.population"):
                disk().unlink(path / name)
        raise


def _plain(name: str) -> str:
    """M allows any name; ours become files and words in tables."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).lstrip("_.+-") or "unnamed"


def _take_sources(path: Path, project: MPopulation) -> tuple[tuple[SourceSummary, ...], list[tuple[str, str]]]:
    taken: list[SourceSummary] = []
    left_out: list[tuple[str, str]] = []
    names = _series_names(project)
    for source in project.sources:
        if not source.is_tilt_series:
            left_out.append((f"source {source.name}", f"{source.path} is not one of tilt series"))
            continue
        name = _plain(source.name)
        with opened(path) as population:
            taken.append(_take_source(population, source, name, names))
            publish_bytes(carried_source(path, name), source.path.read_bytes())
    if not taken:
        raise InputError(f"{project.path}: names no source of tilt series that can be used")
    return tuple(taken), left_out


def _series_names(project: MPopulation) -> dict[Path, str]:
    """Names of series by their XML; where sources have series of the same name, that of the source comes in front."""
    used = [(source, series) for source in project.sources if source.is_tilt_series for series in source.hashes]
    counts = Counter(series for _, series in used)
    return {
        source.xml(series): series if counts[series] == 1 else f"{_plain(source.name)}_{series}"
        for source, series in used
    }


def _take_source(population: Population, source: MSource, name: str, names: Mapping[Path, str]) -> SourceSummary:
    if min(source.volume_px) < 1:
        raise InputError(f"{source.path}: DimensionsX/Y/Z, the size of tomograms in unbinned pixels, are missing")
    folder = source.path.parent
    xmls = [source.xml(series) for series in source.hashes]
    found = [xml for xml in xmls if xml.exists()]
    without = [(names[xml], f"{xml} does not exist") for xml in xmls if not xml.exists()]
    settings = WarpSettings(
        source.path, folder, folder, source.pixel_size_A, _bin_times(source, found), source.volume_px, "*.tomostar"
    )
    summary = take_series(population, settings, SourceRequest(name, source.path), found, without, names)
    renamed = sum(names[xml] != xml.stem for xml in found)
    notes = [f"Series that other sources have as well are called {name}_...: {renamed}."] if renamed else []
    notes += [f"Hashes of raw data: {sum(map(bool, source.hashes.values()))}, kept for M."]
    if source.relative_weight != 1:
        notes.append(f"RelativeWeight {source.relative_weight:g} of the source is kept for M, NOT APPLIED.")
    reading = replace(summary.reading, names="Names: those in the .source.").plus(*notes)
    return replace(summary, reading=reading)


def _bin_times(source: MSource, xmls: list[Path]) -> float:
    """How often averages were binned by 2, which a .source does not say: from the first one that is there."""
    for xml in xmls:
        try:
            images = read_tilt_series(xml, volume_size_A=(1.0, 1.0, 1.0)).image_paths
            pixel_A = next((read_header(image)[3] for image in images if image.is_file()), 0.0)
        except MprError:
            continue  # taking the series will say what is wrong with it
        if pixel_A > 0:
            return float(np.log2(pixel_A / source.pixel_size_A))
    return 0.0


def _take_species(path: Path, project: MPopulation) -> tuple[tuple[SpeciesSummary, ...], list[tuple[str, str]]]:
    names = _series_names(project)
    by_hash = {
        value: names[source.xml(series)]
        for source in project.sources
        if source.is_tilt_series
        for series, value in source.hashes.items()
        if value
    }
    taken: list[SpeciesSummary] = []
    left_out: list[tuple[str, str]] = []
    for species in project.species:
        name = _plain(species.path.stem)
        try:
            helix = None
            if species.helical_units > 1:
                helix = Helix(species.helical_rise_A, species.helical_twist_deg, species.helical_units)
            table = _linked(_sampled(read_particles(species.beside("particles.star")), species.samples), by_hash)
            table = replace(table, reading=table.reading.plus(*_not_applied(species)))
            halves = (species.beside("half1.mrc"), species.beside("half2.mrc"), species.beside("mask.mrc"))
            request = SpeciesRequest(
                name, *halves, table.path, species.diameter_A, species.symmetry, ignore_unmatched=True,
                mask_threshold=MASK_AT, helix=helix,
            )  # fmt: skip
            with opened(path) as population:
                # refinement may have moved particles past the edge of their tomogram
                taken.append(take_species(population, request, table, margin_A=species.diameter_A))
                publish_bytes(carried_species(path, name), species.path.read_bytes())
        except InputError as error:
            left_out.append((f"species {species.name}", str(error)))
    if not taken:
        reasons = "; ".join(f"{what}: {reason}" for what, reason in left_out) or "it names none"
        raise InputError(f"{project.path}: no species can be used ({reasons})")
    return tuple(taken), left_out


def _sampled(table: ParticleTable, samples: int) -> ParticleTable:
    """As many temporal samples as the species says, the last one repeated: M reads its tables so."""
    position, angles = (a if a.ndim == 3 else a[:, None] for a in (table.position_A, table.angles_deg))
    if position.shape[1] == samples:
        return table
    at = np.minimum(np.arange(samples), position.shape[1] - 1)
    note = f"The table has {position.shape[1]} temporal samples, the species {samples}: taken as M would."
    return replace(table, position_A=position[:, at], angles_deg=angles[:, at], reading=table.reading.plus(note))


def _linked(table: ParticleTable, by_hash: Mapping[str, str]) -> ParticleTable:
    """Every particle in the series that its hash means."""
    if SOURCE_HASH not in table.columns:
        return replace(table, reading=table.reading.plus("The table has no hashes of raw data: linked by name."))
    found = [by_hash.get(str(value).strip()) for value in table.columns[SOURCE_HASH]]
    series = tuple(name if link is None else link for name, link in zip(table.series, found, strict=True))
    known = sum(link is not None for link in found)
    names = f"Names: {known} particles linked by {SOURCE_HASH}, {len(found) - known} by wrpSourceName."
    return replace(table, series=series, reading=replace(table.reading, names=names))


def _not_applied(species: MSpecies) -> Iterator[str]:
    if species.ewald:
        option = "on" if species.ewald > 0 else "reversed"
        yield f"NOTE: M took the Ewald sphere as curved: refine with --ewald {option} to do the same."


def _advice(options: Mapping[str, str]) -> str:
    """What M refined last, as options of ours; empty when the file does not say."""

    def on(name: str) -> bool:
        return options.get(name, "").strip().lower() == "true"

    def grid(name: str, axes: tuple[str, ...]) -> str:
        return "x".join(options.get(f"{name}{axis}", "1") for axis in axes)

    words = []
    if on("DoImageWarp"):
        words.append(f"--image-warp {grid('ImageWarp', ('Width', 'Height'))}")
    if on("DoVolumeWarp"):
        words.append(f"--volume-warp {grid('VolumeWarp', ('Width', 'Height', 'Depth', 'Length'))}")
    words += [option for name, option in _SWITCHES.items() if on(name)]
    orders = [order for name, order in _ABERRATIONS.items() if on(name)]
    if orders:
        words.append(f"--aberrations {','.join(orders)}")
    rounds = options.get("NIterations", "3")
    return f"M refined last, in our words: --iterations {rounds} {' '.join(words)}" if words else ""
