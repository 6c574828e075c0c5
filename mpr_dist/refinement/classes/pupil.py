"""What the lenses do: aberrations in Zernikes, and magnification that differs between directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.maths.kernels.compare import GAMMA, GRADIENT_X, GRADIENT_Y, PHASE
from mpr_dist.maths.zernike import EVEN_ORDERS, ODD_ORDERS, disc_basis, even_terms, odd_terms, zernike
from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.base import KernelRow, PerSeries
from mpr_dist.refinement.state import State
from mpr_dist.units import F64

# 1/A: aberrations are given as their largest phase inside this frequency
ABERRATION_Q = 0.25
PERCENT = 0.01


class AberrationsClass(PerSeries):
    """Zernikes of some orders, each in radians at its largest within ABERRATION_Q.

    The parameters are made of the listed coefficients such that they are hardly correlated (``disc_basis``).

    Attributes:
        orders: as asked for; kind: of derivative, in the kernel.
        field: of ``Optics``, which lists coefficients and may end early; terms: (n, m) of all that it may list.
    """

    orders: tuple[int, ...]
    kind: int
    field: str
    terms: tuple[tuple[int, int], ...]
    unit = "rad"
    is_optics = True

    @property
    def _wanted(self) -> set[int]:
        return set(self.orders)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"Z{n}{m:+d}" for n, m in self.terms if n in self._wanted)

    def values(self, state: State) -> F64:
        return np.asarray(np.linalg.solve(self._basis, self._listed(state))[self._chosen])

    def placed(self, state: State, values: F64) -> State:
        listed = self._listed(state)
        change = np.zeros(len(listed))
        change[self._chosen] = values - self.values(state)
        return state.with_optics(**{self.field: tuple((listed + self._basis @ change).tolist())})

    def _listed(self, state: State) -> F64:
        n = len(self.terms)
        return np.array([*getattr(state.series.optics, self.field), *([0.0] * n)])[:n]

    @property
    def _chosen(self) -> list[int]:
        return [i for i, (n, _) in enumerate(self.terms) if n in self._wanted]

    @property
    def _basis(self) -> F64:
        return disc_basis(self.terms, ABERRATION_Q)

    def kernel_rows(self, wavelength_A: float, qx: F64, qy: F64, to_grid: float) -> tuple[KernelRow, ...]:
        raw = np.stack([zernike(n, m, qx, qy) for n, m in self.terms])
        return tuple(KernelRow(self.kind, row) for row in (self._basis.T @ raw)[self._chosen] / (2 * np.pi))

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.asarray(priors.aberration_rad**2 * np.eye(len(self.names)))


@dataclass(frozen=True)
class OddAberrationsClass(AberrationsClass):
    """Antisymmetric aberrations (beam tilt, trefoil), Warp's sign. Order 3 comes with order 1, the shift."""

    orders: tuple[int, ...]
    name = "aberrations_odd"
    prior = "aberration_rad"
    words = "Zernikes, odd"
    kind = PHASE
    field = "zernike_odd"
    terms = odd_terms(max(ODD_ORDERS))

    @property
    def _wanted(self) -> set[int]:
        return set(self.orders) | ({1} if 3 in self.orders else set())


@dataclass(frozen=True)
class EvenAberrationsClass(AberrationsClass):
    """Symmetric aberrations: what they add to gamma."""

    orders: tuple[int, ...]
    name = "aberrations_even"
    prior = "aberration_rad"
    words = "Zernikes, even"
    kind = GAMMA
    field = "zernike_even"
    terms = even_terms(max(EVEN_ORDERS))


@dataclass(frozen=True)
class MagnificationClass(PerSeries):
    """M11, M12, M21, M22 of the matrix on Fourier coordinates of the particle images, in percent.

    A scale common to all series belongs to the pixel size of the map, a rotation to the orientations: the prior holds
    both, and the report names them.
    """

    name = "magnification"
    prior = "magnification_percent"
    is_optics = True
    words = "anisotropic magnification"
    unit = "%"
    names = ("M11", "M12", "M21", "M22")

    def values(self, state: State) -> F64:
        return (np.asarray(state.series.optics.magnification) - np.eye(2)).ravel() / PERCENT

    def placed(self, state: State, values: F64) -> State:
        return state.with_optics(magnification=np.eye(2) + PERCENT * values.reshape(2, 2))

    def kernel_rows(self, wavelength_A: float, qx: F64, qy: F64, to_grid: float) -> tuple[KernelRow, ...]:
        x, y = PERCENT * to_grid * qx, PERCENT * to_grid * qy
        kinds = ((GRADIENT_X, x), (GRADIENT_X, y), (GRADIENT_Y, x), (GRADIENT_Y, y))
        return tuple(KernelRow(kind, row) for kind, row in kinds)

    def covariance(self, series: TiltSeries, priors: Priors) -> F64:
        return np.asarray(priors.magnification_percent**2 * np.eye(4))
