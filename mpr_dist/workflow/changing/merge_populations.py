"""Several projects become one: a new population of all their series and species, at the states in force.

Series of different projects often have the same names (TS_01 ...); results are files named after the series, so those
that clash get the name of their project in front. The projects themselves are only read.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpr_dist.errors import InputError
from mpr_dist.model.population import Population, SeriesEntry
from mpr_dist.storage import population as storage
from mpr_dist.storage.m_files import carried_source
from mpr_dist.storage.publish import disk, publish_bytes
from mpr_dist.storage.warp_xml import read_tilt_series, write_tilt_series
from mpr_dist.workflow.changing.same_images import same_images, told_twice
from mpr_dist.workflow.changing.species_changes import Changed, publish_changed
from mpr_dist.workflow.changing.species_selection import merged_states, scale_to
from mpr_dist.workflow.state.create import check_name, create_population
from mpr_dist.workflow.state.export_state import series_at
from mpr_dist.workflow.state.species_state import SpeciesState, read_species

SAME_SCALE = 1e-3


@dataclass(frozen=True)
class MergeRequest:
    """One ``population merge`` command.

    Attributes:
        out: the new population; parts: those it is made of, in order; name: of the new one.
        keep_apart: species of the same name stay different species.
        min_distance_A: leave out particles nearer than this to one of an earlier project, within one series.
    """

    out: Path
    parts: tuple[Path, ...]
    name: str
    keep_apart: bool = False
    min_distance_A: float | None = None

    def __post_init__(self) -> None:
        check_name("population", self.name)
        if len(self.parts) < 2 or len({part.resolve() for part in self.parts}) < len(self.parts):
            raise InputError("population merge: give two or more different populations")


@dataclass(frozen=True)
class Merged:
    """What the new population holds, and what became of names."""

    series: int
    renamed: dict[str, dict[str, str]]
    species: Changed
    notes: tuple[str, ...] = field(default=())

    @property
    def lines(self) -> list[str]:
        lines = [f"{self.series} tilt series", *self.species.lines]
        for part, names in self.renamed.items():
            shown = ", ".join(f"{old} -> {new}" for old, new in list(names.items())[:3])
            lines.append(f"  {part}: {len(names)} names were in use twice: {shown}{' ...' if len(names) > 3 else ''}")
        return lines + [f"  {note}" for note in self.notes]

    @property
    def table(self) -> dict[str, Any]:
        return {"series": self.series, "renamed": self.renamed, "notes": list(self.notes)} | self.species.table


@dataclass(frozen=True)
class _Part:
    """One of the populations, and how its series, sources and species are called in the new one."""

    population: Population
    prefix: str
    series: dict[str, str]
    sources: dict[str, str]
    species: dict[str, str]


def merge_populations(request: MergeRequest) -> Merged:
    """Make the new population.

    Raises:
        InputError: species of one name cannot be put together; ``out`` is in use.
        PopulationError: a part has no species, or its files contradict each other.
    """
    parts = _parts([storage.load_population(path) for path in request.parts], request.keep_apart)
    groups: dict[str, list[tuple[_Part, SpeciesState]]] = {}
    for part in parts:
        for old, new in part.species.items():
            groups.setdefault(new, []).append((part, _renamed(read_species(part.population, old), new, part)))
    joined = {name: _joined(states, request.min_distance_A) for name, states in groups.items()}  # raises before writing
    create_population(request.out, request.name)
    population = storage.load_population(request.out)
    for part in parts:
        population = _take_sources(population, part, _scale_of(part, groups))
    notes = [note for _, of_species in joined.values() for note in of_species]
    done = publish_changed(population, [state for state, _ in joined.values()], (), notes)
    renamed = {part.prefix: _changes(part) for part in parts if _changes(part)}
    twice = same_images(population)
    remarks = _remarks(parts, bool(renamed)) + ((f"WARNING: {told_twice(twice)}.",) if twice else ())
    return Merged(len(population.series), renamed, done, remarks)


def _parts(populations: Sequence[Population], keep_apart: bool) -> list[_Part]:
    used = Counter(population.name for population in populations)
    prefixes = [one.name if used[one.name] == 1 else f"{one.name}{number}" for number, one in enumerate(populations, 1)]
    series = _unique(prefixes, [[entry.name for _, entry in one.series] for one in populations])
    sources = _unique(prefixes, [[source.name for source in one.sources] for one in populations])
    named = [[files.name for files in one.species] for one in populations]
    species = _unique(prefixes, named) if keep_apart else [{name: name for name in names} for names in named]
    return [_Part(*each) for each in zip(populations, prefixes, series, sources, species, strict=True)]


def _unique(prefixes: Sequence[str], names: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """For every part, old name -> new: with its prefix where another part has the name, too."""
    used = Counter(name for of_part in names for name in of_part)
    found = [
        {name: name if used[name] == 1 else f"{prefix}_{name}" for name in of_part}
        for prefix, of_part in zip(prefixes, names, strict=True)
    ]
    twice = Counter(name for of_part in found for name in of_part.values())
    clash = [name for name, count in twice.items() if count > 1]
    if clash:
        raise InputError(f"population merge: {clash[0]} would be used twice; rename one of the populations")
    return found


def _renamed(state: SpeciesState, name: str, part: _Part) -> SpeciesState:
    names = tuple(part.series[series] for series in state.names)
    return replace(state, species=replace(state.species, name=name), names=names)


def _joined(
    states: Sequence[tuple[_Part, SpeciesState]], min_distance_A: float | None
) -> tuple[SpeciesState, tuple[str, ...]]:
    alone = [state for _, state in states]
    return (alone[0], ()) if len(alone) == 1 else merged_states(alone, min_distance_A)


def _scale_of(part: _Part, groups: dict[str, list[tuple[_Part, SpeciesState]]]) -> float:
    """Of the series of a part: what makes up for maps that were brought to the scale of another part's.

    Series have one scale for all species; that of the species with most particles counts.
    """
    best, factor = 0, 1.0
    for states in groups.values():
        for owner, state in states:
            if owner is part and len(state.names) > best:
                best, factor = len(state.names), scale_to(states[0][1], state)
    return 1.0 / factor


def _take_sources(population: Population, part: _Part, scale: float) -> Population:
    """The sources of a part with the XML files in force, and what M said of them."""
    old = part.population
    for source in old.sources:
        entries = tuple(replace(entry, name=part.series[entry.name]) for entry in source.series)
        for before, entry in zip(source.series, entries, strict=True):
            _take_series(population, old, before, entry, scale)
        named = replace(source, name=part.sources[source.name], series=entries)
        population = storage.add_source(population, named)
        from_m = carried_source(old.path, source.name)
        if from_m.exists():
            disk().mkdir(carried_source(population.path, named.name).parent)
            shutil.copyfile(from_m, carried_source(population.path, named.name))
    return population


def _take_series(new: Population, old: Population, before: SeriesEntry, entry: SeriesEntry, scale: float) -> None:
    xml, target = series_at(old, before.name, old.iteration).xml, new.files(0).series(entry.name).xml
    if abs(scale - 1) < SAME_SCALE:
        publish_bytes(target, xml.read_bytes())
        return
    series = read_tilt_series(xml, volume_size_A=(1.0, 1.0, 1.0))
    weights = replace(series.weights, series_weight=series.weights.series_weight * scale)
    write_tilt_series(target, xml, replace(series, weights=weights))


def _changes(part: _Part) -> dict[str, str]:
    every = {**part.series, **part.sources, **part.species}
    return {old: new for old, new in every.items() if old != new}


def _remarks(parts: Sequence[_Part], are_renamed: bool) -> tuple[str, ...]:
    told = ", ".join(f"{part.prefix}: iteration {part.population.iteration:03d}" for part in parts)
    notes = [
        f"It begins at the states in force ({told}); priors centre on them, and sums are made with the next refine or "
        "reconstruct."
    ]
    if are_renamed:
        notes.append("Exports use the new names of series; images stay where they are.")
    return tuple(notes)
