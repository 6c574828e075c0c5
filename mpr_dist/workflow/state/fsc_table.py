"""fsc.star: the curves of two half-maps in M's columns, and how they were made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpr_dist.errors import PopulationError
from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.star import read_blocks, write_table

RESOLUTION = "wrpResolution"
UNMASKED = "wrpFSCUnmasked"
RANDOMISED = "wrpFSCRandomized"
CORRECTED = "wrpFSCCorrected"
MASKED = "wrpFSCMasked"
NOWHERE_A = 999.0  # what RELION writes for "no resolution"; M's Infinity is refused by many readers


def write_fsc(path: Path, curves: FscCurves) -> None:
    import pandas as pd

    frequency = curves.frequency_per_A
    general = {
        "rlnFinalResolution": curves.resolution_A if np.isfinite(curves.resolution_A) else NOWHERE_A,
        "rlnRandomiseFrom": curves.randomised_from,
        "rlnPixelSize": curves.pixel_size_A,
        "rlnImageSize": curves.box_px,
    }
    columns = {
        RESOLUTION: 1.0 / np.maximum(frequency, 1.0 / NOWHERE_A),
        UNMASKED: curves.unmasked,
        RANDOMISED: curves.randomised,
        CORRECTED: curves.corrected,
        MASKED: curves.masked,
    }
    write_table(path, {"general": general, "fsc": pd.DataFrame(columns)})


def read_fsc(path: Path) -> FscCurves:
    """Raises InputError when it cannot be read, PopulationError when it is something else."""
    blocks = read_blocks(path)
    general, frame = blocks.get("general"), blocks.get("fsc")
    if not isinstance(general, dict) or frame is None or isinstance(frame, dict):
        raise PopulationError(f"{path}: is not a table of FSC curves; restore the file")
    columns, resolution = Columns(path, frame), float(general["rlnFinalResolution"])
    return FscCurves(
        pixel_size_A=float(general["rlnPixelSize"]),
        box_px=int(general["rlnImageSize"]),
        unmasked=columns.numbers(UNMASKED)[:, 0],
        masked=columns.numbers(MASKED)[:, 0],
        randomised=columns.numbers(RANDOMISED)[:, 0],
        corrected=columns.numbers(CORRECTED)[:, 0],
        randomised_from=int(general["rlnRandomiseFrom"]),
        resolution_A=resolution if resolution < NOWHERE_A else float("inf"),
    )
