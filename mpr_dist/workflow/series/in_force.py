"""The settings of one iteration, from those of its run and from what earlier iterations left: nothing else decides.

A protocol may refine other classes in every iteration, widths of priors may come from the iteration before, and a
magnification that all its series shared is taken out. All of it is worked out when an iteration begins, stands in its
settings.toml, and comes out the same when it is continued.
"""

from __future__ import annotations

from dataclasses import replace

from mpr_dist.model.population import Population
from mpr_dist.refinement.protocol_m import at_step
from mpr_dist.storage.population import read_table
from mpr_dist.workflow.series.common_magnification import common_log_magnification
from mpr_dist.workflow.series.widths import with_widths
from mpr_dist.workflow.state.run_settings import RunSettings


def in_force(asked: RunSettings, population: Population, number: int) -> RunSettings:
    """What iteration ``number`` of a run that asked for this is made with."""
    refine, origin = with_widths(asked.refine, population, number)
    if refine.protocol == "m":
        refine = at_step(refine, steps_made(population, number))
    common = common_log_magnification(refine, population, number)
    return replace(asked, refine=refine, widths=origin, common_log_magnification=common)


def steps_made(population: Population, number: int) -> int:
    """Finished iterations before ``number`` that went by M's protocol."""
    return sum(_went_by_m(population, before) for before in range(1, number))


def _went_by_m(population: Population, number: int) -> bool:
    path = population.files(number).settings
    refine = read_table(path).get("refine", {}) if path.exists() else {}
    return isinstance(refine, dict) and refine.get("protocol") == "m"
