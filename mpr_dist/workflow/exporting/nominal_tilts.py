"""The angles that the stage was told to go to, as far as anything still says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpr_dist.errors import MprError, SeriesError
from mpr_dist.model.population import SeriesEntry, SeriesFiles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.alignments import read_aln, read_numbers
from mpr_dist.storage.warp_settings import Tomostar, read_tomostar
from mpr_dist.storage.warp_values import WarpFile
from mpr_dist.units import F64


def nominal_tilts_deg(entry: SeriesEntry, imported: SeriesFiles, series: TiltSeries) -> F64:
    """(tilts,) in RELION's sense, which is the opposite of Warp's.

    Those of the .tomostar, which Warp writes when it imports a series and never again, or what an alignment of IMOD or
    AreTomo was given; where that is gone, those of the XML that was imported: alignments replace them there, refinement
    does not.
    """
    given = _of_alignment(entry)
    if given is not None and len(given) == series.n_tilts:
        return given
    tomostar = _tomostar(entry, imported)
    angles = None if tomostar is None else _in_order(tomostar, series)
    return -(series.angle_deg if angles is None else angles)


def _of_alignment(entry: SeriesEntry) -> F64 | None:
    """Of stacks, whose entry names the alignment: in RELION's sense."""
    try:
        if entry.xml.suffix == ".aln":
            return read_aln(entry.xml).stage_deg
        return read_numbers(entry.xml.with_suffix(".rawtlt"), 1)[:, 0] if entry.xml.suffix == ".xf" else None
    except MprError:
        return None


def _tomostar(entry: SeriesEntry, imported: SeriesFiles) -> Tomostar | None:
    try:
        root = WarpFile.parse(imported.xml, SeriesError, ("TiltSeries",)).root
        folder = entry.xml.parent / root.get("DataDirectory", "").strip().replace("\\", "/")
        path = folder / f"{entry.xml.stem}.tomostar"
        return read_tomostar(path) if path.is_file() else None
    except MprError:
        return None


def _in_order(tomostar: Tomostar, series: TiltSeries) -> F64 | None:
    """Angles of the tilts of a series, whose images are named after their movies."""
    rows = {Path(name.replace("\\", "/")).stem: row for row, name in enumerate(tomostar.movies)}
    found = [rows.get(path.stem) for path in series.image_paths]
    if len(rows) == len(tomostar.movies) and found and None not in found:
        return np.array([tomostar.angle_deg[row] for row in found if row is not None])
    return tomostar.angle_deg if len(tomostar.angle_deg) == series.n_tilts else None
