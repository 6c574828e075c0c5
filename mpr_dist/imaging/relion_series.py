"""A tilt series of RELION as one of ours: geometry, optics, weights and deformations, as a start of refinement."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.relion_deformation import FittedWarp, displacement_px, fit_image_warp
from mpr_dist.imaging.relion_geometry import StageOfRelion, stage_of
from mpr_dist.imaging.relion_optics import mapped_defocus
from mpr_dist.model.optics import Optics
from mpr_dist.model.relion import RelionTilts
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, StageAngles
from mpr_dist.units import A_PER_UM, F64

COSINE_TOLERANCE = 2e-3  # files hold four decimals; RELION 5 writes cos(YTilt), which is what no fit means here
STRETCH_TOLERANCE = 1e-5
DAMPING_PER_DOSE = 4.0  # A^2 per e/A^2 where nothing else is said, as in Warp


@dataclass(frozen=True, eq=False)
class RelionAsSeries:
    """The series, and what was made of it: rotations, and the warp that stands for deformations, if there are any."""

    series: TiltSeries
    stage: StageOfRelion
    warp: FittedWarp | None


def series_of(
    name: str,
    relion: RelionTilts,
    image_px: tuple[int, int],
    images: tuple[Path, ...],
    magnification: F64 | None = None,
) -> RelionAsSeries:
    """Everything RELION says of a tilt series in Warp's terms; rows keep their order.

    Args:
        name: of the series in the population.
        image_px: x, y of the images; images: their paths, one per tilt.
        magnification: (2, 2) rlnMagMat of its particles, if they have one.

    Raises:
        SeriesError: a defocus slope other than 1, which has no counterpart.
    """
    if abs(relion.defocus_slope - 1) > 1e-6:
        raise SeriesError(
            f"series {name}: rlnTomoDefocusSlope is {relion.defocus_slope:g}; only 1 can be taken over: set it to 1, "
            "the defocus of every tilt is refined"
        )
    stage = stage_of(relion, image_px)
    warp = _warp(relion, stage, image_px)
    use = np.ones(relion.n_tilts, bool) if relion.scale is None else relion.scale > 0
    extra = {} if stage.stage_deg is None else {"stage_angles": _grids(stage.stage_deg), "is_stage_rigid": True}
    if warp is not None:
        extra["image_warp"] = warp.warp
    series = TiltSeries(
        name=name,
        angle_deg=stage.angle_deg,
        dose=relion.dose,
        axis_angle_deg=stage.axis_angle_deg,
        axis_offset_A=stage.offset_A,
        use_tilt=use,
        active=use.copy(),
        image_size_A=np.array(image_px) * relion.pixel_A,
        volume_size_A=np.array(relion.volume_px) * relion.pixel_A,
        image_paths=images,
        level_angle_deg=(stage.level_x_deg, 0.0),
        are_angles_inverted=relion.hand < 0,
        optics=_optics(relion, np.eye(2) if magnification is None else magnification),
        weights=_weights(relion, stage.angle_deg),
        **extra,  # type: ignore[arg-type]
    )
    return RelionAsSeries(series, stage, warp)


def _grids(angles_deg: F64) -> StageAngles:
    return StageAngles(*(CubicGrid.per_tilt(axis) for axis in angles_deg.T))


def _optics(relion: RelionTilts, magnification: F64) -> Optics:
    u, v, angle = mapped_defocus(relion.defocus_u_A, relion.defocus_v_A, relion.defocus_angle_deg, magnification)
    return Optics(
        voltage_kV=relion.voltage_kV,
        cs_mm=relion.cs_mm,
        amplitude=relion.amplitude,
        defocus_um=CubicGrid.per_tilt((u + v) / 2 / A_PER_UM),
        defocus_delta_um=CubicGrid.per_tilt((u - v) / A_PER_UM),
        defocus_angle_deg=CubicGrid.per_tilt(angle),
        phase_shift_pi=CubicGrid.per_tilt(relion.phase_deg / 180),
        magnification=magnification,
    )


def _weights(relion: RelionTilts, angle_deg: F64) -> DoseWeights:
    grids: dict[str, CubicGrid] = {}
    own = np.zeros(relion.n_tilts) if relion.bfactor_A2 is None else relion.bfactor_A2
    if own.any() or relion.bfactor_per_dose is not None:
        per_dose = DAMPING_PER_DOSE if relion.bfactor_per_dose is None else relion.bfactor_per_dose
        grids["bfactor"] = CubicGrid.per_tilt(-own - per_dose * relion.dose)
    top = 1.0
    if relion.scale is not None and relion.scale.max() > 0:
        used = relion.scale > 0
        if np.abs(relion.scale - np.cos(np.deg2rad(angle_deg)))[used].max() > COSINE_TOLERANCE:
            top = float(relion.scale.max())
            grids["weight"] = CubicGrid.per_tilt(relion.scale / top)
    return replace(DoseWeights(**grids), series_weight=top)  # type: ignore[arg-type]


def _warp(relion: RelionTilts, stage: StageOfRelion, image_px: tuple[int, int]) -> FittedWarp | None:
    """The image warp that bends positions as RELION's deformations and anisotropic matrices do."""
    excess = stage.stretch - np.eye(2)
    is_stretched = bool(np.abs(excess).max() > STRETCH_TOLERANCE)
    bend = relion.deformation
    if not is_stretched and (bend is None or not bend.coefficients.any()):
        return None
    size, centre = np.array(image_px), stage.offset_A / relion.pixel_A + np.array(image_px) / 2

    def wanted_A(uv: F64) -> F64:
        moved = np.einsum("tij,tpj->tpi", excess, uv * size - centre[:, None])
        if bend is not None:
            moved = moved + displacement_px(bend, uv, image_px)
        return np.asarray(-relion.pixel_A * moved)

    smallest = (2, 2) if bend is None or bend.kind == "linear" else (max(bend.grid[0], 2), max(bend.grid[1], 2))
    return fit_image_warp(wanted_A, smallest)
