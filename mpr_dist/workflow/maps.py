"""The results of a species in one iteration: half-maps, their FSC, a filtered map, and the table of its particles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import PopulationError
from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.imaging.reconstruct import fourier_sums, solve_map
from mpr_dist.imaging.reference import half_map_fsc
from mpr_dist.maths.fourier import shells, to_fourier, to_real
from mpr_dist.model.population import SeriesFiles
from mpr_dist.model.pose import Particles
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.poses import BLOCK, pose_columns, read_poses
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.units import F32, F64, I64
from mpr_dist.workflow.reference_files import read_mask
from mpr_dist.workflow.science import FinishJob, SpeciesInput, SpeciesOutcome

if TYPE_CHECKING:
    import pandas as pd

FSC_COLUMNS = ("wrpResolution", "wrpFSCUnmasked", "wrpFSCRandomized", "wrpFSCCorrected", "wrpFSCMasked")
# M writes Infinity for the zero frequency, which many readers refuse: this many boxes instead
WHOLE_BOXES = 1000.0
# beginnings of columns that say something about poses
REPLACED: tuple[str, ...] = ("rlnCoordinate", "rlnCenteredCoordinate", "rlnOrigin", "rlnAngle", "rlnTomoSubtomogram")
REPLACED += ("rlnRandomSubset", "wrpCoordinate", "wrpAngle", "wrpRandomSubset", "wrpSourceName", "mpr")


def finish_species(job: FinishJob, accumulator: I64) -> SpeciesOutcome:
    """Write everything about one species; ``accumulator`` (2, z, y, x, 3) int64 is the sum over all series."""
    species, output = job.species.species, job.output
    halves: list[F32] = [
        solve_map(fourier_sums(half, species.symmetry, job.context.exponent), species) for half in accumulator
    ]
    curves = half_map_fsc(halves[0], halves[1], read_mask(job.species), species.pixel_size_A)
    write_volume(output.half1, halves[0], species.pixel_size_A)
    write_volume(output.half2, halves[1], species.pixel_size_A)
    write_volume(output.map, weighted_average(halves[0], halves[1], curves), species.pixel_size_A)
    write_fsc(output.fsc, curves)
    particles = read_particles(job.species.name, job.series)
    write_particles(output.particles, job.species, particles)
    per_half = [sum(int((p.half == half).sum()) for p in particles.values()) for half in (1, 2)]
    return SpeciesOutcome(curves.resolution_A, {"particles_per_half": per_half})


def weighted_average(half1: F32, half2: F32, curves: FscCurves) -> F32:
    """Average of both half-maps times sqrt(2 FSC / (1 + FSC)), zero beyond the resolution (Rosenthal 2003)."""
    n = curves.box_px
    agreement = np.clip(curves.corrected, 0.0, 1.0)
    gain = np.sqrt(2 * agreement / (1 + agreement))
    gain[np.arange(len(gain)) > np.ceil(n * curves.pixel_size_A / curves.resolution_A)] = 0.0
    ring = np.minimum(shells(n), n // 2)
    spectrum = to_fourier(0.5 * (half1 + half2)) * gain[ring].astype(np.float32)
    return to_real(spectrum, (n, n, n)).astype(np.float32)


def write_fsc(path: Path, curves: FscCurves) -> None:
    """A table with M's columns, one row per shell, from the zero frequency to Nyquist."""
    import pandas as pd

    box_A = curves.box_px * curves.pixel_size_A
    shell = np.arange(len(curves.corrected))
    resolution = np.where(shell > 0, box_A / np.maximum(shell, 1), WHOLE_BOXES * box_A)
    values = (resolution, curves.unmasked, curves.randomised, curves.corrected, curves.masked)
    write_table(path, {"": pd.DataFrame(dict(zip(FSC_COLUMNS, values, strict=True)))})


def read_fsc(path: Path) -> dict[str, F64] | None:
    """Columns of a table that ``write_fsc`` wrote, each (shells,); None where there is no such file or table."""
    if not path.exists():
        return None
    table = next(iter(read_blocks(path).values()))
    if isinstance(table, dict) or any(name not in table for name in FSC_COLUMNS):
        return None
    return {name: table[name].to_numpy(np.float64) for name in FSC_COLUMNS}


def read_particles(species: str, series: tuple[SeriesFiles, ...]) -> dict[str, Particles]:
    """Series -> the particles of one species there; series without any are left out."""
    found = {files.name: read_poses(files.poses).get(species) for files in series}
    return {name: particles for name, particles in found.items() if particles is not None}


def write_particles(path: Path, species: SpeciesInput, particles: dict[str, Particles]) -> None:
    """The species' table, in the order in which it was imported, with refined poses in M's columns.

    It holds the particles of the series that went into the maps. Columns of the imported table that say nothing about
    poses are kept.
    """
    import pandas as pd

    tables = [
        pd.DataFrame({"wrpSourceName": [f"{name}.tomostar"] * len(each)} | pose_columns(each) | {"row": each.row})
        for name, each in particles.items()
    ]
    if not tables:
        return
    refined = pd.concat(tables, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)
    row = refined.pop("row").to_numpy()
    kept, optics = _imported_columns(species, row)
    if kept is not None:
        refined = pd.concat([refined, kept], axis=1)
    write_table(path, {**optics, BLOCK: refined})


def _imported_columns(species: SpeciesInput, row: I64) -> tuple[pd.DataFrame | None, dict[str, pd.DataFrame]]:
    """Columns to keep of the particles ``row``, and the table of optics groups where there is one."""
    if species.table is None or not species.table.exists():
        return None, {}
    blocks = read_blocks(species.table)
    table = blocks.get(BLOCK)
    if table is None or isinstance(table, dict):
        return None, {}
    if row.max() >= len(table):
        raise PopulationError(
            f"{species.table}: has {len(table)} particles, but poses refer to number {row.max() + 1}; restore the file"
        )
    keep = [name for name in table.columns if not name.startswith(REPLACED)]
    optics = blocks.get("optics")
    found = {} if optics is None or isinstance(optics, dict) else {"optics": optics}
    return (table[keep].iloc[row].reset_index(drop=True) if keep else None), found
