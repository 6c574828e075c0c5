"""Gaussian priors on the offsets of all parameters from their imported values.

Neighbours in exposure order deform alike and neighbouring nodes move together, so the priors of a class are
correlated: covariance = sigma^2 (tilts) x (nodes). They keep weak tilts in place and fix the gauge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpr_dist.model.settings import Priors
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.layout import Layout
from mpr_dist.units import F64

# correlation between successive exposures, and the length (in image widths) over which nodes move together
EXPOSURE_CORRELATION = 0.25
NODE_LENGTH = 0.2
# amplitude scales: common factor unknown, drift with dose, and scatter of single tilts
LOG_SCALE_COMMON = 3.0
LOG_SCALE_DRIFT_PER_DOSE = 0.02
LOG_SCALE_SCATTER = 0.1
# B-factors: an unknown common offset (how sharp the reference is), and a deviation from -4 dose that grows with dose
# and changes slowly along it
BFACTOR_COMMON_A2 = 200.0
BFACTOR_DEVIATION_A2 = 200.0
BFACTOR_DEVIATION_PER_DOSE = 5.0
BFACTOR_DOSE_LENGTH = 30.0


@dataclass(frozen=True, eq=False)
class Precision:
    """Inverse covariances: (n_series, n_series) for the series, (6,) diagonal for every pose."""

    series: F64
    pose: F64


def precision(layout: Layout, series: TiltSeries, priors: Priors) -> Precision:
    """Prior precision in the units of the layout (A, degrees for stage angles, radians for poses)."""
    out = np.zeros((layout.n_series, layout.n_series))
    exposure = _exposure_correlation(series)
    for name, part in layout.slices.items():
        out[part, part] = np.linalg.inv(_covariance(name, layout, series, priors, exposure))
    rad = np.deg2rad(priors.orientation_deg)
    return Precision(out, np.r_[np.full(3, priors.position_A**-2), np.full(3, rad**-2)])


def _covariance(name: str, layout: Layout, series: TiltSeries, priors: Priors, exposure: F64) -> F64:
    if name.startswith("image_warp"):
        assert layout.image_warp is not None
        return np.asarray(priors.image_warp_A**2 * np.kron(exposure, _node_correlation(*layout.image_warp)))
    if name == "stage_angles":
        return np.asarray(priors.stage_angle_deg**2 * np.kron(exposure, np.eye(3)))
    if name == "defocus":
        return np.asarray(priors.defocus_A**2 * np.eye(layout.n_tilts))
    if name == "bfactor":
        return bfactor_covariance(series)
    return log_scale_covariance(series)


def bfactor_covariance(series: TiltSeries) -> F64:
    """(tilts, tilts) in A^4: a common offset and an exponentially correlated deviation along the dose."""
    apart = np.abs(series.dose[:, None] - series.dose[None])
    sigma = np.minimum(BFACTOR_DEVIATION_A2, BFACTOR_DEVIATION_PER_DOSE * (series.dose - series.dose.min()))
    smooth = np.outer(sigma, sigma) * np.exp(-apart / BFACTOR_DOSE_LENGTH)
    return np.asarray(BFACTOR_COMMON_A2**2 + smooth + 1.0 * np.eye(len(apart)))


def log_scale_covariance(series: TiltSeries) -> F64:
    """(tilts, tilts): a common factor, a random walk along the dose, and scatter."""
    dose = series.dose - series.dose.min()
    walk = LOG_SCALE_DRIFT_PER_DOSE * np.minimum(dose[:, None], dose[None])
    scatter = LOG_SCALE_SCATTER**2 * np.eye(len(dose))
    return np.asarray(LOG_SCALE_COMMON**2 + walk + scatter)


def _exposure_correlation(series: TiltSeries) -> F64:
    rank = np.argsort(np.argsort(series.dose, kind="stable"), kind="stable")
    return np.asarray(EXPOSURE_CORRELATION ** np.abs(rank[:, None] - rank[None]).astype(np.float64))


def _node_correlation(width: int, height: int) -> F64:
    y, x = (a.ravel() for a in np.meshgrid(_places(height), _places(width), indexing="ij"))
    distance = np.hypot(x[:, None] - x[None], y[:, None] - y[None])
    return np.asarray(np.exp(-distance / NODE_LENGTH))


def _places(n: int) -> F64:
    return np.linspace(0, 1, n) if n > 1 else np.array([0.5])
