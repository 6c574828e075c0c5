"""The part of a report that says what the protocol released and why, and how wide the priors were and should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mpr_dist.refinement.release import ENOUGH
from mpr_dist.workflow.reporting import page
from mpr_dist.workflow.reporting.plots import number
from mpr_dist.workflow.series.widths import WORDS, Width

RELEASED = (
    "Expected sigma / prior: standard deviation that the parameters of a class would have, beside all other classes, "
    "over that of their prior, root mean square; from the normal matrix of everything at once, before this iteration "
    f"refined. Below {number(float(np.sqrt(1 - ENOUGH)), 2)} a class is released; the least known goes first, and a "
    "grid becomes coarser before it goes. Median over the series, and range."
)
WIDTHS = (
    "Width: standard deviation of a prior. Found: the width at which what is expected of the parameters of all series, "
    "squared change from import and remaining variance, equals the prior; directions that the images do not determine "
    "have no say. The next iteration takes it with --priors data, unless the width was given by hand."
)


def decisions_section(
    release: Sequence[Mapping[str, Any]], widths: Mapping[str, Width], by_hand: Sequence[str], learned: bool
) -> str:
    """Rows of ``release_table.over_all``; widths by field of ``Priors``; learned: the next iteration takes them."""
    panels = []
    if release:
        panels.append(page.panel("What was released, and why", _release_table(release), page.paragraph(RELEASED)))
    if widths:
        table = _width_table(widths, by_hand, learned)
        panels.append(page.panel("Widths of the priors", table, page.paragraph(WIDTHS)))
    return f"<h2>What was decided</h2>{''.join(panels)}" if panels else ""


def _release_table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = ["Class", "Grid", "Expected sigma / prior", "Range", "Released", "Why (series)"]
    cells = [
        [
            escape(row["words"]),
            escape(row["grids"]) or "–",
            _number(row["ratio"]),
            f"{_number(row['lowest'])} – {_number(row['highest'])}",
            f"{number(row['released'])} of {number(row['series'])}",
            escape(row["why"]),
        ]
        for row in rows
    ]
    return page.table(heads, cells, (2, 3, 4))


def _width_table(widths: Mapping[str, Width], by_hand: Sequence[str], learned: bool) -> str:
    heads = ["Prior of", "Unit", "Width in this iteration", "Found", "Independent numbers", "Next"]
    rows = []
    for field, width in widths.items():
        words, unit = WORDS[field]
        after = "as given by hand" if field in by_hand else "found" if learned else "as it is"
        used, found = (f"{value:.3g}" for value in (width.used, width.found))
        rows.append([escape(words), escape(unit), used, found, number(round(width.numbers)), after])
    return page.table(heads, rows, (2, 3, 4))


def _number(value: float | None) -> str:
    return "–" if value is None else number(float(value), 2)
