"""The CTF against images that Warp's C# wrote, and the defaults of scale and damping."""

from __future__ import annotations

from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from mpr_dist.imaging.ctf import ctf, ctf_terms, delocalisation_A, per_tilt, tilt_bfactors_A2, tilt_scales
from mpr_dist.model.optics import Optics
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights

DOSE, ANGLES = np.array([0.0, 6.0, 3.0]), np.array([0.0, -60.0, 30.0])


def a_series(optics: Optics | None = None, weights: DoseWeights | None = None) -> TiltSeries:
    return TiltSeries(
        name="TS_01",
        angle_deg=ANGLES,
        dose=DOSE,
        axis_angle_deg=np.zeros(3),
        axis_offset_A=np.zeros((3, 2)),
        use_tilt=np.ones(3, bool),
        active=np.ones(3, bool),
        image_size_A=np.array([500.0, 500.0]),
        volume_size_A=np.array([500.0, 500.0, 200.0]),
        optics=optics or Optics(defocus_um=CubicGrid.constant(2.0)),
        weights=weights or DoseWeights(),
    )


# pixel A, defocus um, delta um, angle deg, phase shift / pi, kV, amplitude, scale: as the images' description has them
WARP_CASES = [(1.1, 1.5, 0.3, 25.0, 0.4, 300.0, 0.1, 0.9), (1.5, 2.5, 0.0, 0.0, 0.0, 200.0, 0.07, 1.0)]


@pytest.mark.parametrize("case", [0, 1])
def test_the_images_that_warp_wrote(shared, case):
    """Both CTFs of Warp, astigmatism, phase shift and B = -40 A^2 included, at all 129 x 256 frequencies."""
    pixel, defocus, delta, angle, phase, voltage, amplitude, scale = WARP_CASES[case]
    with mrcfile.open(shared / "data/real/warp_numbers/ctf_reference.mrc", permissive=True) as file:
        theirs = np.asarray(file.data[case], np.float64)
    assert theirs.shape == (256, 129)
    rows = np.r_[0:129, -127:0]  # Warp counts the Nyquist row as positive
    qx, qy = np.meshgrid(np.arange(129) / (256 * pixel), rows / (256 * pixel))
    ours = ctf(Optics(voltage, 2.7, amplitude), qx, qy, defocus, delta, angle, phase)
    ours = ours * scale * np.exp(-40.0 * (qx**2 + qy**2) / 4)
    # Warp computes in float32: gamma of about 200 rad in the corners has a rounding error of 2e-5
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_terms_add_up_to_the_ctf():
    """defocus * a2 + astigmatism + fixed, as the kernels add them, is gamma / 2 pi of every tilt."""
    delta, angle, phase = np.array([0.1, 0.2, -0.3]), np.array([10.0, 80.0, -45.0]), np.array([0.0, 0.5, 0.2])
    grids = [CubicGrid.per_tilt(v) for v in (delta, angle, phase)]
    optics = Optics(300.0, 2.7, 0.1, CubicGrid.constant(2.0), *grids)
    rng = np.random.default_rng(0)
    qx, qy = rng.uniform(-0.2, 0.2, (2, 50))
    terms = ctf_terms(a_series(optics), qx, qy)
    for t in range(3):
        astigmatism = terms.astig_A[t, 0] * terms.cos2 + terms.astig_A[t, 1] * terms.sin2
        turns = terms.a2 * (23456.0 + astigmatism) + terms.fixed[t]
        expected = ctf(optics, qx, qy, 2.3456, delta[t], angle[t], phase[t])
        np.testing.assert_allclose(-np.sin(2 * np.pi * turns), expected, atol=1e-10)  # gamma up to 300 rad, double


def test_underfocus_starts_positive():
    """At low frequency the CTF is the amplitude contrast, positive, and grows with defocus phase."""
    optics = Optics(amplitude=0.07)
    low = ctf(optics, np.array([0.0, 0.005]), np.zeros(2), 2.0, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(low[0], 0.07, atol=1e-12)
    assert low[1] > low[0]


def test_delocalisation_is_the_slope_of_the_phase():
    """The largest |d gamma / d q| / 2 pi up to q_max, here by finite differences of the phase of the CTF."""
    optics, h = Optics(300.0, 2.7, 0.0), 1e-7
    q = np.linspace(1e-3, 0.25, 4001)

    def turns(q):
        lam = optics.wavelength_A
        return -0.5 * lam * 1.8e4 * q**2 + 0.25 * 2.7e7 * lam**3 * q**4

    # that this phase is the one in use
    np.testing.assert_allclose(ctf(optics, q, 0 * q, 1.8, 0, 0, 0), -np.sin(2 * np.pi * turns(q)), atol=1e-9)
    slope = np.abs(turns(q + h) - turns(q - h)) / (2 * h)
    # 256 points find a maximum in the middle of the range to within its curvature times the spacing squared
    assert delocalisation_A(optics, 1.8, 0.25) == pytest.approx(slope.max(), rel=1e-4)
    assert delocalisation_A(optics, 1.8, 0.2) < delocalisation_A(optics, 1.8, 0.25)


def test_default_weights_are_dose_and_cosine():
    """Nothing fitted: B = -4 A^2 per unit of dose, scale = cos(tilt)."""
    np.testing.assert_array_equal(tilt_bfactors_A2(a_series()), [0.0, -24.0, -12.0])
    np.testing.assert_allclose(tilt_scales(a_series()), [1.0, 0.5, np.sqrt(0.75)], atol=1e-15)


def test_fitted_weights_are_used_as_stored():
    """Node t of a per-tilt grid is the value of tilt t; scales are multiplied by the weight of the series."""
    b, scale = np.array([-5.0, -300.0, 2.0]), np.array([0.2, 0.1, 0.15])
    weights = DoseWeights(bfactor=CubicGrid.per_tilt(b), weight=CubicGrid.per_tilt(scale), series_weight=0.5)
    series = a_series(weights=weights)
    np.testing.assert_allclose(tilt_bfactors_A2(series), b, atol=1e-9)
    np.testing.assert_allclose(tilt_scales(series), scale / 2, atol=1e-12)
    only_b = a_series(weights=replace(weights, weight=CubicGrid.constant(1.0)))
    np.testing.assert_allclose(tilt_scales(only_b), tilt_scales(a_series()) / 2, atol=1e-15)


def test_per_tilt_values_are_read_by_index():
    """One node serves all tilts; of more nodes each tilt takes its own."""
    np.testing.assert_array_equal(per_tilt(np.full((1, 1, 1), 4.0), 3), [4.0, 4.0, 4.0])
    np.testing.assert_array_equal(per_tilt(np.arange(3.0).reshape(3, 1, 1), 3), [0.0, 1.0, 2.0])
