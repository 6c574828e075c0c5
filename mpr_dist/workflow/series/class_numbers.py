"""What became of every refined class of one series: how far it moved, how well it is known, what its prior expected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.model.settings import Priors
from mpr_dist.refinement.classes.base import ParameterClass
from mpr_dist.refinement.priors import pose_covariance
from mpr_dist.refinement.spread import independent
from mpr_dist.refinement.state import POSE_SIZE, State, pose_offsets
from mpr_dist.refinement.step import SeriesResult
from mpr_dist.refinement.uncertainty import Sigmas
from mpr_dist.units import F64, Bool
from mpr_dist.workflow.state.series_io import SeriesState

DIGITS = 6
# shown elsewhere, with what belongs to them
NO_VALUES = ("defocus", "log_scale", "species_scale", "species_bfactor")
KINDS = (("position", "particle positions", "A", 0), ("orientation", "particle orientations", "deg", 3))


@dataclass(frozen=True)
class Asked:
    """Attributes:
    species: those that were refined, in the order of the result.
    priors: that held them.
    compared: those whose images were compared with their references; unseen: those that no tilt shows -> why.
    """

    species: tuple[str, ...]
    priors: Priors
    compared: tuple[str, ...] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Moved:
    """Parameters of one kind: change from import, standard deviation, that of the prior; all (n,) in the same unit.

    independent: how many of them the prior holds independent of one another.
    """

    change: F64
    sigma: F64
    prior: F64
    independent: float


def class_numbers(imported: SeriesState, result: SeriesResult, asked: Asked) -> dict[str, dict[str, Any]]:
    """Class name -> words, unit, parameters, change and sigma (rms), shares determined and of the reference.

    Classes whose priors the user sets also have prior (rms), change_to_prior, spread_to_prior and independent: rms of
    the change in units of the prior's standard deviation; the same with the standard deviation of the result added in
    squares, which is 1 on average when the prior tells the truth, however little the images say; and how many
    independent numbers that rests on. Parameters that no tilt in use depends on do not count.
    """
    sigmas = result.sigmas
    if sigmas is None:
        return {}
    start = _start(imported, result, sigmas)
    found: dict[str, dict[str, Any]] = {}
    for each in sigmas.layout.classes:
        seen, moved = each.seen(start.series), _moved(each, start, result, sigmas, asked.priors)
        head = {"words": each.words, "unit": each.unit, "parameters": int(seen.sum())}
        found[each.name] = head | _rms_of(moved, seen) | _shares(sigmas, each.name)
        if not each.is_amplitude:
            found[each.name] |= _against_prior(moved, seen)
    for name, words, unit, first in KINDS if sigmas.pose else ():
        moved = _moved_poses(imported, result, sigmas, asked, first)
        every = np.ones(moved.change.shape, bool)
        head = {"words": words, "unit": unit, "parameters": int(every.size)}
        found[name] = head | _rms_of(moved, every) | _shares(sigmas, name) | _against_prior(moved, every)
    return found


def class_values(result: SeriesResult) -> dict[str, dict[str, Any]]:
    """Class name -> axes (names), and for each axis a list of values and of sigmas, per tilt or a single one.

    Of classes that are a few numbers per tilt or per series. None where a tilt is not in use.
    """
    sigmas, series = result.sigmas, result.state.series
    if sigmas is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for each in sigmas.layout.classes:
        labels = each.labels(series.n_tilts)
        if each.name in NO_VALUES or not (set(labels) <= {"mprTilt", "mprAxis"} or "mprParameter" in labels):
            continue
        per_tilt = "mprTilt" in labels
        n = series.n_tilts if per_tilt else 1
        names = labels.get("mprParameter", labels.get("mprAxis", np.array([each.words])))
        seen = each.seen(series)
        columns = [
            np.where(seen, v, np.nan).reshape(n, -1).T for v in (each.values(result.state), sigmas.series[each.name])
        ]
        value, sigma = ([listed(axis) for axis in column] for column in columns)
        axes = [str(name) for name in names[: len(value)]]
        found[each.name] = {"tilts": per_tilt, "axes": axes, "value": value, "sigma": sigma}
    return found


def _start(imported: SeriesState, result: SeriesResult, sigmas: Sigmas) -> State:
    """What was imported, with the nodes of the layout and the stage as the result means it."""
    series = replace(imported.series, is_stage_rigid=result.state.series.is_stage_rigid)
    return sigmas.layout.shaped(State(series, (), np.log(np.maximum(tilt_scales(series), 1e-6))))


def _moved(each: ParameterClass, start: State, result: SeriesResult, sigmas: Sigmas, priors: Priors) -> _Moved:
    change = np.asarray(each.values(result.state), np.float64) - each.values(start)
    covariance, seen = each.covariance(start.series, priors), each.seen(start.series)
    return _Moved(
        change, sigmas.series[each.name], np.sqrt(np.diag(covariance)), independent(covariance[seen][:, seen])
    )


def _moved_poses(imported: SeriesState, result: SeriesResult, sigmas: Sigmas, asked: Asked, first: int) -> _Moved:
    """Positions (first = 0) or orientations (3) of all species and samples."""
    unit = np.rad2deg(1.0) if first else 1.0
    part = slice(first, first + 3)
    change, sigma, prior, numbers = [], [], [], 0.0
    for name, particles, deviations in zip(asked.species, result.state.particles, sigmas.pose, strict=True):
        shape = (len(particles), particles.n_samples, POSE_SIZE)
        offsets = pose_offsets(particles, imported.particles[name]).reshape(shape)[..., part]
        covariance = pose_covariance(particles.n_samples, asked.priors)
        index = (np.arange(shape[1])[:, None] * POSE_SIZE + np.arange(first, first + 3)).ravel()
        own = covariance[np.ix_(index, index)]
        change.append(unit * offsets.ravel())
        sigma.append(deviations[..., part].ravel())
        prior.append(np.tile(unit * np.sqrt(np.diag(own)), len(particles)))
        numbers += len(particles) * independent(own)
    return _Moved(np.concatenate(change), np.concatenate(sigma), np.concatenate(prior), numbers)


def _rms_of(moved: _Moved, which: Bool) -> dict[str, float | None]:
    return {"change": _rms(moved.change[which]), "sigma": _rms(moved.sigma[which])}


def _against_prior(moved: _Moved, which: Bool) -> dict[str, float | None]:
    change, sigma, prior = moved.change[which], moved.sigma[which], moved.prior[which]
    return {
        "prior": _rms(prior),
        "change_to_prior": _rms(change / prior),
        "spread_to_prior": _rms(np.hypot(change, sigma) / prior),
        "independent": short(moved.independent),
    }


def _shares(sigmas: Sigmas, name: str) -> dict[str, float | None]:
    return {"determined": short(sigmas.determined[name]), "reference_share": short(sigmas.reference_share[name])}


def _rms(values: F64) -> float | None:
    return short(float(np.sqrt(np.mean(np.square(values))))) if values.size else None


def listed(values: F64) -> list[float | None]:
    """Short numbers, flat."""
    return [short(value) for value in np.asarray(values).ravel()]


def short(value: float) -> float | None:
    """Few digits, and None for what JSON cannot say."""
    return float(f"{float(value):.{DIGITS}g}") if math.isfinite(value) else None
