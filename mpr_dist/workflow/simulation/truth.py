"""The truth beside a simulated project: parameters of the series, trajectories of the particles, and projections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.geometry import project, views
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.storage.warp_project import write_skeleton

_NAMES = ("x_A", "y_A", "z_A", "rot", "tilt", "psi")


def write_truth(
    folder: Path, series: Mapping[str, TiltSeries], particles: Mapping[str, Particles], pixel_A: float
) -> None:
    """Write NAME.xml, NAME_particles.star and NAME_projections.npz of every series into a new folder."""
    folder.mkdir(parents=True)
    for name, one in series.items():
        write_skeleton(folder / f"{name}.xml", one, pixel_A)
        write_true_particles(folder / f"{name}_particles.star", particles[name])
        seen, view = project(one, particles[name]), views(one, particles[name])
        np.savez(
            folder / f"{name}_projections.npz",
            xy_A=seen.xy_A.astype(np.float32),
            defocus_um=seen.defocus_um.astype(np.float32),
            view=view.astype(np.float32),
        )


def _columns(samples: int) -> list[str]:
    """Of one sample after the other; numbered where there are several, as M numbers them."""
    return [f"{name}{k if samples > 1 else ''}" for k in range(1, samples + 1) for name in _NAMES]


def write_true_particles(path: Path, particles: Particles) -> None:
    """Positions (A, from the corner), Euler angles and half-set, one row per particle, all samples of a trajectory."""
    import pandas as pd

    numbers = np.concatenate([particles.position_A, particles.angles_deg], 2).reshape(len(particles), -1)
    table = pd.DataFrame(numbers, columns=_columns(particles.n_samples))
    write_table(path, {"": table.assign(half=particles.half)})


def read_true_particles(path: Path) -> Particles:
    """What ``write_true_particles`` wrote; rows are numbered from 0.

    Raises:
        InputError: the table cannot be read or lacks columns.
    """
    table = read_blocks(path).get("")
    if table is None or isinstance(table, dict) or "half" not in table:
        raise InputError(f"{path}: is not a table of true particles; simulate the project again")
    samples = sum(str(name).startswith("x_A") for name in table)
    missing = [name for name in _columns(samples) if name not in table]
    if not samples or missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing or _NAMES)}; simulate the project again")
    numbers = table[_columns(samples)].to_numpy(np.float64).reshape(len(table), samples, 6)
    half = table["half"].to_numpy(np.int8)
    return Particles(numbers[..., :3].copy(), numbers[..., 3:].copy(), half, np.arange(len(table)))
