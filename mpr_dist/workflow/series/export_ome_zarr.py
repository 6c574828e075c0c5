"""Maps of all species for napari and neuroglancer: one OME-Zarr image per species."""

from __future__ import annotations

from functools import partial

from mpr_dist.model.population import SpeciesResult
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.ome_zarr import OmeVersion, write_ome_zarr
from mpr_dist.storage.population import last_iteration_with_maps
from mpr_dist.units import F32
from mpr_dist.workflow.state.export_request import ExportRequest, ExportSummary, chosen_iteration


def channels(map_: F32, half1: F32, half2: F32) -> dict[str, F32]:
    """What an image of a species shows: the filtered map, and both unfiltered half-maps."""
    return {"map": map_, "half-map 1": half1, "half-map 2": half2}


def export_ome_zarr(request: ExportRequest, version: OmeVersion) -> ExportSummary:
    """Write OUT/SPECIES.zarr for every species. Raises InputError when a map cannot be read."""
    population, files = chosen_iteration(request)
    lines, table = [], {}
    for one in population.species:
        last = last_iteration_with_maps(population, one.name, files.number + 1)
        target = request.out / f"{one.name}.zarr"
        volumes = _read(population.files(last).species(one.name))
        write_ome_zarr(target, one.name, volumes, one.species.pixel_size_A, version)
        lines.append(f"{target}: OME-Zarr {version}, {', '.join(volumes)} of iteration {last:03d}")
        table[one.name] = {"path": str(target), "version": version, "iteration": last}
    return ExportSummary(tuple(lines), {"species": table})


def _read(result: SpeciesResult) -> dict[str, F32]:
    map_, half1, half2 = (read_volume(path)[0] for path in (result.map, result.half1, result.half2))
    return channels(map_, half1, half2)


export_05 = partial(export_ome_zarr, version="0.5")
export_04 = partial(export_ome_zarr, version="0.4")
