"""What the images themselves say of an import: are particles where their coordinates say, and whose half-map is whose.

Some particles of each species, of one series if that is enough, are compared with both half-maps, in tilts of low
dose. Where the coordinates are wrong, images agree with the map no better than noise does. A half-map holds the noise
of the images it was made of: particles agree better with that of their own half-set, and with the other one if the two
were exchanged. A map whose pixel size is wrong is larger or smaller than its particles (image_scale.py). All are judged
by the spread over the particles, which are independent of one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.engine.executor import TASK_ERRORS
from mpr_dist.errors import MprError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.refinement.products import products
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import BLOCK
from mpr_dist.storage.star import read_blocks
from mpr_dist.units import F64, I64
from mpr_dist.workflow.changing.species_changes import PARENT
from mpr_dist.workflow.checking.findings import WARNING, Finding, Findings
from mpr_dist.workflow.checking.image_scale import ScaleOfSeries, scale_of_series, together
from mpr_dist.workflow.series.scoring import Comparison, LoadedSeries

# what may go wrong when somebody else's files are looked at; a species is added all the same
LOOK_ERRORS: tuple[type[Exception], ...] = (*TASK_ERRORS, LookupError)
# what is looked at, particles and tilts of each series: enough to be sure, and soon done
MOST_SERIES, MOST_PARTICLES, MOST_TILTS = 3, 300, 15
# fewer particles have no spread to judge by
FEWEST_PARTICLES = 8
# standard deviations: below NOTHING images do not know the map; from CLEAR on either way a verdict is given
NOTHING, CLEAR = 3.0, 4.0
# A map is told to be of another size from so many standard deviations on, and from such a share: what calibrations of
# good microscopes leave is less and does no harm; errors of poses and blurred maps have shown up as 0.25 % at most.
# So sure, an error of 1 % would have been seen.
SIZE_CLEAR, SIZE_MATTERS, SIZE_SURE = 5.0, 0.005, 0.0015

ELSEWHERE_ADVICE = "are the pixel size of the coordinates (--coordinate-pixel), origins, angles and maps right?"
SIZE_ADVICE = (
    "which of the two is calibrated, the map or the tilt series? Correct the headers of half-maps and mask, or the "
    "settings of the source, and add it again"
)


@dataclass(frozen=True)
class SpeciesImages:
    """One species in the series that were looked at.

    Attributes:
        particles: that were compared.
        place_sigmas: standard deviations by which their agreement with the opposite half-map is above zero.
        own_sigmas: by which they agree better with their own half-map; negative: with the other.
        why: it could not be looked at; empty if it was.
        pixel_A: of the map; excess: by which share it is larger than its particles in the images; excess_sigma: its
            standard deviation; None where that cannot be told, as with maps that are too coarse.
    """

    species: str
    series: tuple[str, ...] = ()
    particles: int = 0
    place_sigmas: float = 0.0
    own_sigmas: float = 0.0
    why: str = ""
    pixel_A: float = 0.0
    excess: float | None = None
    excess_sigma: float | None = None

    @property
    def place(self) -> str:
        """ "there", "not there" or "undecided"."""
        if self.why or self.particles < FEWEST_PARTICLES:
            return "undecided"
        return "not there" if self.place_sigmas < NOTHING else "there" if self.place_sigmas > CLEAR else "undecided"

    @property
    def halves(self) -> str:
        """ "right", "exchanged" or "undecided"."""
        if self.place != "there" or abs(self.own_sigmas) < CLEAR:
            return "undecided"
        return "right" if self.own_sigmas > 0 else "exchanged"

    @property
    def size(self) -> str:
        """ "right", "too large", "too small" or "undecided": of the map, by its pixel size."""
        if self.excess is None or self.excess_sigma is None or self.particles < FEWEST_PARTICLES:
            return "undecided"
        if abs(self.excess) >= max(SIZE_MATTERS, SIZE_CLEAR * self.excess_sigma):
            return "too large" if self.excess > 0 else "too small"
        return "right" if self.excess_sigma <= SIZE_SURE else "undecided"

    @property
    def better_pixel_A(self) -> float | None:
        """Of the map, so that it is as large as its particles."""
        return None if self.excess is None else self.pixel_A / (1 + self.excess)

    @property
    def line(self) -> str:
        start = f"images: {self.species}"
        if self.why:
            return f"{start}: not looked at: {self.why}"
        whose = {
            "right": "every half-map is that of its half-set",
            "exchanged": "the half-maps are EXCHANGED",
            "undecided": "whose half-map is whose cannot be told",
        }[self.halves]
        return (
            f"{start} in {', '.join(self.series)}: {self.particles} particles agree with the map by "
            f"{self.place_sigmas:.1f} standard deviations; {whose} ({self.own_sigmas:+.1f}); {self.size_words}"
        )

    @property
    def size_words(self) -> str:
        """How much larger the map is, and how sure that is."""
        if self.excess is None or self.excess_sigma is None:
            return "whether its pixel size is right cannot be told"
        return f"size of the map {100 * self.excess:+.2f} +- {100 * self.excess_sigma:.2f} %"


def verify_images(
    path: Path,
    series: Sequence[str] | None = None,
    tell: Callable[[str, int, int], None] = lambda what, done, of: None,
    only: str | None = None,
    most_series: int = MOST_SERIES,
) -> tuple[SpeciesImages, ...]:
    """Look at every species of the population at ``path``, in the series (of ``series``) that hold most of it.

    tell: what was done, how much, and of how much; only: this species.
    """
    population = load_population(path)
    found = []
    for files in population.species:
        if only not in (None, files.name):
            continue
        try:
            comparison = Comparison.of(population, (files.name,))
            counts = {name: count for name, count in files.particles if name in comparison.jobs}
            fullest = sorted((name for name in counts if not series or name in series), key=lambda name: -counts[name])
            found.append(_look(comparison, files.name, fullest[:most_series], tell))
        except MprError as error:
            found.append(SpeciesImages(files.name, why=" ".join(str(error).split())))
    return tuple(found)


def look_at_added(
    path: Path, species: str, tell: Callable[[str, int, int], None] = lambda what, done, of: None
) -> SpeciesImages:
    """A species that was just added, in one series. What keeps it from being looked at is said, and no error."""
    try:
        (looked,) = verify_images(path, tell=tell, only=species, most_series=1)
    except LOOK_ERRORS as error:
        return SpeciesImages(species, why=" ".join(str(error).split()) or type(error).__name__)
    return looked


def warnings_of(looked: SpeciesImages) -> list[Finding]:
    """What is odd, exchanged half-maps as well, for somebody who adds a species."""
    findings = Findings()
    tell_findings(findings, (looked,))
    return [replace(one, level=WARNING) for one in findings.found]


def exchanged_advice(species: str) -> str:
    """What to do about exchanged half-maps: refined against, they are made anew, and nobody can tell any more."""
    return (
        f"do not refine it: mpr-dist species remove DIR {species}, then add it again with --half1 and --half2 the "
        "other way round (under another name, if iterations were begun)"
    )


def tell_findings(findings: Findings, looked: Sequence[SpeciesImages]) -> None:
    """Add what is odd to the findings of a check."""
    for one in looked:
        findings.check(
            one.place != "not there",
            f"species {one.species}",
            f"{one.particles} particles in {', '.join(one.series)} agree with its map no better than noise does "
            f"({one.place_sigmas:.1f} standard deviations): they are not where these coordinates say",
            ELSEWHERE_ADVICE,
            WARNING,
        )
        findings.check(
            one.halves != "exchanged",
            f"species {one.species}",
            f"particles of half-set 1 agree better with half2, those of 2 with half1 ({-one.own_sigmas:.1f} standard "
            f"deviations, in {', '.join(one.series)}): the half-maps were exchanged",
            exchanged_advice(one.species),
        )
        findings.check(
            not one.size.startswith("too"),
            f"species {one.species}",
            f"the map seems to be {one.size} by {100 * abs(one.excess or 0):.1f} % ({one.size_words}, by particles in "
            f"{', '.join(one.series)}): its pixel size should be about {one.better_pixel_A or 0:.4g} A (now "
            f"{one.pixel_A:.4g} A)",
            SIZE_ADVICE,
            WARNING,
        )


def table(looked: Sequence[SpeciesImages]) -> list[dict[str, Any]]:
    """For scripts."""
    return [
        asdict(one) | {"place": one.place, "halves": one.halves, "size": one.size, "better_pixel_A": one.better_pixel_A}
        for one in looked
    ]


def _look(
    comparison: Comparison, species: str, names: Sequence[str], tell: Callable[[str, int, int], None]
) -> SpeciesImages:
    """Series after series, until all questions are answered."""
    seen: list[_Agreeing] = []
    scales: list[ScaleOfSeries] = []
    parents = _parents(comparison, species)
    now = SpeciesImages(species, why="no tilt shows any of its particles")
    for i, name in enumerate(names):
        with comparison.load(name, MOST_TILTS, MOST_PARTICLES, tell) as loaded:
            if loaded.data:
                seen.append(_agreeing(loaded, species, parents))
                now = _judged(species, tuple(names[: i + 1]), seen)
            if loaded.data and now.place == "there":
                scales += _scales(loaded, species, parents, tell)
                now = _with_scale(now, loaded.data[0].species.pixel_size_A, scales)
                if now.halves != "undecided" and (not scales or now.size != "undecided"):
                    break
    return now


def _with_scale(now: SpeciesImages, pixel_A: float, scales: Sequence[ScaleOfSeries]) -> SpeciesImages:
    found = together(scales)
    if found is None:
        return replace(now, pixel_A=pixel_A)
    return replace(now, pixel_A=pixel_A, excess=found.excess, excess_sigma=found.sigma)


def _scales(
    loaded: LoadedSeries, species: str, parents: I64 | None, tell: Callable[[str, int, int], None]
) -> list[ScaleOfSeries]:
    """Of one series, or none; copies of one particle count as one."""
    particles, (data,) = loaded.state.particles[species], loaded.data
    which = np.full(len(particles), -1)
    seen = data.images.active.any(1)
    row = particles.row[seen]
    which[seen] = np.unique(row if parents is None else parents[row], return_inverse=True)[1]
    found = scale_of_series(
        loaded.state.series, particles, data, which, lambda done, of: tell(f"{loaded.name}, size of the map", done, of)
    )
    return [] if found is None else [found]


@dataclass(frozen=True, eq=False)
class _Agreeing:
    """Particles of one series, (particles,) each: half-set, agreement with the opposite half-map and with their own."""

    half: I64
    other: F64
    own: F64


def _parents(comparison: Comparison, species: str) -> I64 | None:
    """(particles of the table,) of which particle each is a copy, in a species that was expanded; None in others."""
    (path,) = (one.table for one in comparison.inputs if one.name == species)
    table = None if path is None else read_blocks(path).get(BLOCK)
    return None if table is None or PARENT not in table else np.asarray(table[PARENT]).astype(np.int64)


def _agreeing(loaded: LoadedSeries, species: str, parents: I64 | None) -> _Agreeing:
    """Copies of one particle are of the same images: they count as one, by their sum."""
    particles, (data,) = loaded.state.particles[species], loaded.data
    series, seen = loaded.state.series, data.images.active.any(1)
    other, own = (
        (products(series, particles, data, cross_half=cross).xm * tilt_scales(series)).sum(1)[seen]
        for cross in (True, False)
    )
    row = particles.row[seen]
    _, first, which = np.unique(row if parents is None else parents[row], return_index=True, return_inverse=True)
    together = [np.asarray(np.bincount(which, each), np.float64) for each in (other, own)]
    return _Agreeing(particles.half[seen][first].astype(np.int64), *together)


def _judged(species: str, names: tuple[str, ...], seen: Sequence[_Agreeing]) -> SpeciesImages:
    half, other, own = (np.concatenate([getattr(one, what) for one in seen]) for what in ("half", "other", "own"))
    # half-sets apart: a half-map that is stronger than the other is no sign of whose it is
    better = [_mean_and_variance((own - other)[half == number]) for number in (1, 2)]
    return SpeciesImages(
        species,
        names,
        len(half),
        _sigmas(*_mean_and_variance(other)),
        _sigmas(sum(mean for mean, _ in better), sum(variance for _, variance in better)),
    )


def _mean_and_variance(values: F64) -> tuple[float, float]:
    """The mean and its variance, infinite for fewer than two values."""
    if len(values) < 2:
        return 0.0, float("inf")
    return float(values.mean()), float(values.var(ddof=1) / len(values))


def _sigmas(mean: float, variance: float) -> float:
    return mean / math.sqrt(variance) if 0 < variance < math.inf else 0.0
