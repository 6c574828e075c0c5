"""Which parameters are refined, and where each stands in the vector of series parameters.

Classes stand one behind the other. Poses form a separate array (particles, 6 samples): per temporal sample position x,
y, z (A), then a rotation vector x, y, z in the tomogram frame (rad).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.amplitude import (
    BfactorClass,
    LogScaleClass,
    SpeciesBfactorClass,
    SpeciesScaleClass,
)
from mpr_dist.refinement.classes.base import ParameterClass
from mpr_dist.refinement.classes.ctf import (
    AstigmatismClass,
    CsClass,
    DefocusClass,
    PhaseShiftClass,
)
from mpr_dist.refinement.classes.pupil import EvenAberrationsClass, MagnificationClass, OddAberrationsClass
from mpr_dist.refinement.classes.stage import StageAnglesClass
from mpr_dist.refinement.classes.warps import ImageWarpClass, VolumeWarpClass
from mpr_dist.refinement.linearisation import BFACTOR
from mpr_dist.refinement.state import POSE_SIZE, State, move
from mpr_dist.units import F64, I64

# local parameters that the kernel always takes: shift, rotation, defocus, B-factor
N_BASIC = BFACTOR + 1


def classes_of(settings: RefineSettings, species: tuple[str, ...] = ()) -> tuple[ParameterClass, ...]:
    """The classes that settings ask for, in the order of the vector; amplitudes are always there, scales last.

    species: the names of several that are refined together have amplitudes of their own.
    """
    even = tuple(order for order in settings.aberrations if order % 2 == 0)
    odd = tuple(order for order in settings.aberrations if order % 2)
    found: list[ParameterClass] = []
    if settings.image_warp is not None:
        found += [ImageWarpClass(axis, settings.image_warp) for axis in (0, 1)]
    if settings.volume_warp is not None:
        found.append(VolumeWarpClass(settings.volume_warp))
    switches: tuple[tuple[bool, ParameterClass], ...] = (
        (settings.stage_angles, StageAnglesClass()),
        (settings.defocus, DefocusClass()),
        (settings.astigmatism, AstigmatismClass()),
        (settings.phase_shift, PhaseShiftClass()),
        (settings.cs, CsClass()),
        (bool(even), EvenAberrationsClass(even)),
        (bool(odd), OddAberrationsClass(odd)),
        (settings.magnification, MagnificationClass()),
        (len(species) > 1, SpeciesScaleClass(species)),
        (len(species) > 1, SpeciesBfactorClass(species)),
        (True, BfactorClass()),
        (True, LogScaleClass()),
    )
    return (*found, *(each for wanted, each in switches if wanted))


@dataclass(frozen=True)
class Layout:
    """Attributes:
    classes: in the order of the vector; n_tilts: of the series.
    tilt_columns: per tilt, the parameters that its images depend on, in the order of the classes.
    poses: whether positions and orientations are refined; samples: most temporal samples of a species.
    """

    classes: tuple[ParameterClass, ...]
    n_tilts: int
    tilt_columns: tuple[I64, ...]
    poses: bool
    samples: int = 1

    @staticmethod
    def of(settings: RefineSettings, series: TiltSeries, samples: int = 1, species: tuple[str, ...] = ()) -> Layout:
        return Layout.with_classes(classes_of(settings, species), series, settings.particles, samples)

    @staticmethod
    def with_classes(classes: tuple[ParameterClass, ...], series: TiltSeries, poses: bool, samples: int = 1) -> Layout:
        """A layout of chosen classes for a series."""
        starts = np.cumsum([0, *(each.size(series.n_tilts) for each in classes)])
        per_class = [[start + c for c in each.columns(series)] for each, start in zip(classes, starts, strict=False)]
        columns = tuple(np.concatenate([one[t] for one in per_class]) for t in range(series.n_tilts))
        return Layout(classes, series.n_tilts, columns, poses, samples)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Class name -> its part of the series vector."""
        ends = np.cumsum([each.size(self.n_tilts) for each in self.classes]).tolist()
        starts = [0, *ends[:-1]]
        return {each.name: slice(a, b) for each, a, b in zip(self.classes, starts, ends, strict=True)}

    def has(self, name: str) -> bool:
        """Whether a class of this name is refined."""
        return name in self.slices

    @property
    def n_series(self) -> int:
        return sum(each.size(self.n_tilts) for each in self.classes)

    @property
    def pose_size(self) -> int:
        """Parameters of one particle."""
        return POSE_SIZE * self.samples

    @cached_property
    def own(self) -> dict[str, I64]:
        """Class name -> local parameters of its own."""
        out, start = {}, N_BASIC
        for each in self.classes:
            out[each.name] = start + np.arange(each.n_own, dtype=np.int64)
            start += each.n_own
        return out

    @property
    def n_local(self) -> int:
        """Local parameters of an image: those of the kernel, and the log of the scale."""
        return N_BASIC + sum(each.n_own for each in self.classes)

    def shaped(self, state: State) -> State:
        """The same state with the nodes of every class."""
        for each in self.classes:
            state = each.shaped(state)
        return state

    def values(self, state: State) -> F64:
        """(n_series,) parameters of a state that has the nodes of the classes."""
        return np.concatenate([np.asarray(each.values(state), np.float64) for each in self.classes])

    def advanced(self, state: State, step: F64, pose_steps: Sequence[F64]) -> State:
        """The state after a step: step (n_series,), pose_steps one (particles, pose_size) per species."""
        for each in self.classes:
            state = each.placed(state, each.values(state) + step[self.slices[each.name]])
        if self.poses:
            moved = tuple(move(p, d) for p, d in zip(state.particles, pose_steps, strict=True))
            state = replace(state, particles=moved)
        return state
