"""Images of a project of RELION that is exported somewhere else: RELION's names are relative to where it runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage import relion_tilts as names
from mpr_dist.storage.image_file import file_and_slice
from mpr_dist.storage.relion_paths import file_of
from mpr_dist.workflow.exporting.export_relion_tables import image_name

if TYPE_CHECKING:
    import pandas as pd


def found_from(out: Path, frame: pd.DataFrame, series: TiltSeries) -> pd.DataFrame:
    """The table of the active tilts, with images that RELION finds when it runs in the folder ``out``.

    Names stay as they came: the folder that they begin with becomes a link, as in RELION's own projects. Where that
    cannot be, because the name is taken or images lie elsewhere, they become absolute.
    """
    paths = [path for path, used in zip(series.image_paths, series.active, strict=True) if used]
    files = [file_of(str(name)) for name in frame[names.IMAGE]]
    for file, path in zip(files, paths, strict=True):
        _link(out, file, file_and_slice(path.absolute())[0])
    if all((out / file).is_file() for file in files):
        return frame
    return frame.assign(**{names.IMAGE: [image_name(path) for path in paths]})


def _link(out: Path, name: Path, path: Path) -> None:
    """Let what a name begins with be, in ``out``, what it is in the path that ends in the name, unless it is there."""
    top, depth = out / name.parts[0], len(name.parts)
    if name.is_absolute() or ".." in name.parts or top.exists() or top.is_symlink():
        return
    if path.parts[-depth:] == name.parts:
        with suppress(OSError):  # file systems without links get absolute names
            top.symlink_to((path, *path.parents)[depth - 1])
