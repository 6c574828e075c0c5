"""What the protocol auto decided in the series of an iteration, class by class: for report, status and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpr_dist.workflow.series.class_numbers import short

Details = Mapping[str, Mapping[str, Any]]


def over_all(details: Details) -> list[dict[str, Any]]:
    """A row per class: name, words, series, released (of them), grids (those of most series first), ratio, why.

    ratio: median over series of the expected standard deviation over that of the prior; lowest, highest: its range.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for one in details.values():
        for each in one.get("release", ()):
            found.setdefault(each["name"], []).append(each)
    return [_row(name, many) for name, many in found.items()]


def _row(name: str, many: list[Mapping[str, Any]]) -> dict[str, Any]:
    ratios = [float(each["ratio"]) for each in many if each["ratio"] is not None]
    grids = Counter(each["grid"] for each in many if each["grid"])
    why = Counter(each["why"] for each in many)
    return {
        "name": name,
        "words": many[0]["words"],
        "series": len(many),
        "released": sum(bool(each["released"]) for each in many),
        "grids": ", ".join(grid for grid, _ in sorted(grids.items(), key=lambda g: (-g[1], g[0]))),
        "ratio": short(float(np.median(ratios))) if ratios else None,
        "lowest": min(ratios, default=None),
        "highest": max(ratios, default=None),
        "why": "; ".join(f"{text} ({count})" for text, count in sorted(why.items(), key=lambda w: (-w[1], w[0]))),
    }
