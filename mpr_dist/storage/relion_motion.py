"""motion.star of RELION's tomo_align: how every particle moves from tilt to tilt, in A, added to its position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpr_dist.errors import InputError
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.relion_paths import find_file
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.units import F64

COLUMNS = tuple(f"rlnOrigin{axis}Angst" for axis in "XYZ")
COUNT = "rlnParticleNbr"


def motion_file(path: Path) -> Path | None:
    """The trajectories that an optimisation set names; None for other files, and for sets without any.

    Raises:
        InputError: it names a file that does not exist.
    """
    for block in read_blocks(path).values():
        value = block.get("rlnTomoTrajectoriesFile")
        if value is None or "rlnTomoParticlesFile" not in block:
            continue
        name = str(value if isinstance(block, dict) else value.iloc[0]).strip()
        if not name:
            return None
        found = find_file(name, path)
        if found is None:
            raise InputError(f"{path}: its rlnTomoTrajectoriesFile {name} is not found in its folder or above it")
        return found
    return None


def read_motion(path: Path, particles: Sequence[str]) -> list[F64]:
    """Displacements (tilts, 3) of every particle, by rlnTomoParticleName; old files number them in the table's order.

    Raises:
        InputError: not such a file, another number of particles, or one without trajectory.
    """
    blocks = read_blocks(path)
    general = blocks.get("general")
    if not isinstance(general, dict) or COUNT not in general:
        raise InputError(f"{path}: no data_general with {COUNT}; trajectories are called motion.star in RELION")
    if "0" in blocks and "0" not in particles:
        names: Sequence[str] = [str(i) for i in range(len(particles))]
        if int(general[COUNT]) != len(particles):
            raise InputError(
                f"{path}: has unnamed trajectories of {general[COUNT]} particles, the table {len(particles)}"
            )
    else:
        names = particles
    missing = [name for name in names if name not in blocks]
    if missing:
        raise InputError(f"{path}: no trajectory of particle {missing[0]} ({len(missing)} of {len(names)} have none)")
    return [Columns(path, _table(path, blocks, name), "tilts").numbers(*COLUMNS) for name in names]


def _table(path: Path, blocks: Mapping[str, Any], name: str) -> Any:
    block = blocks[name]
    if isinstance(block, dict):
        import pandas as pd

        return pd.DataFrame([block])  # one tilt
    return block


def write_motion(path: Path, motion_A: Mapping[str, F64]) -> None:
    """Write displacements (tilts, 3) by rlnTomoParticleName."""
    import pandas as pd

    tables = {name: pd.DataFrame(dict(zip(COLUMNS, each.T, strict=True))) for name, each in motion_A.items()}
    write_table(path, {"general": {COUNT: len(tables)}, **tables})
