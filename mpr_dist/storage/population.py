"""The population's own files: small TOML tables, each with the version of its format.

Paths inside the population are stored relative to it, so that it may be moved; the user's own files are absolute.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from mpr_dist.errors import MprError, PopulationError
from mpr_dist.model.population import Population, SeriesEntry, Source, SpeciesFiles
from mpr_dist.model.species import Helix, Species
from mpr_dist.storage.publish import disk, publish_text

FORMAT_VERSION = 1

T = TypeVar("T")
Table = dict[str, Any]


def create_population(path: Path, name: str) -> Population:
    """A new, empty population. Its iteration 000 is filled by the importers and closed by ``finish_import``."""
    if (path / "population.toml").exists():
        raise PopulationError(f"{path} is a population already; choose another directory or add sources to this one")
    population = Population(name, path.resolve())
    disk().mkdir(population.files(0).series_directory)
    save_population(population)
    return population


def load_population(path: Path) -> Population:
    """Read population.toml and the tables of all its sources and species."""
    path = path.resolve()
    table = read_table(path / "population.toml")
    sources = tuple(_read_source(path, name) for name in _need(table, "sources", list, path / "population.toml"))
    series = {entry.name for source in sources for entry in source.series}
    named = _need(table, "species", list, path / "population.toml")
    species = tuple(_only_in(_read_species(path, name), series) for name in named)
    name = _need(table, "name", str, path / "population.toml")
    iteration = _need(table, "iteration", int, path / "population.toml")
    removed = (tuple(str(name) for name in table.get(key, ())) for key in ("removed_sources", "removed_species"))
    population = Population(name, path, sources, species, iteration, *removed)
    if iteration > 0 and not population.files(iteration).is_finished:
        raise PopulationError(
            f"{path / 'population.toml'}: iteration {iteration:03d} is said to be in force, but "
            f"{population.files(iteration).done} is missing; restore it, or set `iteration` to one that is finished"
        )
    return population


def save_population(population: Population) -> None:
    """Write population.toml alone; it names only what is already on the disk."""
    table: Table = {
        "name": population.name,
        "iteration": population.iteration,
        "sources": [source.name for source in population.sources],
        "species": [files.name for files in population.species],
    }
    removed = {"removed_sources": population.removed_sources, "removed_species": population.removed_species}
    table |= {key: list(names) for key, names in removed.items() if names}
    write_table(population.path / "population.toml", table)


def add_source(population: Population, source: Source) -> Population:
    """Write sources/NAME/source.toml, then name it in population.toml. Iteration 0 must hold its series already."""
    grown = replace(population, sources=(*population.sources, source))
    _check_imported(grown, source)
    series = [
        {"name": e.name, "xml": _store_path(population.path, e.xml), "active": [int(a) for a in e.active]}
        for e in source.series
    ]
    table: Table = {
        "name": source.name,
        "settings": _store_path(population.path, source.settings),
        "pixel_size_A": source.pixel_size_A,
        "image_size_px": list(source.image_size_px),
        "volume_size_px": list(source.volume_size_px),
        "series": series,
    }
    if source.max_tilts is not None:
        table["max_tilts"] = source.max_tilts
    if source.movies is not None:
        table["movies"] = _store_path(population.path, source.movies)
    write_table(population.path / "sources" / source.name / "source.toml", table)
    save_population(grown)
    return grown


def add_species(population: Population, files: SpeciesFiles) -> Population:
    """Write species/NAME/species.toml, then name it in population.toml."""
    grown = replace(population, species=(*population.species, files))
    unknown = sorted({name for name, _ in files.particles} - {entry.name for _, entry in population.series})
    if unknown:
        raise PopulationError(
            f"species {files.name}: particles in tilt series that no source has: {', '.join(unknown[:5])}"
            f"{' ...' if len(unknown) > 5 else ''}; add their source first"
        )
    _write_species(population.path, files)
    save_population(grown)
    return grown


def rename_removed(population: Population, name: str, files: SpeciesFiles) -> Population:
    """Let a species that was removed have another name, that of ``files``; what it consists of is there already."""
    _write_species(population.path, files)
    removed = tuple(files.name if each == name else each for each in population.removed_species)
    renamed = replace(population, removed_species=removed)
    save_population(renamed)
    return renamed


def _write_species(population: Path, files: SpeciesFiles) -> None:
    species = files.species
    table: Table = {
        "name": species.name,
        "pixel_size_A": species.pixel_size_A,
        "box_px": species.box_px,
        "diameter_A": species.diameter_A,
        "symmetry": species.symmetry,
        "particles": {name: int(count) for name, count in files.particles},
    }
    if species.helix is not None:
        table["helix"] = asdict(species.helix)
    if files.mask is not None:
        table["mask"] = _store_path(population, files.mask)
    write_table(population / "species" / species.name / "species.toml", table)


def set_mask(population: Population, name: str, mask: Path) -> Population:
    """Let a species have another mask from now on; the file is there already."""
    files = replace(_read_species(population.path, name), mask=mask)  # with the particles of removed sources, too
    _write_species(population.path, files)
    changed = tuple(replace(one, mask=mask) if one.name == name else one for one in population.species)
    return replace(population, species=changed)


def without_species(population: Population, *names: str) -> Population:
    """The population when these species are removed; nothing is written."""
    for name in names:
        population.species_named(name)
    kept = tuple(files for files in population.species if files.name not in names)
    return replace(population, species=kept, removed_species=(*population.removed_species, *names))


def forget_unfinished(population: Population, names: Sequence[str]) -> None:
    """Remove what an iteration that is not finished has of species that were removed: it will be finished without."""
    begun = population.files(population.iteration + 1)
    if not begun.is_finished:
        for name in names:
            disk().remove_tree(begun.species(name).directory)


def without_source(population: Population, name: str) -> Population:
    """The population when this source is removed, and no species has particles in it any more; nothing is written."""
    if name not in [source.name for source in population.sources]:
        there = ", ".join(source.name for source in population.sources) or "none"
        raise PopulationError(f"{population.path} has no source {name!r}; it has {there}")
    kept = tuple(source for source in population.sources if source.name != name)
    series = {entry.name for source in kept for entry in source.series}
    species = tuple(_only_in(files, series) for files in population.species)
    removed = (*population.removed_sources, name)
    return replace(population, sources=kept, species=species, removed_sources=removed)


def removed_series(population: Population) -> dict[str, str]:
    """Tilt series of the sources that were removed -> their source."""
    return {
        entry.name: name for name in population.removed_sources for entry in _read_source(population.path, name).series
    }


def with_restored(population: Population, kind: str, name: str) -> Population:
    """The population when a removed "source" or "species" is back; nothing is written."""
    removed = population.removed_sources if kind == "source" else population.removed_species
    if name not in removed:
        raise PopulationError(
            f"{population.path}: no {kind} {name!r} was removed; removed were {', '.join(removed) or 'none'}"
        )
    left = tuple(each for each in removed if each != name)
    if kind == "species":
        series = {entry.name for _, entry in population.series}
        files = _only_in(_read_species(population.path, name), series)
        return replace(population, species=(*population.species, files), removed_species=left)
    sources = (*population.sources, _read_source(population.path, name))
    series = {entry.name for source in sources for entry in source.series}
    species = tuple(_only_in(_read_species(population.path, one.name), series) for one in population.species)
    return replace(population, sources=sources, species=species, removed_sources=left)


def _only_in(files: SpeciesFiles, series: set[str]) -> SpeciesFiles:
    """Particles of series that the population has; those of a removed source wait until it is restored."""
    return replace(files, particles=tuple((name, count) for name, count in files.particles if name in series))


def finish_import(population: Population) -> None:
    """Close iteration 000 for the series and species it has now; adding more later is allowed, changing is not."""
    publish_text(population.files(0).done, "imported\n")


def advance(population: Population, iteration: int) -> Population:
    """Put a finished iteration in force."""
    if not population.files(iteration).is_finished:
        raise PopulationError(f"iteration {iteration:03d} is not finished and cannot be put in force")
    advanced = replace(population, iteration=iteration)
    save_population(advanced)
    return advanced


def last_iteration_with(population: Population, series: str, before: int) -> int:
    """The latest iteration before ``before`` that refined ``series``; 0 when none did (a series may fail)."""
    for iteration in range(before - 1, 0, -1):
        if population.files(iteration).series(series).summary.exists():
            return iteration
    return 0


def last_iteration_with_maps(population: Population, species: str, before: int) -> int:
    """The latest iteration before ``before`` with half-maps of ``species``; 0 for one that was added later."""
    for iteration in range(before - 1, 0, -1):
        if population.files(iteration).species(species).half1.exists():
            return iteration
    return 0


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    disk().mkdir(path.parent)
    publish_text(path, tomli_w.dumps({"format_version": FORMAT_VERSION, **table}))


def read_table(path: Path) -> Table:
    """A TOML table of this package, its version checked."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise PopulationError(
            f"{path} does not exist; is this the directory of a population? mpr-dist population create makes one"
        ) from error
    except ValueError as error:
        raise PopulationError(f"{path}: not valid TOML ({error}); restore it from a copy") from error
    version = table.get("format_version")
    if version is None:
        raise PopulationError(f"{path}: no format_version; this file was not written by mpr-dist, restore it")
    if version != FORMAT_VERSION:
        raise PopulationError(
            f"{path}: format_version {version}, but this mpr-dist reads {FORMAT_VERSION}; "
            f"{'update mpr-dist' if isinstance(version, int) and version > FORMAT_VERSION else 'restore the file'}"
        )
    return table


def _read_source(population: Path, name: str) -> Source:
    path = population / "sources" / name / "source.toml"

    def build() -> Source:
        table = read_table(path)
        _same_name(path, table["name"], name)
        series = tuple(
            SeriesEntry(e["name"], _load_path(population, e["xml"]), tuple(bool(a) for a in e["active"]))
            for e in table["series"]
        )
        width, height = (int(v) for v in table["image_size_px"])
        x, y, z = (int(v) for v in table["volume_size_px"])
        settings = _load_path(population, table["settings"])
        pixel = float(table["pixel_size_A"])
        movies = _load_path(population, table["movies"]) if "movies" in table else None
        return Source(name, settings, series, pixel, (width, height), (x, y, z), table.get("max_tilts"), movies)

    return _explained(path, build)


def _read_species(population: Path, name: str) -> SpeciesFiles:
    path = population / "species" / name / "species.toml"

    def build() -> SpeciesFiles:
        table = read_table(path)
        _same_name(path, table["name"], name)
        numbers = float(table["pixel_size_A"]), int(table["box_px"]), float(table["diameter_A"])
        helix = Helix(**table["helix"]) if "helix" in table else None
        species = Species(name, *numbers, table["symmetry"], helix=helix)
        mask = _load_path(population, table["mask"]) if "mask" in table else None
        particles = tuple(sorted((series, int(count)) for series, count in table["particles"].items()))
        return SpeciesFiles(species, mask, particles)

    return _explained(path, build)


def _explained(path: Path, build: Callable[[], T]) -> T:
    """Turn a table of the wrong shape into a sentence with the file's name."""
    try:
        return build()
    except MprError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PopulationError(f"{path}: entry missing or not understood ({error!r}); restore it from a copy") from error


def _need(table: Table, key: str, kind: type, path: Path) -> Any:
    if not isinstance(table.get(key), kind):
        raise PopulationError(f"{path}: needs `{key}` ({kind.__name__}), got {table.get(key)!r}")
    return table[key]


def _same_name(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise PopulationError(f"{path}: is named {found!r} inside; rename the folder or the entry `name`")


def _check_imported(population: Population, source: Source) -> None:
    imported = population.files(0)
    missing = [entry.name for entry in source.series if not imported.series(entry.name).xml.exists()]
    if missing:
        raise PopulationError(
            f"source {source.name}: {len(missing)} series were not imported into {imported.series_directory}, "
            f"the first is {missing[0]}"
        )


def _store_path(population: Path, path: Path) -> str:
    absolute = path.resolve()
    return str(absolute.relative_to(population)) if absolute.is_relative_to(population) else str(absolute)


def _load_path(population: Path, text: str) -> Path:
    return population / text  # an absolute text stands for itself
