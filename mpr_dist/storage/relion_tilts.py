"""The columns of RELION's tables of tilts that say where things are and what the optics did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.model.relion import RelionDeformation, RelionTilts, coefficient_count
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.relion_tomograms import STACK, TomogramTable
from mpr_dist.units import F64

if TYPE_CHECKING:
    import pandas as pd

TILTS = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
SHIFTS = ("rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
MATRIX = tuple(f"rlnTomoProj{row}" for row in "XYZW")
DOSE, IMAGE = "rlnMicrographPreExposure", "rlnMicrographName"
DEFOCUS_U, DEFOCUS_V, DEFOCUS_ANGLE = "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"
PHASE, SCALE, BFACTOR = "rlnPhaseShift", "rlnCtfScalefactor", "rlnCtfBfactor"
HAND, PIXEL, SLOPE = "rlnTomoHand", "rlnTomoTiltSeriesPixelSize", "rlnTomoDefocusSlope"
BFACTOR_PER_DOSE = "rlnCtfBfactorPerElectronDose"
DEFORMATION_GRID = ("rlnTomoDeformationGridSizeX", "rlnTomoDeformationGridSizeY")
DEFORMATION_TYPE, DEFORMATION = "rlnTomoDeformationType", "rlnTomoDeformationCoefficients"
SIZE = tuple(f"rlnTomoSize{axis}" for axis in "XYZ")


def read_tilts(table: TomogramTable, index: int) -> tuple[RelionTilts, pd.DataFrame]:
    """What RELION says of one tilt series, and the whole table of its tilts.

    Raises:
        SeriesError: files or columns are missing, or a value cannot be understood.
    """
    path, frame = table.tilts(index)
    try:
        return _tilts(table, index, Columns(path, frame, "tilts")), frame
    except InputError as error:
        raise SeriesError(str(error)) from error


def _tilts(table: TomogramTable, index: int, tilts: Columns) -> RelionTilts:
    about = table.rows.iloc[[index]]
    series = Columns(table.path, about, "tomograms")
    if not len(tilts):
        raise InputError(f"{tilts.path}: the table of tilts has no rows")
    volume = [round(n) for n in series.numbers(*SIZE)[0]]
    pixel, voltage, cs, amplitude = series.numbers(
        PIXEL, "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"
    )[0].tolist()
    if not pixel > 0 or not voltage > 0 or min(volume) < 1:
        raise InputError(f"{table.path}: row {index + 1}: {PIXEL}, rlnVoltage and rlnTomoSizeX/Y/Z must be positive")
    hand = _one(series, HAND, 1.0)
    if abs(hand) != 1:
        raise InputError(f"{table.path}: column {HAND}, row {index + 1}: expected 1 or -1, got {hand:g}")
    u, v, angle = tilts.numbers(DEFOCUS_U, DEFOCUS_V, DEFOCUS_ANGLE).T
    angles, shifts, matrices = _geometry(tilts)
    return RelionTilts(
        name=table.names[index],
        pixel_A=pixel,
        volume_px=(volume[0], volume[1], volume[2]),
        hand=hand,
        voltage_kV=voltage,
        cs_mm=cs,
        amplitude=amplitude,
        dose=tilts.numbers(DOSE)[:, 0],
        defocus_u_A=u,
        defocus_v_A=v,
        defocus_angle_deg=angle,
        phase_deg=_column(tilts, PHASE, 0.0),
        angles_deg=angles,
        shift_A=shifts,
        projection=matrices,
        defocus_slope=_one(series, SLOPE, 1.0),
        scale=tilts.numbers(SCALE)[:, 0] if tilts.has(SCALE) else None,
        bfactor_A2=tilts.numbers(BFACTOR)[:, 0] if tilts.has(BFACTOR) else None,
        bfactor_per_dose=_one(series, BFACTOR_PER_DOSE, 0.0) or None,
        deformation=_deformation(series, tilts),
        images=_images(table.about(index), tilts),
    )


def _geometry(tilts: Columns) -> tuple[F64 | None, F64 | None, F64 | None]:
    """RELION 5 prefers old matrices where a table has both."""
    if tilts.has(*MATRIX):
        rows = [vectors(tilts, name, 4) for name in MATRIX]
        return None, None, np.stack(rows, 1)
    if not tilts.has(*TILTS[1:], *SHIFTS):
        raise InputError(
            f"{tilts.path}: has no alignment ({', '.join(TILTS[1:] + SHIFTS)}, or rlnTomoProjX..W); align the tilt "
            "series in RELION first"
        )
    x = tilts.numbers(TILTS[0])[:, 0] if tilts.has(TILTS[0]) else np.zeros(len(tilts))
    return np.stack([x, *tilts.numbers(*TILTS[1:]).T], -1), tilts.numbers(*SHIFTS), None


def vectors(columns: Columns, name: str, count: int) -> F64:
    """(rows, count) of a column of "[a,b,c]" texts."""
    out = np.zeros((len(columns), count))
    for row, text in enumerate(columns.frame[name]):
        parts = str(text).strip().strip("[]").split(",")
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise InputError(
                f"{columns.path}: column {name}, row {row + 1}: expected [{count} numbers], got '{str(text)[:40]}'"
            )
        out[row] = numbers
    return out


def _one(series: Columns, name: str, default: float) -> float:
    return float(series.numbers(name)[0, 0]) if series.has(name) else default


def _column(tilts: Columns, name: str, default: float) -> F64:
    return tilts.numbers(name)[:, 0] if tilts.has(name) else np.full(len(tilts), default)


def _deformation(series: Columns, tilts: Columns) -> RelionDeformation | None:
    if not series.has(*DEFORMATION_GRID) or not tilts.has(DEFORMATION):
        return None
    kind = str(series.frame[DEFORMATION_TYPE].iloc[0]) if series.has(DEFORMATION_TYPE) else "spline"
    width, height = (int(n) for n in series.numbers(*DEFORMATION_GRID)[0])
    if kind == "spline" and min(width, height) < 2:
        raise InputError(f"{series.path}: a spline deformation has 2 x 2 nodes at least, got {width} x {height}")
    count = coefficient_count(kind, (width, height))
    return RelionDeformation(kind, (width, height), vectors(tilts, DEFORMATION, count))


def _images(about: dict[str, Any], tilts: Columns) -> tuple[str, ...]:
    """Names of the images of all tilts: RELION 5 has a column, RELION 4 a stack in the order of the rows."""
    stack = str(about.get(STACK, "")).strip()
    if stack:
        return tuple(f"{number}@{stack}" for number in range(1, len(tilts) + 1))
    return tilts.text(IMAGE) if tilts.has(IMAGE) else ()
