"""What is told about a refined series: a few numbers for the console, and details for the report. JSON-ready."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.geometry import grid_at, project
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.state import pose_offsets
from mpr_dist.refinement.step import SeriesResult
from mpr_dist.refinement.uncertainty import Sigmas
from mpr_dist.units import A_PER_UM, F64
from mpr_dist.workflow.series_io import SeriesState

DETAILS = "details"
DIGITS = 6


def series_numbers(
    imported: SeriesState,
    previous: SeriesState,
    after: SeriesState,
    result: SeriesResult | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Numbers of one series; ``result`` is None when there was nothing to refine or to compare with.

    Top level: passes, score and cross_score (standard deviations above noise, after the iteration). Below "details":
    per tilt (file order) scale, defocus_*_um at the centre, shift_A (mean distance that particles moved in the image)
    and its sigma; per particle moved_A and turned_deg; own_half, cross_half, objective before and after.
    """
    series = after.series
    moved, turned = _pose_changes(previous, after)
    details: dict[str, Any] = {
        "found": result is not None and result.found,
        "particles": after.n_particles,
        "tilts": int(series.active.sum()),
        "angle_deg": _list(series.angle_deg),
        "scale": _list(np.where(series.active, tilt_scales(series), 0.0)),
        "shift_A": _list(_shifts(previous, after)),
        "defocus_start_um": _list(_defocus(imported.series)),
        "defocus_um": _list(_defocus(series)),
        "moved_A": _list(moved),
        "turned_deg": _list(turned),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    if result is None:
        return {DETAILS: details}
    details |= {
        "own_half": [_number(v) for v in result.own_half],
        "cross_half": [_number(v) for v in result.cross_half],
        "objective": [_number(v) for v in result.objective],
    }
    if result.sigmas is not None:
        details |= _sigma_details(result.sigmas, series.n_tilts)
    details["directions"] = {each.name: _number(each.determined) for each in result.directions}
    numbers = {"passes": result.passes, "score": result.own_half[1], "cross_score": result.cross_half[1]}
    return {key: _number(value) for key, value in numbers.items()} | {DETAILS: details}


def _sigma_details(sigmas: Sigmas, n_tilts: int) -> dict[str, Any]:
    """How well each class is known: mean sigma, share that the images determine, share of the reference."""
    found: dict[str, Any] = {
        "classes": {
            each.name: {
                "unit": each.unit,
                "parameters": each.size(n_tilts),
                "sigma": _number(float(np.sqrt(np.mean(sigmas.series[each.name] ** 2)))),
                "determined": _number(sigmas.determined[each.name]),
                "reference_share": _number(sigmas.reference_share[each.name]),
            }
            for each in sigmas.layout.classes
        }
    }
    warp = [sigmas.series[name] for name in ("image_warp_x", "image_warp_y") if name in sigmas.series]
    if warp:
        found["shift_sigma_A"] = _list(np.sqrt(sum((w.reshape(n_tilts, -1) ** 2).mean(axis=1) for w in warp)))
    if "defocus" in sigmas.series:
        found["defocus_sigma_um"] = _list(sigmas.series["defocus"] / A_PER_UM)
    if sigmas.pose:
        for name, part in (("position", slice(0, 3)), ("orientation", slice(3, 6))):
            variance = np.concatenate([(p[..., part] ** 2).ravel() for p in sigmas.pose])
            found["classes"][name] = {
                "unit": "A" if name == "position" else "deg",
                "parameters": int(variance.size),
                "sigma": _number(float(np.sqrt(variance.mean()))),
                "reference_share": _number(sigmas.reference_share[name]),
            }
    return found


def _defocus(series: TiltSeries) -> F64:
    half = np.full(series.n_tilts, 0.5)
    return grid_at(series.optics.defocus_um, half, half, series.tilt_position)


def _shifts(previous: SeriesState, after: SeriesState) -> F64:
    """(tilts,) mean over all particles of how far they moved in the image, A."""
    moved = [
        np.linalg.norm(
            project(after.series, after.particles[name]).xy_A - project(previous.series, particles).xy_A,
            axis=-1,
        )
        for name, particles in previous.particles.items()
    ]
    return np.asarray(np.concatenate(moved).mean(axis=0))


def _pose_changes(previous: SeriesState, after: SeriesState) -> tuple[F64, F64]:
    """(particles,) A and degrees at the first dose, species after species."""
    offsets = np.concatenate(
        [pose_offsets(after.particles[name], particles)[:, :6] for name, particles in previous.particles.items()]
    )
    return np.linalg.norm(offsets[:, :3], axis=1), np.rad2deg(np.linalg.norm(offsets[:, 3:], axis=1))


def _list(values: F64) -> list[float | None]:
    return [_number(value) for value in np.asarray(values).ravel()]


def _number(value: float) -> float | None:
    """Short, and None for what JSON cannot say."""
    return float(f"{float(value):.{DIGITS}g}") if math.isfinite(value) else None
