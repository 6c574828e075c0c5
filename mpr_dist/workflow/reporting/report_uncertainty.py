"""The part of a report that says how well everything refined is known, from plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from mpr_dist.units import F64
from mpr_dist.workflow.reporting import page, plots
from mpr_dist.workflow.reporting.plots import Line, axis_for, number
from mpr_dist.workflow.series.class_numbers import KINDS
from mpr_dist.workflow.series.uncertainty_table import verdict

Classes = Mapping[str, Mapping[str, Any]]

# more series than this do not fit side by side into a chart of single dots
DOTS = 100
MANY_DIRECTIONS = 6
PER_AXIS = tuple(name for name, *_ in KINDS)  # how far a particle moved or turned is the length of three such numbers
SIZE = 390.0, 240.0
UNITS = {"": "–", "A": "Å", "A^2": "Å²", "deg": "degrees", "pi": "π"}
CLASSES = (
    "Change: how far parameters are from what was imported, root mean square; of positions and orientations per axis, "
    "while a particle moves by the length of all three. Sigma: standard deviation of the result, "
    "what an imperfect reference adds included. Images: share of the parameters that the images determine; the prior "
    "holds the rest, and where that is most of it, the values say little more than what was imported. Reference: "
    "variance that errors of the half-map add, as a share of what noise in the images leaves; well above 100 %, too "
    "few particles stand behind the half-maps."
)
PRIORS = (
    "Change / prior: the change in units of the standard deviation that the prior expected. A value well above 1 says "
    "that the prior was too tight: it holds parameters back that want to move further. Far below 1 it was too loose, "
    "and lets noise in, unless the images determine little. The last column says so where change and sigma together "
    "(which make 1 on average if the prior is right) tell it from enough independent numbers. Priors are options of "
    "refine (--prior-...)."
)
DIRECTIONS = (
    "In these directions parameters of two classes undo each other, so the images look the same and only the priors "
    "decide how much each class carries. The maps do not depend on it; the values of the classes do, so do not compare "
    "them between runs or programs along these directions."
)


def class_table(classes: Classes, judged: bool = False) -> str:
    """A row per class (``class_numbers``); ``judged``: with a word about the prior."""
    heads = [
        "Class",
        "Unit",
        "Parameters",
        "Change since import, rms",
        "Sigma",
        "Images",
        "Reference",
        "Prior",
        "Change / prior",
    ]
    rows = [
        [
            escape(each["words"] + (", per axis" if name in PER_AXIS else "")),
            escape(_unit(each["unit"])),
            number(each["parameters"]),
            *[_value(each.get(key)) for key in ("change", "sigma")],
            _percent(each.get("determined")),
            _percent(each.get("reference_share")),
            *[_value(each.get(key)) for key in ("prior", "change_to_prior")],
            *([escape(verdict(each))] if judged else []),
        ]
        for name, each in classes.items()
    ]
    return page.table([*heads, "The prior was"] if judged else heads, rows, range(2, 9))


def _value(value: float | None) -> str:
    return number(float("nan") if value is None else float(value))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{number(100 * share, 0)} %"


def uncertainty_section(
    classes: Classes, directions: Mapping[str, Mapping[str, float]], series: Sequence[tuple[str, Classes]]
) -> str:
    """Classes over all series, directions that only the priors decide, and values of every series (name, values)."""
    if not classes:
        return ""
    parts = [
        *[page.note(sentence, "Prior:") for sentence in _about_priors(classes)],
        page.panel("Every class, over all series", class_table(classes, judged=any(map(verdict, classes.values())))),
        page.foldable("What the columns mean", page.paragraph(CLASSES), page.paragraph(PRIORS)),
    ]
    weak = [(name, one) for name, one in directions.items() if one["weak"]]
    if weak:
        rows = [
            (escape(name), f"{number(one['weak'])} of {number(one['series'])}", _percent(one["median"]))
            for name, one in weak
        ]
        heads = ("What moves against what", "Series", "Known from the images (median)")
        table = page.table(heads, rows, (1, 2))
        if len(rows) > MANY_DIRECTIONS:
            table = page.foldable(f"<b>{len(rows)} directions</b>", table)
        parts.append(page.panel("Only the prior decides", page.paragraph(DIRECTIONS), table))
    charts = _charts_over_series(classes, series)
    if charts:
        parts.append(page.columns(*charts, narrow=True))
    return "<h2>How well it is known</h2>" + "".join(parts)


def _about_priors(classes: Classes) -> Iterator[str]:
    for each in classes.values():
        said, expected = verdict(each), f"{_value(each.get('prior'))} {_unit(each['unit'])}"
        if said:
            moved = f"{_heading(each['words'])} moved by {_value(each['change'])} where the prior expected {expected}"
            why = "holds parameters back that want to move further" if said == "too tight" else "lets noise in"
            better = "wider" if said == "too tight" else "narrower"
            yield f"{moved}: it was {said}, and {why}. Start again with a {better} one."


def _charts_over_series(classes: Classes, series: Sequence[tuple[str, Classes]]) -> list[str]:
    """A chart per class that is a few numbers per series: a dot with its error bar for every series and number."""
    step = -(-len(series) // DOTS)
    shown = series[::step] if step > 1 else series
    note = "" if step <= 1 else page.paragraph(f"{len(shown)} of {len(series)} series are shown, evenly chosen.")
    found = []
    for name, numbers in classes.items():
        here = [(place, values[name]) for place, (_, values) in enumerate(shown, 1) if name in values]
        if not here or here[0][1]["tilts"]:
            continue
        axes, unit = here[0][1]["axes"], _unit(numbers["unit"])
        names = [shown[place - 1][0] for place, _ in here]
        at = np.array([place for place, _ in here], np.float64)
        value, sigma = (_array([one[kind] for _, one in here])[..., 0].T for kind in ("value", "sigma"))
        # side by side, not on top of one another
        aside = (np.arange(len(axes)) - (len(axes) - 1) / 2) * (0.7 / max(len(axes), 1))
        lines = [
            Line(str(axis), at + aside[i], value[i], sigma[i], colour=i % 6, bars=True, names=tuple(names))
            for i, axis in enumerate(axes)
        ]
        spread = limited(sigma, value)
        y = axis_for(f"{numbers['words']} ({unit})", value - spread, value + spread)
        chart = plots.line_chart(numbers["words"], _series_axis(len(shown)), y, lines, size=SIZE)
        found.append(page.panel(_heading(numbers["words"]), chart, note))
    return found


def _series_axis(count: int) -> plots.Axis:
    step = max(1, -(-count // 10))
    ticks = tuple((float(i), str(i)) for i in range(1, count + 1, step))
    return plots.Axis("series, in the order of the table", ticks, 0.5, count + 0.5)


def tilt_charts(name: str, angle_deg: F64, classes: Classes, values: Classes) -> list[str]:
    """A panel per class that is a few numbers per tilt, against the tilt angle; ``name``: of the series."""
    order = np.argsort(angle_deg, kind="stable")
    x = axis_for("tilt angle (degrees)", angle_deg, count=6)
    found = []
    for kind, numbers in classes.items():
        if kind not in values or not values[kind]["tilts"]:
            continue
        one, words, unit = values[kind], numbers["words"], _unit(numbers["unit"])
        value, sigma = (_array(one[key])[:, order] for key in ("value", "sigma"))
        lines = [
            Line(str(axis), angle_deg[order], value[i], sigma[i], colour=i % 6, dots=True)
            for i, axis in enumerate(one["axes"])
        ]
        spread = limited(sigma, value)
        y = axis_for(f"{words} ({unit})", value - spread, value + spread)
        found.append(page.panel(_heading(words), plots.line_chart(f"{name}: {words}", x, y, lines, size=SIZE)))
    return found


def _unit(unit: str) -> str:
    return UNITS.get(unit, unit)


def _heading(words: str) -> str:
    return words[:1].upper() + words[1:]


def _array(values: Sequence[Any]) -> F64:
    """None becomes NaN."""
    return np.array(values, np.float64)


def limited(sigma: F64, values: F64) -> F64:
    """Sigmas cut at the range of the values or twice their median: one hopeless tilt must not flatten the chart."""
    finite, known = values[np.isfinite(values)], sigma[np.isfinite(sigma)]
    span = float(np.ptp(finite)) if len(finite) else 0.0
    usual = float(np.median(known)) if len(known) else 0.0
    return np.asarray(np.minimum(sigma, max(span, 2 * usual, 1e-6)))
