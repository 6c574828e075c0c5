"""Scales of series that were never refined beside those of refined ones.

As imported a scale is the cosine of the tilt, or what M found relative to its best tilt: about 1. A refined one is the
strength of the images relative to the half-map and their noise: about 0.1 to 0.6. In a reconstruction both are weights,
so a series that was never refined would count many times over.
"""

from __future__ import annotations

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.model.population import Population, SeriesEntry
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.population import last_iteration_with
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.units import Bool
from mpr_dist.workflow.state.series_io import SeriesState, with_scales

# share of the tilts, those of lowest dose, by which series are compared: dose has left the others unlike
LOW_DOSE_SHARE = 0.25
# the XML keeps float32
SAME = 1e-5


def common_footing(population: Population, iteration: int) -> float:
    """What scales as imported are to be multiplied by, beside those of the series refined before ``iteration``.

    1 while there are none of either kind: then all series stand on one footing.
    """
    found = [_ratio_of(population, entry, iteration) for _, entry in population.series]
    refined = [ratio for ratio in found if ratio is not None]
    return float(np.median(refined)) if 0 < len(refined) < len(found) else 1.0


def _ratio_of(population: Population, entry: SeriesEntry, iteration: int) -> float | None:
    """How the scales of a refined series compare with those it came with; None for one that has these still."""
    last = last_iteration_with(population, entry.name, iteration)
    if last < 1:
        return None
    try:
        then, now = (
            read_tilt_series(population.files(n).series(entry.name).xml, volume_size_A=None) for n in (0, last)
        )
    except SeriesError:
        return None  # what is wrong with it will be said when its turn comes
    return None if is_as_imported(now, then) else _ratio(now, then, np.array(entry.active, bool))


def is_as_imported(now: TiltSeries, imported: TiltSeries) -> bool:
    """Whether the scales of a series are those it came with."""
    return bool(np.allclose(tilt_scales(now), tilt_scales(imported), rtol=SAME, atol=0.0))


def on_footing(state: SeriesState, imported: SeriesState, footing: float) -> SeriesState:
    """The state with its scales brought beside those of refined series, unless it was refined itself."""
    if footing == 1.0 or not is_as_imported(state.series, imported.series):
        return state
    return SeriesState(with_scales(state.series, footing * tilt_scales(state.series)), state.particles)


def _ratio(now: TiltSeries, then: TiltSeries, active: Bool) -> float:
    order = np.argsort(then.dose, kind="stable")
    order = order[active[order]]
    low = order[: max(1, int(np.ceil(LOW_DOSE_SHARE * len(order))))]
    ratio = tilt_scales(now)[low] / np.maximum(tilt_scales(then)[low], 1e-6)
    return float(np.median(ratio)) if ratio.size else 1.0
