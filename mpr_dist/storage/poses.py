"""Poses of one tilt series: one table for all species, in the columns of M and two of our own.

Coordinates are A from the tomogram corner, as M has them. Numbers read back exactly as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.model.pose import Particles
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.star import read_blocks, write_table

if TYPE_CHECKING:
    import pandas as pd

SAMPLES = "mprTemporalSamples"  # species differ; columns beyond repeat the last sample
HALF = "wrpRandomSubset"
SPECIES = "mprSpeciesName"  # "Name" keeps a species called 15 from being read as a number
ROW = "mprParticleRow"  # from 0, in the table of the species
BLOCK = "particles"
FORMAT, VERSION = "mpr_dist", "mprFormatVersion"
FORMAT_VERSION = 1


def coordinate_names(sample: int) -> tuple[str, ...]:
    """M's columns of the coordinates of a temporal sample, counted from 1."""
    return tuple(f"wrpCoordinate{axis}{sample}" for axis in "XYZ")


def angle_names(sample: int) -> tuple[str, ...]:
    """M's columns of the angles of a temporal sample, counted from 1."""
    return tuple(f"wrpAngle{name}{sample}" for name in ("Rot", "Tilt", "Psi"))


def pose_columns(particles: Particles, samples: int | None = None) -> dict[str, np.ndarray]:
    """Coordinates (A), angles (degrees) and half-set, each (particles,), by M's names; ``samples``: list so many."""
    columns: dict[str, np.ndarray] = {}
    for sample in range(samples or particles.n_samples):
        at = min(sample, particles.n_samples - 1)
        columns |= {name: particles.position_A[:, at, i] for i, name in enumerate(coordinate_names(sample + 1))}
        columns |= {name: particles.angles_deg[:, at, i] for i, name in enumerate(angle_names(sample + 1))}
    return columns | {HALF: particles.half.astype(np.int64)}


def write_poses(path: Path, particles: Mapping[str, Particles]) -> None:
    """Write the poses of one series, species by species; none at all is allowed, too.

    Raises:
        InputError: a value is not finite, or the file cannot be written.
    """
    import pandas as pd

    most = max((each.n_samples for each in particles.values()), default=1)
    tables = [
        pd.DataFrame(
            pose_columns(each, most)
            | {SAMPLES: np.full(len(each), each.n_samples), SPECIES: [name] * len(each), ROW: each.row}
        )
        for name, each in particles.items()
        if len(each)
    ]
    names = [*coordinate_names(1), *angle_names(1), HALF, SAMPLES, SPECIES, ROW]
    together = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=names)
    write_table(path, {FORMAT: {VERSION: FORMAT_VERSION}, BLOCK: together})


def read_poses(path: Path) -> dict[str, Particles]:
    """Species -> its particles in this series, in the order of the file; empty when there is no such file.

    Raises:
        SeriesError: the table lacks columns or holds something that is not understood.
        InputError: not a STAR file, or a value is not a finite number.
    """
    if not path.exists():
        return {}
    blocks = read_blocks(path)
    about = blocks.get(FORMAT, {})
    version = about.get(VERSION, FORMAT_VERSION)  # poses of the first release do not say
    if version != FORMAT_VERSION:
        raise SeriesError(f"{path}: format version {version}, but this mpr-dist reads {FORMAT_VERSION}; update it")
    table = blocks.get(BLOCK)
    if table is None or isinstance(table, dict) or SPECIES not in table:
        raise SeriesError(f"{path}: expected a table data_{BLOCK} with a column {SPECIES}; restore the file")
    species = table[SPECIES].astype(str).to_numpy()
    return {str(name): _particles(path, table[species == name]) for name in dict.fromkeys(species)}


def _particles(path: Path, rows: pd.DataFrame) -> Particles:
    columns = Columns(path, rows)
    half, row = columns.numbers(HALF, ROW).T
    count = int(columns.numbers(SAMPLES)[0, 0]) if SAMPLES in rows else 1
    samples = range(1, count + 1)
    return Particles(
        np.stack([columns.numbers(*coordinate_names(sample)) for sample in samples], 1),
        np.stack([columns.numbers(*angle_names(sample)) for sample in samples], 1),
        half.astype(np.int8),
        row.astype(np.int64),
    )
