"""What became of every refined class over all series of an iteration: one table for programs, sums for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpr_dist.model.population import IterationFiles
from mpr_dist.refinement.gauge import WEAK
from mpr_dist.storage.poses import SPECIES
from mpr_dist.storage.publish import disk
from mpr_dist.storage.star import write_table
from mpr_dist.workflow.series.class_numbers import short
from mpr_dist.workflow.series.series_numbers import DETAILS
from mpr_dist.workflow.state.series_results import read_summary

Details = Mapping[str, Mapping[str, Any]]

# numbers of a class that are added up in squares, and those that are averaged, each by the number of parameters
SQUARES = ("change", "sigma", "prior", "change_to_prior", "spread_to_prior")
MEANS = ("determined", "reference_share")
COLUMNS = {
    "change": "mprChange",
    "sigma": "mprSigma",
    "prior": "mprPriorSigma",
    "change_to_prior": "mprChangeToPrior",
    "spread_to_prior": "mprSpreadToPrior",
    "determined": "mprDetermined",
    "reference_share": "mprReferenceShare",
}
UNKNOWN = -1.0
# A prior is called wrong by a factor of two or three, and only if as many independent numbers say so: by chance, eight
# of them do in less than one of five hundred cases (chi-square).
TIGHT, LOOSE, ENOUGH_NUMBERS = 2.0, 1 / 3, 8


def read_details(files: IterationFiles, name: str) -> dict[str, Any]:
    """Details of a series' summary, with the passes beside them, and the classes by name in their order."""
    numbers = (read_summary(files.series(name)) or {}).get("numbers", {})
    details = numbers.get(DETAILS, {})
    listed = details.get("classes", [])
    classes = {one["name"]: one for one in listed} if isinstance(listed, list) else {}  # older files knew less
    movies = {name: int(numbers.get(name) or 0) for name in ("movies", "movies_refined")}
    return {"passes": numbers.get("passes") or 0, **movies, **details, "classes": classes}


def over_all(details: Details) -> dict[str, dict[str, Any]]:
    """Class name -> its numbers over all series (name -> details), and the number of series."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in details.values():
        for name, numbers in one.get("classes", {}).items():
            found.setdefault(name, []).append(numbers)
    return {name: _together(many) for name, many in found.items()}


def _together(many: list[Mapping[str, Any]]) -> dict[str, Any]:
    first = many[0]
    out: dict[str, Any] = {"words": first["words"], "unit": first["unit"], "series": len(many)}
    out["parameters"] = sum(int(one["parameters"]) for one in many)
    for name in (*SQUARES, *MEANS):
        known = [(float(one[name]), int(one["parameters"])) for one in many if one.get(name) is not None]
        weight = sum(n for _, n in known)
        if weight:
            power = 2 if name in SQUARES else 1
            out[name] = short((sum(n * value**power for value, n in known) / weight) ** (1 / power))
    if "prior" in out:
        out["independent"] = short(sum(float(one.get("independent") or 0.0) for one in many))
    return out


def species_over_all(details: Details) -> dict[str, dict[str, Any]]:
    """Species -> series it lies in, those it steered (used), its particles, lowest, median and highest share of what
    the images say about the parameters of these, and states -> number of series.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in details.values():
        for name, numbers in one.get("species", {}).items():
            found.setdefault(name, []).append(numbers)
    return {name: _of_species(many) for name, many in found.items()}


def _of_species(many: list[Mapping[str, Any]]) -> dict[str, Any]:
    shares = [float(one["share"]) for one in many if one.get("share") is not None]
    states = Counter(one["state"] for one in many)
    out: dict[str, Any] = {
        "series": len(many),
        "used": len(shares),
        "particles": sum(int(one["particles"]) for one in many),
    }
    if shares:
        out |= {"lowest": min(shares), "median": short(float(np.median(shares))), "highest": max(shares)}
    return out | {"states": dict(sorted(states.items()))}


def directions_over_all(details: Details) -> dict[str, dict[str, float]]:
    """Direction -> series that have it, those in which the images do not determine it, lowest and median share."""
    found: dict[str, list[float]] = {}
    for one in details.values():
        for name, share in one.get("directions", {}).items():
            if share is not None:
                found.setdefault(name, []).append(float(share))
    return {
        name: {
            "series": len(shares),
            "weak": sum(share < WEAK for share in shares),
            "lowest": min(shares),
            "median": float(np.median(shares)),
        }
        for name, shares in found.items()
    }


def verdict(numbers: Mapping[str, Any]) -> str:
    """What the size of the changes says about the prior of a class: "too tight", "too loose" or nothing."""
    spread, independent = numbers.get("spread_to_prior"), numbers.get("independent")
    if spread is None or independent is None or independent < ENOUGH_NUMBERS:
        return ""
    return "too tight" if spread > TIGHT else "too loose" if spread < LOOSE else ""


def write_uncertainty(files: IterationFiles, series: list[str]) -> None:
    """Write uncertainty.star: a row per series and class, the classes over all series, directions, species by series.

    Nothing is written when nothing was refined. ``series``: those that count. -1 where a number is not known.

    Raises:
        InputError: the folder does not exist or cannot be written to, or the disk is full.
    """
    import pandas as pd

    details = {name: read_details(files, name) for name in sorted(series)}
    rows = [
        {"mprSeriesName": name} | _row(kind, numbers)
        for name, one in details.items()
        for kind, numbers in one.get("classes", {}).items()
    ]
    if not rows:
        disk().unlink(files.uncertainty)  # an earlier session may have had some
        return
    whole = [_row(kind, n) | {"mprSeriesCount": n["series"]} for kind, n in over_all(details).items()]
    blocks = {"series": pd.DataFrame(rows), "classes": pd.DataFrame(whole)}
    directions = [
        {"mprDirection": name.replace(" ", "_"), "mprSeriesCount": d["series"], "mprSeriesWeak": d["weak"]}
        | {"mprDeterminedLowest": d["lowest"], "mprDeterminedMedian": d["median"]}
        for name, d in directions_over_all(details).items()
    ]
    if directions:
        blocks["directions"] = pd.DataFrame(directions)
    of_species = [
        {"mprSeriesName": name, SPECIES: species, "mprParticles": n["particles"]}
        | {"mprState": n["state"].replace(" ", "_"), "mprInformationShare": _known(n.get("share"))}
        | {"mprScale": _known(n.get("scale")), "mprBfactor": _known(n.get("bfactor_A2"))}
        for name, one in details.items()
        for species, n in one.get("species", {}).items()
    ]
    if of_species:
        blocks["species"] = pd.DataFrame(of_species)
    write_table(files.uncertainty, blocks)


def _row(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    head = {"mprClass": name, "mprUnit": numbers["unit"] or "1", "mprParameters": numbers["parameters"]}
    return head | {column: _known(numbers.get(key)) for key, column in COLUMNS.items()}


def _known(value: float | None) -> float:
    return UNKNOWN if value is None or not math.isfinite(value) else float(value)
