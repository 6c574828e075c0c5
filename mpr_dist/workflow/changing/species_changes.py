"""Species made from species: turned, moved, expanded, with other trajectories.

A finished iteration never changes, so a change is a new species beside the old one. It begins at the state in force:
its maps, its poses as refined so far, its half-sets. The old one is removed from what is refined, unless it is to be
kept, because a particle that is in two species counts twice; its files stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError, PopulationError
from mpr_dist.imaging.moved_maps import recentre_map, recentre_mask, turn_map, turn_mask
from mpr_dist.imaging.reference import species_fsc
from mpr_dist.maths.fourier import crop_or_pad_real
from mpr_dist.maths.rotations import euler_to_matrix, rotation_z
from mpr_dist.maths.symmetry import cosets, fixed_part, turned_group
from mpr_dist.model.population import Population
from mpr_dist.model.pose_changes import expanded, recentred, turned
from mpr_dist.model.settings import MOST_SAMPLES
from mpr_dist.model.species import Helix, Species
from mpr_dist.storage.population import forget_unfinished, load_population, without_species
from mpr_dist.units import F64
from mpr_dist.workflow.state.create import check_name, check_new_name, opened
from mpr_dist.workflow.state.science import finite
from mpr_dist.workflow.state.species_state import SpeciesState, publish_species, read_species

NOTHING_CHANGED = "Nothing was changed (--dry-run)."
PARENT, COPY = "mprParentRow", "mprSymmetryCopy"

Change = Callable[[SpeciesState], tuple[SpeciesState, tuple[str, ...]]]


@dataclass(frozen=True)
class ChangeRequest:
    """What all changes have in common.

    Attributes:
        name: of the species to begin with; new_name: of what it becomes, None: its name with a suffix.
        keep: go on refining the old one, too.
        dry_run: only say what would become of it; nothing is written.
    """

    path: Path
    name: str
    new_name: str | None = None
    keep: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Changed:
    """What became of it. ``species``: name -> particles, resolution, symmetry ... of those that are new."""

    species: dict[str, dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        lines = [
            f"species {name}: {one['particles']} particles in {one['series']} tilt series, symmetry {one['symmetry']}, "
            f"box {one['box_px']} px of {one['pixel_size_A']:g} A; half-maps: "
            + (f"{one['resolution_A']:.2f} A (FSC 0.143)" if one["resolution_A"] else "nothing in common")
            for name, one in self.species.items()
        ]
        return lines + [f"  {note}" for note in self.notes]

    @property
    def table(self) -> dict[str, Any]:
        return {"species": self.species, "notes": list(self.notes)}


@contextmanager
def opened_for(path: Path, dry_run: bool) -> Iterator[Population]:
    """The population at ``path``, locked unless nothing will be written."""
    if dry_run:
        yield load_population(path)
        return
    with opened(path) as population:
        yield population


def rotate_species(request: ChangeRequest, angles_deg: Sequence[float]) -> Changed:
    """Turn the map of a species by rot, tilt, psi, as those angles turn a particle; poses so that nothing moves.

    Raises:
        InputError: the symmetry of the species has no name about the turned axes.
    """
    rotation = euler_to_matrix(np.asarray(angles_deg, np.float64))

    def change(state: SpeciesState) -> tuple[SpeciesState, tuple[str, ...]]:
        old = state.species
        symmetry = turned_group(old.symmetry, rotation)
        if symmetry is None or (old.helix is not None and abs(rotation[2, 2]) < 1 - 1e-9):
            raise InputError(
                f"species {old.name} has symmetry {old.symmetry_text}, whose axes would no longer be where that name "
                f"says; expand it first: mpr-dist species expand-symmetry {request.path} {old.name}"
            )
        moved = replace(
            state,
            species=replace(old, symmetry=symmetry),
            half1=turn_map(state.half1, rotation),
            half2=turn_map(state.half2, rotation),
            mask=turn_mask(state.mask, rotation),
            particles=turned(state.particles, rotation),
        )
        note = "Turned: half-maps, mask, and the orientations at all temporal samples; positions stay."
        named = (f"Symmetry: {old.symmetry} is {symmetry} now.",) if symmetry != old.symmetry else ()
        return moved, (note, *named, *_mask_lost(state, moved))

    return change_species(request, "rotated", change)


def shift_species(request: ChangeRequest, centre_A: Sequence[float], diameter_A: float | None = None) -> Changed:
    """Make a point of the map (x, y, z in A from its centre) the new centre; diameter_A: of the new species.

    Raises:
        InputError: the point is not on an axis that the whole symmetry leaves alone, or outside the box.
    """
    centre = np.asarray(centre_A, np.float64)

    def change(state: SpeciesState) -> tuple[SpeciesState, tuple[str, ...]]:
        old = state.species
        _check_centre(old, centre, request)
        if np.abs(centre).max() >= old.box_px * old.pixel_size_A / 2:
            raise InputError(f"species {old.name}: the new centre lies outside its box of {old.box_px} px")
        centre_px = centre / old.pixel_size_A
        moved = replace(
            state,
            half1=recentre_map(state.half1, centre_px),
            half2=recentre_map(state.half2, centre_px),
            mask=recentre_mask(state.mask, centre_px),
            particles=recentred(state.particles, centre),
        )
        moved = moved if diameter_A is None else _of_diameter(moved, diameter_A)
        note = "Moved: half-maps, mask, and the positions at all temporal samples; orientations stay."
        return moved, (note, *_mask_lost(state, moved))

    return change_species(request, "shifted", change)


def expand_symmetry(request: ChangeRequest, symmetry: str = "C1", from_symmetry: str | None = None) -> Changed:
    """Every particle becomes one per symmetry-related copy, of a species with the lower ``symmetry``.

    from_symmetry: the group to expand, instead of the species' own. Raises InputError unless it contains the other.
    """

    def change(state: SpeciesState) -> tuple[SpeciesState, tuple[str, ...]]:
        whole, helix = from_symmetry or state.species.symmetry, state.species.helix
        copies = cosets(whole, symmetry)
        if len(copies) == 1 and helix is None:
            raise InputError(f"species {state.species.name}: {symmetry} is its symmetry already, nothing to expand")
        copies, places = (copies, None) if helix is None else along_helix(helix, copies)
        return expanded_state(state, copies, places, symmetry.strip().upper()), (
            f"Expanded from {replace(state.species, symmetry=whole).symmetry_text} to {symmetry}: {len(copies)} copies "
            f"of every particle, in the half-set of their parent (columns {PARENT}, {COPY}); half-maps and mask stay.",
        )

    return change_species(request, symmetry.strip().upper(), change)


def resample_trajectories(request: ChangeRequest, samples: int) -> Changed:
    """The same trajectories with another number of temporal samples."""
    if not 1 <= samples <= MOST_SAMPLES:
        raise InputError(f"trajectories have 1 to {MOST_SAMPLES} temporal samples, got {samples}")

    def change(state: SpeciesState) -> tuple[SpeciesState, tuple[str, ...]]:
        before = state.particles.n_samples
        note = f"Trajectories: {before} -> {samples} temporal samples, read from the curves they were."
        return replace(state, particles=state.particles.resampled(samples)), (note,)

    return change_species(request, f"t{samples}", change)


def change_species(request: ChangeRequest, suffix: str, change: Change) -> Changed:
    """Read a species, change it, and publish what it became beside it."""
    with opened_for(request.path, request.dry_run) as population:
        state = read_species(population, request.name)
        name = new_name(population, request.new_name, f"{request.name}-{suffix}")
        moved, notes = change(state)
        moved = replace(moved, species=replace(moved.species, name=name))
        removed = () if request.keep else (request.name,)
        return publish_changed(population, (moved,), removed, notes, request.dry_run)


def publish_changed(
    population: Population,
    states: Sequence[SpeciesState],
    removed: Sequence[str],
    notes: Sequence[str],
    dry_run: bool = False,
) -> Changed:
    """Publish new species; those that they replace are removed together with the last of them.

    dry_run: only say what they would be.
    """
    found: dict[str, dict[str, Any]] = {}
    for state in states:
        species = state.species
        if dry_run:
            curves = species_fsc(state.half1, state.half2, state.mask, species)
        else:
            if state is states[-1] and removed:
                population = without_species(population, *removed)
            population, curves = publish_species(population, state)
        found[species.name] = {
            "particles": len(state.names),
            "series": len(set(state.names)),
            "symmetry": species.symmetry,
            "box_px": species.box_px,
            "pixel_size_A": species.pixel_size_A,
            "resolution_A": finite(curves.resolution_A),
        }
    if dry_run:
        return Changed(found, (*notes, *_consequences(population, list(found), removed), NOTHING_CHANGED))
    forget_unfinished(population, removed)
    return Changed(found, (*notes, *_consequences(population, list(found), removed)))


def new_name(population: Population, asked: str | None, proposed: str) -> str:
    """The name asked for, or the proposed one, numbered if it is in use. Raises where the one asked for cannot be."""
    if asked is not None:
        check_name("species", asked)
        check_new_name(population, asked)
        return asked
    used = {files.name for files in population.species} | set(population.removed_species)
    return next(name for name in (proposed, *(f"{proposed}-{n}" for n in range(2, len(used) + 3))) if name not in used)


def _consequences(population: Population, names: list[str], removed: Sequence[str]) -> list[str]:
    """What the user should know about the other files."""
    notes = []
    if removed:
        notes.append(
            f"{', '.join(removed)}: no longer refined; the files stay, and mpr-dist species restore brings it back."
        )
    if population.iteration > 0:
        new = names[0] if len(names) == 1 else "each of the new ones"
        notes.append(
            f"Sums: accumulator.zarr of finished iterations belongs to the species it was made for; {new} gets sums of "
            "its own, and half-maps made from its particles alone, with the next refine or reconstruct."
        )
    begun = population.files(population.iteration + 1)
    if begun.settings.exists() and not begun.is_finished:
        notes.append(f"Iteration {begun.number:03d} was begun with other species: what is done of it is done again.")
    return notes


def expanded_state(state: SpeciesState, copies: F64, places_A: F64 | None, symmetry: str) -> SpeciesState:
    """All particles once per copy (copies, 3, 3), with columns that say of which particle each is a copy."""
    n = len(state.names)
    parent = np.repeat(np.arange(n), len(copies))
    columns = state.columns.iloc[parent].reset_index(drop=True)
    columns[PARENT], columns[COPY] = parent, np.tile(np.arange(len(copies)), n)
    return replace(
        state,
        species=replace(state.species, symmetry=symmetry, helix=None),
        names=tuple(state.names[i] for i in parent),
        particles=expanded(state.particles, copies, places_A),
        columns=columns,
    )


def along_helix(helix: Helix, copies: F64) -> tuple[F64, F64]:
    """Copies of the axis' point group (n, 3, 3) at every unit: rotations (units n, 3, 3), places (units n, 3) in A."""
    turns = np.stack([rotation_z(step * helix.twist_deg) for step in helix.steps])
    heights = np.array([[0.0, 0.0, step * helix.rise_A] for step in helix.steps])
    return (turns[:, None] @ copies[None]).reshape(-1, 3, 3), np.repeat(heights, len(copies), axis=0)


def _check_centre(species: Species, centre: F64, request: ChangeRequest) -> None:
    symmetry = species.symmetry
    part = fixed_part(symmetry, centre)
    if species.helix is not None:
        part = part * np.array([0.0, 0.0, 1.0])
    if np.abs(part - centre).max() > 1e-6 * max(1.0, float(np.abs(centre).max())):
        where = "z axis" if symmetry.upper().startswith("C") else "centre"
        raise InputError(
            f"species {request.name} has symmetry {symmetry}, which leaves only the {where} in place; expand it first: "
            f"mpr-dist species expand-symmetry {request.path} {request.name}"
        )


def _of_diameter(state: SpeciesState, diameter_A: float) -> SpeciesState:
    """Maps in a box of twice another diameter."""
    box = 2 * round(diameter_A / state.species.pixel_size_A)
    species = replace(state.species, diameter_A=float(diameter_A), box_px=box)  # raises where it cannot be
    first, second, mask = (crop_or_pad_real(volume, box) for volume in (state.half1, state.half2, state.mask))
    if not mask.any():
        raise PopulationError(f"species {species.name}: nothing of its mask is left in {diameter_A:g} A")
    return replace(state, species=species, half1=first, half2=second, mask=mask)


def _mask_lost(before: SpeciesState, after: SpeciesState) -> tuple[str, ...]:
    """A sentence when a part of the mask left the box."""
    share = 1 - float(after.mask.sum()) / float(before.mask.sum())
    if after.mask.sum() == 0:
        raise InputError(f"species {before.species.name}: its mask leaves the box altogether; choose another centre")
    if share < 0.02:
        return ()
    return (
        f"Mask: {100 * share:.0f} % of it left the box; give the new species a mask of its own: mpr-dist species "
        "update-mask",
    )
