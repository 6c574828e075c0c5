"""From partials to one accumulator per species: one task per z-slab, each writing whole chunks of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mpr_dist.engine.executor import Executor
from mpr_dist.model.population import IterationFiles
from mpr_dist.storage.accumulators import (
    DamagedPartial,
    Manifest,
    close_arrays,
    create_arrays,
    slab_starts,
)
from mpr_dist.storage.publish import clean_litter, disk, temporary_beside
from mpr_dist.workflow.running.carrying import map_carrying
from mpr_dist.workflow.running.tasks import Slab, run_slab


def merge(
    executor: Executor,
    files: IterationFiles,
    partials: Sequence[Path],
    total: Manifest,
    stopped: Callable[[], bool],
) -> dict[Path, str]:
    """Sum all partials into species/NAME/accumulator.zarr of every species.

    Returns the partials that turned out to be damaged, with the reason; then nothing was published.
    """
    targets = {species: files.species(species).accumulator for species in total.shapes}
    building: dict[str, Path] = {}
    for species, target in targets.items():
        disk().mkdir(target.parent)
        clean_litter(target.parent)
        building[species] = temporary_beside(target)
        create_arrays(building[species], {species: total.shapes[species]})
    slabs = [
        Slab(species, z, tuple(partials), building[species])
        for species, shape in total.shapes.items()
        for z in slab_starts(shape)
    ]
    crc: dict[str, dict[int, int]] = {species: {} for species in targets}
    damaged: dict[Path, str] = {}
    for done in map_carrying(executor, run_slab, (slab for slab in slabs if not stopped())):
        if isinstance(done.error, DamagedPartial):
            damaged[done.error.partial] = done.error.why
        else:
            crc[done.item.species][done.item.z] = done.unwrap()
    if damaged or sum(map(len, crc.values())) < len(slabs):
        for path in building.values():
            disk().remove_tree(path)
        return damaged
    for species, target in targets.items():
        disk().remove_tree(target)  # of an attempt that was interrupted before the iteration was done
        shape = {species: total.shapes[species]}
        manifest = Manifest(total.series, total.exponent, total.settings, total.software, shape)
        close_arrays(building[species], target, manifest, {species: [crc[species][z] for z in sorted(crc[species])]})
    return {}
