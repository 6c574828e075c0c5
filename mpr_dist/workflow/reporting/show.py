"""Populations and their state as lines for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mpr_dist.engine import events
from mpr_dist.model.population import Population
from mpr_dist.model.reading import counted
from mpr_dist.workflow.series.widths import WORDS

# what people read for the state of a series that needs more words than it has in JSON
STATES = {"refined": "refined but not yet in the half-maps"}


def population_lines(population: Population) -> list[str]:
    return [
        f"population {population.name} in {population.path}",
        f"  iteration in force: {population.iteration:03d}",
        *(f"  {line}" for line in [*source_lines(population), *species_lines(population)]),
    ]


def source_lines(population: Population) -> list[str]:
    return [
        f"source {s.name}: {len(s.series)} tilt series, {counted(sum(e.tilts for e in s.series), 'tilt')}, images of "
        f"{s.image_size_px[0]} x {s.image_size_px[1]} px at {s.pixel_size_A:g} A, from {s.settings}"
        for s in population.sources
    ] + _removed("sources", population.removed_sources) or ["no source yet: mpr-dist source add"]


def species_lines(population: Population) -> list[str]:
    return [
        f"species {f.name}: {counted(sum(n for _, n in f.particles), 'particle')} in {len(f.particles)} tilt series, "
        f"symmetry {f.species.symmetry_text}, diameter {f.species.diameter_A:g} A, box {f.species.box_px} px of "
        f"{f.species.pixel_size_A:g} A"
        for f in population.species
    ] + _removed("species", population.removed_species) or ["no species yet: mpr-dist species add"]


def _removed(what: str, names: tuple[str, ...]) -> list[str]:
    return [f"removed {what}, which can be restored: {', '.join(names)}"] if names else []


def status_lines(status: dict[str, Any]) -> list[str]:
    """From the value that ``workflow.status.status`` makes."""
    holder = status["running"]
    running = "nothing runs" if holder is None else running_text(holder)
    lines = [f"population {status['name']}: iteration {status['iteration']:03d} is in force; {running}"]
    for iteration in status["iterations"]:
        end = f" ({iteration['outcome']}{': ' * bool(iteration['reason'])}{iteration['reason']})"
        state = iteration["state"] + (end if iteration["outcome"] else "")
        counts = ", ".join(f"{count} {STATES.get(one, one)}" for one, count in sorted(iteration["counts"].items()))
        lines.append(f"iteration {iteration['number']:03d}: {state}; series: {counts}")
        lines += [
            f"  {name}: {resolution_text(result['resolution_A'], status.get('nyquist_A', {}).get(name))}"
            f"{_share(iteration.get('information', {}), name)}"
            for name, result in iteration["species"].items()
            if result is not None
        ]
        lines += [
            f"  {name}: LEFT OUT, {one['outcome']}: {one['reason']}"
            for name, one in iteration["series"].items()
            if one["state"] == "failed"
        ]
        lines += [
            f"  host {host}: AVOIDED, bad host: {', '.join(names[:5])} failed there"
            for host, names in iteration["hosts_avoided"].items()
        ]
        lines += [f"  {line}" for line in decision_lines(iteration)]
    return lines


def running_text(holder: Mapping[str, Any]) -> str:
    """Who works on a population, or did before nothing was heard of it any more."""
    who = f"process {holder['pid']} on {holder['host']}"
    if holder.get("silent_s"):
        return (
            f"{who} was at work here and has NOT BEEN HEARD OF for {holder['silent_s'] / 60:.0f} min: it has most "
            "likely died, and the same command continues"
        )
    return f"{who} runs here"


def _share(information: Mapping[str, Any], species: str) -> str:
    """What one of several species contributed to the tilt series."""
    one = information.get(species)
    if len(information) < 2 or one is None:
        return ""
    if not one["used"]:
        return f"; steered none of {one['series']} series"
    low, high = round(100 * one["lowest"]), round(100 * one["highest"])
    share = f"{low} %" if low == high else f"{low} to {high} %"
    return f"; {share} of the information in {one['used']} of {one['series']} series"


def decision_lines(iteration: dict[str, Any]) -> list[str]:
    """What the protocol released, and the widths that the data found; nothing where it did not decide."""
    rows = [row for row in iteration.get("release", ()) if row["released"]]
    if not rows:
        return []
    released = ", ".join(f"{r['words']} {r['grids']}".strip() + f" in {r['released']} of {r['series']}" for r in rows)
    widths = iteration.get("widths", {})
    found = ", ".join(f"{WORDS[name][0]} {one['found']:.3g} {WORDS[name][1]}" for name, one in widths.items())
    return [f"released: {released}", *([f"widths of priors found: {found}"] if found else [])]


def resolution_text(resolution_A: float | None, nyquist_A: float | None = None) -> str:
    """None, and infinity in older files: nothing. Says so when it is all that the pixel allows."""
    if not resolution_A or not math.isfinite(resolution_A):
        return "the half-maps share nothing"
    return f"{resolution_A:.2f} A{events.at_nyquist(resolution_A, nyquist_A)}"
