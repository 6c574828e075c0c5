"""Whether a map is as large as its particles in the images: the commonest mistake is a pixel size that is 1 or 2 % off.

Particles are compared with the half-map that they are no part of, and the magnification sought at which they agree
best. Some things look like a scale and are none. Those that can be are sought along with it: place and turn of every
particle, the defocus, and how strong the map is in every shell (a map that is blurred, sharpened or filtered falls off
along q otherwise than the images do). The noise of the half-maps, whose strength changes along q as well, is taken out
of all products of the map with itself. The lowest frequencies are left out: masks, solvent and neighbours matter there.
How sure the scale is follows from its spread over the particles, which are independent of one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.pupil import PERCENT, MagnificationClass
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import DEFOCUS, Linearisation
from mpr_dist.refinement.products import Products, SpeciesData, products
from mpr_dist.refinement.state import move
from mpr_dist.units import A_PER_UM, F32, F64, I64

# Newton steps; each compares every shell with both volumes (strength and falloff), 14 passes, and so does their end
ROUNDS = 3
# of one step, and of all of them: beyond, slices of a map are no longer like those of the images
LARGEST_STEP, LARGEST = 0.03, 0.1
# shells in which the map may be stronger or weaker than the images, each with as many samples; fewer samples than in
# the last tenth of the range of q say nothing
SHELLS, LEAST_RANGE = 6, 0.1
# cycles over the diameter of a particle: below the first nothing is compared; above the last nothing is left to learn
FEWEST_CYCLES, MOST_CYCLES = 5.0, 20.0
# of what a half-map is in a shell, the least share that must be no noise
LEAST_SIGNAL = 0.1
# what all particles share: magnification, defocus (A), place and turn in their own frame (A, rad); then the shells
SCALE, OFFSET, PLACE, OF_ALL = 0, 1, slice(2, 8), 8
# of their priors; of the magnification none to speak of
WIDTHS = np.r_[1e3, 300.0, np.full(3, 10.0), np.full(3, 0.1)]


@dataclass(frozen=True, eq=False)
class ScaleOfSeries:
    """What one series says of the magnification 1 + m at which a map agrees with the images.

    Attributes:
        magnification: m; information: inverse variance, from the likelihood.
        pulls: (particles,) by how much each of them pulls m; they add up to next to nothing.
    """

    magnification: float
    information: float
    pulls: F64


@dataclass(frozen=True)
class MapScale:
    """How much larger a map is than its particles in the images: ratio of the sizes less 1, and standard deviation."""

    excess: float
    sigma: float


def together(found: Sequence[ScaleOfSeries]) -> MapScale | None:
    """All series weighed by what they know; None if nothing does."""
    whole = sum(one.information for one in found)
    if not whole > 0:
        return None
    mean = sum(one.magnification * one.information for one in found) / whole
    pulls = np.concatenate([one.pulls * one.information / whole for one in found])
    n = len(pulls)
    spread = float(np.sum((pulls - pulls.mean()) ** 2)) * n / max(n - 1, 1)
    return MapScale(1 / (1 + mean) - 1, math.sqrt(max(spread, 1 / whole)) / (1 + mean) ** 2)


def scale_of_series(
    series: TiltSeries,
    particles: Particles,
    data: SpeciesData,
    which: I64,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> ScaleOfSeries | None:
    """Gauss-Newton from the state in force.

    which: (particles,) number of the particle that each is a copy of, below 0 for those that no image shows.

    None: the map is too coarse to tell, agrees nowhere, or is off by more than can be sought; or it is a piece of a
    filament, which has no ends to measure.
    """
    edges = _edges(data)
    if data.species.helix is not None or edges[0] > (1 - LEAST_RANGE) * edges[-1]:
        return None
    start, m, moved, bfactor = series.optics, 0.0, np.zeros(OF_ALL), 0.0
    for left in range(ROUNDS, -1, -1):
        defocus = replace(start.defocus_um, values=start.defocus_um.values + moved[OFFSET] / A_PER_UM)
        optics = replace(start, magnification=(1 + m) * start.magnification, defocus_um=defocus)
        shells = _shells(replace(series, optics=optics), particles, data, bfactor)
        if not shells:
            return None
        gradient, information = _equations(replace(series, optics=optics), particles, shells)
        gradient[:, : len(moved)] -= moved / WIDTHS**2 / len(gradient)
        information[: len(moved), : len(moved)] += np.diag(WIDTHS**-2.0)
        covariance = np.linalg.inv(information)
        pulls = gradient @ covariance
        tell(ROUNDS - left + 1, ROUNDS + 1)
        if not left:
            break
        step = pulls.sum(0)[:OF_ALL]
        m += (1 + m) * float(np.clip(step[SCALE], -LARGEST_STEP, LARGEST_STEP))
        if abs(m) > LARGEST:
            return None
        moved[OFFSET:] += step[OFFSET:]
        particles = _moved(particles, step[PLACE])
        bfactor += _falloff(shells)
    if not covariance[SCALE, SCALE] > 0:  # what noise tells was taken from what the map tells, and nothing is left
        return None
    own = np.asarray(np.bincount(which[which >= 0], pulls[which >= 0, SCALE]), np.float64)
    return ScaleOfSeries(m, float(1 / covariance[SCALE, SCALE]), own)


def _edges(data: SpeciesData) -> list[float]:
    """(shells + 1,) 1/A."""
    low, high = (cycles / data.species.diameter_A for cycles in (FEWEST_CYCLES, MOST_CYCLES))
    return [math.sqrt(q2) for q2 in np.linspace(low**2, min(high, data.reference.q_max) ** 2, SHELLS + 1)]


def _moved(particles: Particles, step: F64) -> Particles:
    """All particles moved and turned alike, each in its own frame; step: A, then rad."""
    return move(particles, np.squeeze(_own_frames(particles) @ step[:, None], -1))


def _own_frames(particles: Particles) -> F64:
    """(particles, pose size, 6) steps of the poses by one in the frame of the particle."""
    turned = euler_to_matrix(particles.angles_deg)
    out = np.zeros((*turned.shape[:2], 6, 6))
    out[..., :3, :3], out[..., 3:, 3:] = turned, turned
    return out.reshape(len(particles), -1, 6)


def _falloff(shells: Sequence[_Shell]) -> float:
    """B-factor (A^2) by which the images fall off faster than the map, through the strengths of the shells."""
    x = np.array([one.q2_4 for one in shells])
    y = np.log([one.strength for one in shells])
    known = np.array([one.strength**2 * one.signal for one in shells])
    x, y = x - np.average(x, weights=known), y - np.average(y, weights=known)
    return float(np.sum(known * x * y) / max(np.sum(known * x**2), 1e-30)) if len(shells) > 1 else 0.0


def _equations(series: TiltSeries, particles: Particles, shells: Sequence[_Shell]) -> tuple[F64, F64]:
    """Gradient (particles, n) by what all share, and information (n, n) about it."""
    layout = _layout(series, particles)
    jacobian, frames = Jacobian(Linearisation.of(series, particles), layout), _own_frames(particles)
    weight, n = tilt_scales(series), OF_ALL + len(shells)
    gradient, information = np.zeros((len(particles), n)), np.zeros((n, n))
    by_all = np.zeros((len(particles), layout.n_local, OF_ALL))
    for t in np.flatnonzero(series.active).tolist():
        by_all[:, layout.own["magnification"][[0, 3]], SCALE], by_all[:, DEFOCUS, OFFSET] = 1 / PERCENT, 1.0
        by_all[..., PLACE] = jacobian.pose(slice(t, t + 1))[0] @ frames
        for i, one in enumerate(shells, OF_ALL):
            scale = one.strength * weight[t]
            gradient[:, :OF_ALL] += np.einsum(
                "pl,pla->pa", 2 * (scale * one.xd[:, t] - scale**2 * one.md[:, t]), by_all
            )
            gradient[:, i] += 2 * (scale * one.xm[:, t] - scale**2 * one.mm[:, t])
            information[:OF_ALL, :OF_ALL] += (
                2 * scale**2 * np.einsum("pla,plm,pmb->ab", by_all, one.dd[:, t], by_all, optimize=True)
            )
            mixed = 2 * scale**2 * np.einsum("pl,pla->a", one.md[:, t], by_all)
            information[i, :OF_ALL] += mixed
            information[:OF_ALL, i] += mixed
            information[i, i] += 2 * scale**2 * one.mm[:, t].sum()
    return gradient, information


def _layout(series: TiltSeries, particles: Particles) -> Layout:
    return Layout.with_classes((MagnificationClass(),), series, True, particles.n_samples)


@dataclass(frozen=True, eq=False)
class _Shell:
    """Products of the images with the opposite half-map and its derivatives within one shell, without its noise.

    Attributes:
        xm, mm, xd, md, dd: as in ``Products``.
        strength: of the images, in units of the map at the scales of the tilts; signal: <m,m> at those scales.
        q2_4: q^2 / 4 of the shell, A^-2.
    """

    xm: F64
    mm: F64
    xd: F64
    md: F64
    dd: F64
    strength: float
    signal: float
    q2_4: float


def _shells(series: TiltSeries, particles: Particles, data: SpeciesData, bfactor: float) -> list[_Shell]:
    """Those in which the map is more than noise. Differences of products up to the edges of shells.

    The difference of the half-maps, over the root of 2, is noise alone, as much as in one of them.
    """
    reference, layout, weight = data.reference, _layout(series, particles), tilt_scales(series)
    at = Linearisation.of(series, particles)
    first, second = reference.volumes
    noise = np.stack([(first - second) * np.float32(math.sqrt(0.5))] * 2)

    def within(edge: float, volumes: F32) -> Products:
        inside = replace(data, reference=replace(reference, q_max=edge, volumes=volumes))
        return products(series, particles, inside, layout, (0.0, bfactor), cross_half=True, at=at)

    edges = _edges(data)
    whole, of_noise = ([within(edge, volumes) for edge in edges] for volumes in (reference.volumes, noise))
    found = []
    for i in range(SHELLS):
        one, n = _less(whole[i + 1], whole[i]), _less(of_noise[i + 1], of_noise[i])
        signal, both = float(((one.mm - n.mm) * weight**2).sum()), float((one.mm * weight**2).sum())
        agreement = float((one.xm * weight).sum())
        if signal > LEAST_SIGNAL * both and agreement > 0:
            mean = (edges[i] ** 2 + edges[i + 1] ** 2) / 8
            clean = one.xm, one.mm - n.mm, one.xd, one.md - n.md, one.dd - n.dd
            found.append(_Shell(*clean, agreement / signal, signal, mean))
    return found


def _less(outer: Products, inner: Products) -> Products:
    return Products(*(getattr(outer, name) - getattr(inner, name) for name in ("xm", "mm", "xd", "md", "dd")))
