"""The report of an iteration from its files: curves, maps, summaries of the series, failures, times."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.model.population import IterationFiles, Population, SpeciesFiles
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.population import read_table, with_restored
from mpr_dist.storage.publish import publish_text
from mpr_dist.units import F32, F64
from mpr_dist.workflow.reporting.report import CurveOfIteration, ReportData, SeriesReport, SpeciesReport, render_report
from mpr_dist.workflow.reporting.report_settings import setting_rows
from mpr_dist.workflow.reporting.status import Decided, decided
from mpr_dist.workflow.series.release_table import over_all as released
from mpr_dist.workflow.series.uncertainty_table import directions_over_all, over_all, read_details, species_over_all
from mpr_dist.workflow.series.widths import settings_of, widths_found
from mpr_dist.workflow.state.fsc_table import read_fsc

# fewer particles in a half-set leave so much noise in its half-map that standard deviations, which take the reference
# for granted, come out too small
ENOUGH_PER_HALF = 200
NAMES_SHOWN = 5
LEFT_OUT = "its images there do not agree with its reference, or no tilt shows it."


def write_report(population: Population, iteration: int | None = None) -> Path:
    """Write report.html of an iteration (default: the one in force) and return its path.

    Raises:
        InputError: there is no such iteration, or one of its files cannot be read.
    """
    number = population.iteration if iteration is None else iteration
    files = population.files(number)
    if number < 1 or not files.settings.exists():
        what = f"iteration {number:03d}" if number > 0 else "the imported state (nothing was refined yet)"
        raise InputError(f"{population.path}: {what} has no report; run mpr-dist refine first")
    publish_text(files.report, render_report(report_data(_as_it_was(population, files), files)))
    return files.report


def report_data(population: Population, files: IterationFiles) -> ReportData:
    """What the report shows, from what is on the disk."""
    found = decided(files)
    details = {name: read_details(files, name) for name in sorted(found.accepted)}
    per_half = {each.name: _per_half(files, each.name) for each in population.species}
    refine = read_table(files.settings).get("refine", {})
    settings = settings_of(files)
    active = {entry.name: entry.active for _, entry in population.series}
    return ReportData(
        title="Refinement" if _refines(refine) else "Reconstruction",
        population=population.name,
        iteration=files.number,
        species=tuple(_species(population, files, each, per_half[each.name]) for each in population.species),
        series=tuple(_series(name, numbers, active.get(name, ())) for name, numbers in details.items()),
        classes=over_all(details),
        directions=directions_over_all(details),
        information=species_over_all(details),
        release=released(details),
        widths=widths_found(details.values(), settings.priors),
        by_hand=settings.priors_by_hand,
        learned=settings.learns_priors,
        failures=tuple((name, f"{one.outcome}: {one.reason}") for name, one in sorted(found.failed.items())),
        warnings=(*_about_hosts(found), *_warnings(refine, details, per_half)),
        facts=(*_about_movies(details), *_facts(files, population)),
    )


def _as_it_was(population: Population, files: IterationFiles) -> Population:
    """With the species that the iteration had: also those that were removed since, and none that was made later."""
    for name in population.removed_species:
        if files.species(name).result.exists():
            population = with_restored(population, "species", name)
    there = tuple(each for each in population.species if files.species(each.name).directory.exists())
    return replace(population, species=there)


def _per_half(files: IterationFiles, species: str) -> tuple[int, int]:
    try:
        numbers = json.loads(files.species(species).result.read_text("utf-8"))["numbers"]
    except OSError as error:
        raise InputError(f"{files.species(species).result}: cannot be read ({error.strerror})") from error
    first, second = numbers.get("particles_per_half", (0, 0))
    return int(first), int(second)


def _species(
    population: Population, files: IterationFiles, each: SpeciesFiles, per_half: tuple[int, int]
) -> SpeciesReport:
    now = read_fsc(files.species(each.name).fsc)
    history = []
    for number in range(files.number + 1):
        path = population.files(number).species(each.name).fsc
        curves = now if number == files.number else read_fsc(path) if path.exists() else None
        if curves is not None and curves.box_px == now.box_px:
            history.append(CurveOfIteration(number, curves.corrected, curves.resolution_A))
    s = each.species
    return SpeciesReport(
        name=each.name,
        symmetry=s.symmetry,
        n_particles=sum(per_half),
        box_px=s.box_px,
        pixel_size_A=s.pixel_size_A,
        frequency_per_A=now.frequency_per_A,
        history=tuple(history),
        unmasked=now.unmasked,
        masked=now.masked,
        randomised=now.randomised,
        slices=_slices(files.species(each.name).map),
    )


def _slices(path: Path) -> tuple[tuple[str, F32], ...]:
    """The central slice across every axis."""
    volume, _ = read_volume(path)
    z, y, x = (n // 2 for n in volume.shape)
    return ("xy", volume[z]), ("xz", volume[:, y]), ("yz", volume[:, :, x])


def _series(name: str, details: Mapping[str, Any], active: Sequence[bool]) -> SeriesReport:
    def values(key: str) -> F64:
        found = details.get(key) or []
        return np.array([np.nan if value is None else value for value in found], np.float64)

    def pair(key: str) -> tuple[float, float]:
        before, after = values(key) if details.get(key) else (np.nan, np.nan)
        return float(before), float(after)

    used = np.array(active, np.bool_)

    def per_tilt(key: str) -> F64:
        """Of tilts that the project does not work with (--max-tilts, deselected) nothing is shown."""
        found = values(key)
        return np.where(used, found, np.nan) if len(found) == len(used) else found

    refined = "own_half" in details
    return SeriesReport(
        name=name,
        n_particles=int(details.get("particles", 0)),
        angle_deg=values("angle_deg"),
        passes=int(details["passes"]),
        seconds=float(sum(details.get("seconds", {}).values())),
        own=pair("own_half"),
        cross=pair("cross_half"),
        scale=per_tilt("scale"),
        scale_sigma=per_tilt("scale") * per_tilt("scale_sigma") if details.get("scale_sigma") else np.zeros(0),
        defocus_start_um=per_tilt("defocus_start_um"),
        defocus_um=per_tilt("defocus_um"),
        defocus_sigma_um=per_tilt("defocus_sigma_um"),
        mean_shift_A=per_tilt("shift_A") if refined else np.zeros(0),
        shift_sigma_A=per_tilt("shift_sigma_A"),
        moved_A=values("moved_A") if refined else np.zeros(0),
        turned_deg=values("turned_deg") if refined else np.zeros(0),
        classes=details.get("classes", {}),
        values=details.get("values", {}),
        species=details.get("species", {}),
        used=used,
    )


def _refines(refine: Mapping[str, Any]) -> bool:
    names = ("image_warp", "particles", "stage_angles", "defocus")
    return refine.get("protocol", "manual") != "manual" or any(refine.get(name) for name in names)


def _about_hosts(found: Decided) -> Iterator[str]:
    for host, names in sorted(found.hosts.items()):
        yield (
            f"Host {host} was avoided (bad host): {_list(names)} failed there and were tried again elsewhere. Look at "
            "that machine before the next run."
        )
    if found.removed:
        yield f"Left out because it was asked for (--without): {_list(found.removed)}."


def _warnings(
    refine: Mapping[str, Any], details: Mapping[str, Mapping[str, Any]], per_half: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    """Whole sentences about what the user should not overlook."""
    if _refines(refine):
        compared = {name: one for name, one in details.items() if "own_half" in one}
        if details and not compared:
            yield (
                "The half-maps this iteration started from share no signal, so there was nothing to compare the images "
                "with: nothing was refined, and the maps were reconstructed from the geometry as it was."
            )
        yield from _about_agreement(compared)
        yield from _about_held_back(compared)
    for name, counts in per_half.items():
        if 0 < min(counts) < ENOUGH_PER_HALF and _refines(refine):
            yield (
                f"{name}: only {min(counts)} particles stand behind a half-map. The standard deviations count what the "
                f"other half-map would change, but stay optimistic below about {ENOUGH_PER_HALF} particles per half."
            )


def _about_agreement(compared: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    lost = [name for name, one in compared.items() if not one.get("found")]
    if lost and len(lost) == len(compared):
        yield (
            "Nothing was found: the images of no tilt series agree with the reference. Their geometry was left as it "
            "was; check poses, pixel size, handedness and the reference."
        )
    elif lost:
        yield f"The images do not agree with the reference in {_list(lost)}; the geometry there was left as it was."
    for species, series in _left_out(compared).items():
        yield f"{species} was left as it was, and steered nothing, in {_list(series)}: {LEFT_OUT}"
    fell = [name for name, one in compared.items() if _fell(one.get("cross_half"))]
    if fell:
        yield (
            f"The agreement with the other half-map fell in {_list(fell)}: parameters follow noise there. Refine fewer "
            "parameters, or tighten the priors."
        )


def _left_out(compared: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Species -> series in which others were refined but not this one."""
    found: dict[str, list[str]] = {}
    for series, one in compared.items():
        for species, numbers in one.get("species", {}).items() if one.get("found") else ():
            if numbers["state"] in ("no agreement", "not seen"):
                found.setdefault(species, []).append(series)
    return found


def _about_held_back(compared: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    names = [name for name, one in compared.items() if one.get("held_back")]
    if names:
        yield (
            f"In {_list(names)} the refined geometry agreed no better with the other half-map than before, so the "
            "geometry was left as it was and only scales and B-factors were taken (protocol auto). Late in a run this "
            "says that nothing is left to gain."
        )


def _fell(score: Sequence[float | None] | None) -> bool:
    return score is not None and score[0] is not None and score[1] is not None and score[1] < score[0]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _about_movies(details: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    made, refined = (sum(one.get(key, 0) for one in details.values()) for key in ("movies", "movies_refined"))
    if made:
        yield "tilt movies", f"averages of {made} tilts were made again; motion was refined in {refined} of them"


def _facts(files: IterationFiles, population: Population) -> Iterator[tuple[str, str]]:
    yield "population", str(population.path)
    for name, seconds in _stages(files.events).items():
        yield f"time, {name}", f"{seconds:.1f} s"
    yield from setting_rows(read_table(files.settings))
    yield "all of it", str(files.settings)


def _stages(path: Path) -> dict[str, float]:
    """Seconds of every stage over all sessions, from the log; a line cut off by a kill is passed over."""
    seconds: dict[str, float] = {}
    if not path.exists():
        return seconds
    for line in path.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record.get("event") == "StageFinished":
            seconds[record["stage"]] = seconds.get(record["stage"], 0.0) + float(record["seconds"])
    return seconds
