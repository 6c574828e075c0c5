"""The state of a refinement: nouns and amplitude scales, changed by steps in the parameters of a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpr_dist.imaging.ctf import tilt_bfactors_A2
from mpr_dist.maths.rotations import euler_to_matrix, exp_rotation, log_rotation, matrix_to_euler
from mpr_dist.maths.splines import resample_cubic
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, ImageWarp, StageAngles
from mpr_dist.refinement.layout import POSE_SIZE, Layout
from mpr_dist.units import A_PER_UM, F64


@dataclass(frozen=True, eq=False)
class State:
    """Attributes:
    series: with grids of the layout's shape.
    particles: one table per species.
    log_scale: (tilts,) log of the amplitude scale.
    """

    series: TiltSeries
    particles: tuple[Particles, ...]
    log_scale: F64


def shape_grids(series: TiltSeries, layout: Layout) -> TiltSeries:
    """The same series with the grids to be refined resampled to the layout's nodes, one layer per tilt."""
    n = layout.n_tilts
    if layout.image_warp:
        width, height = layout.image_warp
        warp = series.image_warp
        series = replace(
            series,
            image_warp=ImageWarp(*(resample(g, (n, height, width)) for g in (warp.x, warp.y))),
        )
    if layout.stage_angles:
        a = series.stage_angles
        series = replace(series, stage_angles=StageAngles(*(resample(g, (n, 1, 1)) for g in (a.x, a.y, a.z))))
    if layout.defocus:
        optics = replace(series.optics, defocus_um=resample(series.optics.defocus_um, (n, 1, 1)))
        series = replace(series, optics=optics)
    bfactor = CubicGrid.per_tilt(tilt_bfactors_A2(series))
    return replace(series, weights=replace(series.weights, bfactor=bfactor))


def resample(grid: CubicGrid, shape: tuple[int, int, int]) -> CubicGrid:
    """The spline of a grid at the nodes of another (depth, height, width)."""
    if grid.values.shape == shape and grid.margins == (0.0, 0.0, 0.0):
        return grid
    return CubicGrid(resample_cubic(grid.values, shape, grid.margins))


def advance(state: State, layout: Layout, step: F64, pose_steps: Sequence[F64]) -> State:
    """The state after a step: step (n_series,), pose_steps one (particles, 6) per species."""
    s = layout.slices
    series, n = state.series, layout.n_tilts
    if layout.image_warp:
        width, height = layout.image_warp
        dx, dy = (step[s[name]].reshape(n, height, width) for name in ("image_warp_x", "image_warp_y"))
        warp = series.image_warp
        series = replace(series, image_warp=ImageWarp(_plus(warp.x, dx), _plus(warp.y, dy)))
    if layout.stage_angles:
        d = step[s["stage_angles"]].reshape(n, 3)
        a = series.stage_angles
        grids = (_plus(g, d[:, i].reshape(n, 1, 1)) for i, g in enumerate((a.x, a.y, a.z)))
        series = replace(series, stage_angles=StageAngles(*grids))
    if layout.defocus:
        defocus = _plus(series.optics.defocus_um, step[s["defocus"]].reshape(n, 1, 1) / A_PER_UM)
        series = replace(series, optics=replace(series.optics, defocus_um=defocus))
    bfactor = _plus(series.weights.bfactor, step[s["bfactor"]].reshape(n, 1, 1))
    series = replace(series, weights=replace(series.weights, bfactor=bfactor))
    particles = state.particles
    if layout.poses:
        particles = tuple(move(p, d) for p, d in zip(particles, pose_steps, strict=True))
    return State(series, particles, state.log_scale + step[s["log_scale"]])


def _plus(grid: CubicGrid, step: F64) -> CubicGrid:
    return CubicGrid(grid.values + step, grid.margins)


def move(particles: Particles, step: F64) -> Particles:
    """Particles after a step (particles, 6): A in the tomogram, then a rotation vector in its frame."""
    if not len(particles):
        return particles
    matrices = exp_rotation(step[:, 3:]) @ euler_to_matrix(particles.angles_deg)
    return replace(particles, position_A=particles.position_A + step[:, :3], angles_deg=matrix_to_euler(matrices))


def pose_offsets(particles: Particles, origin: Particles) -> F64:
    """(particles, 6) step that leads from ``origin`` to ``particles``."""
    out = np.zeros((len(particles), POSE_SIZE))
    out[:, :3] = particles.position_A - origin.position_A
    turned = euler_to_matrix(particles.angles_deg) @ np.swapaxes(euler_to_matrix(origin.angles_deg), -1, -2)
    if len(particles):
        out[:, 3:] = log_rotation(turned)
    return out


def series_offsets(state: State, origin: State, layout: Layout) -> F64:
    """(n_series,) difference of the series parameters of two states whose grids have the layout's shape."""
    parts: dict[str, F64] = {"log_scale": state.log_scale - origin.log_scale}
    a, b = state.series, origin.series
    parts["bfactor"] = a.weights.bfactor.values - b.weights.bfactor.values
    if layout.image_warp:
        parts["image_warp_x"] = a.image_warp.x.values - b.image_warp.x.values
        parts["image_warp_y"] = a.image_warp.y.values - b.image_warp.y.values
    if layout.stage_angles:
        pairs = ((a.stage_angles.x, b.stage_angles.x), (a.stage_angles.y, b.stage_angles.y))
        pairs += ((a.stage_angles.z, b.stage_angles.z),)  # type: ignore[assignment]
        parts["stage_angles"] = np.stack([(p.values - q.values).ravel() for p, q in pairs], 1)
    if layout.defocus:
        parts["defocus"] = A_PER_UM * (a.optics.defocus_um.values - b.optics.defocus_um.values)
    return np.concatenate([parts[name].ravel() for name in layout.widths])
