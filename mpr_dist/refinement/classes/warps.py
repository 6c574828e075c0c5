"""Deformation of the images, and of the volume along the dose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.maths.splines import linear_weights
from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, ImageWarp, LinearGrid4, VolumeWarp
from mpr_dist.refinement.classes.base import (
    Labels,
    Local,
    ParameterClass,
    PerTilt,
    exposure_correlation,
    node_correlation,
    node_places,
)
from mpr_dist.refinement.linearisation import DEFOCUS, SHIFT, Linearisation
from mpr_dist.refinement.state import State, resample
from mpr_dist.units import F64, I64

# length, in widths of the volume, over which nodes of the volume warp move together
VOLUME_LENGTH = 0.5


@dataclass(frozen=True)
class ImageWarpClass(PerTilt):
    """One axis of the image warp: nodes (width, height) in every tilt, in A, subtracted from the position."""

    axis: int
    nodes: tuple[int, int]
    unit = "A"
    prior = "image_warp_A"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"image_warp_{'xy'[self.axis]}"

    @property
    def words(self) -> str:  # type: ignore[override]
        return f"image warp, {'xy'[self.axis]}"

    @property
    def width(self) -> int:
        return self.nodes[0] * self.nodes[1]

    def shaped(self, state: State) -> State:
        width, height = self.nodes
        grid = resample(self._grid(state.series), (state.series.n_tilts, height, width))
        return self.placed(state, grid.values)

    def _grid(self, series: TiltSeries) -> CubicGrid:
        return series.image_warp.y if self.axis else series.image_warp.x

    def values(self, state: State) -> F64:
        return self._grid(state.series).values.ravel()

    def placed(self, state: State, values: F64) -> State:
        width, height = self.nodes
        grid = CubicGrid(values.reshape(-1, height, width))
        warp = state.series.image_warp
        return state.with_series(image_warp=ImageWarp(warp.x, grid) if self.axis else ImageWarp(grid, warp.y))

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        width, height = self.nodes
        places = at.projection.image_places
        wx, wy = places.nodes(0, width)[:, tilts], places.nodes(1, height)[:, tilts]
        weights = (wy[..., None] * wx[:, :, None]).reshape(*wx.shape[:2], 1, height * width)
        return Local(np.array([self.axis]), -weights)

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        nodes = node_correlation(self.nodes[::-1])
        return np.asarray(priors.image_warp_A**2 * np.kron(exposure_correlation(series), nodes))

    def labels(self, n_tilts: int) -> Labels:
        width, height = self.nodes
        tilt, y, x = np.meshgrid(*(np.arange(n) for n in (n_tilts, height, width)), indexing="ij")
        return {"mprTilt": tilt.ravel(), "mprNodeX": x.ravel(), "mprNodeY": y.ravel()}


@dataclass(frozen=True)
class VolumeWarpClass(ParameterClass):
    """Nodes (width, height, depth, duration) of the displacement in the volume, A.

    Those of the first dose stay as they are.
    """

    nodes: tuple[int, int, int, int]
    name = "volume_warp"
    prior = "volume_warp_A"
    words = "volume warp"
    unit = "A"

    def __post_init__(self) -> None:
        assert self.nodes[3] > 1

    @property
    def _layer(self) -> int:
        return self.nodes[0] * self.nodes[1] * self.nodes[2]

    def size(self, n_tilts: int) -> int:
        return 3 * self._layer * (self.nodes[3] - 1)

    def _layers(self, series: TiltSeries) -> list[list[int]]:
        """Per tilt the layers that are refined, counted from the second dose."""
        weights = linear_weights(self.nodes[3], series.dose_position)
        return [[int(i) - 1 for i in np.flatnonzero(row) if i > 0] for row in weights]

    def columns(self, series: TiltSeries) -> tuple[I64, ...]:
        width, span = 3 * self._layer, np.arange(3 * self._layer, dtype=np.int64)
        empty = np.zeros(0, np.int64)
        return tuple(np.concatenate([empty, *(i * width + span for i in one)]) for one in self._layers(series))

    def shaped(self, state: State) -> State:
        warp, shape = state.series.volume_warp, self.nodes[::-1]
        grids = [_resampled(grid, shape) for grid in (warp.x, warp.y, warp.z)]
        return state.with_series(volume_warp=VolumeWarp(*(LinearGrid4(grid) for grid in grids)))

    def values(self, state: State) -> F64:
        warp = state.series.volume_warp
        return np.stack([g.values[1:] for g in (warp.x, warp.y, warp.z)], 1).ravel()

    def placed(self, state: State, values: F64) -> State:
        width, height, depth, duration = self.nodes
        later = values.reshape(duration - 1, 3, depth, height, width)
        warp = state.series.volume_warp
        grids = [np.concatenate([g.values[:1], later[:, i]]) for i, g in enumerate((warp.x, warp.y, warp.z))]
        return state.with_series(volume_warp=VolumeWarp(*(LinearGrid4(grid) for grid in grids)))

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        device, (width, height, depth, duration) = at.device, self.nodes
        points = at.volume_points[:, tilts]
        shape = points.shape[:2]
        wx, wy, wz = (
            linear_weights(n, points[..., i], device).reshape(*shape, n) for i, n in enumerate((width, height, depth))
        )
        space = wz[..., None, None] * wy[:, :, None, :, None] * wx[:, :, None, None]
        moved = at.by_displacement(tilts)[..., None] * space.reshape(*shape, 1, 1, self._layer)
        moved = moved.reshape(*shape, 3, 3 * self._layer)
        # per tilt its layers, and what each counts at its dose
        layers = np.array(self._layers(at.series)[tilts], np.int64)
        dose = linear_weights(duration, at.series.dose_position[tilts])
        counts = device.put(np.take_along_axis(dose, layers + 1, axis=1))
        parts = [counts[:, i, None, None] * moved for i in range(layers.shape[1])]
        values = device.xp.concatenate([moved[..., :0], *parts], axis=-1)
        return Local(np.array([SHIFT.start, SHIFT.start + 1, DEFOCUS]), values)

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        dose = np.linspace(0, 1, self.nodes[3])[1:]
        walk = np.minimum(dose[:, None], dose[None])
        space = node_correlation(self.nodes[2::-1], VOLUME_LENGTH)
        return np.asarray(priors.volume_warp_A**2 * np.kron(walk, np.kron(np.eye(3), space)))

    def labels(self, n_tilts: int) -> Labels:
        width, height, depth, duration = self.nodes
        shape = (np.arange(1, duration), np.arange(3), np.arange(depth), np.arange(height), np.arange(width))
        w, axis, z, y, x = (a.ravel() for a in np.meshgrid(*shape, indexing="ij"))
        named = np.array(["X", "Y", "Z"])[axis]
        return {"mprAxis": named, "mprNodeX": x, "mprNodeY": y, "mprNodeZ": z, "mprNodeDose": w}


def _resampled(grid: LinearGrid4, shape: tuple[int, ...]) -> F64:
    """The quadrilinear grid at the nodes of another (duration, depth, height, width)."""
    out = grid.values
    for axis, n in enumerate(shape):
        weights = linear_weights(out.shape[axis], node_places(n))
        out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out)
