"""The part of a report that says which species steered which tilt series, from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mpr_dist.workflow.reporting import page
from mpr_dist.workflow.reporting.plots import number

Species = Mapping[str, Mapping[str, Any]]

# more series than this are folded away
LONG_TABLE = 50
SHARES = (
    "Share: of what the images say about the geometry and the optics of a tilt series, in units of what is known of "
    "each parameter. Every species counts for what its images are worth, whatever scale and sharpness its half-maps "
    "came with. One whose images do not agree with its reference is left as it was and has no say."
)


def information_section(information: Species, series: Sequence[tuple[str, Species]]) -> str:
    """A table over all series and one series by series (name, species); nothing where there is a single species."""
    if len(information) < 2:
        return ""
    names = list(information)
    rows = [
        (
            escape(name),
            number(one["particles"]),
            f"{number(one['used'])} of {number(one['series'])}",
            *[_percent(one.get(key)) for key in ("lowest", "median", "highest")],
        )
        for name, one in information.items()
    ]
    heads = ("Species", "Particles", "Series steered", "Share, lowest", "median", "highest")
    each = [(escape(name), *[_cell(species.get(one)) for one in names]) for name, species in series]
    table = page.table(("Series", *map(escape, names)), each, range(1, len(names) + 1))
    if len(each) > LONG_TABLE:
        table = page.foldable(f"<b>All {number(len(each))} series</b>", table)
    content = page.columns(
        page.panel("Every species, over all series", page.table(heads, rows, range(1, 6))),
        page.panel("Series by series", table),
    )
    return "<h2>What every species contributed</h2>" + page.paragraph(SHARES) + content


def _cell(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "–"
    share = one.get("share")
    said = _percent(share) if share is not None else escape(str(one["state"]))
    return f"{said}, {number(one['particles'])} particles"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{number(100 * share, 0)} %"
