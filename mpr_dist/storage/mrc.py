"""MRC images and volumes.

Volumes and stacks cannot be told apart by their headers (Warp writes space group 0 for both): the caller says which
it expects. Only the layout of the header is taken from mrcfile; the checks are ours, because a message about a bad file
must say which file, what was expected and what to do.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from mpr_dist.errors import InputError, MprError, SeriesError
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.image_file import file_and_slice
from mpr_dist.units import F32

HEADER_BYTES = 1024
PIXEL_TOLERANCE = 1e-3  # relative; headers hold float32 pixel sizes and some programs round them
LABEL = b"mpr_dist"  # no date: the same map gives the same bytes
_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_IMOD_STAMP, _IMOD_SIGNED_BYTES = 1146047817, 1


@dataclass(frozen=True)
class _Layout:
    shape: tuple[int, int, int]  # z, y, x
    pixel_A: tuple[float, float, float]  # x, y, z; 0 where the header has none
    dtype: np.dtype[Any]
    offset: int


def read_header(path: Path) -> tuple[int, int, int, float]:
    """(nx, ny, nz, pixel size in A, 0 when the header has none), without reading the data; of a slice of a stack, too.

    Raises:
        InputError: missing, not MRC, truncated, a mode that is not 0, 1, 2, 6 or 12, or no such slice.
    """
    _, layout = _of_image(Path(path), InputError)
    nz, ny, nx = layout.shape
    return nx, ny, nz, layout.pixel_A[0]


def read_volume(path: Path) -> tuple[F32, float]:
    """A volume as float32 [z, y, x] and its pixel size in A (0 when the header has none).

    Raises:
        InputError: as ``read_header``; also NaN or infinite voxels, pixels that are not cubic, permuted axes.
    """
    path = Path(path)
    layout = _read_layout(path, InputError)
    sizes = [size for size in layout.pixel_A if size > 0]
    if sizes and max(sizes) - min(sizes) > PIXEL_TOLERANCE * max(sizes):
        x, y, z = layout.pixel_A
        raise InputError(f"{path}: voxels are not cubic ({x:g} x {y:g} x {z:g} A); resample the map first")
    return _read_data(path, layout, InputError), layout.pixel_A[0]


def read_image(path: Path) -> F32:
    """One image (an average, or "000003@stack.mrc") as float32 [y, x]; any other 3D file must have a single slice.

    Raises:
        SeriesError: missing, not MRC, truncated, unknown mode, several slices or not that one, NaN or infinite pixels.
    """
    path, layout = _of_image(Path(path), SeriesError)
    if layout.shape[0] != 1:
        raise SeriesError(f"{path}: expected one image, got {layout.shape[0]} slices; give the average, not a stack")
    image: F32 = _read_data(path, layout, SeriesError)[0]
    return image


def read_stack(path: Path) -> F32:
    """All images of a stack as float32 [image, y, x].

    Raises:
        SeriesError: missing, not MRC, truncated, unknown mode, NaN or infinite pixels.
    """
    path = Path(path)
    return _read_data(path, _read_layout(path, SeriesError), SeriesError)


def write_volume(path: Path, array: F32, pixel_size_A: float) -> None:
    """Write [z, y, x] as float32 (mode 2), atomically; the same array gives the same bytes.

    Raises:
        InputError: not 3D, NaN or infinite voxels, a pixel size that is not positive, a folder that is not there.
    """
    path = Path(path)
    data = np.ascontiguousarray(array, dtype="<f4")
    if data.ndim != 3 or data.size == 0:
        raise InputError(f"{path}: a volume has three axes [z, y, x], got an array of shape {data.shape}")
    if not np.isfinite(data).all():
        raise InputError(f"{path}: the volume holds NaN or infinite voxels; it was not written")
    if not (np.isfinite(pixel_size_A) and pixel_size_A > 0):
        raise InputError(f"{path}: the pixel size must be positive, got {pixel_size_A} A")
    write_atomically(path, [_header_of(data, pixel_size_A).tobytes(), data.tobytes()])


def stack_bytes(images: np.ndarray[Any, Any], pixel_size_A: float) -> list[bytes]:
    """A file of images (image, y, x) int16 (mode 1)."""
    data = np.ascontiguousarray(images, dtype="<i2")
    header = _header_of(data, pixel_size_A)
    header["mode"], header["ispg"] = 1, 0
    return [header.tobytes(), data.tobytes()]


def _header_of(data: np.ndarray[Any, Any], pixel_size_A: float) -> Any:
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    nz, ny, nx = data.shape
    for axis, n in zip("xyz", (nx, ny, nz), strict=True):
        header[f"n{axis}"] = header[f"m{axis}"] = n
        header["cella"][axis] = n * pixel_size_A
    header["mode"], header["ispg"], header["nversion"] = 2, 1, 20140
    header["cellb"]["alpha"] = header["cellb"]["beta"] = header["cellb"]["gamma"] = 90.0
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"], header["dmax"], header["dmean"] = data.min(), data.max(), data.mean(dtype=np.float64)
    header["rms"] = data.std(dtype=np.float64)
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    header["nlabl"], header["label"][0] = 1, LABEL
    return header


def _of_image(path: Path, error: type[MprError]) -> tuple[Path, _Layout]:
    """The file to read, and its layout or that of the one slice that is meant."""
    file, index = file_and_slice(path)
    layout = _read_layout(file, error)
    if index is None:
        return file, layout
    nz, ny, nx = layout.shape
    if not 0 <= index < nz:
        raise error(f"{file}: has {nz} images, image {index + 1} was asked for")
    return file, replace(layout, shape=(1, ny, nx), offset=layout.offset + index * ny * nx * layout.dtype.itemsize)


def _read_layout(path: Path, error: type[MprError]) -> _Layout:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            raw = stream.read(HEADER_BYTES)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}); check the path") from problem
    if len(raw) < HEADER_BYTES:
        raise error(f"{path}: not an MRC file, it has {len(raw)} bytes and a header alone takes {HEADER_BYTES}")
    order = _byte_order(path, raw, error)
    header = np.frombuffer(raw, HEADER_DTYPE.newbyteorder(order))[0]
    mode = int(header["mode"])
    nx, ny, nz = (int(header[f"n{axis}"]) for axis in "xyz")
    if min(nx, ny, nz) < 1:
        raise error(f"{path}: not an MRC file, its header gives a size of {nx} x {ny} x {nz}")
    if mode not in _TYPES:
        known = ", ".join(str(m) for m in _TYPES)
        raise error(f"{path}: MRC mode {mode} is not supported (known: {known}); convert the file, e.g. to mode 2")
    axes = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
    if axes not in ((1, 2, 3), (0, 0, 0)):
        raise error(f"{path}: axes are stored in the order {axes}, expected (1, 2, 3); rewrite the file")
    dtype = np.dtype(order + _TYPES[mode])
    if mode == 0 and _has_unsigned_bytes(raw, order):
        dtype = np.dtype("u1")
    layout = _Layout((nz, ny, nx), _pixel_sizes(header), dtype, HEADER_BYTES + max(int(header["nsymbt"]), 0))
    expected = layout.offset + nx * ny * nz * dtype.itemsize
    if size < expected:
        raise error(f"{path}: truncated, {nx} x {ny} x {nz} in mode {mode} needs {expected} bytes, the file has {size}")
    return layout


def _byte_order(path: Path, raw: bytes, error: type[MprError]) -> str:
    """'<' or '>', from whichever reading gives a mode and axes that exist: machine stamps are often wrong."""
    for order in "<>":
        nx, ny, nz, mode = struct.unpack_from(f"{order}4i", raw)
        axes = struct.unpack_from(f"{order}3i", raw, 64)
        if 0 <= mode <= 127 and all(0 <= axis <= 3 for axis in axes) and max(nx, ny, nz) < 1 << 24:
            return order
    raise error(f"{path}: not an MRC file, its header makes no sense in either byte order")


def _has_unsigned_bytes(raw: bytes, order: str) -> bool:
    """IMOD's mode 0 is unsigned unless it says otherwise; everyone else's is signed."""
    stamp, flags = struct.unpack_from(f"{order}2i", raw, 152)
    return bool(stamp == _IMOD_STAMP and not flags & _IMOD_SIGNED_BYTES)


def _pixel_sizes(header: Any) -> tuple[float, float, float]:
    sizes = []
    for axis in "xyz":
        length, samples = float(header["cella"][axis]), int(header[f"m{axis}"])
        samples = samples if samples > 0 else int(header[f"n{axis}"])
        sizes.append(length / samples if np.isfinite(length) and length > 0 else 0.0)
    if int(header["mz"]) == 1 and int(header["nz"]) > 1:
        sizes[2] = 0.0  # written as a stack: the z cell means nothing
    return sizes[0], sizes[1], sizes[2]


def _read_data(path: Path, layout: _Layout, error: type[MprError]) -> F32:
    count = int(np.prod(layout.shape))
    try:
        flat = np.fromfile(path, layout.dtype, count, offset=layout.offset)
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from problem
    if flat.size != count:
        raise error(f"{path}: became shorter while it was read; is another program writing it?")
    data: F32 = flat.reshape(layout.shape).astype(np.float32)
    finite = np.isfinite(data)
    if not finite.all():
        z, y, x = (int(i) for i in np.argwhere(~finite)[0])
        bad = int(data.size - np.count_nonzero(finite))
        raise error(f"{path}: {bad} NaN or infinite values, the first at x {x}, y {y}, z {z}; make the file again")
    return data
