"""Defocus of every tilt, as CTFFIND, AreTomo, Gctf and IMOD write it, or from a CSV or STAR table of one's own."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.storage.particle_columns import Columns, list_of, series_key
from mpr_dist.storage.star import read_blocks
from mpr_dist.units import F64, I64, Bool

if TYPE_CHECKING:
    import pandas as pd

CTFFIND_COLUMNS = 7  # number, defocus 1 and 2, azimuth, phase shift, score, resolution; AreTomo3 may have an eighth
# names in a CSV table, in small letters without signs between words; RELION's are understood without rln, too
_NAMES = {
    "series": ("series", "tomoname", "tiltseries"),
    "image": ("image", "index", "section", "micrographname", "imagename"),
    "u": ("defocusu", "defocus1", "defocusua", "defocus1a"),
    "v": ("defocusv", "defocus2", "defocusva", "defocus2a"),
    "angle": ("defocusangle", "azimuth", "astigmatismangle", "defocusangledeg", "angle"),
    "phase": ("phaseshift", "phaseshiftdeg", "phase"),
    "dose": ("dose", "exposure", "preexposure", "micrographpreexposure"),
}


@dataclass(frozen=True, eq=False)
class CtfTable:
    """Rows in the order of the file.

    Attributes:
        series: name of the series of each row, or None: all are of one.
        image: (rows,) place in the stack, from 0, or None: rows are in the order of the stack.
        u_A, v_A, angle_deg, phase_deg: (rows,) float64; positive is underfocus.
        dose: (rows,) e/A^2 before the tilt, or None.
        note: what the columns were taken for.
        micrographs: (rows,) names of images or stacks without folder and extension; empty where there are none.
    """

    path: Path
    series: tuple[str, ...] | None
    image: I64 | None
    u_A: F64
    v_A: F64
    angle_deg: F64
    phase_deg: F64
    dose: F64 | None
    note: str
    micrographs: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.u_A)

    def of(self, name: str) -> CtfTable:
        """Rows of one series: by their column, else of images or stacks named after it, else all there are.

        Raises InputError when there is such a column, but not this series in it.
        """
        key = series_key(name)
        labels = self.micrographs if self.series is None else self.series
        begins = f"{key}_"
        keep = np.array([each == key or (self.series is None and each.startswith(begins)) for each in labels], bool)
        if self.series is None and not keep.any():
            return self
        if not keep.any():
            raise InputError(f"{self.path}: has no rows for series {name}; it has {list_of(sorted(set(labels)))}")
        return self._rows(keep)

    def _rows(self, keep: Bool) -> CtfTable:
        return replace(
            self,
            series=None,
            micrographs=(),
            image=None if self.image is None else self.image[keep],
            u_A=self.u_A[keep],
            v_A=self.v_A[keep],
            angle_deg=self.angle_deg[keep],
            phase_deg=self.phase_deg[keep],
            dose=None if self.dose is None else self.dose[keep],
        )


def read_ctf_table(path: Path) -> CtfTable:
    """Read a table: .star and .csv by the names of their columns, .defocus as IMOD's, anything else as CTFFIND's text.

    Raises:
        InputError: unreadable, no defocus in it, or values that are not finite numbers.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".star":
        return _read_star(path)
    if suffix == ".csv":
        return _read_csv(path)
    return _read_imod(path) if suffix == ".defocus" else _read_ctffind(path)


# what the first number of a .defocus of version 3 adds up
_HAS_ASTIGMATISM, _ASTIGMATISM_RAD, _HAS_PHASE, _PHASE_RAD = 1, 2, 4, 8
A_PER_NM = 10.0


def _read_imod(path: Path) -> CtfTable:
    """Of ctfplotter, versions 2 and 3: first and last view, their angles, defocus in nm, and what the flags say.

    A fit of several views counts for the middle one; between fits views are interpolated: one row per view is left.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        try:
            row = [float(field) for field in line.split()]
        except ValueError:
            row = []
        if line.strip() and (len(row) < 5 or not np.isfinite(row).all()):
            raise InputError(f"{path}, line {number}: expected numbers as ctfplotter writes them, got '{line[:40]}'")
        rows += [row] if row else []
    version = rows[0][5] if rows and len(rows[0]) > 5 else 0
    flags = int(rows[0][0]) if version == 3 else 0
    fits = sorted(rows[1:] if version == 3 else rows, key=lambda row: (row[0] + row[1], row[0]))
    columns = 5 + 2 * bool(flags & _HAS_ASTIGMATISM) + bool(flags & _HAS_PHASE)
    if version not in (2, 3) or not fits or min(len(row) for row in fits) < columns or fits[0][0] < 1:
        raise InputError(f"{path}: expected a file of ctfplotter of version 2 or 3 with {columns} numbers per line")
    found = np.array([row[:columns] for row in fits])
    view = np.arange(1, int(found[:, 1].max()) + 1)
    centre = (found[:, 0] + found[:, 1]) / 2
    nearest = np.abs(centre[None] - view[:, None]).argmin(axis=1)

    def column(at: int, unit: float = 1.0) -> F64:
        return np.asarray(np.interp(view, centre, found[:, at]) * unit)

    u = column(4, A_PER_NM)
    v, angle, phase = u, np.zeros(len(view)), np.zeros(len(view))
    if flags & _HAS_ASTIGMATISM:
        v, angle = column(5, A_PER_NM), found[nearest, 6]
        angle = np.rad2deg(angle) if flags & _ASTIGMATISM_RAD else angle
    if flags & _HAS_PHASE:
        phase = column(columns - 1)
        phase = np.rad2deg(phase) if flags & _PHASE_RAD else phase
    note = f"IMOD's, of {len(found)} fits: defocus in nm, the axis of astigmatism is that of the first defocus"
    return CtfTable(path, None, view - 1, u, v, angle, phase, None, note)


def _read_ctffind(path: Path) -> CtfTable:
    rows = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if not fields or line.lstrip().startswith("#"):
            continue
        try:
            row = [float(field) for field in fields[:CTFFIND_COLUMNS]]
        except ValueError:
            row = []
        # resolutions may be infinite; what is used must not
        if len(row) < CTFFIND_COLUMNS or not np.isfinite(row[:5]).all():
            raise InputError(f"{path}, line {number}: expected {CTFFIND_COLUMNS} numbers as CTFFIND writes them")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no rows of CTFFIND")
    n, u, v, angle, phase = np.array(rows)[:, :5].T
    image = n.astype(np.int64) - 1
    note = "CTFFIND's: defocus in A, phase shift in radians"
    return CtfTable(path, None, image, u, v, angle, np.rad2deg(phase), None, note)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text") from error


def _read_star(path: Path) -> CtfTable:
    frames = [block for block in read_blocks(path).values() if not isinstance(block, dict)]
    found = next((frame for frame in frames if "rlnDefocusU" in frame), None)
    if found is None:
        raise InputError(f"{path}: no table with rlnDefocusU; give the micrographs_ctf.star or a tilt series")
    return _of_columns(path, found)


def _read_csv(path: Path) -> CtfTable:
    import pandas as pd

    rows = list(csv.reader(_lines(path)))
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows if row):
        raise InputError(f"{path}: expected a line of names, then as many values in every line")
    body = [row for row in rows[1:] if row]
    names = [name.strip() for name in rows[0]]
    columns = {name: [row[i].strip() for row in body] for i, name in enumerate(names)}
    return _of_columns(path, pd.DataFrame(columns))


def _of_columns(path: Path, frame: pd.DataFrame) -> CtfTable:
    known = {_plain(str(name)): str(name) for name in frame.columns}
    named = {what: next((known[n] for n in names if n in known), None) for what, names in _NAMES.items()}
    if named["u"] is None:
        raise InputError(
            f"{path}: no column of defocus (defocus_u, in A); this may be another kind of table: it has "
            f"{', '.join(str(name) for name in frame.columns[:8])}"
        )
    columns = Columns(path, frame)

    def numbers(what: str) -> F64 | None:
        name = named[what]
        return None if name is None else columns.numbers(name)[:, 0]

    u = columns.numbers(str(named["u"]))[:, 0]
    v, angle, phase = numbers("v"), numbers("angle"), numbers("phase")
    zero = np.zeros(len(u))
    used = ", ".join(str(name) for name in named.values() if name is not None)
    return CtfTable(
        path=path,
        series=None if named["series"] is None else tuple(series_key(text) for text in columns.text(named["series"])),
        image=None if named["image"] is None else _places(columns, named["image"]),
        u_A=u,
        v_A=u if v is None else v,
        angle_deg=zero if angle is None else angle,
        phase_deg=zero if phase is None else phase,
        dose=numbers("dose"),
        note=f"columns {used}: defocus in A, phase shift in degrees",
        micrographs=_micrographs(columns, named["image"]),
    )


def _micrographs(columns: Columns, name: str | None) -> tuple[str, ...]:
    texts = () if name is None else [str(value) for value in columns.frame[name]]
    return tuple(series_key(text.rpartition("@")[2]) for text in texts)


def _plain(name: str) -> str:
    return re.sub(r"^rln|[^a-z0-9]", "", name.lower())


def _places(columns: Columns, name: str) -> I64 | None:
    """From "3@stack.mrc" or whole numbers from 1; names of single images say nothing about their order."""
    texts = [str(value) for value in columns.frame[name]]
    found = [re.match(r"(\d+)(?:@|$)", text.strip()) for text in texts]
    if not all(found):
        return None
    return np.array([int(match[1]) - 1 for match in found if match], np.int64)
