"""tomograms.star of RELION 5 and 4: which tilt series there are, and the table of tilts of each.

Tables are returned as they are, for the columns that are not ours to survive; ``relion_tilts`` reads the ones we use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.storage.particle_columns import series_key
from mpr_dist.storage.relion_paths import find_file
from mpr_dist.storage.star import read_blocks, write_table

if TYPE_CHECKING:
    import pandas as pd

NAME, TILTS_FILE, STACK = "rlnTomoName", "rlnTomoTiltSeriesStarFile", "rlnTomoTiltSeriesName"
GLOBAL = "global"


@dataclass(frozen=True, eq=False)
class TomogramTable:
    """A tomograms.star.

    Attributes:
        path: the file itself, not the optimisation set that led to it.
        rows: its data_global, a row per tilt series.
        blocks: RELION 4 keeps the tilts of every series in a block of the same file.
        note: a sentence when another file had to be followed.
    """

    path: Path
    rows: pd.DataFrame
    blocks: dict[str, Any]
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.rows[NAME])

    def about(self, index: int) -> dict[str, Any]:
        """The row of a series: numbers and texts by column."""
        row = self.rows.iloc[index]
        return {str(name): row[name] for name in self.rows.columns}

    def tilts(self, index: int) -> tuple[Path, pd.DataFrame]:
        """The table of tilts of a series, and the file in which it stands.

        Raises:
            SeriesError: the file is missing, or has no such table.
        """
        name, about = self.names[index], self.about(index)
        named = str(about.get(TILTS_FILE, "")).strip()
        if not named:
            # RELION 4.0 named blocks after the series, versions before it numbered them
            block = self.blocks.get(name, self.blocks.get(f"tomo_{index}"))
            if block is None or isinstance(block, dict):
                raise SeriesError(f"{self.path}: has neither {TILTS_FILE} nor a table data_{name} for this series")
            return self.path, block
        found = find_file(named, self.path)
        if found is None:
            folder = self.path.absolute().parent
            raise SeriesError(f"{self.path}: its {TILTS_FILE} {named} is not found in {folder} or above it")
        try:
            tables = {key: block for key, block in read_blocks(found).items() if not isinstance(block, dict)}
        except InputError as error:
            raise SeriesError(str(error)) from error
        if name not in tables and len(tables) != 1:
            raise SeriesError(f"{found}: has no table data_{name}")
        return found, tables.get(name, next(iter(tables.values())))


def read_tomograms(path: Path) -> TomogramTable:
    """Read a tomograms.star, or follow an optimisation set to it.

    Raises:
        InputError: not such a file, no series in it, or two series of the same name.
    """
    path, note = Path(path), ""
    blocks = read_blocks(path)
    for block in blocks.values():
        if "rlnTomoTomogramsFile" in block:
            value = block["rlnTomoTomogramsFile"]
            name = str(value if isinstance(block, dict) else value.iloc[0])
            found = find_file(name, path)
            if found is None:
                raise InputError(f"{path}: its rlnTomoTomogramsFile {name} is not found in its folder or above it")
            note = f"{path.name} is an optimisation set; its tilt series are in {found}."
            path, blocks = found, read_blocks(found)
            break
    rows = _global(path, blocks)
    names = [series_key(str(name)) for name in rows[NAME]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: two tilt series are called {twice[0]}; rename one of them")
    return TomogramTable(path, rows, blocks, note)


def _global(path: Path, blocks: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    tables = {name: block for name, block in blocks.items() if NAME in block and "rlnTomoSizeX" in block}
    if not tables:
        hint = ""
        if any("rlnTomoYTilt" in b or "rlnTomoNominalStageTiltAngle" in b for b in blocks.values()):
            hint = "; this is the table of one tilt series, or its tomograms were not reconstructed yet"
        elif any("rlnCoordinateX" in b or "rlnCenteredCoordinateXAngst" in b for b in blocks.values()):
            hint = "; this is a particle table"
        names = ", ".join(f"data_{name}" for name in list(blocks)[:4])
        raise InputError(
            f"{path}: no table of tomograms ({NAME}, rlnTomoSizeX ...) among {names}{hint}; give tomograms.star"
        )
    table = tables.get(GLOBAL, next(iter(tables.values())))
    frame = pd.DataFrame([table]) if isinstance(table, dict) else table
    if not len(frame):
        raise InputError(f"{path}: the table of tomograms has no rows")
    return frame


def write_tomograms(path: Path, rows: pd.DataFrame, tilts: dict[str, tuple[Path, pd.DataFrame]]) -> None:
    """Write tomograms.star and the tables of tilts, by rlnTomoName: the file, and its rows.

    Raises InputError when a file cannot be written.
    """
    for name, (file, table) in tilts.items():
        write_table(file, {name: table})
    write_table(path, {GLOBAL: rows})
