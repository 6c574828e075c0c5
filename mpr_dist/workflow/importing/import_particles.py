"""The particle table of a new species, from whatever program it comes."""

from __future__ import annotations

from pathlib import Path

from mpr_dist.errors import InputError
from mpr_dist.model.population import Population
from mpr_dist.storage.motive_lists import (
    as_table,
    is_motive_list,
    names_by_number,
    read_motive_list,
    read_tomogram_names,
)
from mpr_dist.storage.relion import ParticleTable, read_particles
from mpr_dist.storage.relion_motion import motion_file
from mpr_dist.workflow.importing.import_motion import with_motion


def read_any_particles(
    population: Population,
    path: Path,
    *,
    coordinate_pixel_A: float | None = None,
    shift_pixel_A: float | None = None,
    tomogram_names: Path | None = None,
    voxel_origin: float = 0.0,
    ignore_unmatched: bool = False,
) -> ParticleTable:
    """Read a table of RELION, Warp or M, or a list of Dynamo, STOPGAP, AV3 or TOM.

    An optimisation set of RELION brings the trajectories that it names.

    Args:
        coordinate_pixel_A, shift_pixel_A: of coordinates and origins, instead of what the table says.
        tomogram_names: file with number and name of the tomograms of a list; None goes by the numbers in the names.
        voxel_origin: coordinate of the tomogram's corner in a list.
        ignore_unmatched: tomograms of a list without a series are called after their number, to be left out.

    Raises:
        InputError: the file cannot be understood, or an option means nothing for it.
    """
    if not is_motive_list(path):
        if tomogram_names is not None or voxel_origin:
            raise InputError(
                f"{path}: --tomogram-names and --voxel-origin are for lists of Dynamo, STOPGAP, AV3 and TOM; leave "
                "them out"
            )
        table = read_particles(path, coordinate_pixel_A=coordinate_pixel_A, shift_pixel_A=shift_pixel_A)
        motion = motion_file(path)
        return table if motion is None else with_motion(population, table, motion)
    if shift_pixel_A is not None:
        raise InputError(f"{path}: shifts of such a list are in the pixels of its coordinates; leave --shift-pixel out")
    found = read_motive_list(path)
    numbers = set(found.tomogram.tolist())
    if tomogram_names is not None:
        names = read_tomogram_names(tomogram_names)
    else:
        names = names_by_number(found, [entry.name for _, entry in population.series], ignore_unmatched)
    if ignore_unmatched:
        names = {number: f"tomogram_{number}" for number in numbers} | names
    return as_table(found, names, coordinate_pixel_A, voxel_origin)
