"""Species made of some of the particles of others: selected, split, merged."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from mpr_dist.errors import InputError
from mpr_dist.imaging.fsc import first_shell_below, fsc
from mpr_dist.imaging.reference import use_mask
from mpr_dist.model.pose_changes import concatenated, renumbered, selected
from mpr_dist.storage.particle_columns import Columns, list_of, series_key
from mpr_dist.storage.population import load_population
from mpr_dist.units import F32, Bool
from mpr_dist.workflow.changing.particle_words import NAMES_OF_SERIES, column_named, described
from mpr_dist.workflow.changing.species_changes import (
    NOTHING_CHANGED,
    Changed,
    ChangeRequest,
    new_name,
    opened_for,
    publish_changed,
)
from mpr_dist.workflow.series.scoring import particle_scores
from mpr_dist.workflow.state.species_state import SpeciesState, read_species

SCORE, SCORE_SIGMA = "mprScore", "mprScoreSigma"
MOST_PARTS = 50
# nearer than this share of the diameter, two particles are taken for the same one
SAME = 0.1

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip
_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|!=|>|<|=)\s*(\S+)\s*")
_REGION = re.compile(r"\s*([xyz])\s*=\s*(-?[0-9.]*)\s*:\s*(-?[0-9.]*)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """Which particles are to stay: those that meet all of it.

    Attributes:
        series: names of tilt series; empty: all.
        regions: "x=0:3000", in A from the corner of the tomogram, at the first temporal sample; an end may be open.
        conditions: "rlnClassNumber=1", on columns of the particle table.
        min_score, best: least score, and share of the particles with the best scores (``scoring.Scores``).
        min_distance_A: of two particles that are nearer only the first one stays, or the one with the better score.
        invert: keep the others instead.
    """

    series: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    min_score: float | None = None
    best: float | None = None
    min_distance_A: float | None = None
    invert: bool = False

    def __post_init__(self) -> None:
        if self.best is not None and not 0 < self.best <= 1:
            raise InputError(f"--best is a share of the particles, above 0 and at most 1; got {self.best:g}")
        if self.min_distance_A is not None and not self.min_distance_A > 0:
            raise InputError(f"--min-distance must be above 0 A, got {self.min_distance_A:g}")
        if not (self.series or self.regions or self.conditions or self.needs_scores or self.min_distance_A):
            raise InputError("select: say what to select by: --series, --region, --where, --min-score, --best ...")

    @property
    def needs_scores(self) -> bool:
        return self.min_score is not None or self.best is not None


def select_particles(request: ChangeRequest, asked: Selection) -> Changed:
    """A species of those particles of another that meet ``asked``.

    Raises:
        InputError: nothing, or only one half-set, would be left; a name, column or region is not understood.
    """
    with opened_for(request.path, request.dry_run) as population:
        state, keep = _chosen(request, read_species(population, request.name), asked)
        name = new_name(population, request.new_name, f"{request.name}-selected")
        part = subset(state, keep, name)
        if request.dry_run:  # the resolution of the maps was not asked for
            return Changed({}, (*_counts(state, keep), NOTHING_CHANGED))
        removed = () if request.keep else (request.name,)
        return publish_changed(population, (part,), removed, (*_counts(state, keep), *_maps_of_all(request.name)))


def split_species(request: ChangeRequest, by: str) -> Changed:
    """A species for every value that a column of the particle table has, or for every "series" or "source"."""
    with opened_for(request.path, request.dry_run) as population:
        state = read_species(population, request.name)
        source_of = {entry.name: source.name for source, entry in population.series}
        values = _values(state, by, source_of)
        found = sorted(set(values), key=lambda value: (len(value), value) if value.isdecimal() else (0, value))
        if not 2 <= len(found) <= MOST_PARTS:
            raise InputError(
                f"species {request.name}: {by} has {len(found)} different values ({list_of(found)}); a species can be "
                f"split into 2 to {MOST_PARTS}"
            )
        parts = []
        for value in found:
            name = new_name(population, None, f"{request.new_name or request.name}-{_word(value)}")
            parts.append(subset(state, np.array([one == value for one in values]), name))
        removed = () if request.keep else (request.name,)
        return publish_changed(population, parts, removed, _maps_of_all(request.name), request.dry_run)


def merge_species(request: ChangeRequest, others: Sequence[str], min_distance_A: float | None = None) -> Changed:
    """One species of the particles of several, with the average of their half-maps weighted by particles.

    min_distance_A: particles nearer than this to one of an earlier species are left out.

    Raises:
        InputError: box, pixel or symmetry differ, or the maps do not agree.
    """
    names = (request.name, *others)
    if len(set(names)) != len(names) or len(names) < 2:
        raise InputError(f"merge: needs two or more different species, got {', '.join(names)}")
    with opened_for(request.path, request.dry_run) as population:
        states = [read_species(population, name) for name in names]
        merged, notes = merged_states(states, min_distance_A)
        name = new_name(population, request.new_name, f"{request.name}-merged")
        merged = replace(merged, species=replace(merged.species, name=name))
        removed = () if request.keep else names
        return publish_changed(population, (merged,), removed, notes, request.dry_run)


def merged_states(
    states: Sequence[SpeciesState], min_distance_A: float | None = None
) -> tuple[SpeciesState, tuple[str, ...]]:
    """The union of several species in one project, and what there is to say about it."""
    first = states[0]
    for other in states[1:]:
        _check_alike(first, other)
    names = [name for state in states for name in state.names]
    together = renumbered(concatenated([state.particles for state in states]))
    common = [name for name in first.columns if all(name in state.columns for state in states)]
    lost = sorted({str(name) for state in states for name in state.columns if name not in common})
    columns = _stacked([state.columns[common] for state in states])
    half1, half2, notes = _average_halves(states)
    merged = replace(first, half1=half1, half2=half2, names=tuple(names), particles=together, columns=columns)
    if lost:
        notes.append(f"Columns that not all of them have were left out: {list_of(lost)}.")
    distance = min_distance_A or SAME * first.species.diameter_A
    twice = _doubles(merged, distance, np.arange(len(names)))
    if twice.any() and min_distance_A:
        merged = subset(merged, ~twice, first.species.name)
        notes.append(f"{int(twice.sum())} particles nearer than {distance:g} A to another were left out.")
    elif twice.any():
        notes.append(
            f"WARNING: {int(twice.sum())} particles are nearer than {distance:g} A to another and count twice, also "
            "across half-sets, which makes the FSC too good; --min-distance leaves them out."
        )
    return merged, tuple(notes)


def subset(state: SpeciesState, keep: Bool, name: str) -> SpeciesState:
    """Some of the particles as a species of their own. Raises InputError when a half-set would be empty."""
    rows = np.flatnonzero(keep)
    halves = Counter(state.particles.half[rows].tolist())
    if len(halves) < 2:
        raise InputError(
            f"species {name}: would have {halves[1]} and {halves[2]} particles in its half-sets; both are needed to "
            "know what is signal"
        )
    return replace(
        state,
        species=replace(state.species, name=name),
        names=tuple(state.names[row] for row in rows),
        particles=renumbered(selected(state.particles, rows)),
        columns=state.columns.iloc[rows].reset_index(drop=True),
    )


def _chosen(request: ChangeRequest, state: SpeciesState, asked: Selection) -> tuple[SpeciesState, Bool]:
    """The species, with its scores if they were asked for, and which particles stay."""
    n = len(state.names)
    keep = np.ones(n, bool)
    unknown = sorted(set(asked.series) - set(state.names))
    if unknown:
        raise InputError(f"species {request.name} has no particles in {list_of(unknown)}; check --series")
    if asked.series:
        keep &= np.isin(np.array(state.names), asked.series)
    for text in asked.regions:
        keep &= _inside(state, text)
    for text in asked.conditions:
        keep &= _meets(state, request.path, text)
    order = np.arange(n)
    if asked.needs_scores:
        state, score = _with_scores(request, state)
        order = np.argsort(-score, kind="stable")
        if asked.min_score is not None:
            keep &= score >= asked.min_score
        if asked.best is not None:
            keep &= np.isin(np.arange(n), order[: max(1, round(asked.best * n))])
    if asked.min_distance_A is not None:
        keep[_doubles(state, asked.min_distance_A, order, keep)] = False
    keep = ~keep if asked.invert else keep
    if not keep.any():
        raise InputError(f"species {request.name}: none of its {n} particles would be left")
    return state, keep


def _with_scores(request: ChangeRequest, state: SpeciesState) -> tuple[SpeciesState, np.ndarray]:
    scores = particle_scores(load_population(request.path), request.name)
    columns = state.columns.copy()
    # a particle that no image shows has no standard deviation
    columns[SCORE], columns[SCORE_SIGMA] = scores.score, np.where(np.isfinite(scores.sigma), scores.sigma, -1)
    return replace(state, columns=columns), scores.score


def _inside(state: SpeciesState, text: str) -> Bool:
    match = _REGION.fullmatch(text)
    if match is None:
        raise InputError(f"--region {text!r} is not understood; expected x=FROM:TO in A, such as z=400:900 or x=:2000")
    try:
        low, high = (float(match[i]) if match[i] else end for i, end in ((2, -np.inf), (3, np.inf)))
    except ValueError as error:
        raise InputError(f"--region {text!r}: {error}") from error
    axis = match[1].lower()
    values = state.particles.position_A[:, 0, "xyz".index(axis)]
    inside = np.asarray((values >= low) & (values <= high))
    if not inside.any():
        raise InputError(
            f"species {state.species.name}: no particle lies in --region {text.strip()}; their {axis} are "
            f"{values.min():.0f} to {values.max():.0f} A, from the corner of the tomogram"
        )
    return inside


def _meets(state: SpeciesState, path: Path, text: str) -> Bool:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise InputError(f"--where {text!r} is not understood; expected COLUMN=VALUE, COLUMN>=VALUE ...")
    table, sign, value = described(state), match[2], match[3]
    column = column_named(state, table, match[1])
    compare = _COMPARE[sign]
    if column in NAMES_OF_SERIES and sign in ("=", "!="):
        return np.array([compare(name, series_key(value)) for name in state.names])
    try:
        number = float(value)
    except ValueError:
        if sign not in ("=", "!="):
            raise InputError(f"--where {text!r}: {value!r} is no number, so it can only be equal or not") from None
        return np.array([compare(str(one).strip(), value) for one in table[column]])
    return np.asarray(compare(Columns(path, table).numbers(column)[:, 0], number))


def _values(state: SpeciesState, by: str, source_of: Mapping[str, str]) -> list[str]:
    if by == "series":
        return list(state.names)
    if by == "source":
        return [source_of[name] for name in state.names]
    table = described(state)
    return [str(value).strip() for value in table[column_named(state, table, by)]]


def _word(value: str) -> str:
    """A value as the end of a name."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", value)


def _counts(state: SpeciesState, keep: Bool) -> tuple[str, ...]:
    """How many stay, by half-set and series, and how the scores are spread."""
    half = state.particles.half[keep]
    lines = [
        f"{int(keep.sum())} of {len(keep)} particles stay, {int((half == 1).sum())} and {int((half == 2).sum())} in "
        "the half-sets."
    ]
    before, after = Counter(state.names), Counter(name for name, stays in zip(state.names, keep, strict=True) if stays)
    lines += [f"{name}: {after[name]} of {count}" for name, count in sorted(before.items())]
    if SCORE in state.columns:
        at = np.quantile(state.columns[SCORE].to_numpy(np.float64), [0.05, 0.25, 0.5, 0.75, 0.95])
        lines.append(f"Scores, of which 5, 25, 50, 75, 95 % are lower: {', '.join(f'{value:.2f}' for value in at)}.")
    return tuple(lines)


def _maps_of_all(name: str) -> tuple[str, ...]:
    return (f"Maps: those of all particles of {name}; mpr-dist reconstruct makes half-maps of these alone.",)


def _doubles(state: SpeciesState, distance_A: float, order: np.ndarray, among: Bool | None = None) -> Bool:
    """(particles,) those nearer than this to one that comes before them in ``order`` and stays."""
    n = len(state.names)
    drop, rank = np.zeros(n, bool), np.empty(n, np.int64)
    rank[order] = np.arange(n)
    series = np.array(state.names, dtype=object)
    there = np.ones(n, bool) if among is None else among
    for name in dict.fromkeys(state.names):
        rows = np.flatnonzero((series == name) & there)
        if len(rows) < 2:
            continue
        near: dict[int, list[int]] = {}
        for a, b in cKDTree(state.particles.position_A[rows, 0]).query_pairs(distance_A):
            first, second = sorted((int(rows[a]), int(rows[b])), key=lambda row: rank[row])
            near.setdefault(second, []).append(first)
        for row in sorted(near, key=lambda row: rank[row]):
            drop[row] = any(not drop[other] for other in near[row])
    return drop


def _check_alike(first: SpeciesState, other: SpeciesState) -> None:
    a, b = first.species, other.species
    for what, one, two in (
        ("pixel size", f"{a.pixel_size_A:g} A", f"{b.pixel_size_A:g} A"),
        ("box", f"{a.box_px} px", f"{b.box_px} px"),
        ("symmetry", a.symmetry_text, b.symmetry_text),
    ):
        if one != two:
            raise InputError(
                f"species {a.name} and {b.name} cannot be merged: {what} {one} and {two}; add one of them again with "
                "the values of the other"
            )


def _average_halves(states: Sequence[SpeciesState]) -> tuple[F32, F32, list[str]]:
    """Both half-maps: averages weighted by particles, each brought to the scale of the first; and remarks."""
    first, notes = states[0], []
    mask = use_mask(first.mask, first.species.pixel_size_A)
    mean = (first.half1 + first.half2) * mask
    sums, weights = [np.zeros(first.half1.shape), np.zeros(first.half1.shape)], [0.0, 0.0]
    for state in states:
        own, factor = (state.half1 + state.half2) * mask, scale_to(first, state)
        shell = first_shell_below(fsc(np.asarray(own, np.float32), np.asarray(mean, np.float32)), 0.5)
        agrees = len(own) * first.species.pixel_size_A / max(shell - 1, 1)
        if factor <= 0 or shell <= 2:
            raise InputError(
                f"species {first.species.name} and {state.species.name} cannot be merged: their maps do not agree at "
                "any resolution; bring one onto the other first (mpr-dist species rotate, shift)"
            )
        if state is not first:
            notes.append(f"Maps of {first.species.name} and {state.species.name} agree to {agrees:.1f} A (FSC 0.5).")
        for i, half in enumerate((state.half1, state.half2)):
            count = float((state.particles.half == i + 1).sum())
            sums[i] += count * factor * half
            weights[i] += count
    return (
        np.asarray(sums[0] / max(weights[0], 1.0), np.float32),
        np.asarray(sums[1] / max(weights[1], 1.0), np.float32),
        notes,
    )


def scale_to(first: SpeciesState, other: SpeciesState) -> float:
    """Factor that brings the maps of a species to the scale of those of another, by least squares under the mask."""
    if other is first:
        return 1.0
    mask = use_mask(first.mask, first.species.pixel_size_A)
    one, two = ((state.half1 + state.half2) * mask for state in (first, other))
    return float((one * two).sum(dtype=np.float64) / max(float((two * two).sum(dtype=np.float64)), 1e-30))


def _stacked(tables: list[Any]) -> Any:
    import pandas as pd

    return pd.concat(tables, ignore_index=True)
