"""The results of a species in one iteration: half-maps, their FSC, a filtered map, and the table of its particles."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.arrays import HOST, Device, there_or_here
from mpr_dist.errors import PopulationError
from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.imaging.helical import helical_map
from mpr_dist.imaging.reconstruct import CellHelix, fourier_sums, solve_map
from mpr_dist.imaging.reference import species_fsc
from mpr_dist.maths.fourier import shells, to_fourier_on, to_real_on
from mpr_dist.model.population import SeriesFiles
from mpr_dist.model.pose import Particles
from mpr_dist.model.pose_changes import concatenated, selected
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.ome_zarr import write_ome_zarr
from mpr_dist.storage.particle_table import write_particle_table
from mpr_dist.storage.poses import BLOCK, read_poses
from mpr_dist.storage.star import read_blocks
from mpr_dist.units import F32, I64
from mpr_dist.workflow.series.export_ome_zarr import channels
from mpr_dist.workflow.state.fsc_table import write_fsc
from mpr_dist.workflow.state.reference_files import read_mask
from mpr_dist.workflow.state.science import FinishJob, SpeciesInput, SpeciesOutcome

if TYPE_CHECKING:
    import pandas as pd


def finish_species(job: FinishJob, accumulator: I64, device: Device = HOST) -> SpeciesOutcome:
    """Write everything about one species; ``accumulator`` (2, z, y, x, 3) int64 is the sum over all series.

    device: where symmetry, division and transform happen; the host takes what is too large for a card.
    """
    species, output = job.species.species, job.output

    def half_map(half: I64) -> F32:
        made = partial(fourier_sums, half, species.symmetry, job.context.exponent, helix=CellHelix.of(species))
        return helical_map(there_or_here(device, lambda where: solve_map(made(where), species)), species)

    halves = [half_map(half) for half in accumulator]
    curves, average = there_or_here(device, partial(_agreement, halves, read_mask(job.species), species))
    write_volume(output.half1, halves[0], species.pixel_size_A)
    write_volume(output.half2, halves[1], species.pixel_size_A)
    write_volume(output.map, average, species.pixel_size_A)
    write_ome_zarr(output.ome_zarr, species.name, channels(average, halves[0], halves[1]), species.pixel_size_A)
    write_fsc(output.fsc, curves)
    particles = read_particles(job.species.name, job.series)
    if particles:
        write_particles(output.particles, job.species, particles)
    per_half = [sum(int((p.half == half).sum()) for p in particles.values()) for half in (1, 2)]
    return SpeciesOutcome(curves.resolution_A, {"particles_per_half": per_half})


def _agreement(halves: list[F32], mask: F32, species: Species, device: Device) -> tuple[FscCurves, F32]:
    """Curves and the average weighted by them; the half-maps go to a card once."""
    first, second = (device.put(half) for half in halves)
    curves = species_fsc(first, second, mask, species, device)
    return curves, weighted_average(first, second, curves, device)


def weighted_average(half1: Any, half2: Any, curves: FscCurves, device: Device = HOST) -> F32:
    """Average of both half-maps times sqrt(2 FSC / (1 + FSC)), zero beyond the resolution (Rosenthal 2003).

    Computed on a device, where the half-maps may lie; on the host.
    """
    n = curves.box_px
    agreement = np.clip(curves.corrected, 0.0, 1.0)
    gain = np.sqrt(2 * agreement / (1 + agreement))
    gain[np.arange(len(gain)) > np.ceil(n * curves.pixel_size_A / curves.resolution_A)] = 0.0
    ring = device.xp.minimum(shells(n, device=device), n // 2)
    spectrum = to_fourier_on(device, 0.5 * (device.put(half1) + device.put(half2)))
    spectrum *= device.put(gain, np.float32)[ring]
    return np.asarray(device.take(to_real_on(device, spectrum, (n, n, n))), np.float32)


def read_particles(species: str, series: tuple[SeriesFiles, ...]) -> dict[str, Particles]:
    """Series -> the particles of one species there; series without any are left out."""
    found = {files.name: read_poses(files.poses).get(species) for files in series}
    return {name: particles for name, particles in found.items() if particles is not None}


def write_particles(path: Path, species: SpeciesInput, particles: dict[str, Particles]) -> None:
    """The species' table, in the order in which it was imported, with refined poses.

    It holds the particles of the series that went into the maps. Columns of the imported table that say nothing about
    poses are kept.
    """
    names = np.repeat(list(particles), [len(each) for each in particles.values()])
    order = np.argsort(np.concatenate([each.row for each in particles.values()]), kind="stable")
    # a series that was left as it came may have fewer temporal samples than the refined ones
    together = selected(concatenated(list(particles.values())), order)
    write_particle_table(path, names[order].tolist(), together, _rows(species.table, together.row))


def _rows(path: Path | None, row: I64) -> pd.DataFrame:
    """The rows of the imported table that belong to particles, in their order; no columns where there is no table."""
    import pandas as pd

    if path is None or not path.exists():
        return pd.DataFrame(index=range(len(row)))
    table = read_blocks(path).get(BLOCK)
    if table is None or isinstance(table, dict) or row.max() >= len(table):
        raise PopulationError(f"{path}: has no particle number {row.max() + 1}, which poses refer to; restore the file")
    return table.iloc[row]
