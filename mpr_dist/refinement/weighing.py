"""Weights of one series as they are asked for: by series, by tilt, by position; what is found, and how well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpr_dist.imaging.geometry import stage_grids
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, LinearGrid4
from mpr_dist.refinement.cavity import cavities
from mpr_dist.refinement.classes.amplitude import BfactorClass, LogScaleClass
from mpr_dist.refinement.classes.base import ParameterClass
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import Evaluation
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.state import State
from mpr_dist.refinement.uncertainty import Sigmas
from mpr_dist.refinement.weights import Fit, TiltWeights, fit_places, fit_series, fit_tilts, measure, with_tilts
from mpr_dist.units import F64

# over the images, for one weighing: places of all images, their agreement (twice by position)
WEIGHING_PASSES = 3
AMPLITUDES: tuple[ParameterClass, ...] = (LogScaleClass(), BfactorClass())

Table = dict[str, NDArray[np.float64] | NDArray[np.int64] | NDArray[np.str_]]


@dataclass(frozen=True, eq=False)
class Weights:
    """Attributes:
    tilts: what was found for every tilt, None when only the series was asked for.
    tables: name -> columns, of all that is not a parameter class: values, standard deviations, units.
    misfit: of the last fit, mean square of what is left over what was expected.
    """

    tilts: TiltWeights | None
    tables: dict[str, Table] = field(default_factory=dict)
    misfit: float = 1.0


def weigh(
    state: State,
    evaluation: Evaluation,
    layout: Layout,
    data: tuple[SpeciesData, ...],
    imported: TiltSeries,
    settings: RefineSettings,
) -> tuple[State, Weights]:
    """The state with its weights fitted to the opposite half-map; the geometry and its uncertainty are as evaluated."""
    places = cavities(state, evaluation, layout, data)
    if settings.weights == "series":
        fit = fit_series(measure(state, data, places, anisotropic=False), state)
        return _with_series(state, fit.values), Weights(None, {"series_weights": _series_table(fit)}, fit.misfit)
    anisotropic = settings.anisotropic_weights
    tilts = fit_tilts(measure(state, data, places, anisotropic), imported, state.log_scale, anisotropic)
    state, tables = with_tilts(state, tilts), _tilt_tables(tilts)
    if settings.weights == "tilt":
        return state, Weights(tilts, tables, tilts.misfit)
    state = _with_location(state, np.zeros((2, *settings.location_grid[::-1])))
    found = fit_places(measure(state, data, places, anisotropic=False), state, settings.location_grid)
    values = found.values.reshape(2, *settings.location_grid[::-1])
    tables["location_weights"] = _location_table(values, np.sqrt(np.diag(found.covariance)).reshape(values.shape))
    return _with_location(state, values), Weights(tilts, tables, found.misfit)


def uncertain_of(
    series: TiltSeries,
    imported: TiltSeries,
    particles: tuple[Particles, ...],
    imported_particles: tuple[Particles, ...],
    settings: RefineSettings,
) -> RefineSettings:
    """The settings with what places an image and was refined before: that is uncertain, though it does not move now.

    What nothing ever moved is as uncertain as the priors say: every particle, and a shift of every tilt.
    """
    found: dict[str, Any] = {
        "stage_angles": _differ(stage_grids(series), stage_grids(imported)),
        "defocus": _differ((series.optics.defocus_um,), (imported.optics.defocus_um,)),
    }
    if _differ((series.image_warp.x, series.image_warp.y), (imported.image_warp.x, imported.image_warp.y)):
        found["image_warp"] = series.image_warp.x.values.shape[:0:-1]
    if _differ((series.volume_warp.x,), (imported.volume_warp.x,)) and len(series.volume_warp.x.values) > 1:
        found["volume_warp"] = series.volume_warp.x.values.shape[::-1]
    moved = any(
        a.n_samples != b.n_samples or np.any(a.position_A != b.position_A)
        for a, b in zip(particles, imported_particles, strict=True)
    )
    if not moved and not any(found.values()):
        return replace(settings, particles=True, image_warp=(1, 1))
    return replace(settings, particles=moved, **found)


def _differ(a: Sequence[CubicGrid | LinearGrid4], b: Sequence[CubicGrid | LinearGrid4]) -> bool:
    return any(not np.array_equal(one.values, other.values) for one, other in zip(a, b, strict=True))


def _with_series(state: State, values: F64) -> State:
    """A factor of all scales (its log), and a B-factor of the series that amplifies none of its tilts."""
    w = state.series.weights
    b = min(w.series_bfactor + float(values[1]), 0.0)
    return replace(
        state.with_series(weights=replace(w, series_bfactor=b)), log_scale=state.log_scale + float(values[0])
    )


def _with_location(state: State, values: F64) -> State:
    """values (2, height, width): log of the weight, B-factor (A^2), at nodes over the volume."""
    grids = CubicGrid(np.exp(values[:1])), CubicGrid(values[1:])
    return state.with_series(weights=replace(state.series.weights, location_weight=grids[0], location_bfactor=grids[1]))


def _series_table(fit: Fit) -> Table:
    sigma = np.sqrt(np.diag(fit.covariance))
    return {
        "mprParameter": np.array(["log_factor", "bfactor"]),
        "mprValue": fit.values,
        "mprSigma": sigma,
        "mprUnit": np.array(["1", "A^2"]),
    }


def _tilt_tables(tilts: TiltWeights) -> dict[str, Table]:
    if tilts.anisotropy is None:
        return {}
    n = len(tilts.bfactor)
    sigma = np.sqrt(np.diag(tilts.covariance))[2 * n :].reshape(2, n).T
    table: Table = {
        "mprTilt": np.repeat(np.arange(n), 2),
        "mprAxis": np.array(["cos", "sin"] * n),
        "mprValue": tilts.anisotropy.ravel(),
        "mprSigma": sigma.ravel(),
        "mprUnit": np.array(["A^2"] * (2 * n)),
    }
    return {"bfactor_anisotropy": table}


def _location_table(values: F64, sigma: F64) -> Table:
    """Nodes row by row; the standard deviation of a weight is that of its logarithm times the weight."""
    _, height, width = values.shape
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    weight = np.exp(values[0])
    return {
        "mprNodeX": x.ravel(),
        "mprNodeY": y.ravel(),
        "mprWeight": weight.ravel(),
        "mprSigmaWeight": (weight * sigma[0]).ravel(),
        "mprBfactor": values[1].ravel(),
        "mprSigmaBfactor": sigma[1].ravel(),
    }


def with_weights(sigmas: Sigmas, weights: Weights, imported: TiltSeries) -> Sigmas:
    """The standard deviations of scales and B-factors are those of the weights; unknown where the tilts were held."""
    n, named, determined = imported.n_tilts, dict(sigmas.series), dict(sigmas.determined)
    whole = sigmas.series_covariance.copy()
    for i, each in enumerate(AMPLITUDES):
        part = sigmas.layout.slices[each.name]
        if weights.tilts is None:
            named[each.name] = np.full(n, np.nan)
            determined[each.name] = 0.0
            continue
        own = weights.tilts.covariance[i * n : (i + 1) * n, i * n : (i + 1) * n]
        named[each.name] = np.sqrt(np.diag(own))
        whole[part], whole[:, part] = 0.0, 0.0
        whole[part, part] = own
        held = np.sum(np.linalg.inv(each.covariance(imported, Priors())) * own, axis=1)[each.seen(imported)]
        determined[each.name] = float(np.clip(1 - held.mean(), 0.0, 1.0)) if held.size else 0.0
    share = sigmas.reference_share | {each.name: 0.0 for each in AMPLITUDES}
    return replace(sigmas, series=named, series_covariance=whole, determined=determined, reference_share=share)
