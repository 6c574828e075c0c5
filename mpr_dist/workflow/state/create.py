"""A new population, and what all importers share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from mpr_dist.errors import InputError, PopulationError
from mpr_dist.model.population import Population, SeriesEntry, Source
from mpr_dist.model.reading import Reading
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage import population as files
from mpr_dist.storage.lock import locked
from mpr_dist.storage.particle_columns import list_of
from mpr_dist.storage.warp_project import write_skeleton

_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9_.+-]*")


def create_population(path: Path, name: str) -> Population:
    """A new, empty population in the directory ``path``.

    Raises:
        InputError: the directory cannot be made, or the name cannot be used.
        PopulationError: there is a population already.
    """
    check_name("population", name)
    try:
        return files.create_population(path, name)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); choose another directory") from error


def check_name(what: str, name: str) -> None:
    """Names become names of files and words in tables. Raises InputError for those that cannot."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be the name of a {what}; use letters, digits, '_', '-', '.' and '+', with a letter in it"
        )


def check_new_name(population: Population, name: str) -> None:
    """Names of species are used once: finished iterations keep their maps. Raises PopulationError for one in use."""
    if name in [files.name for files in population.species]:
        raise PopulationError(f"{population.path} has a species {name!r} already; choose another name")
    if name in population.removed_species:
        raise PopulationError(
            f"{population.path} had a species {name!r}, which was removed, and its name stays with its results; bring "
            f"it back: mpr-dist species restore {population.path} {name}, or take another name, such as "
            f"{free_species_name(population, f'{name}-', 2)}"
        )


def can_be_freed(population: Population, name: str) -> bool:
    """Whether a removed species can leave its name to a new one: nothing but the import knows it by that."""
    begun = population.iteration > 0 or population.files(1).root.exists()
    # particles in a removed source would be lost on the way to another name
    return name in population.removed_species and not begun and not population.removed_sources


def free_species_name(population: Population, stem: str, first: int) -> str:
    """The stem and the first number from ``first`` on that no species has, removed ones included."""
    used = {*population.removed_species, *(files.name for files in population.species)}
    return next(each for n in count(first) if (each := f"{stem}{n}") not in used)


def check_new_source(population: Population, source: Source, made: Mapping[str, TiltSeries] | None = None) -> None:
    """Raises PopulationError when a name of a source or of its series is in use, or stands for something else there.

    made: the series, by name, of a project that has no XML of its own.
    """
    if any(source.name == other.name for other in population.sources):
        raise PopulationError(f"{population.path} has a source {source.name} already; choose another name")
    there = {entry.name: other.name for other, entry in population.series}
    twice = sorted(entry.name for entry in source.series if entry.name in there)
    if twice:
        raise PopulationError(
            f"{population.path} has tilt series {list_of(twice)} already, in source {there[twice[0]]}; if these are "
            "others of the same name, make a population of them and put both together: mpr-dist population merge"
        )
    replace(population, sources=(*population.sources, source))
    if source.name in population.removed_sources:
        raise PopulationError(f"source {source.name} was removed: mpr-dist source restore, or choose another name")
    removed, imported = files.removed_series(population), population.files(0)
    for entry in source.series:
        known = imported.series(entry.name).xml
        # one that comes back as it was, such as with another limit of tilts, goes on from where it was
        if entry.name in removed and not (known.exists() and known.read_bytes() == _xml(entry, source, made)):
            raise PopulationError(
                f"tilt series {entry.name} was part of source {removed[entry.name]}, which was removed, and is another "
                "one now; restore that source (mpr-dist source restore), or begin a new population"
            )


def _xml(entry: SeriesEntry, source: Source, made: Mapping[str, TiltSeries] | None) -> bytes:
    if made is None:
        return entry.xml.read_bytes()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{entry.name}.xml"
        write_skeleton(path, made[entry.name], source.pixel_size_A, is_foreign=True)
        return path.read_bytes()


def write_made(population: Population, source: Source, made: Mapping[str, TiltSeries]) -> None:
    """Write the XMLs of iteration 000 of a new source that has none. Raises PopulationError as ``check_new_source``."""
    check_new_source(population, source, made)  # before anything is written
    for name, series in made.items():
        write_skeleton(population.files(0).series(name).xml, series, source.pixel_size_A, is_foreign=True)


@contextmanager
def opened(path: Path) -> Iterator[Population]:
    """The population at ``path``, locked against everybody else while the body changes it."""
    found = files.load_population(path).path
    with locked(found):
        yield files.load_population(found)


def told(reading: Reading) -> list[str]:
    """The one paragraph in which an importer says how it understood what it read, and a line for every warning."""
    return [f"  {reading.paragraph}", *(f"  {warning}" for warning in reading.warnings)]
