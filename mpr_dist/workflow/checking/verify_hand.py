"""Which way the depth counts: a test of the defocus hand on the user's own images.

A particle above the middle of a tilted specimen is less, or more, defocused than one below, and which of the two is
written in the files (Warp's AreAnglesInverted, RELION's rlnTomoHand). Here all particles are compared with the
half-map that they are no part of, once with the sign that is in force and once with the other; for each the defocus of
every tilt is fitted first, because it may have been refined with the wrong sign. The right sign has the higher
likelihood. Particles are independent of one another, so the spread of their differences tells how sure that is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError, MprError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.geometry import grid_at, project
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.linearisation import DEFOCUS
from mpr_dist.refinement.products import Products, products
from mpr_dist.storage.population import load_population
from mpr_dist.units import A_PER_UM, F64
from mpr_dist.workflow.series.scoring import Comparison, LoadedSeries

# Newton steps in the defocus of every tilt before the signs are compared; each is a pass over the images
ROUNDS = 2
# of one step, A: beyond it the quadratic says nothing
LARGEST_STEP_A = 500.0
# prior width of the defocus, A: holds tilts without signal
PRIOR_A = 500.0
# standard deviations of the difference from which on a verdict is given
CLEAR = 3.0


@dataclass(frozen=True)
class SeriesHand:
    """One series: how much more likely its images are with the sign in force than with the other.

    Attributes:
        difference: of log-likelihoods, positive for the sign in force; sigma: of it, from the spread over particles.
        depth_A: root mean square depth of the particles in their images, without the mean of each tilt.
    """

    name: str
    are_angles_inverted: bool
    particles: int
    difference: float
    sigma: float
    depth_A: float


@dataclass(frozen=True)
class Hand:
    """All series together, and those that could not be looked at with the reason."""

    series: tuple[SeriesHand, ...]
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def difference(self) -> float:
        return sum(one.difference for one in self.series)

    @property
    def sigmas(self) -> float:
        """Standard deviations by which the sign in force is better, negative: worse."""
        sigma = math.sqrt(sum(one.sigma**2 for one in self.series))
        return self.difference / sigma if sigma > 0 else 0.0

    @property
    def confidence(self) -> float:
        """Probability of the better sign, 0.5 to 1, from the standard deviations."""
        return 0.5 * math.erfc(-abs(self.sigmas) / math.sqrt(2.0))

    @property
    def verdict(self) -> str:
        """ "right", "wrong" or "undecided": the sign that is in force."""
        if abs(self.sigmas) < CLEAR:
            return "undecided"
        return "right" if self.sigmas > 0 else "wrong"

    @property
    def lines(self) -> list[str]:
        lines = [
            f"  {one.name}: log-likelihood {one.difference:+.1f} +- {one.sigma:.1f} for AreAnglesInverted = "
            f"{one.are_angles_inverted}, {one.particles} particles, depths of {one.depth_A:.0f} A (rms)"
            for one in self.series
        ]
        lines += [f"  {name}: not looked at: {why}" for name, why in self.failed]
        return [self._sentence(), *lines]

    def _sentence(self) -> str:
        values = {one.are_angles_inverted for one in self.series}
        value = f" (AreAnglesInverted = {values.pop()})" if len(values) == 1 else ""
        sure = f"log-likelihood {self.difference:+.1f}, {abs(self.sigmas):.1f} standard deviations, "
        sure += f"confidence {100 * self.confidence:.2f} %" if self.confidence < 0.9999 else "confidence > 99.99 %"
        if self.verdict == "right":
            return f"hand: the sign of the depth is right{value}: {sure}"
        if self.verdict == "wrong":
            return (
                f"hand: ERROR: the sign of the depth is wrong{value}: {sure}. Turn it round where the data come from "
                "(WarpTools: ts_defocus_hand --set_flip or --set_noflip; RELION: rlnTomoHand) and add the source again"
            )
        return (
            f"hand: undecided{value}: {sure}. It takes half-maps that are resolved well enough to see the CTF (8 to 15 "
            "A), tilted images and particles far from the tilt axis: refine first, and test again"
        )

    def table(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "difference": self.difference,
            "sigmas": self.sigmas,
            "confidence": self.confidence,
            "series": [vars(one) for one in self.series],
            "failed": dict(self.failed),
        }


def verify_hand(
    path: Path, series: Sequence[str] | None = None, tell: Callable[[str, int, int], None] = lambda what, done, of: None
) -> Hand:
    """Compare both signs of the depth in the series (default: all that have particles) of the population at ``path``.

    tell: what was done, how much, and of how much.

    Raises:
        InputError: no series can be looked at, or the half-maps share nothing.
    """
    population = load_population(path)
    species = [files.name for files in population.species]
    if not species:
        raise InputError(f"{population.path} has no species, so there is nothing to compare images with")
    comparison = Comparison.of(population, species)
    unknown = sorted(set(series or ()) - set(comparison.jobs))
    if unknown:
        raise InputError(f"--series {unknown[0]}: the population has no such series with particles")
    found: list[SeriesHand] = []
    failed: list[tuple[str, str]] = []
    names = series or tuple(comparison.jobs)
    for i, name in enumerate(names):
        try:
            with comparison.load(name, tell=tell) as loaded:
                if loaded.data:
                    found.append(hand_of(loaded, tell))
                else:
                    failed.append((name, "no tilt shows any of its particles"))
        except MprError as error:
            failed.append((name, " ".join(str(error).split())))
        tell("hand, tilt series", i + 1, len(names))
    if not found:
        raise InputError(f"no tilt series can be looked at: {'; '.join(why for _, why in failed[:3])}")
    return Hand(tuple(found), tuple(failed))


def hand_of(loaded: LoadedSeries, tell: Callable[[str, int, int], None] = lambda what, done, of: None) -> SeriesHand:
    """Both signs of one series; every pass over its images is told."""
    series = loaded.state.series
    passes = itertools.count(1)

    def passed() -> None:
        tell(f"{loaded.name}, passes over its images", next(passes), 2 * (ROUNDS + 1))

    gained = [_likelihoods(loaded, replace(series, are_angles_inverted=sign), passed) for sign in _both(series)]
    difference = gained[0] - gained[1]
    n = len(difference)
    depths = [project(series, loaded.state.particles[name]).depth_A[:, series.active] for name in loaded.names]
    depth = np.concatenate(depths)
    return SeriesHand(
        loaded.name,
        series.are_angles_inverted,
        n,
        float(difference.sum()),
        float(np.sqrt(n) * difference.std(ddof=1)) if n > 1 else float("inf"),
        float(np.sqrt(np.mean((depth - depth.mean(axis=0)) ** 2))),
    )


def _both(series: TiltSeries) -> tuple[bool, bool]:
    return series.are_angles_inverted, not series.are_angles_inverted


def _likelihoods(loaded: LoadedSeries, series: TiltSeries, passed: Callable[[], None]) -> F64:
    """(particles,) log-likelihood against the opposite half-map, at the best defocus and scale."""
    grid = series.optics.defocus_um
    if grid.values.shape != (series.n_tilts, 1, 1):
        grid = CubicGrid.per_tilt(_defocus_of_tilts(series))
    offset = np.zeros(series.n_tilts)
    for left in range(ROUNDS, -1, -1):
        moved = CubicGrid.per_tilt(grid.values.ravel() + offset / A_PER_UM)
        now = replace(series, optics=replace(series.optics, defocus_um=moved))
        passes = [_products(loaded, now, i) for i in range(len(loaded.names))]
        passed()
        scales = [_scale(one, series) for one in passes]
        if left:
            offset = offset + _newton(passes, scales, offset)
    return np.concatenate([(2 * s * one.xm - s**2 * one.mm).sum(1) for one, s in zip(passes, scales, strict=True)])


def _defocus_of_tilts(series: TiltSeries) -> F64:
    """(tilts,) the defocus in the middle of the volume."""
    middle = np.full(series.n_tilts, 0.5)
    return grid_at(series.optics.defocus_um, middle, middle, series.tilt_position)


def _products(loaded: LoadedSeries, series: TiltSeries, i: int) -> Products:
    return products(series, loaded.state.particles[loaded.names[i]], loaded.data[i], cross_half=True)


def _scale(one: Products, series: TiltSeries) -> F64:
    """(tilts,) the scales of the tilts, times the factor that fits a species best; 0 where nothing agrees."""
    weights = tilt_scales(series)
    xm, mm = float((one.xm * weights).sum()), float((one.mm * weights**2).sum())
    return np.asarray(max(xm / mm, 0.0) * weights if mm > 0 else 0.0 * weights)


def _newton(passes: Sequence[Products], scales: Sequence[F64], offset: F64) -> F64:
    """(tilts,) step of the defocus in A, held by a prior about where it came from."""
    gradient, information = -offset / PRIOR_A**2, np.full(len(offset), 1 / PRIOR_A**2)
    for p, s in zip(passes, scales, strict=True):
        gradient = gradient + 2 * (s * p.xd[..., DEFOCUS] - s**2 * p.md[..., DEFOCUS]).sum(0)
        information = information + 2 * (s**2 * p.dd[..., DEFOCUS, DEFOCUS]).sum(0)
    return np.asarray(np.clip(gradient / information, -LARGEST_STEP_A, LARGEST_STEP_A))
