"""Widths of the priors from what all series of the last iteration say about them.

Every refined series publishes a small table per prior (``refinement.spread``); the driver adds them up before the next
iteration begins. Nothing else enters, and finished iterations never change: a continued run finds the same widths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.refinement.spread import RATIOS, Spread, estimated, together
from mpr_dist.storage.population import read_table
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.state.done import read_done

# what a width is of, and its unit, by the field of ``Priors``
WORDS = {
    "image_warp_A": ("image warp", "A"),
    "volume_warp_A": ("volume warp, at the last dose", "A"),
    "stage_angle_deg": ("stage angles", "deg"),
    "rigid_stage_deg": ("angles of a rigid stage", "deg"),
    "position_A": ("particle positions", "A"),
    "orientation_deg": ("particle orientations", "deg"),
    "trajectory_A": ("a particle's way from first to last dose", "A"),
    "trajectory_deg": ("a particle's turn from first to last dose", "deg"),
    "defocus_A": ("defocus", "A"),
    "astigmatism_A": ("astigmatism", "A"),
    "phase_shift_pi": ("phase shift", "pi"),
    "cs_mm": ("Cs", "mm"),
    "aberration_rad": ("each Zernike, within 4 A", "rad"),
    "magnification_percent": ("magnification matrix", "%"),
}
DIGITS = 4


@dataclass(frozen=True)
class Width:
    """A prior and what the data say about it.

    Attributes:
        used: standard deviation that the prior had; found: that the parameters of all series really have.
        numbers: independent ones behind it.
    """

    used: float
    found: float
    numbers: float


def widths_found(details: Iterable[Mapping[str, Any]], asked: Priors) -> dict[str, Width]:
    """Field of ``Priors`` -> what the details of all series (``series_numbers``) say; asked: what counts beforehand."""
    tables: dict[str, list[Spread]] = {}
    for one in details:
        for field, table in one.get("spreads", {}).items():
            excess = np.array([np.nan if v is None else v for v in table["excess"]], np.float64)
            if field in WORDS and len(excess) == len(RATIOS) and np.isfinite(excess).all() and table["count"]:
                tables.setdefault(field, []).append(Spread(float(table["width"]), float(table["count"]), excess))
    found = {}
    for field in (name for name in WORDS if name in tables):
        usual = Counter(each.width for each in tables[field]).most_common(1)[0][0]
        whole = together(each for each in tables[field] if each.width == usual)
        width = float(f"{estimated(whole, getattr(asked, field)):.{DIGITS}g}")
        found[field] = Width(whole.width, width, whole.count)
    return found


def with_widths(asked: RefineSettings, population: Population, number: int) -> tuple[RefineSettings, dict[str, Any]]:
    """The settings of iteration ``number`` with the widths in force, and where they come from, for settings.toml.

    As asked for where nothing was refined before, where the priors are fixed, and for those given by hand.
    """
    if not asked.learns_priors or not asked.refines_anything:
        return asked, {}
    for before in range(number - 1, 0, -1):
        files = population.files(before)
        found = widths_found(_details(files), asked.priors)
        if found:
            taken = {field: one for field, one in found.items() if field not in asked.priors_by_hand}
            priors = replace(asked.priors, **{field: one.found for field, one in taken.items()})
            numbers = {field: round(one.numbers) for field, one in taken.items()}
            return replace(asked, priors=priors), {"iteration": before, "numbers": numbers}
    return asked, {}


def settings_of(files: IterationFiles) -> RefineSettings:
    """Of an iteration, as far as its priors go: those that count beforehand, not those found."""
    table = read_table(files.settings) if files.settings.exists() else {}
    refine = table.get("refine", {})
    refine = refine if isinstance(refine, dict) else {}
    about = {name: refine[name] for name in ("protocol", "priors_from", "priors_by_hand") if name in refine}
    found = table.get("widths", {}).get("numbers", {})
    priors = {name: value for name, value in refine.get("priors", {}).items() if name not in found}
    return settings_in({**about, "priors": priors})


def settings_in(refine: Mapping[str, Any]) -> RefineSettings:
    """Of the table [refine] of a settings.toml; what this version does not know is passed over."""
    known = {field.name for field in fields(RefineSettings)} - {"priors"}
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in refine.items() if name in known
    }
    priors = {name: float(value) for name, value in refine.get("priors", {}).items() if name in WORDS}
    nothing: dict[str, Any] = {"image_warp": None, "movie_motion": None}  # TOML has no word for it
    return RefineSettings(**nothing | values, priors=Priors(**priors))


def _details(files: IterationFiles) -> list[dict[str, Any]]:
    """Of the series that count, in the order of their names."""
    return [read_details(files, name) for name in sorted((read_done(files) or {}).get("series", ()))]
