"""A species joins the population: its maps, its mask, and where each of its particles sits in which tilt series."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError, PopulationError
from mpr_dist.imaging.map_symmetry import map_symmetry
from mpr_dist.imaging.masks import useless_mask
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.population import Population, SpeciesFiles
from mpr_dist.model.pose import Particles
from mpr_dist.model.reading import Dropped, Reading, counted
from mpr_dist.model.settings import MOST_SAMPLES
from mpr_dist.model.species import Helix, Species
from mpr_dist.storage.particle_columns import Columns, list_of, series_key
from mpr_dist.storage.relion import ParticleTable
from mpr_dist.storage.relion_aberrations import Aberrations, aberrations_of
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.units import F64
from mpr_dist.workflow.importing.import_maps import import_maps
from mpr_dist.workflow.importing.import_particles import read_any_particles
from mpr_dist.workflow.state.create import can_be_freed, check_name, check_new_name, opened, told
from mpr_dist.workflow.state.span import Span
from mpr_dist.workflow.state.species_state import SpeciesState, free_name, publish_species


@dataclass(frozen=True)
class SpeciesRequest:
    """One ``species add`` command.

    Attributes:
        pixel_size_A: resample the maps to this; None keeps theirs.
        ignore_unmatched: leave out particles of series that the population does not have, instead of refusing.
        coordinate_pixel_A, shift_pixel_A: of the table's coordinates and origins, instead of what it says.
        temporal_samples: of every trajectory; None: as many as the table has, 1 in most.
        helix: helical symmetry about z, besides the point group.
        tomogram_names: number and name of tomograms, for lists of Dynamo, STOPGAP, AV3 and TOM.
        voxel_origin: coordinate of the tomogram's corner in such lists.
        mask_threshold: make a mask binary there; None refuses one that is not.
    """

    name: str
    half1: Path
    half2: Path
    mask: Path
    particles: Path
    diameter_A: float
    symmetry: str = "C1"
    pixel_size_A: float | None = None
    ignore_unmatched: bool = False
    coordinate_pixel_A: float | None = None
    shift_pixel_A: float | None = None
    temporal_samples: int | None = None
    helix: Helix | None = None
    tomogram_names: Path | None = None
    voxel_origin: float = 0.0
    mask_threshold: float | None = None

    def __post_init__(self) -> None:
        check_name("species", self.name)
        if self.temporal_samples is not None and not 1 <= self.temporal_samples <= MOST_SAMPLES:
            raise InputError(f"trajectories have 1 to {MOST_SAMPLES} temporal samples, got {self.temporal_samples}")
        rotations(self.symmetry)  # raises InputError for a name that is not known


@dataclass(frozen=True)
class SpeciesSummary:
    """What was taken, and how the files were understood."""

    files: SpeciesFiles
    resolution_A: float
    reading: Reading

    @property
    def lines(self) -> list[str]:
        return [self.headline, *told(self.reading)]

    def record(self) -> dict[str, Any]:
        """The same for scripts."""
        s = self.files.species
        return {
            "species": s.name,
            "particles": dict(self.files.particles),
            "symmetry": s.symmetry,
            "diameter_A": s.diameter_A,
            "box_px": s.box_px,
            "pixel_size_A": s.pixel_size_A,
            "resolution_A": self.resolution_A if np.isfinite(self.resolution_A) else None,
            "reading": self.reading.record(),
        }

    @property
    def headline(self) -> str:
        s, counts = self.files.species, [count for _, count in self.files.particles]
        reached = f"{self.resolution_A:.2f} A" if np.isfinite(self.resolution_A) else "nothing in common"
        return (
            f"species {s.name}: {counted(sum(counts), 'particle')} in {len(counts)} tilt series, symmetry "
            f"{s.symmetry_text}, diameter {s.diameter_A:g} A, box {s.box_px} px of {s.pixel_size_A:g} A; "
            f"half-maps: {reached} (FSC 0.143)"
        )


def add_species(path: Path, request: SpeciesRequest) -> SpeciesSummary:
    """Add a species to the population at ``path`` and write its part of iteration 000; the input is only read.

    Raises:
        InputError: a map, the mask or the table cannot be used, particles match no series or lie outside.
        PopulationError: locked, no source yet, or the name is in use already.
    """
    with opened(path) as population:
        _check(population, request.name)
        table = read_any_particles(
            population,
            request.particles,
            coordinate_pixel_A=request.coordinate_pixel_A,
            shift_pixel_A=request.shift_pixel_A,
            tomogram_names=request.tomogram_names,
            voxel_origin=request.voxel_origin,
            ignore_unmatched=request.ignore_unmatched,
        )
        return take_species(population, request, table)


def take_species(
    population: Population, request: SpeciesRequest, table: ParticleTable, margin_A: float = 0.0
) -> SpeciesSummary:
    """The same with particles that were read already, in a population that is locked.

    Args:
        margin_A: how far outside their tomogram particles may lie.
    """
    _check(population, request.name)
    table, names = _matched(population, request, table)
    position = _positions(population, table, names, margin_A)
    _check_halves(table)
    maps = import_maps(
        request.half1,
        request.half2,
        request.mask,
        request.diameter_A,
        request.pixel_size_A,
        request.symmetry,
        request.mask_threshold,
    )
    symmetry = request.symmetry.strip().upper()
    box = len(maps.mask)
    species = Species(request.name, maps.pixel_size_A, box, float(request.diameter_A), symmetry, helix=request.helix)
    everything = Particles(position, table.angles_deg, table.half, np.arange(len(table), dtype=np.int64))
    notes = [*_about_odd_sizes(population, table, names), *_about_aberrations(population, table, names), *maps.notes]
    span = Span.of([_places(population, position, names)])
    notes.append(f"{'NOTE: ' if span.is_odd else ''}{span.sentence}{f'; {span.ADVICE}' if span.is_odd else '.'}")
    found = map_symmetry(maps.half1, maps.half2, species)
    if not found.is_right:
        notes.append(f"NOTE: {found.sentence}; {found.advice}.")
    useless = useless_mask(maps.mask, maps.pixel_size_A, request.diameter_A) if request.helix is None else None
    if useless is not None:
        notes.append(f"NOTE: {useless}.")
    if request.temporal_samples is not None:
        everything = everything.resampled(request.temporal_samples)
        notes.append(f"Trajectories: {request.temporal_samples} temporal samples each, as asked for.")
    state = SpeciesState(species, maps.half1, maps.half2, maps.mask, names, everything, table.columns)
    if request.name in population.removed_species:
        population, aside = free_name(population, request.name)
        notes.append(f"The species {request.name} that was removed is called {aside} now.")
    grown, curves = publish_species(population, state, maps.curves if request.helix is None else None)
    return SpeciesSummary(grown.species_named(request.name), curves.resolution_A, table.reading.plus(*notes))


def _about_odd_sizes(population: Population, table: ParticleTable, names: Sequence[str]) -> Iterator[str]:
    """RELION counts centred coordinates from n / 2, but its tomograms turn about n // 2; ours turn about n / 2."""
    used = set(names)
    odd = {
        source.name: [f"{axis} {n}" for axis, n in zip("xyz", source.volume_size_px, strict=True) if n % 2]
        for source, entry in population.series
        if entry.name in used and not source.is_relion
    }
    found = "; ".join(f"{name}: {', '.join(axes)} px" for name, axes in odd.items() if axes)
    if table.centred and found:
        yield (
            f"NOTE: odd sizes of tomograms ({found}): RELION counts centred coordinates from n / 2 but projects about "
            "n // 2, half a pixel apart; n / 2 was taken for both, as Warp does."
        )


def _about_aberrations(population: Population, table: ParticleTable, names: Sequence[str]) -> Iterator[str]:
    """RELION keeps aberrations with particles, we with tilt series: they are lost unless these came with them."""
    said = aberrations_of(Columns(table.path, table.columns))
    if not any(each.is_any for each in set(said)):
        return
    differing, is_applied = [], False
    for name, own in {name: own for name, own in zip(reversed(names), reversed(said), strict=True)}.items():
        optics = read_tilt_series(population.files(0).series(name).xml, volume_size_A=(1.0, 1.0, 1.0)).optics
        there = Aberrations.of(optics)
        is_applied |= there.is_any
        differing += [] if own.agrees_with(there) else [name]
    if is_applied and differing:
        yield (
            f"NOTE: aberrations, beam tilt or magnification of the particles in {list_of(sorted(differing))} are not "
            "those of the tilt series, which count."
        )
    if is_applied:
        return
    yield (
        "NOT APPLIED: aberrations of the particles (rlnOddZernike, rlnEvenZernike, rlnBeamTiltX/Y, rlnMagMat00..11): "
        "they come with source add --relion-tomograms optimisation_set.star, or refine --aberrations and "
        "--magnification find them anew."
    )


def _check(population: Population, name: str) -> None:
    if not population.series:
        raise PopulationError(f"{population.path} has no tilt series yet; add a source first: mpr-dist source add")
    if not can_be_freed(population, name):
        check_new_name(population, name)


def _matched(
    population: Population, request: SpeciesRequest, table: ParticleTable
) -> tuple[ParticleTable, tuple[str, ...]]:
    """The particles of the population's series, and the name of the series of each."""
    known = {series_key(entry.name): entry.name for _, entry in population.series}
    matched = np.array([name in known for name in table.series])
    unknown = sorted({name for name in table.series if name not in known})
    if not matched.any():
        raise InputError(
            f"{table.path}: none of its {len(table)} particles lies in a tilt series of this population; the table "
            f"names {list_of(unknown)}, the population has {list_of(sorted(known))}"
        )
    dropped = int((~matched).sum())
    if dropped and not request.ignore_unmatched:
        raise InputError(
            f"{table.path}: {dropped} of {len(table)} particles lie in {len(unknown)} series that this population "
            f"does not have ({list_of(unknown)}); add their source, or leave them out with --ignore-unmatched"
        )
    reason = f"they lie in series that this population does not have: {list_of(unknown)}"
    half = table.half[matched]
    stay = [f"Half-sets of the particles that stay: {(half == 1).sum()} and {(half == 2).sum()}."] if dropped else []
    reading = table.reading.plus(*stay, dropped=[Dropped("particles", dropped, reason)])
    table = replace(table.select(matched), reading=reading)
    return table, tuple(known[name] for name in table.series)


def _positions(population: Population, table: ParticleTable, names: Sequence[str], margin_A: float) -> F64:
    """In A from the corner, of the shape of ``position_A``."""
    sizes = {
        entry.name: [n * source.pixel_size_A for n in source.volume_size_px] for source, entry in population.series
    }
    outside = table.outside(sizes, margin_A)
    if outside.any():
        row = int(np.argmax(outside))
        where = ", ".join(f"{value:.0f}" for value in table.corner_positions(sizes)[row].ravel()[:3])
        size = " x ".join(f"{value:.0f}" for value in sizes[names[row]])
        raise InputError(
            f"{table.path}: {int(outside.sum())} of {len(table)} particles lie outside their tomogram, the first in "
            f"{names[row]} at ({where}) A of {size} A; is the pixel size of the coordinates right "
            f"(--coordinate-pixel)? {table.notes[0]}"
        )
    return table.corner_positions(sizes)


def _places(population: Population, position_A: F64, names: Sequence[str]) -> F64:
    """(particles, 3) where they start, as parts of their tomogram."""
    sizes = {e.name: [n * source.pixel_size_A for n in source.volume_size_px] for source, e in population.series}
    return np.asarray(position_A.reshape(len(names), -1, 3)[:, 0] / np.array([sizes[name] for name in names]))


def _check_halves(table: ParticleTable) -> None:
    first, second = int((table.half == 1).sum()), int((table.half == 2).sum())
    if not first or not second:
        raise InputError(
            f"{table.path}: half-set {1 if not first else 2} is empty ({first} and {second} particles); both are "
            "needed to know what is signal"
        )
