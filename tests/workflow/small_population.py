"""A population from a simulated project, built directly: one or two series of eight particles."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from mpr_dist.model.population import Population, SeriesEntry, Source, SpeciesFiles
from mpr_dist.model.pose import Particles
from mpr_dist.storage.population import add_source, add_species, create_population, finish_import
from mpr_dist.storage.poses import write_poses
from mpr_dist.workflow.simulate import SimulatedProject


def build_population(directory: Path, made: SimulatedProject) -> Population:
    """POP with everything of a simulated project as iteration 000."""
    population = create_population(directory, "small")
    imported = population.files(0)
    entries, counts, first = [], [], 0
    for name, series in made.series.items():
        shutil.copy(made.files.xml(name), imported.series(name).xml)
        poses = made.particles[name]
        rows = first + np.arange(len(poses))
        first += len(poses)
        moved = Particles(poses.position_A, poses.angles_deg, poses.half, rows)
        write_poses(imported.series(name).poses, {made.species.name: moved})
        entries.append(SeriesEntry(name, made.files.xml(name), (True,) * series.n_tilts))
        counts.append((name, len(poses)))
    pixel = made.settings.pixel_A
    one = next(iter(made.series.values()))
    image = tuple(int(n) for n in np.rint(one.image_size_A / pixel))
    volume = tuple(int(n) for n in np.rint(one.volume_size_A / pixel))
    population = add_source(
        population, Source("source", made.files.settings, tuple(entries), pixel, image[:2], volume[:3])
    )
    population = add_species(population, SpeciesFiles(made.species, made.mask, tuple(counts)))
    maps = imported.species(made.species.name)
    maps.directory.mkdir(parents=True)
    shutil.copy(made.half_maps[0], maps.half1)
    shutil.copy(made.half_maps[1], maps.half2)
    shutil.copy(made.files.run_data, maps.particles)
    finish_import(population)
    return population
