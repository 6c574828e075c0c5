"""What a protocol will refine when, as lines for the plan: as far as it can be said before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

import numpy as np

from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.protocol_m import new_at, steps
from mpr_dist.refinement.release import (
    ENOUGH,
    OPTICS,
    OPTICS_A,
    PARTICLES_PER_NODE,
    WORDS,
    grid_of,
    largest,
    may_be_released,
)
from mpr_dist.workflow.series.in_force import steps_made
from mpr_dist.workflow.series.release_table import over_all
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.state.done import read_done


def last_of(settings: RefineSettings) -> RefineSettings:
    """The settings with all that a fixed order ends with."""
    return steps(settings)[-1] if settings.protocol == "m" else settings


def refined_words(settings: RefineSettings) -> tuple[str, ...]:
    """What is refined in every iteration, and by which protocol the rest."""
    protocol = {"auto": ("what the images of each series carry (protocol auto)",), "m": ("in M's order (protocol m)",)}
    asked = settings.refined if settings.protocol != "m" else ()
    return asked + protocol.get(settings.protocol, ())


def releases(population: Population, settings: RefineSettings) -> tuple[str, ...]:
    """Lines about a run that would begin now; none for a manual one."""
    if settings.protocol == "m":
        return _of_order(population, settings)
    return _of_auto(population, settings) if settings.protocol == "auto" else ()


def _of_order(population: Population, settings: RefineSettings) -> tuple[str, ...]:
    first, every = population.iteration + 1, steps(settings)
    begun, lines = steps_made(population, first), []
    for number in range(first, first + settings.iterations):
        step = min(begun + number - first, len(every) - 1)
        before = every[step - 1].refined if step else ()
        added = ", ".join(new_at(settings, step)) if begun + number - first < len(every) else "nothing new"
        lines.append(f"iteration {number:03d}: {'+ ' if before else ''}{added}")
    left = begun + settings.iterations
    lines += [f"not reached: {', '.join(new_at(settings, step))}" for step in range(left, len(every))]
    return (*lines, "scales and B-factors of the tilts in every iteration")


def _of_auto(population: Population, settings: RefineSettings) -> tuple[str, ...]:
    ratio = np.sqrt(1 - ENOUGH)
    optics = ", ".join(WORDS[name] for name in OPTICS)
    rule = (
        f"rule: a class is released in a series when its expected sigma, beside all others, is below {ratio:.2f} of "
        f"its prior; image warps get as fine as that allows, with {PARTICLES_PER_NODE} particles to a node, or up to "
        f"2x2 with as many particles as nodes; what was released stays; optics ({optics}) wait for half-maps better "
        f"than {OPTICS_A:g} A"
    )
    lines = wrap(rule, 100)
    if not population.series or not population.species:
        return tuple(lines)
    counts = [(population.particles_in(entry.name), source, entry) for source, entry in population.series]
    fewest, most = (extreme(counts, key=lambda c: c[0]) for extreme in (min, max))
    for count, source, entry in (fewest, most) if fewest[0] != most[0] else (most,):
        size = np.array(source.image_size_px, np.float64)
        every = largest(settings, entry.tilts, count, size)
        names = [f"{word} {grid_of(every, name)}".strip() for name, word in may_be_released(every, settings)]
        lines += wrap(f"{entry.name}, with {count} particles, may get in the end: {', '.join(names)}", 100)
    found = _last(population)
    return (*lines, *(wrap(f"released in iteration {population.iteration:03d}: {found}", 100) if found else []))


def _last(population: Population) -> str:
    """What the iteration in force released, and in how many series."""
    files = population.files(population.iteration)
    names = sorted((read_done(files) or {}).get("series", ()))
    details: Mapping[str, Mapping[str, Any]] = {name: read_details(files, name) for name in names}
    rows = [row for row in over_all(details) if row["released"]]
    words = [(f"{row['words']} {row['grids']}".strip(), row) for row in rows]
    return ", ".join(f"{name} in {row['released']} of {row['series']}" for name, row in words)
