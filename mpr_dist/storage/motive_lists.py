"""Particles of Dynamo (.tbl), STOPGAP (.star) and AV3 or TOM (.em): lists that know their tomograms by number.

Coordinates are pixels of the tomogram they were picked in; position = coordinate + shift. The angles of all three mean
the same with other signs; formulas in the functions.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.model.reading import Reading
from mpr_dist.storage.particle_columns import Columns, list_of, series_key
from mpr_dist.storage.relion import ParticleTable
from mpr_dist.storage.star import read_blocks
from mpr_dist.units import F64, I8, I64

if TYPE_CHECKING:
    import pandas as pd

STOPGAP = "stopgap_motivelist"
DYNAMO_COLUMNS = 26  # at least; 35, 41 and 42 are usual
MOTIVE_ROWS = 20
EM_HEADER_BYTES = 512
_EM_TYPES = {2: "i2", 4: "i4", 5: "f4", 9: "f8"}
# 1-based columns of a Dynamo table that are worth keeping
_DYNAMO_KEPT = {1: "dynTag", 10: "dynCC", 20: "dynTomo", 21: "dynReg", 22: "dynClass", 31: "dynOTag"}
_EM_KEPT = {1: "emScore", 4: "emSubtomogram", 5: "emTomo", 6: "emObject", 20: "emClass"}


@dataclass(frozen=True, eq=False)
class MotiveList:
    """What all of these lists say.

    Attributes:
        tomogram: (particles,) int64 number of the tomogram.
        coordinate_px, shift_px: (particles, 3) float64, to be added.
        angles_deg: (particles, 3) float64 rot, tilt, psi in RELION's convention.
        half: (particles,) int8 1 or 2, or None where the list has no half-sets.
        pixel_A: of the coordinates where the list says it, else 0.
        columns: what is passed through; angles: a sentence about them.
    """

    path: Path
    kind: str
    tomogram: I64
    coordinate_px: F64
    shift_px: F64
    angles_deg: F64
    half: I8 | None
    half_note: str
    pixel_A: float
    columns: pd.DataFrame
    angles: str


def is_motive_list(path: Path) -> bool:
    """Whether ``read_motive_list`` is the reader for a file; files that cannot be read are not."""
    suffix = Path(path).suffix.lower()
    if suffix in (".tbl", ".em"):
        return True
    if suffix != ".star":
        return False
    try:
        with Path(path).open("rb") as stream:
            return b"data_" + STOPGAP.encode() in stream.read(4096)
    except OSError:
        return False


def read_motive_list(path: Path) -> MotiveList:
    """Read a list of Dynamo, STOPGAP, AV3 or TOM.

    Raises:
        InputError: missing, damaged, without particles, or with values that are not finite numbers.
    """
    path = Path(path)
    readers = {".tbl": _read_dynamo, ".em": _read_em}
    found = readers.get(path.suffix.lower(), _read_stopgap)(path)
    if not len(found.tomogram):
        raise InputError(f"{path}: holds no particles")
    for what, values in (
        ("coordinates", found.coordinate_px),
        ("shifts", found.shift_px),
        ("angles", found.angles_deg),
    ):
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values).all(axis=1))) + 1
            raise InputError(f"{path}: particle {row} has {what} that are not finite numbers; remove or correct it")
    return found


def as_table(
    found: MotiveList, names: Mapping[int, str], pixel_A: float | None, voxel_origin: float = 0.0
) -> ParticleTable:
    """The particles in A and by the names of their series.

    Args:
        names: name of the series by number of the tomogram.
        pixel_A: of the coordinates; None takes what the list says.
        voxel_origin: coordinate of the tomogram's corner: 0 where tomograms turn about n/2 and voxels count from 0;
            0.5 for voxels from 1 in tomograms of IMOD, which turn about (n-1)/2.

    Raises:
        InputError: no pixel size, or a tomogram without a name.
    """
    pixel = pixel_A if pixel_A is not None else found.pixel_A
    if not (np.isfinite(pixel) and pixel > 0):
        raise InputError(
            f"{found.path}: says no pixel size; give that of the tomograms in which particles were picked, in A "
            "(--coordinate-pixel)"
        )
    unknown = sorted({int(number) for number in found.tomogram} - set(names))
    if unknown:
        raise InputError(
            f"{found.path}: no name for tomogram {list_of([str(number) for number in unknown])}; give a file with a "
            "number and a name in each line (--tomogram-names)"
        )
    half, half_note = _halves(found)
    counted = f", counted from {voxel_origin:g}" if voxel_origin else ""
    given = "as given" if pixel_A is not None else "in the list"
    first = int(found.tomogram[0])
    reading = Reading(
        positions=f"Coordinates: x, y, z of {found.kind} in pixels of {pixel:g} A ({given}) from the corner{counted}.",
        origins=f"Shifts: in the same pixels, added, up to {np.abs(found.shift_px).max():.1f} px.",
        angles=f"Angles: {found.angles}.",
        units="Units: kept in A and degrees.",
        names=f"Series: {len(set(found.tomogram.tolist()))} tomograms by number, {first} is {names[first]}.",
        halves=half_note,
    )
    return ParticleTable(
        path=found.path,
        series=tuple(series_key(names[int(number)]) for number in found.tomogram),
        position_A=(found.coordinate_px + found.shift_px - voxel_origin) * pixel,
        centred=False,
        angles_deg=found.angles_deg,
        half=half,
        columns=found.columns,
        reading=reading,
    )


def read_tomogram_names(path: Path) -> dict[int, str]:
    """A number and a name or path in each line, between blanks, tabs or commas: Dynamo's .doc is such a file.

    Raises:
        InputError: unreadable, a line without both, or a number twice.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as a list of names ({error})") from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d+)[\s,;]+(\S.*?)\s*", line)
        if match is None:
            raise InputError(f"{path}, line {number}: expected a number and a name, got '{line.strip()[:40]}'")
        if int(match[1]) in names:
            raise InputError(f"{path}, line {number}: tomogram {match[1]} occurs twice")
        names[int(match[1])] = match[2]
    if not names:
        raise InputError(f"{path}: holds no names")
    return names


def names_by_number(found: MotiveList, series: Sequence[str], some_missing: bool = False) -> dict[int, str]:
    """Names of series by the last number in them ("TS_012" is 12), for lists without names.

    Raises:
        InputError: a number of the list fits several series, or, unless ``some_missing``, none.
    """
    by_number: dict[int, list[str]] = {}
    for name in series:
        digits = re.findall(r"\d+", name)
        if digits:
            by_number.setdefault(int(digits[-1]), []).append(name)
    for number in sorted(set(found.tomogram.tolist())):
        fitting = by_number.get(number, [])
        if len(fitting) > 1 or not (fitting or some_missing):
            raise InputError(
                f"{found.path}: tomogram {number} fits {'no series' if not fitting else list_of(fitting)} of this "
                "population by its number; give a file with a number and a name in each line (--tomogram-names)"
            )
    return {number: fitting[0] for number, fitting in by_number.items() if len(fitting) == 1}


def _halves(found: MotiveList) -> tuple[I8, str]:
    if found.half is not None and len(set(found.half.tolist())) == 2:
        first = int((found.half == 1).sum())
        return found.half, f"Half-sets: {found.half_note}, {first} and {len(found.half) - first}."
    half = (np.arange(len(found.tomogram)) % 2 + 1).astype(np.int8)
    return half, (
        "Half-sets: none in the list; rows alternate between 1 and 2. NOTE: half-maps made from other half-sets are "
        "not independent of these."
    )


def _read_dynamo(path: Path) -> MotiveList:
    """A = Rz(-tdrot) Rx(-tilt) Rz(-narot): rot = narot - 90, psi = tdrot + 90."""
    import pandas as pd

    rows = [line.split() for line in _text(path).splitlines() if line.strip()]
    if not rows:
        raise InputError(f"{path}: holds no particles")
    width = len(rows[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width or width < DYNAMO_COLUMNS:
            raise InputError(
                f"{path}, line {number}: expected {max(width, DYNAMO_COLUMNS)} columns as in a table of Dynamo, got "
                f"{len(row)}; is the file cut off?"
            )

    def numbers(*columns: int) -> F64:
        return np.array([[_number(path, i, row[c - 1], c) for c in columns] for i, row in enumerate(rows, 1)])

    narot, tilt, tdrot = numbers(9, 8, 7).T
    tags = numbers(1)[:, 0]
    apix = numbers(36)[:, 0] if width >= 36 else np.zeros(1)
    is_one_pixel = apix[0] > 0 and bool((apix == apix[0]).all())
    kept = {name: [_passed(row[c - 1]) for row in rows] for c, name in _DYNAMO_KEPT.items() if c <= width}
    return MotiveList(
        path=path,
        kind="a Dynamo table",
        tomogram=numbers(20)[:, 0].astype(np.int64),
        coordinate_px=numbers(24, 25, 26),
        shift_px=numbers(4, 5, 6),
        angles_deg=np.stack([narot - 90, tilt, tdrot + 90], -1),
        half=np.where(tags % 2 == 1, 1, 2).astype(np.int8),
        half_note="odd and even tags",
        pixel_A=float(apix[0]) if is_one_pixel else 0.0,
        columns=pd.DataFrame(kept),
        angles="tdrot, tilt, narot of Dynamo",
    )


def _passed(text: str) -> str:
    """NaN stands for nothing in Dynamo; a table must not hold it."""
    return "null" if text.lower() in ("nan", "inf", "-inf") else text


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text, as a table of Dynamo is") from error


def _number(path: Path, line: int, text: str, column: int) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}, line {line}, column {column}: expected a number, got '{text[:40]}'") from None


def _read_em(path: Path) -> MotiveList:
    """Twenty values per particle, of any EM number type: little-endian where the first byte is 6, else big-endian."""
    import pandas as pd

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if len(data) < EM_HEADER_BYTES:
        raise InputError(f"{path}: is too short for an EM file ({len(data)} bytes)")
    order = "<" if data[0] == 6 else ">"
    kind = _EM_TYPES.get(data[3])
    nx, ny, nz = struct.unpack(f"{order}3i", data[4:16])
    if kind is None or nx != MOTIVE_ROWS or ny < 0 or nz != 1:
        raise InputError(
            f"{path}: expected an EM file of {MOTIVE_ROWS} x N x 1 numbers, got {nx} x {ny} x {nz} of type {data[3]}; "
            "give a motive list, not a volume"
        )
    dtype = np.dtype(order + kind)
    if len(data) != EM_HEADER_BYTES + nx * ny * dtype.itemsize:
        raise InputError(
            f"{path}: {ny} particles need {EM_HEADER_BYTES + nx * ny * dtype.itemsize} bytes, got {len(data)}; is the "
            "file cut off?"
        )
    rows = np.frombuffer(data, dtype, offset=EM_HEADER_BYTES).reshape(ny, nx).astype(np.float64)
    if not np.isfinite(rows[:, 4]).all():
        raise InputError(f"{path}: a particle has no number of its tomogram (row 5)")
    phi, psi, theta = rows[:, 16], rows[:, 17], rows[:, 18]
    return MotiveList(
        path=path,
        kind="a motive list (EM)",
        tomogram=rows[:, 4].astype(np.int64),
        coordinate_px=rows[:, 7:10],
        shift_px=rows[:, 10:13],
        angles_deg=motive_angles(phi, psi, theta),
        half=None,
        half_note="",
        pixel_A=0.0,
        columns=pd.DataFrame({name: rows[:, r - 1] for r, name in _EM_KEPT.items()}),
        angles="phi, psi, theta of AV3 and TOM",
    )


def _read_stopgap(path: Path) -> MotiveList:
    block = read_blocks(path).get(STOPGAP)
    if block is None or isinstance(block, dict):
        raise InputError(f"{path}: expected a table data_{STOPGAP}; give a motive list of STOPGAP")
    columns = Columns(path, block)
    phi, psi, theta = columns.numbers("phi", "psi", "the").T
    half, note = None, ""
    if columns.has("halfset"):
        letters = [str(value).strip().upper() for value in block["halfset"]]
        if set(letters) == {"A", "B"}:
            half, note = np.array([1 if letter == "A" else 2 for letter in letters], np.int8), "halfset A and B"
    poses = {"orig_x", "orig_y", "orig_z", "x_shift", "y_shift", "z_shift", "phi", "psi", "the", "halfset"}
    kept = block[[name for name in block.columns if name not in poses]]
    return MotiveList(
        path=path,
        kind="a STOPGAP list",
        tomogram=columns.numbers("tomo_num")[:, 0].astype(np.int64),
        coordinate_px=columns.numbers("orig_x", "orig_y", "orig_z"),
        shift_px=columns.numbers("x_shift", "y_shift", "z_shift"),
        angles_deg=motive_angles(phi, psi, theta),
        half=half,
        half_note=note,
        pixel_A=0.0,
        columns=kept.rename(columns=lambda name: f"sg_{name}"),
        angles="phi, psi, the of STOPGAP",
    )


def motive_angles(phi: F64, psi: F64, theta: F64) -> F64:
    """(particles, 3) rot, tilt, psi of A = Rz(psi) Rx(theta) Rz(phi)."""
    return np.stack([90 - phi, theta, 270 - psi], -1)
