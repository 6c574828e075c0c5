"""Which classes the images of a series can carry: the protocol that decides by itself.

One pass over the images with the derivatives of every class gives the normal matrix of everything at once. Its inverse
says what standard deviation each parameter would have, beside all others; the prior says what was expected of it. A
class is released when it would be known well enough, and a grid is as fine as its nodes would be. What was asked for is
always refined; what was released in an earlier iteration stays, and its prior shrinks it if it should.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mpr_dist.maths.solve import covariance
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.classes.base import ParameterClass
from mpr_dist.refinement.layout import N_BASIC, Layout, classes_of
from mpr_dist.refinement.objective import Evaluation, evaluation_of
from mpr_dist.refinement.priors import Precision, pose_covariance, precision
from mpr_dist.refinement.products import Products, SpeciesData, products
from mpr_dist.refinement.state import POSE_SIZE, State
from mpr_dist.refinement.uncertainty import determined
from mpr_dist.units import F64

# Of the parameters of a class, the share that the images must determine; a parameter counts 1 - (sigma / prior)^2. In a
# class some are known well and others hardly at all (tilts of low and of high dose): the prior holds those, and what it
# holds does no harm. A half would keep back what pays at once (examples/benchmarks/auto.md).
ENOUGH = 0.25
# a volume warp explains what image warps and trajectories explain, too: with less its prior and theirs drift apart
ENOUGH_OF_VOLUME_WARP = 0.5
# nodes of the image warp along the longer side of the image
RUNGS = (1, 2, 3, 4, 5, 6, 8)
# a prior holds what single particles would pull at, but its form is a guess: two of them share a node at least
PARTICLES_PER_NODE = 2
# but the plainest warp that varies over the image at all (shift, turn, stretch) needs no more particles than nodes:
# the same shift for all of an image would leave what varies to the particles, which cannot follow the tilts
PLAIN_NODES = 4
# parameters of all image warps of a series: more would take hours to solve for, whatever the images say
MOST_NODES = 5000
VOLUME_WARPS = ((2, 2, 1, 4), (3, 3, 1, 6))
# temporal samples up to this total dose (e/A^2), and beyond
MOST_SAMPLES = {100.0: 2, np.inf: 3}
ODD_ORDERS = (3,)
# Half-maps that agree no further than this (A) are too blurred to measure optics with, as in M: the matrix takes the
# reference for granted, and a magnification, say, would take up its blur and stay as a scale that all series share.
OPTICS_A = 8.0
OPTICS = ("defocus", "astigmatism", "phase_shift", "magnification", "cs", "aberrations")
# fields of ``RefineSettings``, in the order in which M releases them, and what people call them
WORDS = {
    "image_warp": "image warp",
    "particles": "particles",
    "defocus": "defocus",
    "astigmatism": "astigmatism",
    "phase_shift": "phase shift",
    "stage_angles": "stage angles",
    "magnification": "magnification",
    "cs": "Cs",
    "aberrations": "aberrations",
    "volume_warp": "volume warp",
    "temporal_samples": "temporal samples",
    "weights": "weights by",
}
# what a field becomes when its class goes, where that is not the default; and the classes that weights by tilt are
WITHOUT = {"weights": "none"}
AMPLITUDES = ("log_scale", "bfactor")
SWITCHES = ("stage_angles", "defocus", "astigmatism", "cs", "magnification")


@dataclass(frozen=True)
class Decision:
    """What became of one class.

    Attributes:
        name: field of ``RefineSettings``; words: as people call it; grid: nodes, samples or orders, empty for switches.
        ratio: expected standard deviation over that of the prior, root mean square.
        released: whether it is refined; why: in words.
    """

    name: str
    words: str
    grid: str
    ratio: float
    released: bool
    why: str


ASKED, BEFORE, KNOWN, HELD = "asked for", "released before", "known well enough", "the prior would hold it"
BLURRED = f"the half-maps do not reach {OPTICS_A:g} A yet"


def largest(asked: RefineSettings, tilts: int, particles: int, image_size: F64, samples: int = 1) -> RefineSettings:
    """Everything that may be released in a series of so many tilts and particles."""
    rungs = _rungs(asked, tilts, particles, image_size)
    found: dict[str, Any] = {"image_warp": rungs[-1] if rungs else asked.image_warp}
    found |= {name: True for name in SWITCHES if _may(asked, name)}
    if _may(asked, "particles"):
        found["particles"] = True
    if found.get("particles", asked.particles) and _may(asked, "temporal_samples"):
        found["temporal_samples"] = max(samples, *MOST_SAMPLES.values())
    if _may(asked, "aberrations"):
        found["aberrations"] = ODD_ORDERS
    if _may(asked, "weights"):
        found["weights"] = "tilt"
    if _may(asked, "volume_warp"):
        found["volume_warp"] = next(iter(_volume_warps(particles)[::-1]), None)
    return replace(asked, **found)


def _volume_warps(particles: int) -> tuple[tuple[int, int, int, int], ...]:
    """Those whose nodes in space the particles allow."""
    return tuple(w for w in VOLUME_WARPS if w[0] * w[1] * w[2] <= particles // PARTICLES_PER_NODE)


def may_be_released(most: RefineSettings, asked: RefineSettings) -> tuple[tuple[str, str], ...]:
    """Name and words of the classes that ``largest`` added to what was asked for."""
    return tuple((name, words) for name, words in WORDS.items() if getattr(most, name) and not getattr(asked, name))


def _may(asked: RefineSettings, name: str) -> bool:
    """Whether a class is neither asked for nor excluded, so that the images decide."""
    return not getattr(asked, name) and name not in asked.excluded


def _rungs(asked: RefineSettings, tilts: int, particles: int, image_size: F64) -> tuple[tuple[int, int], ...]:
    """Image warps to choose from, coarse to fine: no more nodes than the particles allow."""
    if not _may(asked, "image_warp"):
        return ()
    width, height = (max(float(n), 1.0) for n in image_size)
    found, most = [], max(particles // PARTICLES_PER_NODE, min(particles, PLAIN_NODES), 1)
    for rung in RUNGS:
        x, y = (max(1, round(rung * side / max(width, height))) for side in (width, height))
        if x * y <= most and 2 * tilts * x * y <= MOST_NODES:
            found.append((x, y))
    return tuple(dict.fromkeys(found))


def release(
    state: State, origin: State, data: tuple[SpeciesData, ...], asked: RefineSettings
) -> tuple[RefineSettings, tuple[Decision, ...]]:
    """The settings with what the images of a series can carry, and why; one pass over them.

    state: with the amplitudes that fit; origin: the centre of the priors. The least known class goes first, because
    what it leaves may become known.
    """
    weighing = _Weighing(state, origin, data, asked)
    settings, refused = weighing.most, dict[str, Decision]()
    while True:
        shares = weighing.shares(settings)
        poor = {name: share for name, share in shares.items() if weighing.is_poor(settings, name, share)}
        if not poor:
            break
        worst = min(poor, key=lambda name: poor[name])
        early = poor.keys() & weighing.too_early
        for name in sorted({worst} | early | {name for name, share in poor.items() if share < 0.5 * ENOUGH}):
            grid, why = grid_of(settings, name), BLURRED if name in weighing.too_early else HELD
            refused.setdefault(name, Decision(name, WORDS[name], grid, _ratio(shares[name]), False, why))
            settings = weighing.with_less(settings, name)
    told = [one for name, one in refused.items() if name not in shares]
    for name, share in shares.items():
        why = weighing.fixed.get(name, KNOWN) + (f", {refused[name].grid} would not be" if name in refused else "")
        told.append(Decision(name, WORDS[name], grid_of(settings, name), _ratio(share), True, why))
    return settings, tuple(sorted(told, key=lambda one: list(WORDS).index(one.name)))


def grid_of(settings: RefineSettings, name: str) -> str:
    """Nodes, samples or orders of a class, as an option gives them."""
    value = getattr(settings, name)
    if name in ("image_warp", "volume_warp"):
        return "x".join(map(str, value or ()))
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value) if name in ("temporal_samples", "weights") else ""


def _ratio(share: float) -> float:
    return float(np.sqrt(1 - share))


@dataclass(frozen=True, eq=False)
class _Weighing:
    """A series with everything that may be released, and the inner products of its images with all derivatives."""

    state: State
    origin: State
    data: tuple[SpeciesData, ...]
    asked: RefineSettings

    @cached_property
    def fixed(self) -> dict[str, str]:
        """Classes that are refined in any case, and why."""
        found = {name: ASKED for name in WORDS if getattr(self.asked, name)}
        for name, moved in self._moved.items():
            if moved and name not in self.asked.excluded:
                found.setdefault(name, BEFORE)
        return found

    @cached_property
    def _moved(self) -> dict[str, bool]:
        """Classes whose values are no longer as they were imported."""
        now, then, there = self.state, self.origin, self.there
        warp = there["volume_warp"] if there["volume_warp"][3] > 1 else VOLUME_WARPS[0]
        every = replace(self._everything, image_warp=there["image_warp"], volume_warp=warp)
        found = {
            name: any(np.any(each.values(each.shaped(now)) != each.values(each.shaped(then))) for each in classes)
            for name, classes in _by_field(every).items()
        }
        pairs = tuple(zip(now.particles, then.particles, strict=True))
        found["temporal_samples"] = any(a.n_samples > b.n_samples for a, b in pairs)
        found["particles"] = found["temporal_samples"] or any(np.any(a.position_A != b.position_A) for a, b in pairs)
        return found

    @cached_property
    def there(self) -> dict[str, Any]:
        """Grids and samples as they are."""
        _, height, width = self.state.series.image_warp.x.values.shape
        samples = max(each.n_samples for each in self.state.particles)
        volume_warp = self.state.series.volume_warp.x.values.shape[::-1]
        return {"image_warp": (width, height), "volume_warp": volume_warp, "temporal_samples": samples}

    @cached_property
    def ladders(self) -> dict[str, list[Any]]:
        """What is to be decided of grids and samples, coarse to fine, from what there is on."""
        series, there = self.state.series, self.there
        count = sum(len(p) for p in self.state.particles)
        finer = [
            rung
            for rung in _rungs(self.asked, series.n_tilts, count, series.image_size_A)
            if all(new >= old for new, old in zip(rung, there["image_warp"], strict=True))
        ]
        found: dict[str, list[Any]] = {"image_warp": list(dict.fromkeys([there["image_warp"], *finer]))}
        warp = there["volume_warp"]
        allowed = _volume_warps(count)
        place = allowed.index(warp) + 1 if warp in allowed else 0
        found["volume_warp"] = [warp] * (warp[3] > 1)
        if warp[3] == 1 or (warp in allowed and self._moved["volume_warp"]):
            found["volume_warp"] += allowed[place : place + 1]
        now = there["temporal_samples"]
        limit = next(samples for dose, samples in MOST_SAMPLES.items() if float(np.ptp(series.dose)) < dose)
        found["temporal_samples"] = [now] * (now > 1) + [now + 1] * (now < limit)
        return {name: rungs for name, rungs in found.items() if _may(self.asked, name) and rungs}

    @cached_property
    def most(self) -> RefineSettings:
        """Everything that may be released, in grids as fine as they may become now."""
        chosen = {name: rungs[-1] for name, rungs in self.ladders.items()}
        if "image_warp" in chosen:
            chosen["image_warp"] = self._image_warp()
        if not self._everything.particles:
            chosen.pop("temporal_samples", None)
        nothing = {name: getattr(self.asked, name) for name in self.there}
        return replace(self._everything, **(nothing | chosen))

    @cached_property
    def too_early(self) -> frozenset[str]:
        """Classes that the references are too blurred for."""
        best = min((each.reference.resolution_A for each in self.data if each.frozen is None), default=np.inf)
        return frozenset(OPTICS) - self.fixed.keys() if best > OPTICS_A else frozenset()

    def is_poor(self, settings: RefineSettings, name: str, share: float) -> bool:
        """Whether a class, or so fine a grid of it, is to go: not known well enough, or too early, and not fixed."""
        if name in self.fixed and (name not in self.ladders or getattr(settings, name) == self.there[name]):
            return False
        return share < (ENOUGH_OF_VOLUME_WARP if name == "volume_warp" else ENOUGH) or name in self.too_early

    def with_less(self, settings: RefineSettings, name: str) -> RefineSettings:
        """The settings without a class, or with the next coarser grid."""
        rungs, value = self.ladders.get(name, []), getattr(settings, name)
        coarser = rungs[: rungs.index(value)] if value in rungs else []
        changed = {name: coarser[-1] if coarser else WITHOUT.get(name, getattr(RefineSettings(), name))}
        if name == "particles":
            changed["temporal_samples"] = 0
        return replace(settings, **changed)

    def _image_warp(self) -> tuple[int, int]:
        """The finest whose nodes the images of a tilt would know well enough if all else were known."""
        rungs: list[tuple[int, int]] = self.ladders["image_warp"]
        best = rungs[0]
        for rung in rungs[1:]:
            if self._share_of_nodes(rung) < ENOUGH:
                break
            best = rung
        return best

    def _share_of_nodes(self, nodes: tuple[int, int]) -> float:
        """Share of the nodes of an image warp that the images determine, tilt by tilt and all else known."""
        settings = RefineSettings(image_warp=nodes, priors=self.asked.priors)
        layout, _, _, found = self._evaluation(settings)
        warps, shares = layout.classes[:2], []
        width = nodes[0] * nodes[1]
        for axis, each in enumerate(warps):
            prior = each.covariance(self.state.series, self.asked.priors)
            part = slice(axis * width, (axis + 1) * width)
            for t in np.flatnonzero(self.state.series.active):
                own = np.linalg.inv(prior[t * width : (t + 1) * width, t * width : (t + 1) * width])
                inside = np.linalg.inv(found.series_information[t][part, part] + own)
                shares.append(1 - float(np.sum(own * inside)) / width)
        return float(np.mean(shares)) if shares else 0.0

    @cached_property
    def _passes(self) -> tuple[Layout, list[Products]]:
        """With the local parameters of every class; those of the grids are the same for all grids."""
        layout = self._layout(replace(self._everything, image_warp=None, volume_warp=None))
        pairs = enumerate(zip(self.state.particles, self.data, strict=True))
        series, strength = self.state.series, self.state.strength
        return layout, [products(series, p, d, layout, strength(i), stay=True) for i, (p, d) in pairs]

    @property
    def _everything(self) -> RefineSettings:
        return largest(self.asked, self.state.series.n_tilts, 1, self.state.series.image_size_A)

    def _layout(self, settings: RefineSettings) -> Layout:
        samples = settings.temporal_samples or max(each.n_samples for each in self.state.particles)
        return Layout.of(settings, self.state.series, samples, tuple(each.species.name for each in self.data))

    def _evaluation(self, settings: RefineSettings) -> tuple[Layout, State, Precision, Evaluation]:
        layout = self._layout(settings)
        samples = settings.temporal_samples
        state, origin = (
            layout.shaped(replace(s, particles=tuple(p.resampled(samples or p.n_samples) for p in s.particles)))
            for s in (self.state, self.origin)
        )
        prior = precision(layout, origin.series, state.particles, self.asked.priors)
        full, passes = self._passes
        own = np.concatenate([np.arange(N_BASIC), *(full.own[each.name] for each in layout.classes if each.n_own)])
        own = own[:-1]  # the log of the scale is last, and none of the kernel's
        chosen = [each.of(own) for each in passes]
        return layout, state, prior, evaluation_of(chosen, state, origin, layout, prior, self.data, None)

    def shares(self, settings: RefineSettings) -> dict[str, float]:
        """Field of every class that settings refine -> share of its parameters that the images determine."""
        layout, state, prior, found = self._evaluation(settings)
        blocks = covariance(found.equations)
        known = determined(blocks, layout, prior, state.series, state.particles)
        shares = {
            name: float(np.mean([known[each.name] for each in classes]))
            for name, classes in _by_field(settings).items()
        }
        if settings.particles:
            shares["particles"] = 0.5 * (known["position"] + known["orientation"])
            if layout.samples > 1:
                shares["temporal_samples"] = self._share_of_steps(blocks.p, state, layout.samples)
        if settings.fits_weights:
            shares["weights"] = float(np.mean([known[name] for name in AMPLITUDES]))
        return shares

    def _share_of_steps(self, blocks: F64, state: State, samples: int) -> float:
        """Of the steps of all particles from one temporal sample to the next."""
        own = pose_covariance(samples, self.asked.priors)
        steps = np.kron(np.eye(samples - 1, samples, k=1) - np.eye(samples - 1, samples), np.eye(POSE_SIZE))
        expected = np.diag(steps @ own @ steps.T)
        left = np.einsum("ij,pjk,ik->pi", steps, blocks, steps)
        return float(np.clip(1 - np.mean(left / expected), 0.0, 1.0))


def _by_field(settings: RefineSettings) -> dict[str, list[ParameterClass]]:
    """Field of ``RefineSettings`` -> its classes, amplitudes left out."""
    found: dict[str, list[ParameterClass]] = {}
    for each in classes_of(settings):
        field = next((name for name in WORDS if each.name.startswith(name)), "")
        if field:
            found.setdefault(field, []).append(each)
    return found
