"""The table of particles inside a STAR file: found, joined with its optics groups, its columns checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.storage.relion_paths import find_file
from mpr_dist.storage.star import read_blocks
from mpr_dist.units import F64, I64

if TYPE_CHECKING:
    import pandas as pd

_EXTENSION = re.compile(r"\.(tomostar|mrcs?|st|ali|rec|map|xml|tiff?|eer|em|zarr|hdf)(:mrcs?)?$", re.IGNORECASE)
_PIXEL_SUFFIX = re.compile(r"_\d+(\.\d+)?Apx$")
_SIGNS_OF_PARTICLES = ("wrpCoordinateX1", "rlnCoordinateX", "rlnCenteredCoordinateXAngst", "rlnImageName")


def series_key(name: str) -> str:
    """What names of one series have in common: "a/b\\\\TS_1_10.00Apx.mrc", "TS_1.tomostar" and "TS_1" are all TS_1."""
    key, before = name.strip().replace("\\", "/").rstrip("/").rpartition("/")[2], ""
    while key != before:
        before = key
        key = _PIXEL_SUFFIX.sub("", _EXTENSION.sub("", key)) or key
    return key


@dataclass(frozen=True, eq=False)
class Columns:
    """A table, where it came from, and what its rows are, for the messages."""

    path: Path
    frame: pd.DataFrame
    rows: str = "particles"

    def __len__(self) -> int:
        return len(self.frame)

    def has(self, *names: str) -> bool:
        return all(name in self.frame for name in names)

    def has_any(self, *names: str) -> bool:
        return any(name in self.frame for name in names)

    def text(self, name: str) -> tuple[str, ...]:
        """Text of a column; empty text is an error."""
        values = tuple(str(value).strip() for value in self.frame[name])
        for row, value in enumerate(values, 1):
            if value in ("", "null", "None"):
                raise InputError(f"{self.path}: column {name}, row {row} of the {self.rows}: expected a name, got none")
        return values

    def numbers(self, *names: str) -> F64:
        """(rows, columns) finite float64; a missing column, text, NaN or infinity is an error."""
        missing = [name for name in names if name not in self.frame]
        if missing:
            there = [name for name in names if name in self.frame]
            beside = f", although there is {', '.join(there)}" if there else ""
            raise InputError(f"{self.path}: column {', '.join(missing)} is missing{beside}")
        return np.stack([self._column(name) for name in names], -1)

    def _column(self, name: str) -> F64:
        values = self.frame[name].to_numpy()
        if values.dtype.kind not in "iufb":
            values = np.array([self._number(name, row, value) for row, value in enumerate(values, 1)], np.float64)
        numbers = np.asarray(values, np.float64)
        if not np.isfinite(numbers).all():
            row = int(np.argmin(np.isfinite(numbers)))
            raise InputError(
                f"{self.path}: column {name}, row {row + 1} of the {self.rows}: expected a finite number, "
                f"got {numbers[row]}; remove the particle or correct it"
            )
        return numbers

    def _number(self, name: str, row: int, value: Any) -> float:
        try:
            return float(value)
        except ValueError:
            raise InputError(
                f"{self.path}: column {name}, row {row} of the {self.rows}: expected a number, got '{value}'"
            ) from None


def find_particles(path: Path) -> tuple[Columns, str]:
    """The particles of a STAR file, optics columns joined, and a sentence when another file had to be followed.

    An optimisation set is followed to its rlnTomoParticlesFile, looked for from the folder of the set upwards (paths
    are relative to the project in RELION and to the set itself in some exports of Warp) and from the current folder.

    Raises:
        InputError: unreadable, no particle table or more than one, no particles, an optics group that does not exist.
    """
    blocks = read_blocks(path)
    target = _particles_file(path, blocks)
    note = ""
    if target is not None:
        note = f"{path.name} is an optimisation set; its particles are in {target}."
        path, blocks = target, read_blocks(target)
    frame = _particle_frame(path, blocks)
    if not len(frame):
        raise InputError(f"{path}: the particle table has no rows; nothing was selected when it was written")
    return Columns(path, _with_optics(path, frame, blocks.get("optics"))), note


def _particles_file(path: Path, blocks: dict[str, Any]) -> Path | None:
    for block in blocks.values():
        if "rlnTomoParticlesFile" not in block:
            continue
        value = block["rlnTomoParticlesFile"]
        name = str(value if isinstance(block, dict) else value.iloc[0] if len(value) else "").strip()
        if not name:
            raise InputError(f"{path}: rlnTomoParticlesFile is empty; give the particles.star itself")
        found = find_file(name, path)
        if found is None:
            raise InputError(
                f"{path}: its rlnTomoParticlesFile {name} is not found in {path.absolute().parent} or above it"
            )
        return found
    return None


def _particle_frame(path: Path, blocks: dict[str, Any]) -> pd.DataFrame:
    tables = {name: block for name, block in blocks.items() if not isinstance(block, dict) and name != "optics"}
    if "particles" in tables:
        return tables["particles"]
    found = [name for name, table in tables.items() if any(sign in table for sign in _SIGNS_OF_PARTICLES)]
    if len(found) == 1:
        return tables[found[0]]
    names = ", ".join(f"data_{name}" for name in list(blocks)[:6])
    if found:
        raise InputError(f"{path}: {len(found)} tables could be the particles ({names}); keep one of them")
    hint = ""
    if any("rlnTomoTiltSeriesStarFile" in block or "rlnTomoSizeX" in block for block in blocks.values()):
        hint = " (this is a table of tomograms)"
    elif any("rlnTomoNominalStageTiltAngle" in block or "rlnTomoYTilt" in block for block in blocks.values()):
        hint = " (this is a tilt series)"
    raise InputError(f"{path}: no table of particles among {names}{hint}; give the particles.star or run_data.star")


def _with_optics(path: Path, frame: pd.DataFrame, optics: Any) -> pd.DataFrame:
    """Every row with the columns of its optics group, which win over columns of the same name."""
    if optics is None or isinstance(optics, dict) or not len(optics):
        return frame
    rows = _optics_rows(path, frame, optics)
    joined = frame.copy()
    for name in optics.columns:
        if name != "rlnOpticsGroup":
            joined[name] = optics[name].to_numpy()[rows]
    return joined


def _optics_rows(path: Path, frame: pd.DataFrame, optics: pd.DataFrame) -> I64:
    if "rlnOpticsGroup" not in frame or "rlnOpticsGroup" not in optics:
        if len(optics) == 1:
            return np.zeros(len(frame), np.int64)
        raise InputError(f"{path}: {len(optics)} optics groups, but particles do not say theirs (rlnOpticsGroup)")
    known = Columns(path, optics).numbers("rlnOpticsGroup")[:, 0].astype(np.int64).tolist()
    if len(set(known)) != len(known):
        raise InputError(f"{path}: an rlnOpticsGroup occurs twice in data_optics: {known}")
    wanted = Columns(path, frame).numbers("rlnOpticsGroup")[:, 0].astype(np.int64)
    place = {group: row for row, group in enumerate(known)}
    for row, group in enumerate(wanted.tolist(), 1):
        if group not in place:
            raise InputError(f"{path}: row {row} of the particles: optics group {group} is not in data_optics: {known}")
    return np.array([place[group] for group in wanted.tolist()], np.int64)


def describe(values: F64, unit: str) -> str:
    """ "2.4 A", or "2.4 to 2.5 A" where rows differ."""
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}"


def list_of(names: Sequence[str]) -> str:
    """At most three names and how many there are."""
    return ", ".join(names[:3]) + (f", ... ({len(names)})" if len(names) > 3 else "")
