"""particles.star of one species: M's columns for where the particles are now, and all else passed through."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpr_dist.model.pose import Particles
from mpr_dist.storage.poses import pose_columns
from mpr_dist.storage.star import write_table

if TYPE_CHECKING:
    import pandas as pd

SERIES = "wrpSourceName"
# What says the same as M's columns in the words of RELION; it would contradict them after refinement.
_REPLACED = {
    SERIES,
    "rlnRandomSubset",
    *(f"rlnCoordinate{axis}" for axis in "XYZ"),
    *(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"),
    *(f"rlnOrigin{axis}{unit}" for axis in "XYZ" for unit in ("", "Angst")),
    *(f"rln{group}{angle}" for group in ("Angle", "TomoSubtomogram") for angle in ("Rot", "Tilt", "Psi")),
}
# of any number of temporal samples: there may be fewer now
_IS_POSE = re.compile(r"wrp(Coordinate[XYZ]|Angle(Rot|Tilt|Psi))\d+|wrpRandomSubset")


def write_particle_table(path: Path, series: Sequence[str], particles: Particles, others: pd.DataFrame) -> None:
    """Write the particles of one species, row by row in the order of ``others``.

    Args:
        series: (particles,) name of the series of each.
        others: (particles, ...) the table they came from; what it says of poses is replaced.

    Raises:
        InputError: a value is not finite, or the file cannot be written.
    """
    import pandas as pd

    own = pose_columns(particles)
    kept = others.drop(columns=[name for name in others.columns if name in _REPLACED or _IS_POSE.fullmatch(name)])
    frame = pd.DataFrame(own | {SERIES: [f"{name}.tomostar" for name in series]})
    write_table(path, {"particles": pd.concat([frame, kept.reset_index(drop=True)], axis=1)})
