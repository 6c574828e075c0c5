"""A magnification that all series share: no image can tell of it, so the next refinement takes it out.

Series are compared with maps that were made of them. If all are magnified alike the maps are, too, and everything fits
as well as before; so the scale of the maps drifts from iteration to iteration, by a few tenths of a percent where
maps are blurred. The series keep what distinguishes them, and their mean stays as it was imported: the pixel size of a
map remains that of the images. What one iteration brings is taken out when series are refined again: after their
refinement, against maps that have it, and before the back-projection, so that its maps do not. Maps that are made
without refining, in between, keep it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpr_dist.model.population import IterationFiles, Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.population import read_table
from mpr_dist.workflow.series.series_numbers import LOG_MAGNIFICATION
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.state.done import read_done

# an XML keeps float32: less than this (log) is no magnification
ROUNDING = 1e-6


def common_log_magnification(refine: RefineSettings, population: Population, number: int) -> float:
    """What the maps of iteration ``number`` - 1 have since import, the mean over its particles; 0 for an iteration that
    moves nothing, and where magnification was never refined.
    """
    if not refine.refines_anything or refine.only_weights:
        return 0.0
    # a summary of every series is read below: not for nothing
    if not any(_refined_it(population.files(before)) for before in range(1, number)):
        return 0.0
    files, total, particles = population.files(number - 1), 0.0, 0
    for name in sorted((read_done(files) or {}).get("series", ())):
        details = read_details(files, name)
        count = int(details.get("particles", 0))
        total, particles = total + count * float(details.get(LOG_MAGNIFICATION, 0.0)), particles + count
    mean = total / max(particles, 1)
    return mean if abs(mean) > ROUNDING else 0.0


def _refined_it(files: IterationFiles) -> bool:
    refine = read_table(files.settings).get("refine", {}) if files.settings.exists() else {}
    return isinstance(refine, dict) and bool(refine.get("magnification") or refine.get("protocol", "manual") == "auto")


def without(series: TiltSeries, common: float) -> TiltSeries:
    """The series with its magnification divided by the one that all share (its log)."""
    if not common:
        return series
    return replace(series, optics=replace(series.optics, magnification=series.optics.magnification * np.exp(-common)))
