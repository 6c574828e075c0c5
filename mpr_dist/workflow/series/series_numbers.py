"""What is told about a refined series: a few numbers for the console, and details for the report. JSON-ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.geometry import grid_at, project
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.state import POSE_SIZE, pose_offsets
from mpr_dist.refinement.step import SeriesResult
from mpr_dist.refinement.uncertainty import Sigmas
from mpr_dist.units import A_PER_UM, F64
from mpr_dist.workflow.series.class_numbers import Asked, class_numbers, class_values, listed, short
from mpr_dist.workflow.state.series_io import SeriesState

DETAILS = "details"
LOG_MAGNIFICATION = "log_magnification"


def series_numbers(
    imported: SeriesState,
    previous: SeriesState,
    after: SeriesState,
    result: SeriesResult | None,
    asked: Asked,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Numbers of one series; ``result`` is None when there was nothing to refine or to compare with.

    Top level: passes, score and cross_score (standard deviations above noise, after the iteration). Below "details":
    per tilt (file order) scale, defocus_*_um at the centre, shift_A (mean distance that particles moved in the image)
    and its sigma; per particle moved_A and turned_deg; own_half, cross_half, objective before and after; classes and
    values (``class_numbers``); release, held_back: what the protocol auto decided; directions: name -> share of the
    images; species: name -> ``_species_numbers``; spreads: what it says about the widths of the priors
    (``refinement.spread.Spread``); weights_misfit: mean square of what fitted weights leave, over what was expected;
    log_magnification: isotropic, since import.
    """
    series = after.series
    moved, turned = _pose_changes(previous, after)
    details: dict[str, Any] = {
        "found": result is not None and result.found,
        "particles": after.n_particles,
        "tilts": int(series.active.sum()),
        "angle_deg": listed(series.angle_deg),
        "scale": listed(np.where(series.active, tilt_scales(series), 0.0)),
        "shift_A": listed(_shifts(previous, after)),
        "defocus_start_um": listed(_defocus(imported.series)),
        "defocus_um": listed(_defocus(series)),
        "moved_A": listed(moved),
        "turned_deg": listed(turned),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "species": _species_numbers(after, result, asked),
    }
    magnified = series.optics.log_magnification - imported.series.optics.log_magnification
    if magnified:
        details[LOG_MAGNIFICATION] = round(magnified, 9)
    if result is None:
        return {DETAILS: details}
    details |= {
        "own_half": [short(v) for v in result.own_half],
        "cross_half": [short(v) for v in result.cross_half],
        "objective": [short(v) for v in result.objective],
    }
    if result.sigmas is not None:
        details |= _sigma_details(result.sigmas, series.n_tilts)
        # a list keeps the order of the classes, which a JSON object with sorted keys would lose
        classes = [{"name": name} | one for name, one in class_numbers(imported, result, asked).items()]
        details |= {"classes": classes, "values": class_values(result)}
    details["held_back"] = result.held_back
    details["release"] = [
        {"name": each.name, "words": each.words, "grid": each.grid, "ratio": short(each.ratio)}
        | {"released": each.released, "why": each.why}
        for each in result.decisions
    ]
    details["spreads"] = {
        field: {"width": s.width, "count": short(s.count), "excess": listed(s.excess)}
        for field, s in result.spread.items()
    }
    if result.weights is not None:
        details["weights_misfit"] = short(result.weights.misfit)
    details["directions"] = {each.name: short(each.determined) for each in result.directions}
    numbers = {"passes": result.passes, "score": result.own_half[1], "cross_score": result.cross_half[1]}
    return {key: short(value) for key, value in numbers.items()} | {DETAILS: details}


def _species_numbers(after: SeriesState, result: SeriesResult | None, asked: Asked) -> dict[str, Any]:
    """Of every species in the series: particles and state, one of "used", "no agreement", "not seen", "not compared".

    why: no tilt shows it; own_half, cross_half: scores before and after. Of those that were used also share, of what
    the images say about the series, and scale and bfactor_A2, beyond those of the tilts.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"particles": len(particles), "state": "not compared"} for name, particles in after.particles.items()
    }
    for name, why in asked.unseen.items():
        found[name] |= {"state": "not seen", "why": why}
    if result is None:
        return found
    for name, (own, cross) in zip(asked.compared, result.species, strict=True):
        scores = {"own_half": [short(v) for v in own], "cross_half": [short(v) for v in cross]}
        found[name] |= {"state": "no agreement"} | scores
    if result.found and result.sigmas is not None:
        for i, name in enumerate(asked.species):
            log_scale, bfactor = result.state.strength(i)
            found[name] |= {"state": "used", "share": short(result.sigmas.species_share[i])}
            found[name] |= {"scale": short(float(np.exp(log_scale))), "bfactor_A2": short(bfactor)}
    return found


def _sigma_details(sigmas: Sigmas, n_tilts: int) -> dict[str, Any]:
    """Standard deviations per tilt of the shift, the defocus and the scale (relative)."""
    found: dict[str, Any] = {"scale_sigma": listed(sigmas.series["log_scale"])}
    warp = [sigmas.series[name] for name in ("image_warp_x", "image_warp_y") if name in sigmas.series]
    if warp:
        found["shift_sigma_A"] = listed(np.sqrt(sum((w.reshape(n_tilts, -1) ** 2).mean(axis=1) for w in warp)))
    if "defocus" in sigmas.series:
        found["defocus_sigma_um"] = listed(sigmas.series["defocus"] / A_PER_UM)
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
    """(particles,) A and degrees, root mean square over temporal samples, species after species."""
    moved, turned = [], []
    for name, particles in previous.particles.items():
        steps = pose_offsets(after.particles[name], particles)
        each = steps.reshape(len(steps), after.particles[name].n_samples, POSE_SIZE)
        moved.append(np.sqrt((each[..., :3] ** 2).sum(-1).mean(-1)))
        turned.append(np.sqrt((each[..., 3:] ** 2).sum(-1).mean(-1)))
    return np.concatenate(moved), np.rad2deg(np.concatenate(turned))
