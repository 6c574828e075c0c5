"""What can be said about particles in the words of their tables: RELION's and Warp's columns, whoever wrote them.

Where particles are and which half-set they belong to is kept as poses, not in the table, so that columns of RELION that
say the same are made from those: for selecting and splitting by them.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.storage.particle_table import SERIES
from mpr_dist.storage.poses import pose_columns
from mpr_dist.workflow.state.species_state import SpeciesState

if TYPE_CHECKING:
    import pandas as pd

# columns that name the tilt series of a particle
NAMES_OF_SERIES = ("series", SERIES, "rlnTomoName", "rlnMicrographName")
ANGLES = ("Rot", "Tilt", "Psi")


def described(state: SpeciesState) -> pd.DataFrame:
    """Its table, with the series, half-sets and poses in force under the names that RELION and Warp give them.

    Coordinates are M's, in A; RELION's are in pixels that a species does not know.
    """
    poses = pose_columns(state.particles)
    half = {"rlnRandomSubset": state.particles.half.astype(np.int64)}
    first = state.particles.angles_deg[:, 0]
    angles = {f"rlnAngle{name}": first[:, i] for i, name in enumerate(ANGLES)}
    return state.columns.assign(**{name: list(state.names) for name in NAMES_OF_SERIES}, **poses, **half, **angles)


def column_named(state: SpeciesState, table: pd.DataFrame, name: str) -> str:
    """The column that is meant, with or without the underscore of STAR files, in upper or lower case.

    Raises:
        InputError: there is none; says what there is.
    """
    there = [str(each) for each in table.columns]
    asked = name.removeprefix("_")
    if asked in there:
        return asked
    alike = [each for each in there if each.lower() == asked.lower()]
    if len(alike) == 1:
        return alike[0]
    near = get_close_matches(asked, there, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    where = "; coordinates: wrpCoordinateX1 in A, or --region" if "Coordinate" in name else ""
    raise InputError(
        f"species {state.species.name}: its particles have no column {name}{hint}{where}; there are {', '.join(there)}"
    )
