"""The chain rule: what every image says of its local parameters becomes normal equations in those of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mpr_dist.arrays import Device
from mpr_dist.maths.solve import NormalEquations
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.products import Products, local_equations
from mpr_dist.units import F64

# of a card's room: normal equations that stay there, and as much for the tilts that are done at a time
SHARE_OF_EQUATIONS = 0.1


@dataclass(frozen=True, eq=False)
class Information:
    """What images say, on the device that found it; it comes to the host when somebody asks.

    Attributes:
        of_tilts: per species and tilt, (parameters of the tilt, same); of_poses: (tilts, points, pose size, same).
    """

    of_tilts: tuple[tuple[Any, ...], ...]
    of_poses: Any
    where: Device

    def on(self, device: Device) -> tuple[tuple[Any, ...], Any]:
        """Of all species together per tilt, and of poses, on this device or the host."""
        there = device is self.where
        of_tilts, of_poses = (self.of_tilts, self.of_poses) if there else (self.by_species, self.by_pose)
        return tuple(sum(of_tilt[1:], of_tilt[0]) for of_tilt in zip(*of_tilts, strict=True)), of_poses

    @cached_property
    def by_species(self) -> tuple[tuple[F64, ...], ...]:
        """Per species and tilt, what its images say about the parameters of the tilt."""
        return tuple(self.where.fetched(blocks) for blocks in self.of_tilts)

    @cached_property
    def by_pose(self) -> F64:
        """(tilts, points, pose size, same) what each tilt adds to the normal matrix of every pose."""
        return np.asarray(self.where.take(self.of_poses))


def assemble(
    scale: F64, passes: list[Products], jacobians: list[Jacobian], layout: Layout, device: Device
) -> tuple[NormalEquations, Information]:
    """Normal equations, and what they are made of, from the products of every species.

    Species by species and a few tilts at a time, one on the host: all of them may not fit into memory.
    """
    xp = device.xp
    n, k = layout.n_series, layout.pose_size
    n_points = sum(product.xm.shape[0] for product in passes) if layout.poses else 0
    shapes = (n, n), (n, n_points, k), (n_points, k, k), (n,), (n_points, k)
    s, b, p, g, h = (xp.zeros(shape) for shape in shapes)
    out = NormalEquations(s, b, p, g, h, device, where=device)
    by_species = []
    by_pose = xp.zeros((layout.n_tilts, n_points, k, k))
    start = 0
    for product, jac in zip(passes, jacobians, strict=True):
        points = slice(start, start + product.xm.shape[0])
        by_tilt: list[Any] = []
        for tilts in _some_tilts(layout, product.xm.shape[0], device):
            by_tilt += _add_tilts(out, tilts, points, local_equations(product, scale, tilts), jac, by_pose)
        by_species.append(tuple(by_tilt))
        start += product.xm.shape[0]
    out = replace(out, p=by_pose.sum(0))
    # those of a step and of the next one stay where they were made, if most of the room is left to images
    if sum(each.nbytes for each in out.arrays) > SHARE_OF_EQUATIONS * device.room_bytes():
        out = out.on_host()
    return out, Information(tuple(by_species), by_pose, device)


def _some_tilts(layout: Layout, particles: int, device: Device) -> Iterator[slice]:
    """Tilts that depend on equally many parameters; the host takes one by one, a card as many as fit."""
    widths, most = [len(columns) for columns in layout.tilt_columns], 1
    if device.is_card:
        # Jacobian, its product with the information, the coupling to the poses; and what is made on the way
        of_image = 4 * layout.n_local * max(widths) + 2 * max(widths) * layout.pose_size
        most = int(SHARE_OF_EQUATIONS * device.room_bytes() // max(1, 8 * particles * of_image))
    start = 0
    while start < layout.n_tilts:
        stop = start + 1
        while stop < min(start + most, layout.n_tilts) and widths[stop] == widths[start]:
            stop += 1
        yield slice(start, stop)
        start = stop


def _add_tilts(
    out: NormalEquations, tilts: slice, points: slice, local: tuple[Any, Any], jac: Jacobian, by_pose: Any
) -> list[Any]:
    """Add some tilts of one species to the equations; what its images say about the parameters of each."""
    xp, (gradient, information) = out.device.xp, local
    j = jac.series(tilts)
    weighted = information @ j
    n_t, n_p, n_local, width = j.shape
    across = xp.swapaxes(j.reshape(n_t, n_p * n_local, width), 1, 2)
    own = across @ weighted.reshape(n_t, n_p * n_local, width)
    pull = (across @ gradient.reshape(n_t, n_p * n_local, 1))[..., 0]
    there = np.stack(jac.layout.tilt_columns[tilts])
    columns = out.device.put(there)
    # what tilts have in common is added tilt by tilt
    apart = [slice(None)] if len(np.unique(there)) == there.size else [slice(i, i + 1) for i in range(n_t)]
    for part in apart:
        out.s[columns[part, :, None], columns[part, None]] += own[part]
        out.g[columns[part]] += pull[part]
    if jac.layout.poses:
        k = jac.pose(tilts)
        mixed = xp.swapaxes(xp.swapaxes(weighted, 2, 3) @ k, 1, 2)
        for part in apart:
            out.b[columns[part], points] += mixed[part]
        by_pose[tilts, points] = xp.swapaxes(k, 2, 3) @ information @ k
        out.h[points] += xp.einsum("tplk,tpl->tpk", k, gradient).sum(0)
    return list(own)
