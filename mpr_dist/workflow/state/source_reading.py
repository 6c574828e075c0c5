"""What the tilt series of a new source have in common, and how they were understood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpr_dist.model.population import Source
from mpr_dist.model.reading import Dropped, Reading
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import Bool


@dataclass(frozen=True)
class SeriesFacts:
    """Of one tilt series. Angles in degrees, doses in e/A^2, defocus in um: (lowest, highest) of the active tilts."""

    angle_deg: tuple[float, float]
    axis_deg: tuple[float, float]
    dose: tuple[float, float]
    defocus_um: tuple[float, float]
    are_angles_inverted: bool
    deselected: int
    beyond_limit: int

    @staticmethod
    def of(series: TiltSeries, active: Bool) -> SeriesFacts:
        """``active`` (tilts,): those that the project works with."""
        defocus = series.optics.defocus_um.values
        per_tilt = len(defocus) == series.n_tilts and defocus[0].size == 1
        shown = defocus.ravel()[active] if per_tilt else defocus
        ranges = [series.angle_deg[active], series.axis_angle_deg[active], series.dose[active], shown]
        angle, axis, dose, focus = ((float(np.min(v)), float(np.max(v))) for v in ranges)
        deselected = int((~series.use_tilt & ~active).sum())
        beyond = int((series.use_tilt & ~active).sum())
        return SeriesFacts(angle, axis, dose, focus, series.are_angles_inverted, deselected, beyond)


def source_reading(source: Source, facts: Sequence[SeriesFacts], *, origins: str, names: str) -> Reading:
    """The sentences that all kinds of sources share; what they say of shifts and names differs."""
    inverted = sum(f.are_angles_inverted for f in facts)
    sense = {0: "greater z is more underfocus", len(facts): "greater z is less underfocus"}
    handed = sense.get(inverted, f"greater z is less underfocus in {inverted} of {len(facts)} series, else more")
    size = " x ".join(f"{n * source.pixel_size_A:g}" for n in source.volume_size_px)
    return Reading(
        positions=f"Positions: in A from the corner of tomograms of {size} A, which turn about size / 2.",
        origins=f"Shifts: {origins}",
        angles=(
            f"Angles: stage {_span([f.angle_deg for f in facts])} degrees and tilt axis "
            f"{_span([f.axis_deg for f in facts])} degrees as stored, no sign changed; {handed}."
        ),
        units=(
            f"Units: pixels of {source.pixel_size_A:g} A, defocus {_span([f.defocus_um for f in facts])} um "
            f"(positive is underfocus), dose before a tilt {_span([f.dose for f in facts])} e/A^2."
        ),
        names=f"Names: {names}",
        dropped=dropped_tilts(facts),
    )


def dropped_tilts(facts: Sequence[SeriesFacts]) -> tuple[Dropped, ...]:
    """Tilts that are not worked with, by reason."""
    counts = Counter({"deselected": 0, "beyond the limit, of highest dose": 0})
    for f in facts:
        counts["deselected"] += f.deselected
        counts["beyond the limit, of highest dose"] += f.beyond_limit
    return tuple(Dropped("tilts", count, reason) for reason, count in counts.items() if count)


def _span(ranges: Sequence[tuple[float, float]]) -> str:
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
