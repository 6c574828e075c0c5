"""Maps as OME-Zarr, which napari, neuroglancer and Fiji open piece by piece: several resolutions, angstrom as unit.

One image with a channel per map. Version 0.5 lies in zarr 3, 0.4 in zarr 2 (https://ngff.openmicroscopy.org). The same
maps give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import zarr

from mpr_dist.errors import InputError
from mpr_dist.storage.publish import disk, publish_directory, temporary_beside
from mpr_dist.units import F32

OmeVersion = Literal["0.5", "0.4"]
VERSIONS: tuple[str, ...] = get_args(OmeVersion)
CHUNK_PX = 128  # few files, and still quick to look at
SMALLEST_PX = 32  # of the coarsest level
COLOURS = ("FFFFFF", "00C0FF", "FF8000")


def write_ome_zarr(
    final: Path, name: str, maps: Mapping[str, F32], pixel_size_A: float, version: OmeVersion = "0.5"
) -> None:
    """Write ``maps`` (label -> cube [z, y, x]) as one image at ``final``, in place of what was there.

    Raises:
        InputError: no maps, maps of different size, a pixel that is not positive, or another version.
    """
    shapes = {volume.shape for volume in maps.values()}
    if len(shapes) != 1 or len(shapes.copy().pop()) != 3:
        raise InputError(f"{final}: OME-Zarr needs maps of one size, got {', '.join(map(str, shapes)) or 'none'}")
    if not pixel_size_A > 0:
        raise InputError(f"{final}: the pixel size must be positive, got {pixel_size_A} A")
    if version not in VERSIONS:
        raise InputError(f"OME-Zarr {version} is not known; there are {', '.join(VERSIONS)}")
    temporary = temporary_beside(final)
    try:
        disk().mkdir(temporary.parent)
        _write(temporary, name, maps, pixel_size_A, version)
        disk().remove_tree(final)
        publish_directory(temporary, final)
    finally:
        if temporary.exists():
            disk().remove_tree(temporary)


def file_count(shape: tuple[int, ...], channels: int) -> int:
    """Files of an image of cubes of this shape, in version 0.5. Chunks of zeros, if there are any, have none."""
    chunks = [int(np.prod([-(-n // CHUNK_PX) for n in level])) for level in _levels(shape)]
    return 1 + sum(1 + channels * of_level for of_level in chunks)


def _write(root: Path, name: str, maps: Mapping[str, F32], pixel_A: float, version: OmeVersion) -> None:
    levels = _levels(next(iter(maps.values())).shape)
    about: dict[str, Any] = {"multiscales": [_multiscale(name, levels, pixel_A)], "omero": _omero(maps)}
    if version == "0.4":
        about["multiscales"][0]["version"] = version
        attributes: dict[str, Any] = about
    else:
        attributes = {"ome": {"version": version, **about}}
    group = zarr.create_group(str(root), zarr_format=2 if version == "0.4" else 3, attributes=attributes)
    arrays = [_array(group, str(level), (len(maps), *shape), version) for level, shape in enumerate(levels)]
    for channel, volume in enumerate(maps.values()):
        for level, array in enumerate(arrays):
            volume = np.asarray(volume if level == 0 else _halved(volume), np.float32)
            disk().store(array, (channel,), volume)


def _array(group: Any, name: str, shape: tuple[int, ...], version: OmeVersion) -> Any:
    chunks = (1, *(min(CHUNK_PX, n) for n in shape[1:]))
    if version == "0.4":
        encoding = {"name": "v2", "separator": "/"}
        return group.create_array(name, shape=shape, chunks=chunks, dtype="float32", chunk_key_encoding=encoding)
    return group.create_array(name, shape=shape, chunks=chunks, dtype="float32", dimension_names=tuple("czyx"))


def _levels(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sizes of the map and of its halves, quarters ..., as long as they are worth looking at."""
    found = [shape]
    while min(found[-1]) >= 2 * SMALLEST_PX:
        found.append(tuple(n // 2 for n in found[-1]))
    return found


def _halved(volume: F32) -> F32:
    """Means of 2 x 2 x 2 voxels; an odd last plane is dropped."""
    z, y, x = (n // 2 for n in volume.shape)
    blocks = volume[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32))


def _multiscale(name: str, levels: list[tuple[int, ...]], pixel_A: float) -> dict[str, Any]:
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    datasets = []
    for level in range(len(levels)):
        step = 2**level
        # the mean of voxels stands in their middle
        scale, middle = [1.0, *[pixel_A * step] * 3], [0.0, *[pixel_A * (step - 1) / 2] * 3]
        moves = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": middle}]
        datasets.append({"path": str(level), "coordinateTransformations": moves})
    return {"name": name, "axes": axes, "datasets": datasets, "type": "mean of 2 x 2 x 2 voxels"}


def _omero(maps: Mapping[str, F32]) -> dict[str, Any]:
    """Names of the channels, and the densities to show: from nothing to the densest voxels."""
    channels = []
    for i, (label, volume) in enumerate(maps.items()):
        low, high = float(volume.min()), float(volume.max())
        top = max(float(np.quantile(volume, 0.9995)), 1e-30)
        window = {"min": low, "max": high, "start": 0.0, "end": top}
        channels.append({"label": label, "color": COLOURS[i % len(COLOURS)], "active": i == 0, "window": window})
    return {"channels": channels}
