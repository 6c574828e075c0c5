"""The tables of a RELION-5 project: columns that we know are set where they changed, all others stay as they came."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.imaging.ctf import per_tilt, tilt_bfactors_A2, tilt_scales
from mpr_dist.imaging.geometry import grid_at
from mpr_dist.imaging.relion_export import SeriesForRelion
from mpr_dist.imaging.relion_optics import mapped_defocus
from mpr_dist.model.population import Source
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage import relion_tilts as names
from mpr_dist.storage.image_file import file_and_slice
from mpr_dist.storage.relion_tomograms import NAME, STACK, TILTS_FILE
from mpr_dist.units import A_PER_UM, F64, Bool

if TYPE_CHECKING:
    import pandas as pd

NOMINAL = "rlnTomoNominalStageTiltAngle"
SMALLEST_PER_DOSE = 1e-3  # A^2 per e/A^2: 0 would mean RELION's own dose filter, on top of fitted B-factors
BENDS = names.DEFORMATION_GRID
OPTICS = (
    "rlnOpticsGroup",
    "rlnOpticsGroupName",
    "rlnSphericalAberration",
    "rlnVoltage",
    "rlnAmplitudeContrast",
    "rlnTomoTiltSeriesPixelSize",
    "rlnCtfDataAreCtfPremultiplied",
    "rlnImageDimensionality",
    "rlnTomoSubtomogramBinning",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnMicrographOriginalPixelSize",
    "rlnMicrographPixelSize",
    "rlnMicrographBinning",
    "rlnMtfFileName",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnOddZernike",
    "rlnEvenZernike",
    "rlnMagMat00",
    "rlnMagMat01",
    "rlnMagMat10",
    "rlnMagMat11",
)


def tilt_columns(series: TiltSeries, of: SeriesForRelion, has_matrix: bool) -> dict[str, np.ndarray]:
    """What we know of every tilt, all tilts in file order, by RELION's columns.

    Args:
        has_matrix: the particles leave with an rlnMagMat, at whose frequencies RELION takes CTFs.
    """
    o, n = series.optics, series.n_tilts
    defocus = A_PER_UM * grid_at(o.defocus_um, 0.5, 0.5, series.tilt_position)  # type: ignore[arg-type]
    half = 0.5 * A_PER_UM * per_tilt(o.defocus_delta_um.values, n)
    phase = 180 * per_tilt(o.phase_shift_pi.values, n)
    columns: dict[str, np.ndarray] = {names.DOSE: series.dose}
    columns |= dict(zip(names.TILTS, of.stage.angles_deg.T, strict=True))
    columns |= dict(zip(names.SHIFTS, of.stage.shift_A.T, strict=True))
    u, v, angle = defocus + half, defocus - half, per_tilt(o.defocus_angle_deg.values, n)
    if has_matrix:
        back = np.linalg.inv(np.asarray(o.magnification, np.float64))
        u, v, angle = mapped_defocus(u, v, angle, back)
    columns |= {names.DEFOCUS_U: u, names.DEFOCUS_V: v, names.DEFOCUS_ANGLE: angle, names.SCALE: tilt_scales(series)}
    if phase.any():
        columns[names.PHASE] = phase
    if is_damped(series):
        columns[names.BFACTOR] = -tilt_bfactors_A2(series) - SMALLEST_PER_DOSE * series.dose
    return columns


def is_damped(series: TiltSeries) -> bool:
    """Whether B-factors of tilts were fitted; otherwise RELION's own dose filter stands."""
    return not series.weights.bfactor.is_trivial


def tilt_table(
    series: TiltSeries,
    of: SeriesForRelion,
    imported: Mapping[str, np.ndarray] | None,
    base: pd.DataFrame | None,
    keeps_deformation: bool,
    has_matrix: bool,
    nominal_deg: F64,
) -> pd.DataFrame:
    """The table of the active tilts.

    Args:
        imported: ``tilt_columns`` of the series as it was imported; what did not change since stays as in ``base``.
        base: the table it came from, or None.
        keeps_deformation: that of the table is still the one in force.
        has_matrix: see ``tilt_columns``.
        nominal_deg: (tilts,) where the stage was told to go, for a series that has no table.
    """
    import pandas as pd

    columns = tilt_columns(series, of, has_matrix)
    if base is None:
        frame = pd.DataFrame({names.IMAGE: [image_name(path) for path in series.image_paths]})
        frame[NOMINAL] = nominal_deg
    else:
        frame = base.drop(columns=[name for name in names.MATRIX if name in base]).reset_index(drop=True).copy()
        if names.IMAGE not in frame:
            frame[names.IMAGE] = [image_name(path) for path in series.image_paths]
    for name, values in columns.items():
        same = imported is not None and name in imported and np.array_equal(imported[name], values)
        if name not in frame or not same:
            frame[name] = values
    if not keeps_deformation:
        frame = frame.drop(columns=[names.DEFORMATION], errors="ignore")
        if of.deformation is not None:
            frame[names.DEFORMATION] = [_vector(row) for row in of.deformation.coefficients]
    return frame[np.asarray(series.active)].reset_index(drop=True)


def _vector(values: np.ndarray) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in values) + "]"


def no_deformation(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of tilts with a spline that does not bend: in RELION either all series of a project bend or none."""
    flat = frame.copy()
    flat[names.DEFORMATION] = [_vector(np.zeros(32))] * len(frame)
    return flat


def image_name(path: Path) -> str:
    """ "000003@/folder/stack.mrc" for an image of a stack, else the absolute path."""
    file, index = file_and_slice(path.absolute())
    plain = str(Path(*file.parts)) if ".." not in file.parts else str(file.resolve())
    return plain if index is None else f"{index + 1:06d}@{plain}"


def tomogram_row(
    series: TiltSeries,
    source: Source,
    of: SeriesForRelion,
    base: Mapping[str, Any] | None,
    tilts_file: str,
    keeps_deformation: bool,
) -> dict[str, Any]:
    """The row of a series in data_global; ``base``: the one it came with."""
    o, (x, y, z) = series.optics, source.volume_size_px
    first = np.sort(series.dose)[:2]
    row: dict[str, Any] = {
        NAME: series.name,
        "rlnVoltage": float(o.voltage_kV),
        "rlnSphericalAberration": float(o.cs_mm),
        "rlnAmplitudeContrast": float(o.amplitude),
        "rlnMicrographOriginalPixelSize": float(source.pixel_size_A),
        names.HAND: -1.0 if series.are_angles_inverted else 1.0,
        "rlnOpticsGroupName": source.name,
        names.PIXEL: float(source.pixel_size_A),
        TILTS_FILE: tilts_file,
        "rlnTomoImportFractionalDose": float(first[-1] - first[0]),
        **dict(zip(names.SIZE, (x, y, z), strict=True)),
    }
    if base is not None:
        own = {"rlnSphericalAberration": float(o.cs_mm), TILTS_FILE: tilts_file}
        # images are named one by one
        replaced = {STACK, "rlnTomoFrameCount", *(() if keeps_deformation else (names.DEFORMATION_TYPE, *BENDS))}
        kept = {name: value for name, value in base.items() if name not in replaced}
        row = row | kept | own
        if np.float32(base.get("rlnSphericalAberration", np.nan)) == np.float32(o.cs_mm):
            row["rlnSphericalAberration"] = base["rlnSphericalAberration"]
    if of.deformation is not None and not keeps_deformation:
        row |= dict(zip(BENDS, of.deformation.grid, strict=True)) | {names.DEFORMATION_TYPE: of.deformation.kind}
    if is_damped(series):
        row[names.BFACTOR_PER_DOSE] = SMALLEST_PER_DOSE
    return row


def aligned(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows with the columns of all of them; what a row lacks becomes 0 or "None"."""
    import pandas as pd

    every = list(dict.fromkeys(name for row in rows for name in row))
    columns: dict[str, list[Any]] = {}
    for name in every:
        values = [row.get(name) for row in rows]
        is_text = any(isinstance(value, str) for value in values)
        columns[name] = [("None" if is_text else 0) if value is None else value for value in values]
    return pd.DataFrame(columns)


def visible_frames(text: str, active: Bool) -> str | None:
    """Flags of the active tilts from those of all tilts; None when they are those of something else."""
    flags = text.strip().strip("[]").split(",")
    if len(flags) == int(active.sum()) and len(flags) != len(active):
        return text
    return "[" + ",".join(np.array(flags)[active]) + "]" if len(flags) == len(active) else None
