"""What a class of parameters is: a part of the series vector, its nodes, its derivatives, its prior.

Adding a class takes one noun in this folder and its line in ``layout.classes_of``; a field of ``RefineSettings`` and of
``Priors`` with their options in cli/refine_options.py; its plant in tests/refinement/planted.py; and, if another class
can undo it, a direction in gauge.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.linearisation import Linearisation
from mpr_dist.refinement.state import State
from mpr_dist.units import F64, I64, Bool

Labels = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Local:
    """Derivatives of local parameters by the parameters of a class, in some tilts.

    Attributes:
        rows: (rows,) which local parameters of the image depend on the class.
        values: (particles or 1, tilts or 1, rows, columns), on the device of the geometry.
    """

    rows: I64
    values: F64


@dataclass(frozen=True, eq=False)
class KernelRow:
    """A derivative that the kernel has to take: its kind (kernels/compare.py) and its factor at samples of qx, qy."""

    kind: int
    values: F64


class ParameterClass(ABC):
    """Parameters that are refined together; values are a flat float64 vector in the unit of the class.

    Attributes:
        name: as it stands in tables; words: as M's users call it; unit: of a value, as people write it.
        is_amplitude: scales and B-factors, which the geometry does not depend on.
        is_optics: only species that are resolved well enough for the optics have a say.
        prior: field of ``Priors`` that is its width; empty where no user sets it.
    """

    name: str
    words: str
    unit: str
    prior = ""
    is_amplitude = False
    is_optics = False

    @abstractmethod
    def size(self, n_tilts: int) -> int:
        """Number of parameters."""

    @abstractmethod
    def columns(self, series: TiltSeries) -> tuple[I64, ...]:
        """Per tilt, which parameters of the class its images depend on."""

    @abstractmethod
    def shaped(self, state: State) -> State:
        """The same state with the nodes of this class."""

    @abstractmethod
    def values(self, state: State) -> F64:
        """(size,) values of a state that has the nodes of this class."""

    @abstractmethod
    def placed(self, state: State, values: F64) -> State:
        """The state with these values."""

    def local(self, at: Linearisation, tilts: slice, own: I64) -> Local:
        """Derivatives in tilts that depend on equally many parameters, with the arrays of ``at.device``.

        own: the local parameters that belong to this class alone; by default each column of a tilt is one of them.
        """
        return Local(own, at.device.xp.eye(len(own))[None, None])

    @abstractmethod
    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        """(size, size) of the prior."""

    def prior_of(self, series: TiltSeries) -> str:
        """Field of ``Priors`` that is the width of the prior in a series."""
        return self.prior

    @abstractmethod
    def labels(self, n_tilts: int) -> Labels:
        """Columns of a table that say what each parameter is: tilt, node, axis."""

    def kernel_rows(self, wavelength_A: float, qx: F64, qy: F64, to_grid: float) -> tuple[KernelRow, ...]:
        """Derivatives that only this class needs, one per local parameter of its own; none by default.

        qx, qy (samples,) in 1/A; to_grid: grid units of the reference per 1/A. They do not depend on the state.
        """
        return ()

    def seen(self, series: TiltSeries) -> Bool:
        """(size,) whether any tilt in use depends on a parameter: about the others the images say nothing."""
        out = np.zeros(self.size(series.n_tilts), bool)
        for columns, active in zip(self.columns(series), series.active, strict=True):
            out[columns] |= bool(active)
        return out

    @property
    def n_own(self) -> int:
        """Local parameters that belong to this class alone."""
        return 0


class PerTilt(ParameterClass):
    """The same values in every tilt, tilts one behind the other: one, or one for each of ``axes``."""

    axes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Parameters of a tilt."""
        return max(len(self.axes), 1)

    def size(self, n_tilts: int) -> int:
        return n_tilts * self.width

    def columns(self, series: TiltSeries) -> tuple[I64, ...]:
        return tuple(t * self.width + np.arange(self.width, dtype=np.int64) for t in range(series.n_tilts))

    def labels(self, n_tilts: int) -> Labels:
        tilts: Labels = {"mprTilt": np.repeat(np.arange(n_tilts), self.width)}
        return tilts | {"mprAxis": np.array(self.axes * n_tilts)} if self.axes else tilts


class OwnPerTilt(PerTilt):
    """Values of every tilt that are local parameters of their own."""

    @property
    def n_own(self) -> int:
        return self.width


class PerSeries(ParameterClass):
    """Values that all tilts share, each with a kernel row of its own."""

    names: tuple[str, ...]

    def size(self, n_tilts: int) -> int:
        return len(self.names)

    def columns(self, series: TiltSeries) -> tuple[I64, ...]:
        return (np.arange(len(self.names), dtype=np.int64),) * series.n_tilts

    def shaped(self, state: State) -> State:
        return state

    def labels(self, n_tilts: int) -> Labels:
        return {"mprParameter": np.array(self.names)}

    @property
    def n_own(self) -> int:
        return len(self.names)


# correlation between successive exposures, and the length (in image widths) over which nodes move together
EXPOSURE_CORRELATION = 0.25
NODE_LENGTH = 0.2


def exposure_correlation(series: TiltSeries) -> F64:
    """(tilts, tilts): neighbours in exposure order deform alike."""
    rank = np.argsort(np.argsort(series.dose, kind="stable"), kind="stable")
    return np.asarray(EXPOSURE_CORRELATION ** np.abs(rank[:, None] - rank[None]).astype(np.float64))


def node_correlation(shape: tuple[int, ...], length: float = NODE_LENGTH) -> F64:
    """(nodes, nodes) exp(-distance / length) on a grid over 0..1 along each axis, last axis fastest."""
    axes = np.meshgrid(*(node_places(n) for n in shape), indexing="ij")
    at = np.stack([axis.ravel() for axis in axes], -1)
    return np.asarray(np.exp(-np.linalg.norm(at[:, None] - at[None], axis=-1) / length))


def node_places(n: int) -> F64:
    """(n,) nodes on 0..1; a single one stands in the middle."""
    return np.linspace(0, 1, n) if n > 1 else np.array([0.5])
