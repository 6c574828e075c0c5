"""Directions in which parameters of several classes undo each other, and what the images say about them.

Along such a direction only the priors decide; the maps do not depend on it, but the numbers of each class do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.geometry import tilt_matrices
from mpr_dist.maths.rotations import skew
from mpr_dist.maths.splines import linear_weights
from mpr_dist.refinement.classes.pupil import ABERRATION_Q, PERCENT
from mpr_dist.refinement.classes.stage import turn_axes
from mpr_dist.refinement.gauge_optics import gamma_candidates
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import Evaluation
from mpr_dist.refinement.priors import Precision
from mpr_dist.refinement.state import POSE_SIZE, State
from mpr_dist.units import F64

# below this share of information from the images a direction counts as not determined by them
WEAK = 0.5


@dataclass(frozen=True)
class Direction:
    """Attributes:
    name: what moves against what.
    determined: share of the information along it that comes from the images, 0..1; the rest is prior.
    """

    name: str
    determined: float

    @property
    def is_weak(self) -> bool:
        return self.determined < WEAK


def directions(own: Evaluation, layout: Layout, prior: Precision, state: State) -> tuple[Direction, ...]:
    """The directions that exist among the refined classes, in the state of an evaluation."""
    found: dict[str, float] = {}
    exists = np.concatenate(
        [np.tile(np.arange(layout.pose_size) < POSE_SIZE * p.n_samples, (len(p), 1)) for p in state.particles]
    )
    for name, step, poses in _candidates(layout, state):
        share = _determined(own, prior, state, step, poses * exists)
        found[name] = min(share, found.get(name, 1.0))
    return tuple(Direction(name, share) for name, share in found.items())


def _determined(own: Evaluation, prior: Precision, state: State, step: F64, poses: F64) -> float:
    e, where = own.equations, own.equations.where
    there, held = where.put(step), float(step @ prior.series @ step)
    parts = [there @ e.s @ there]
    if e.p.size:
        moved, einsum = where.put(poses), where.xp.einsum
        parts += [there @ einsum("npk,pk->n", e.b, moved), einsum("pi,pij,pj->", moved, e.p, moved)]
    of_series, *of_poses = map(float, where.fetched(parts))
    whole = of_series
    if of_poses:
        whole += 2 * of_poses[0] + of_poses[1]
        start = 0
        for particles, precision in zip(state.particles, prior.poses, strict=True):
            part = poses[start : start + len(particles)]
            held += float(np.einsum("pi,ij,pj->", part, precision, part))
            start += len(particles)
    return float(np.clip(1 - held / whole, 0.0, 1.0)) if whole > 0 else 0.0


def _candidates(layout: Layout, state: State) -> Iterator[tuple[str, F64, F64]]:
    """Name, step of the series parameters, step of the poses (points, pose size)."""
    n_points = sum(len(p) for p in state.particles)
    tilt = tilt_matrices(state.series)
    for words, of_samples, of_tilts in _courses(layout, state):
        yield from _pose_candidates(layout, state, words, of_samples, of_tilts[:, None])
    if layout.has("volume_warp") and layout.has("image_warp_x"):
        later = 1 - linear_weights(len(state.series.volume_warp.x.values), state.series.dose_position)[:, :1]
        for axis, letter in enumerate("xyz"):
            step = _undo_shift(layout, state, later * tilt[:, :, axis])
            step[layout.slices["volume_warp"]] = _volume_shift(layout, letter.upper())
            yield f"volume warp, all along {letter}, against image warp", step, np.zeros((n_points, layout.pose_size))
    for name, step in gamma_candidates(layout, state.series):
        yield name, step, np.zeros((n_points, layout.pose_size))
    if layout.has("magnification") and layout.has("stage_angles") and not state.series.is_stage_rigid:
        for sign in (1, -1):
            step = _stage_step(layout, state, np.tile([0.0, 0.0, sign * 0.01], (layout.n_tilts, 1)))
            part = layout.slices["magnification"]
            step[part] = np.array([0.0, 0.01, -0.01, 0.0]) / PERCENT
            yield "rotation in the magnification against stage angle z", step, np.zeros((n_points, layout.pose_size))
    if layout.has("aberrations_odd") and layout.has("image_warp_x"):
        yield from _shift_aberrations(layout, state, n_points)


def _courses(layout: Layout, state: State) -> Iterator[tuple[str, F64, F64]]:
    """Ways that all poses may go along the dose: words, share at every sample, share in every tilt.

    Only where the way between samples is a straight line it is the same for all particles: for two samples.
    """
    if layout.poses:
        yield "", np.ones(layout.samples), np.ones(layout.n_tilts)
        if layout.samples == 2 and all(each.n_samples == 2 for each in state.particles):
            yield "drift of ", np.array([0.0, 1.0]), state.series.dose_position


def _pose_candidates(
    layout: Layout, state: State, words: str, of_samples: F64, of_tilts: F64
) -> Iterator[tuple[str, F64, F64]]:
    n_points, tilt = sum(len(p) for p in state.particles), tilt_matrices(state.series)
    if layout.has("image_warp_x"):
        for axis, letter in enumerate("xyz"):
            poses = np.tile(np.kron(of_samples, np.eye(6)[axis]), (n_points, 1))
            step = _undo_shift(layout, state, of_tilts * tilt[:, :, axis])
            yield f"{words}all positions along {letter} against image warp", step, poses
    if layout.has("stage_angles"):
        for axis, letter in enumerate("xyz"):
            turn = 0.01 * np.eye(3)[axis]
            step = _stage_step(layout, state, -of_tilts * np.einsum("tij,j->ti", tilt, turn))
            poses = np.tile(np.kron(of_samples, np.r_[np.zeros(3), turn]), (n_points, 1))
            if state.series.is_stage_rigid:
                poses = poses + _carried(layout, state, turn) * np.repeat(of_samples, POSE_SIZE)
            yield f"{words}all orientations about {letter} against stage angles", step, poses


def _volume_shift(layout: Layout, axis: str) -> F64:
    """Step of the volume warp: all nodes but those of the first dose by 1 A."""
    warp = next(each for each in layout.classes if each.name == "volume_warp")
    return np.asarray(warp.labels(layout.n_tilts)["mprAxis"] == axis, np.float64)


def _undo_shift(layout: Layout, state: State, moved: F64) -> F64:
    """Series step that undoes a displacement (tilts, 3) of everything in the image frame."""
    step = np.zeros(layout.n_series)
    for axis, name in enumerate(("image_warp_x", "image_warp_y")):
        part = layout.slices[name]
        step[part] = np.repeat(moved[:, axis], (part.stop - part.start) // layout.n_tilts)
    if layout.has("defocus"):
        step[layout.slices["defocus"]] = moved[:, 2] if state.series.are_angles_inverted else -moved[:, 2]
    return step


def _stage_step(layout: Layout, state: State, turn: F64) -> F64:
    """Series step whose stage angles turn every tilt by a rotation vector (tilts, 3) in the image frame, rad."""
    step = np.zeros(layout.n_series)
    step[layout.slices["stage_angles"]] = np.linalg.solve(turn_axes(state.series), turn[..., None]).ravel()
    return step


def _carried(layout: Layout, state: State, turn: F64) -> F64:
    """Pose step that moves every particle as a rotation about the centre of the volume does."""
    parts = []
    for particles in state.particles:
        arm = particles.position_A - state.series.volume_size_A / 2
        block = np.zeros((len(particles), layout.samples, POSE_SIZE))
        block[:, : particles.n_samples, :3] = arm @ skew(turn).T
        parts.append(block.reshape(len(particles), layout.pose_size))
    return np.concatenate(parts)


def _shift_aberrations(layout: Layout, state: State, n_points: int) -> Iterator[tuple[str, F64, F64]]:
    odd = next(each for each in layout.classes if each.name == "aberrations_odd")
    names = list(odd.labels(layout.n_tilts)["mprParameter"])
    for name, axis, letter in (("Z1+1", 0, "x"), ("Z1-1", 1, "y")):
        if name not in names:
            continue
        for sign in (1, -1):
            moved = np.zeros((layout.n_tilts, 3))
            moved[:, axis] = sign / (2 * np.pi * ABERRATION_Q)  # A per radian at that frequency
            step = _undo_shift(layout, state, moved)
            step[layout.slices["aberrations_odd"].start + names.index(name)] = 1.0
            yield f"aberration {name} against image warp {letter}", step, np.zeros((n_points, layout.pose_size))
