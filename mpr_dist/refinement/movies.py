"""Motion within a tilt: frames of a movie against the reference, by the same pass that compares tilts.

All particles that a tilt shows determine one smooth motion: a grid over the image and the frames, added to the motion
that is there. Its time average belongs to the geometry of the tilt, which the series refines, and is taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.movies import DAMAGE_A2, FrameImages
from mpr_dist.imaging.particle_images import ParticleImages, kernel_tables
from mpr_dist.imaging.passes import compare_images
from mpr_dist.imaging.reference import Reference
from mpr_dist.maths.kernels.cards import Seen
from mpr_dist.maths.kernels.compare import Q2_4
from mpr_dist.maths.splines import natural_weights
from mpr_dist.model.movie import Motion
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.layout import N_BASIC
from mpr_dist.refinement.linearisation import SHIFT
from mpr_dist.refinement.products import Products, stacked, unpacked
from mpr_dist.units import A_PER_UM, F32, F64

# standard deviations of the prior: of the mean over the frames, which the geometry of the tilt has not been refined to
# yet, and of a node about it
MEAN_A, NODE_A = 5.0, 3.0
# at least so many standard deviations above noise the images of a tilt must agree with their own half-map, and with the
# other one, which also must agree better with the new motion than with the old
SIGNIFICANT, CROSS_SIGNIFICANT = 5.0, 3.0
MOST_STEPS, ENOUGH = 8, 0.5


@dataclass(frozen=True, eq=False)
class FrameData:
    """One species in all frames of a tilt, with its reference."""

    species: Species
    particles: Particles
    reference: Reference
    frames: FrameImages


@dataclass(frozen=True)
class FoundMotion:
    """Attributes:
    motion: what is to be added, None where nothing better was found.
    own_half, cross_half: standard deviations above noise, before and after.
    passes: over the images of the tilt.
    """

    motion: Motion | None
    own_half: tuple[float, float]
    cross_half: tuple[float, float]
    passes: int


def refine_motion(
    series: TiltSeries, tilt: int, data: tuple[FrameData, ...], nodes: tuple[int, int, int]
) -> FoundMotion:
    """The motion by which the frames of one tilt agree best with the reference.

    nodes: (width, height, time) of the grid; no more along the time than there are frames.
    """
    n_frames = data[0].frames.images.active.shape[1]
    shape = nodes[0], nodes[1], min(nodes[2], n_frames)
    problem = _Problem(tuple(_Frames.of(series, tilt, each, shape) for each in data), shape)
    nothing = np.zeros(2 * int(np.prod(shape)))
    own, cross = problem.scores(nothing), problem.scores(nothing, cross_half=True)
    if own < SIGNIFICANT or cross < CROSS_SIGNIFICANT:
        return FoundMotion(None, (own, own), (cross, cross), 2)
    values, passes = problem.climb(nothing)
    own_end, cross_end = problem.scores(values), problem.scores(values, cross_half=True)
    if cross_end <= cross:
        return FoundMotion(None, (own, own_end), (cross, cross_end), passes + 4)
    x, y = np.split(values, 2)
    motion = Motion(((_grid(x, shape, n_frames), _grid(y, shape, n_frames)),))
    return FoundMotion(motion, (own, own_end), (cross, cross_end), passes + 4)


def _grid(values: F64, shape: tuple[int, int, int], n_frames: int) -> CubicGrid:
    """Without its mean over the frames, at every place."""
    width, height, time = shape
    grid = values.reshape(time, height, width)
    along = natural_weights(time, np.arange(n_frames) / max(n_frames - 1, 1))
    return CubicGrid(grid - np.tensordot(along.mean(0), grid, 1))


@dataclass(frozen=True, eq=False)
class _Frames:
    """What the pass takes, and (particles, frames, nodes) how much every node moves every image."""

    images: ParticleImages
    volumes: F32
    half: np.ndarray
    seen: Seen
    by_node: F64

    @staticmethod
    def of(series: TiltSeries, tilt: int, data: FrameData, shape: tuple[int, int, int]) -> _Frames:
        images, n_p, n_frames = data.frames.images, *data.frames.images.active.shape
        samples, projection = images.samples, project(series, data.particles)
        # tables of the whole series with flat noise; of these, those of one tilt
        noise = np.ones((series.n_tilts, samples.n_rings))
        seen_once = np.zeros((n_p, series.n_tilts), bool)
        limits = np.full(series.n_tilts, len(samples.kx))
        flat = ParticleImages(samples, images.values, seen_once, projection.xy_A, noise, limits)
        tables = kernel_tables(series, data.species, flat, data.reference.grid_px, data.particles)
        row = tables.weight_row[:, tilt]
        damage = np.exp(-DAMAGE_A2 * data.frames.doses[:, None] * tables.tables[Q2_4])
        envelope = damage / np.sqrt(images.noise)[:, samples.ring]
        used, place = np.unique(row, return_inverse=True)
        weight = (tables.weight[used][:, None] * envelope).astype(np.float32).reshape(len(used) * n_frames, -1)
        limit = samples.ring_end[samples.ring_of(data.reference.q_max)]
        view = np.repeat(views(series, data.particles)[:, tilt, None], n_frames, axis=1)
        defocus = np.repeat(A_PER_UM * projection.defocus_um[:, tilt, None], n_frames, axis=1)
        seen = Seen(
            images.active,
            np.ascontiguousarray(view, np.float32),
            np.ascontiguousarray(defocus, np.float32),
            np.repeat(tables.astig[tilt : tilt + 1], n_frames, axis=0),
            np.repeat(tables.fixed[tilt : tilt + 1], n_frames, axis=0),
            weight,
            place[:, None] * n_frames + np.arange(n_frames),
            np.minimum(images.n_samples, limit),
            tables.tables,
            tables.is_curved,
        )
        half = data.particles.half.astype(np.int64) - 1
        return _Frames(images, data.reference.volumes, half, seen, _by_node(data.frames, shape))

    def products(self, moved_A: F64, *, cross_half: bool = False) -> Products:
        """moved_A (particles, frames, 2): by how much further the images moved; it is subtracted, as Warp's motion."""
        reference = 1 - self.half if cross_half else self.half
        out = compare_images(
            self.images,
            self.volumes,
            reference,
            (-moved_A).astype(np.float32),
            self.seen,
            *stacked((), len(self.images.samples.kx)),
        )
        return unpacked(out, N_BASIC)


def _by_node(frames: FrameImages, shape: tuple[int, int, int]) -> F64:
    """(particles, frames, nodes) in the order time, y, x."""
    n_frames = frames.images.active.shape[1]
    u = frames.place / frames.size_A
    x, y = natural_weights(shape[0], u[:, 0]), natural_weights(shape[1], u[:, 1])
    time = natural_weights(shape[2], np.arange(n_frames) / max(n_frames - 1, 1))
    return np.asarray(np.einsum("ft,py,px->pftyx", time, y, x).reshape(len(u), n_frames, -1))


@dataclass(frozen=True, eq=False)
class _Problem:
    """The log-likelihood of all frames of a tilt at the scale that fits every species best, and the log prior."""

    frames: tuple[_Frames, ...]
    shape: tuple[int, int, int]

    def _moved(self, one: _Frames, values: F64) -> F64:
        return np.asarray(np.stack([one.by_node @ axis for axis in np.split(values, 2)], -1))

    def scores(self, values: F64, *, cross_half: bool = False) -> float:
        """Standard deviations above noise."""
        xm = mm = 0.0
        for one in self.frames:
            made = one.products(self._moved(one, values), cross_half=cross_half)
            xm, mm = xm + float(made.xm.sum()), mm + float(made.mm.sum())
        return xm / float(np.sqrt(mm / 2)) if mm > 0 else 0.0

    def _precision(self) -> F64:
        n = int(np.prod(self.shape))
        return np.asarray(np.kron(np.eye(2), np.linalg.inv(NODE_A**2 * np.eye(n) + MEAN_A**2)))

    def evaluate(self, values: F64) -> tuple[float, F64, F64]:
        """Objective, gradient, and Gauss-Newton matrix."""
        precision = self._precision()
        objective = -0.5 * float(values @ precision @ values)
        gradient, matrix = -precision @ values, precision
        for one in self.frames:
            made = one.products(self._moved(one, values))
            xm, mm = float(made.xm.sum()), float(made.mm.sum())
            scale = max(xm / mm, 0.0) if mm > 0 else 0.0
            objective += 2 * scale * xm - scale**2 * mm
            slope = -2 * (scale * made.xd[..., SHIFT] - scale**2 * made.md[..., SHIFT])
            gradient = gradient + np.einsum("pfn,pfa->an", one.by_node, slope).ravel()
            information = 2 * scale**2 * made.dd[..., SHIFT, SHIFT]
            weighted = np.einsum("pfn,pfab,pfm->anbm", one.by_node, information, one.by_node, optimize=True)
            matrix = matrix + weighted.reshape(matrix.shape)
        return objective, gradient, matrix

    def climb(self, values: F64) -> tuple[F64, int]:
        """Levenberg-Marquardt; the values, and the passes it took."""
        objective, gradient, matrix = self.evaluate(values)
        damping, passes = 1e-3, 1
        while passes < MOST_STEPS:
            step = np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), gradient)
            found = self.evaluate(values + step)
            passes += 1
            gain = found[0] - objective
            if gain <= 0:
                damping *= 10
                continue
            values, (objective, gradient, matrix), damping = values + step, found, damping / 5
            if gain < ENOUGH:
                break
        return values, passes
