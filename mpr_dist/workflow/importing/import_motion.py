"""Trajectories of RELION's tomo_align become temporal samples of the particles of a new species."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.relion_motion import FittedMotion, fit_motion
from mpr_dist.maths.trajectories import position_along
from mpr_dist.model.population import Population, SeriesEntry, Source
from mpr_dist.model.settings import MOST_SAMPLES
from mpr_dist.storage.particle_columns import series_key
from mpr_dist.storage.relion import ParticleTable
from mpr_dist.storage.relion_motion import read_motion
from mpr_dist.storage.warp_xml import read_tilt_series

PARTICLE = "rlnTomoParticleName"
# what trajectories may lose without a warning: far less than the priors of positions allow (5 A)
MISSED_A = 0.5


def with_motion(population: Population, table: ParticleTable, path: Path) -> ParticleTable:
    """The particles with the trajectories of a motion.star; those of series that are not there stay as they are.

    Raises:
        InputError: particles have no names or no trajectory, or rows that are not those of their tilt series.
    """
    if PARTICLE not in table.columns:
        raise InputError(f"{table.path}: no {PARTICLE}, which links particles to their trajectories in {path}")
    motion = read_motion(path, [str(name) for name in table.columns[PARTICLE]])
    known = {series_key(entry.name): (source, entry) for source, entry in population.series}
    of_series = np.array(table.series, dtype=object)
    fits: dict[str, tuple[np.ndarray, FittedMotion]] = {}
    for name in dict.fromkeys(table.series):
        if name in known:
            rows = np.flatnonzero(of_series == name)
            fits[name] = rows, _fit(population, *known[name], [motion[row] for row in rows], path)
    count = max((fit.samples_A.shape[1] for _, fit in fits.values()), default=1)
    position = np.repeat(table.position_A[:, None], count, axis=1)
    for rows, fit in fits.values():
        position[rows] += _sampled(fit, count)
    missed_A = max((fit.rms_A for _, fit in fits.values()), default=0.0)
    note = (
        f"Motion: trajectories of {path.name} became {count} temporal samples, right to {missed_A:.2f} A rms and "
        f"{max((fit.most_A for _, fit in fits.values()), default=0.0):.2f} A at most."
    )
    if missed_A > MISSED_A:
        note += (
            f" NOTE: these trajectories jump from tilt to tilt, which {count} temporal samples do not follow "
            f"({missed_A:.1f} A rms). Refine --image-warp again, or go on in the population that they came from."
        )
    angles = np.repeat(table.angles_deg[:, None], count, axis=1)
    return replace(table, position_A=position, angles_deg=angles, reading=table.reading.plus(note))


def _fit(
    population: Population, source: Source, entry: SeriesEntry, motion: list[np.ndarray], path: Path
) -> FittedMotion:
    if not source.is_relion:
        raise InputError(
            f"{path}: trajectories follow the rows of RELION's tables of tilts, but {entry.name} came from Warp; add "
            "its tilt series with --relion-tomograms"
        )
    size = [n * source.pixel_size_A for n in source.volume_size_px]
    series = read_tilt_series(population.files(0).series(entry.name).xml, volume_size_A=size)
    wrong = {len(each) for each in motion} - {series.n_tilts}
    if wrong:
        raise InputError(
            f"{path}: a trajectory in {entry.name} has {min(wrong)} rows, but the series has {series.n_tilts} tilts"
        )
    return fit_motion(np.stack(motion), series.dose_position, MOST_SAMPLES)


def _sampled(fit: FittedMotion, count: int) -> np.ndarray:
    """The samples of a fit at another number of places."""
    if fit.samples_A.shape[1] == count:
        return fit.samples_A
    return position_along(fit.samples_A, np.linspace(0.0, 1.0, count))
