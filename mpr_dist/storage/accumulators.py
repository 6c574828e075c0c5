"""Accumulators on disk: partials (what one batch of series added up) and their exact sum, slab by slab.

A partial is a zarr v3 group with one int64 array per species, (half, z, y, x, part) with the parts real, imaginary and
weight side by side, and a ``manifest.json`` that was written last and carries a CRC of every z-slab. zarr reads a lost
chunk as zeros and does not know of series or parameters; the manifest does. Sums are integers: the order never matters.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from mpr_dist.errors import MprError, PopulationError
from mpr_dist.storage.publish import disk, publish_directory, publish_json, temporary_beside
from mpr_dist.units import I64

FORMAT_VERSION = 1
SLAB_BYTES = 16 << 20  # a chunk; of this size reading and writing run at the speed of the disk
LIMIT = 1 << 61  # beyond it a sum is no longer safe from wrapping around


class DamagedPartial(MprError):
    """A partial's bytes are not those that were written; its series have to be back-projected again."""

    def __init__(self, partial: Path, why: str) -> None:
        super().__init__(f"{partial}: {why}")
        self.partial = partial
        self.why = why

    def __reduce__(self) -> tuple[type[DamagedPartial], tuple[Path, str]]:
        return DamagedPartial, (self.partial, self.why)


@dataclass(frozen=True)
class Manifest:
    """What a partial, or a merged accumulator, contains.

    Attributes:
        series: name -> hash of the published parameters it was back-projected with.
        exponent: k of the fixed point, value x 2^k.
        settings: hash of the settings and references of the iteration.
        shapes: species -> (z, y, x); crc: species -> one CRC-32 per z-slab.
    """

    series: Mapping[str, str]
    exponent: int
    settings: str
    software: str
    shapes: Mapping[str, tuple[int, int, int]]
    crc: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def name(self) -> str:
        """The same series with the same parameters and settings have the same name, whoever adds them up."""
        text = json.dumps([sorted(self.series.items()), self.exponent, self.settings, self.software])
        return f"partial-{sha256(text.encode()).hexdigest()[:24]}"


def slab_starts(shape: Sequence[int]) -> tuple[int, ...]:
    """First z of every slab; depends on the shape alone, as chunks and CRCs do."""
    return tuple(range(0, shape[0], slab_depth(shape)))


def file_count(shape: Sequence[int]) -> int:
    """Files of an accumulator of one species: zarr's two, the manifest, a chunk per slab; a slab of zeros has none."""
    return len(slab_starts(shape)) + 3


def slab_depth(shape: Sequence[int]) -> int:
    return int(max(1, min(shape[0], SLAB_BYTES // (6 * 8 * shape[1] * shape[2]))))


def write_partial(directory: Path, manifest: Manifest, sums: Mapping[str, I64]) -> tuple[str, bool]:
    """Publish ``sums`` (species -> (2, z, y, x, 3) int64) as directory/NAME.

    Returns its name and whether it is ours; a partial of that name that was there first is left as it is.
    """
    disk().mkdir(directory)
    final = directory / manifest.name
    if final.exists():
        return final.name, False
    temporary = temporary_beside(final)
    try:
        create_arrays(temporary, manifest.shapes)
        crc = {
            species: tuple(write_slab(temporary, species, z, _slab(sums[species], z)) for z in slab_starts(shape))
            for species, shape in manifest.shapes.items()
        }
        return final.name, close_arrays(temporary, final, manifest, crc)
    finally:
        if temporary.exists():
            disk().remove_tree(temporary)


def create_arrays(directory: Path, shapes: Mapping[str, tuple[int, int, int]]) -> None:
    """An empty group with one array per species; then any number of writers may write whole slabs."""
    disk().mkdir(directory)
    group = zarr.create_group(str(directory), zarr_format=3, overwrite=True)
    for species, shape in shapes.items():
        group.create_array(
            species,
            shape=(2, *shape, 3),
            chunks=(2, slab_depth(shape), *shape[1:], 3),
            dtype="int64",
            fill_value=0,
            serializer=BytesCodec(),
            # sums are full of low bits that are noise: a quick codec packs them as well as a slow one; the checksum
            # covers what a codec does not look at
            compressors=[BloscCodec(typesize=8, cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()],
            dimension_names=("half", "z", "y", "x", "part"),
        )


def write_slab(directory: Path, species: str, z: int, values: I64) -> int:
    """Write one slab, exactly one chunk, and return its CRC."""
    array = zarr.open_array(str(directory / species), mode="r+")
    disk().store(array, (slice(None), slice(z, z + values.shape[1])), values)
    return _crc(values)


def close_arrays(temporary: Path, final: Path, manifest: Manifest, crc: Mapping[str, Sequence[int]]) -> bool:
    """Write the manifest, last of all, and rename the directory into place."""
    record = asdict(manifest) | {"crc": {species: list(values) for species, values in crc.items()}}
    record["check"] = _check(record)
    publish_json(temporary / "manifest.json", record)
    return publish_directory(temporary, final)


def read_manifest(directory: Path) -> Manifest:
    """
    Raises:
        DamagedPartial: missing or not understood.
    """
    try:
        record: dict[str, Any] = json.loads((directory / "manifest.json").read_text("utf-8"))
        check = record.pop("check")
        if check != _check(record):
            raise DamagedPartial(directory, "its manifest is not the one that was written")
        shapes = {species: (int(z), int(y), int(x)) for species, (z, y, x) in record.pop("shapes").items()}
        crc = {species: tuple(int(v) for v in values) for species, values in record.pop("crc").items()}
        manifest = Manifest(shapes=shapes, crc=crc, **record)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedPartial(directory, f"its manifest cannot be read ({error!r})") from error
    if manifest.format_version != FORMAT_VERSION:
        raise DamagedPartial(directory, f"format version {manifest.format_version}, expected {FORMAT_VERSION}")
    if any(len(crc[species]) != len(slab_starts(shape)) for species, shape in shapes.items()):
        raise DamagedPartial(directory, "its manifest does not have one CRC per slab")
    return manifest


def read_slab(directory: Path, manifest: Manifest, species: str, z: int) -> I64:
    """One slab (2, depth, y, x, 3), compared with its CRC.

    Raises:
        DamagedPartial: a byte has changed, or a chunk is missing.
    """
    shape = manifest.shapes[species]
    try:
        array = zarr.open_array(str(directory / species), mode="r")
        values: I64 = np.asarray(array[:, z : z + slab_depth(shape)])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # zarr and its codecs name no one family
        raise DamagedPartial(directory, f"species {species}, slab at z = {z} cannot be read ({error})") from error
    if values.dtype != np.int64 or _crc(values) != manifest.crc[species][slab_starts(shape).index(z)]:
        raise DamagedPartial(directory, f"species {species}, slab at z = {z}: the bytes are not those written")
    return values


def verify(directory: Path) -> Manifest:
    """Read every byte and compare; the manifest when all is well, else DamagedPartial."""
    manifest = read_manifest(directory)
    for species, shape in manifest.shapes.items():
        for z in slab_starts(shape):
            read_slab(directory, manifest, species, z)
    return manifest


def sum_slab(partials: Sequence[Path], species: str, z: int) -> I64:
    """Exact sum of one slab over all partials; holds two slabs in memory, however many partials there are.

    Raises:
        DamagedPartial: naming the partial. PopulationError: the sum has left the safe range.
    """
    total: I64 | None = None
    for directory in partials:
        values = read_slab(directory, read_manifest(directory), species, z)
        _check_range(values, species, z, directory)
        # Both terms are at most 2^61 now, so this addition cannot wrap around before it is checked in turn.
        total = values if total is None else total + values
        _check_range(total, species, z, directory)
    if total is None:
        raise PopulationError(f"species {species}: no partial to sum")
    return total


def write_sum(target: Path, partials: Sequence[Path], species: str, z: int) -> int:
    """Write one slab of the sum of partials, and return its CRC. Raises as ``sum_slab``.

    The slab of a single partial is read and checked, too, but then its file gets a second name instead of a copy, where
    the file system has such.
    """
    total = sum_slab(partials, species, z)
    if len(partials) == 1 and _share_slab(target, partials[0], species, z):
        manifest = read_manifest(partials[0])
        return manifest.crc[species][slab_starts(manifest.shapes[species]).index(z)]
    return write_slab(target, species, z, total)


def _share_slab(target: Path, source: Path, species: str, z: int) -> bool:
    """Whether the file of a slab stands in both directories now."""
    own, other = (zarr.open_array(str(directory / species), mode="r").metadata for directory in (target, source))
    if own.to_dict() != other.to_dict():
        return False
    key = own.encode_chunk_key((0, z // own.chunks[1], 0, 0, 0))
    before, after = source / species / key, target / species / key
    disk().unlink(after)  # of whoever died here
    if not before.exists():
        return True  # a slab of zeros has no file
    disk().mkdir(after.parent)
    try:
        disk().link(before, after)
    except OSError:
        return False
    return True


def _check_range(values: I64, species: str, z: int, directory: Path) -> None:
    largest = max(int(values.max()), -int(values.min()))
    if largest > LIMIT:
        raise PopulationError(
            f"species {species}: a sum of {largest:.3g} left the safe range of the fixed point (2^61) at z = {z} "
            f"with {directory.name}; a smaller exponent is needed from the first iteration on"
        )


def read_accumulator(directory: Path, species: str) -> I64:
    """A whole accumulator (2, z, y, x, 3), every slab compared with its CRC."""
    manifest = read_manifest(directory)
    shape = manifest.shapes[species]
    whole = np.empty((2, *shape, 3), np.int64)
    for z in slab_starts(shape):
        whole[:, z : z + slab_depth(shape)] = read_slab(directory, manifest, species, z)
    return whole


class Accumulators(Mapping[str, I64]):
    """The sums of one batch in memory: species -> (2, z, y, x, 3) int64, allocated when first asked for.

    ``touched`` tells whether anybody asked since it was last set to False: a series that failed before it reached for
    an accumulator has added nothing.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int, int]]) -> None:
        self.shapes = dict(shapes)
        self.touched = False
        self._sums: dict[str, I64] = {}

    def __getitem__(self, species: str) -> I64:
        shape = self.shapes[species]
        self.touched = True
        if species not in self._sums:
            self._sums[species] = np.zeros((2, *shape, 3), np.int64)
        return self._sums[species]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def clear(self) -> None:
        for sums in self._sums.values():
            sums[...] = 0


def _check(record: Mapping[str, Any]) -> str:
    """Hash of a manifest, which it carries itself: of its content, not of its layout."""
    return sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _slab(sums: I64, z: int) -> I64:
    return sums[:, z : z + slab_depth(sums.shape[1:4])]


def _crc(values: I64) -> int:
    return zlib.crc32(np.ascontiguousarray(values).data)
