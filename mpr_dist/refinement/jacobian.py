"""How the local parameters of every image depend on the parameters of the model.

Local: shift of the particle in the image (A), rotation vector of its view in the image frame (rad), defocus (A),
B-factor (A^2), and the log of the amplitude scale. Derivatives are exact at the state they are taken at, but for the
slopes over the volume of the volume warp and of grids that are not refined, which change by about 1e-3 per A and A.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.imaging.geometry import Projection, image_points, stage_grids, stage_matrices, tilt_matrices
from mpr_dist.maths.rotations import rotation_y, rotation_z
from mpr_dist.maths.splines import cubic_grid, natural_weights
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.layout import POSE_SIZE, Layout
from mpr_dist.units import F64

N_LOCAL = 8


@dataclass(frozen=True, eq=False)
class Jacobian:
    """Attributes:
    series: (tilts, particles, 8, parameters per tilt), columns in the order of ``Layout.columns``.
    pose: (tilts, particles, 8, 6).
    """

    series: F64
    pose: F64


def jacobian(series: TiltSeries, particles: Particles, projection: Projection, layout: Layout) -> Jacobian:
    """Derivatives of the local parameters of all images of one species."""
    n_p, n_t = len(particles), layout.n_tilts
    blocks = [_series_block(name, series, particles, projection, layout) for name in layout.widths]
    pose = np.zeros((n_t, n_p, N_LOCAL, POSE_SIZE))
    if layout.poses:
        pose = _pose_block(series, particles, projection)
    return Jacobian(np.concatenate(blocks, axis=-1), pose)


def _series_block(name: str, series: TiltSeries, particles: Particles, projection: Projection, layout: Layout) -> F64:
    n_p, n_t, width = len(particles), layout.n_tilts, layout.widths[name]
    block = np.zeros((n_t, n_p, N_LOCAL, width))
    if name.startswith("image_warp"):
        axis = 0 if name.endswith("x") else 1
        block[:, :, axis] = -_node_weights(series, projection, layout)
    elif name == "stage_angles":
        block[:, :, 2:5] = np.deg2rad(_stage_axes(series, n_p))
    elif name == "defocus":
        block[:, :, 5, 0] = 1.0
    elif name == "bfactor":
        block[:, :, 6, 0] = 1.0
    else:
        block[:, :, 7, 0] = 1.0
    return block


def _node_weights(series: TiltSeries, projection: Projection, layout: Layout) -> F64:
    """(tilts, particles, height * width) weights of the nodes of a tilt at the unwarped positions."""
    assert layout.image_warp is not None
    width, height = layout.image_warp
    x, y, _ = image_points(series, projection.unwarped_xy_A)
    n_p, n_t = x.shape
    wx = natural_weights(width, x.T).reshape(n_t, n_p, 1, width)
    wy = natural_weights(height, y.T).reshape(n_t, n_p, height, 1)
    return np.asarray((wy * wx).reshape(n_t, n_p, height * width))


def _stage_axes(series: TiltSeries, n_particles: int) -> F64:
    """(tilts, particles, 3, 3): columns are the rotation vectors of a unit change of the x, y and z angle."""
    ax, ay, az = (g.values.reshape(-1) for g in stage_grids(series))
    del ax
    rz = rotation_z(az)
    axes = np.stack([(rz @ rotation_y(ay))[:, :, 0], rz[:, :, 1], np.broadcast_to([0.0, 0.0, 1.0], (len(az), 3))], -1)
    return np.broadcast_to(axes[:, None], (len(az), n_particles, 3, 3))


def _pose_block(series: TiltSeries, particles: Particles, projection: Projection) -> F64:
    tilt = tilt_matrices(series)
    n_t, n_p = len(tilt), len(particles)
    block = np.zeros((n_t, n_p, N_LOCAL, POSE_SIZE))
    through_warp = np.eye(2) - _warp_gradient(series, projection)
    block[:, :, :2, :3] = np.swapaxes(through_warp, 0, 1) @ tilt[:, None, :2]
    block[:, :, 5, :3] = (-tilt if series.are_angles_inverted else tilt)[:, None, 2]
    turn = stage_matrices(series, particles.position_A) @ tilt
    block[:, :, 2:5, 3:] = np.swapaxes(turn, 0, 1)
    return block


def _warp_gradient(series: TiltSeries, projection: Projection) -> F64:
    """(particles, tilts, 2, 2) derivative of the image warp with respect to the unwarped position, A per A."""
    x, y, z = image_points(series, projection.unwarped_xy_A)
    points = np.stack(np.broadcast_arrays(x, y, z), -1)
    out = np.zeros((*x.shape, 2, 2))
    for i, grid in enumerate((series.image_warp.x, series.image_warp.y)):
        for j, order in enumerate(((1, 0, 0), (0, 1, 0))):
            slope = cubic_grid(grid.values, points, grid.margins, order)
            out[..., i, j] = slope / series.image_size_A[j]
    return out
