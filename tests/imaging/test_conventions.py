"""Zernikes, magnification and phase shift mean what they mean in Warp; RELION's odd terms have the other sign.

What is expected is written out here from the descriptions of both programs: polynomials by hand, plain formulas.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpr_dist.imaging.ctf import ctf_terms
from mpr_dist.imaging.particle_images import ParticleImages, kernel_tables
from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.kernels.compare import KX, KY, N_LOCAL, N_TABLES, ODD, QX, QY, compare, n_out
from mpr_dist.maths.zernike import even_terms, odd_terms, zernike
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights

PIXEL_A, BOX_PX = 1.35, 48
SAMPLES = box_samples(BOX_PX, PIXEL_A, 0.5 / PIXEL_A)
X, Y = SAMPLES.qx, SAMPLES.qy
R2 = X**2 + Y**2

# (n, m): R_n^m(r) cos(m phi), or sin(|m| phi) for m < 0, in x = r cos phi and y = r sin phi
ODD_BY_HAND = [
    ((1, -1), Y),
    ((1, 1), X),
    ((3, -3), 3 * X**2 * Y - Y**3),
    ((3, -1), (3 * R2 - 2) * Y),
    ((3, 1), (3 * R2 - 2) * X),
    ((3, 3), X**3 - 3 * X * Y**2),
    ((5, -5), 5 * X**4 * Y - 10 * X**2 * Y**3 + Y**5),
    ((5, -3), (5 * R2 - 4) * (3 * X**2 * Y - Y**3)),
    ((5, -1), (10 * R2**2 - 12 * R2 + 3) * Y),
    ((5, 1), (10 * R2**2 - 12 * R2 + 3) * X),
    ((5, 3), (5 * R2 - 4) * (X**3 - 3 * X * Y**2)),
    ((5, 5), X**5 - 10 * X**3 * Y**2 + 5 * X * Y**4),
]
EVEN_BY_HAND = [
    ((2, -2), 2 * X * Y),
    ((2, 0), 2 * R2 - 1),
    ((2, 2), X**2 - Y**2),
    ((4, -4), 4 * X**3 * Y - 4 * X * Y**3),
    ((4, -2), (4 * R2 - 3) * 2 * X * Y),
    ((4, 0), 6 * R2**2 - 6 * R2 + 1),
    ((4, 2), (4 * R2 - 3) * (X**2 - Y**2)),
    ((4, 4), X**4 - 6 * X**2 * Y**2 + Y**4),
]
ODD_VALUES, EVEN_VALUES = (np.round(np.random.default_rng(seed).uniform(-9, 9, n), 3) for seed, n in ((1, 12), (2, 8)))


def a_series(optics: Optics, n: int = 2) -> TiltSeries:
    return TiltSeries(
        name="TS_01",
        angle_deg=np.zeros(n),
        dose=np.zeros(n),
        axis_angle_deg=np.zeros(n),
        axis_offset_A=np.zeros((n, 2)),
        use_tilt=np.ones(n, bool),
        active=np.ones(n, bool),
        image_size_A=np.array([500.0, 500.0]),
        volume_size_A=np.array([500.0, 500.0, 200.0]),
        optics=optics,
    )


# in the middle of the volume
ONE = Particles(np.array([[250.0, 250.0, 100.0]]), np.zeros((1, 3)), np.ones(1, np.int8), np.zeros(1, np.int64))


def wavelength(voltage_kV: float) -> float:
    """Warp's formula, A."""
    v = 1e3 * voltage_kV
    return 12.2643247 / np.sqrt(v * (1 + 0.978466e-6 * v))


# ------------------------------------------------------------------------------------------------------------ Zernikes


def test_terms_stand_in_warps_order():
    """Odd: 2 of n = 1, 4 of n = 3, 6 of n = 5; even: 3 of n = 2 and 5 of n = 4, the constant left out; m ascending."""
    assert [nm for nm, _ in ODD_BY_HAND] == list(odd_terms(5))
    assert [nm for nm, _ in EVEN_BY_HAND] == list(even_terms(4))
    assert odd_terms(3) == odd_terms(5)[:6]
    assert even_terms(2) == even_terms(4)[:3]


@pytest.mark.parametrize(("nm", "by_hand"), ODD_BY_HAND + EVEN_BY_HAND, ids=lambda v: str(v) if len(v) == 2 else "")
def test_polynomials_are_those_written_by_hand(nm, by_hand):
    """Not normalised, at frequencies in 1/A."""
    # polynomials of size 1 in double precision, from sums of up to seven powers
    np.testing.assert_allclose(zernike(*nm, X, Y), by_hand, rtol=0, atol=1e-13)


def test_odd_coefficients_are_a_phase_in_turns():
    """ctf_terms.odd is the sum of coefficient times polynomial over 2 pi; a short list means zeros."""
    by_hand = sum(value * poly for value, (_, poly) in zip(ODD_VALUES, ODD_BY_HAND, strict=True))
    terms = ctf_terms(a_series(Optics(zernike_odd=tuple(ODD_VALUES))), X, Y)
    np.testing.assert_allclose(2 * np.pi * terms.odd, by_hand, rtol=0, atol=1e-11)
    first = sum(value * poly for value, (_, poly) in zip(ODD_VALUES[:6], ODD_BY_HAND, strict=False))
    short = ctf_terms(a_series(Optics(zernike_odd=tuple(ODD_VALUES[:6]))), X, Y)
    np.testing.assert_allclose(2 * np.pi * short.odd, first, rtol=0, atol=1e-11)


def test_gamma_holds_everything_that_is_even():
    """gamma of m_algorithm's CTF model, written out: defocus, astigmatism, Cs, phase shift, amplitude, Zernikes."""
    delta, angle, phase = np.array([0.21, -0.4]), np.array([25.0, 110.0]), np.array([0.35, -0.1])
    defocus_um, cs_mm, amplitude, voltage = 1.7, 2.7, 0.08, 300.0
    optics = Optics(
        voltage,
        cs_mm,
        amplitude,
        CubicGrid.constant(defocus_um),
        *(CubicGrid.per_tilt(v) for v in (delta, angle, phase)),
        zernike_even=tuple(EVEN_VALUES),
    )
    terms = ctf_terms(a_series(optics), X, Y)
    lam = wavelength(voltage)
    even = sum(value * poly for value, (_, poly) in zip(EVEN_VALUES, EVEN_BY_HAND, strict=True))
    theta = np.arctan2(Y, X)
    for t in range(2):
        dz = -1e4 * (defocus_um + 0.5 * delta[t] * np.cos(2 * (theta - np.deg2rad(angle[t]))))
        gamma = np.pi * lam * dz * R2 + np.pi / 2 * cs_mm * 1e7 * lam**3 * R2**2
        gamma += -np.pi * phase[t] - np.arctan(amplitude / np.sqrt(1 - amplitude**2)) + even
        astigmatism = terms.astig_A[t, 0] * terms.cos2 + terms.astig_A[t, 1] * terms.sin2
        ours = 2 * np.pi * (terms.a2 * (1e4 * defocus_um + astigmatism) + terms.fixed[t])
        # gamma up to 150 rad in double precision
        np.testing.assert_allclose(ours, gamma, rtol=0, atol=1e-9)


def test_even_terms_of_order_two_are_astigmatism_and_defocus():
    """Z22 and Z2-2 act as astigmatism of pi lambda dz q^2, Z20 as defocus and a constant: the duplicates M names."""
    lam, optics = wavelength(300.0), Optics(300.0)
    a, b = 4.0, -2.5
    even = ctf_terms(a_series(Optics(300.0, zernike_even=(b, 0.0, a))), X, Y).fixed[0]
    plain = ctf_terms(a_series(optics), X, Y).fixed[0]
    # -pi lambda (half delta) q^2 cos 2 (theta - angle) with half delta (cos, sin)(2 angle) = -(a, b) / (pi lambda)
    cos, sin = -a / (np.pi * lam), -b / (np.pi * lam)
    grids = [CubicGrid.constant(v) for v in (2e-4 * np.hypot(cos, sin), np.rad2deg(0.5 * np.arctan2(sin, cos)))]
    terms = ctf_terms(a_series(Optics(300.0, defocus_delta_um=grids[0], defocus_angle_deg=grids[1])), X, Y)
    astigmatism = terms.a2 * (terms.astig_A[0, 0] * terms.cos2 + terms.astig_A[0, 1] * terms.sin2)
    np.testing.assert_allclose(even - plain, astigmatism, rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- the kernel


def tables_of(optics: Optics, grid_px: int = 2 * BOX_PX, ewald: int = 0):
    species = Species("s", PIXEL_A, BOX_PX, 40.0, ewald=ewald)
    n = len(SAMPLES.kx)
    images = ParticleImages(
        SAMPLES,
        np.zeros((1, 2, n, 2), np.float32),
        np.ones((1, 2), bool),
        np.zeros((1, 2, 2)),
        np.ones((2, SAMPLES.n_rings)),
        np.full(2, n),
    )
    return kernel_tables(a_series(optics), species, images, grid_px, ONE)


def test_magnification_acts_on_the_coordinates_of_the_slice():
    """Rows KX, KY are M q in grid units; QX, QY, the CTF and the aberrations take q itself."""
    m = np.array([[1.006, -0.004], [0.009, 0.98]])
    optics = Optics(magnification=m, zernike_odd=tuple(ODD_VALUES), zernike_even=tuple(EVEN_VALUES))
    plain = Optics(zernike_odd=tuple(ODD_VALUES), zernike_even=tuple(EVEN_VALUES))
    got, without = tables_of(optics), tables_of(plain)
    to_grid = 2 * BOX_PX * PIXEL_A
    # float32 of numbers up to 48
    np.testing.assert_allclose(got.tables[KX], (1.006 * X - 0.004 * Y) * to_grid, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.tables[KY], (0.009 * X + 0.98 * Y) * to_grid, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.tables[QX], X, rtol=1e-6)
    np.testing.assert_allclose(got.tables[QY], Y, rtol=1e-6)
    others = [row for row in range(N_TABLES) if row not in (KX, KY)]
    np.testing.assert_array_equal(got.tables[others], without.tables[others])
    np.testing.assert_array_equal(got.fixed, without.fixed)


def test_the_weight_holds_the_whole_envelope():
    """B of tilt and series, and the anisotropy, written out; the amplitude scale is not part of it."""
    b, delta, angle = np.array([-30.0, -70.0]), np.array([12.0, -25.0]), np.array([20.0, 75.0])
    grids = (CubicGrid.per_tilt(values) for values in (b, delta, angle))
    weights = DoseWeights(*grids, weight=CubicGrid.per_tilt(np.array([0.9, 0.5])), series_bfactor=-16.0)
    series = replace(a_series(Optics()), weights=weights)
    images = ParticleImages(
        SAMPLES,
        np.zeros((1, 2, len(X), 2), np.float32),
        np.ones((1, 2), bool),
        np.zeros((1, 2, 2)),
        np.full((2, SAMPLES.n_rings), 4.0),  # noise power: amplitudes are halved
        np.full(2, len(X)),
    )
    got = kernel_tables(series, Species("s", PIXEL_A, BOX_PX, 40.0), images, 2 * BOX_PX, ONE).weight
    for t in range(2):
        total = b[t] - 16.0 + delta[t] * np.cos(2 * (np.arctan2(Y, X) - np.deg2rad(angle[t])))
        np.testing.assert_allclose(got[t], 0.5 * np.exp(total * R2 / 4), rtol=1e-6)  # float32


def test_an_image_twice_as_large_takes_half_the_frequencies():
    """The transform of a magnified particle is narrower: F(2 q), so M = 2 finds it in the reference, 1/2 does not."""
    width = 2.0  # A
    shown = np.exp(-2 * np.pi**2 * (2 * width) ** 2 * R2).astype(complex)
    score = {s: agreement(shown, Optics(magnification=s * np.eye(2)), width) for s in (0.5, 1.0, 2.0)}
    # the trilinear reading of the Gaussian costs less than a thousandth
    assert score[2.0] > 0.999
    assert score[1.0] < 0.95
    assert score[0.5] < score[1.0]


@pytest.mark.parametrize("ewald", [0, 1])
def test_samples_outside_of_the_grid_have_no_weight(ewald):
    """A magnification that takes samples beyond the grid leaves them out, at coordinates that exist."""
    inside, beyond = tables_of(Optics(), ewald=ewald), tables_of(Optics(magnification=1.5 * np.eye(2)), ewald=ewald)
    assert (inside.weight > 0).all()
    reach = 1.5 * np.sqrt(R2) * 2 * BOX_PX * PIXEL_A
    out = reach > BOX_PX + 1
    assert out.sum() > 100
    assert not beyond.weight[:, out].any()
    assert (beyond.weight[:, reach < BOX_PX - 1] > 0).all()
    # kernels read the cells at and after floor(k): the grid reaches one plane beyond half its box
    assert np.hypot(beyond.tables[KX], beyond.tables[KY]).max() < BOX_PX + 0.5


def gaussian_grid(width_A: float, n: int) -> np.ndarray:
    """(1, n + 3, n + 3, n // 2 + 2, 2) transform of a Gaussian ball on the grid that the kernel reads."""
    k = np.arange(n + 3) - (n + 3) // 2
    x = np.arange(n // 2 + 2)
    k2 = k[:, None, None] ** 2 + k[None, :, None] ** 2 + x[None, None] ** 2
    grid = np.zeros((1, *k2.shape, 2), np.float32)
    grid[0, ..., 0] = np.exp(-2 * np.pi**2 * width_A**2 * k2 / (n * PIXEL_A) ** 2)
    return grid


def agreement(image: np.ndarray, optics: Optics, width_A: float) -> float:
    """Correlation that the kernel finds between an image (samples,) complex, which still lacks the CTF, and its model.

    The CTF is that of plain optics: a pure phase shift of half a turn makes it 1 everywhere.
    """
    n = 4 * BOX_PX
    table = tables_of(optics, n)
    data = np.stack([image.real, image.imag], -1).astype(np.float32)
    quarter = np.full_like(table.fixed, -0.25)  # -sin(-pi / 2) = 1
    out = np.zeros((1, 1, n_out(0)))
    flat = np.zeros((1, 1), np.float32)
    compare(
        gaussian_grid(width_A, n),
        np.zeros(1, np.int64),
        data[None, None],
        np.ones((1, 1), bool),
        np.eye(3, dtype=np.float32)[None, None],
        np.zeros((1, 1, 2), np.float32),
        flat,
        np.zeros((1, 2), np.float32),
        quarter[:1],
        (table.weight[:1] > 0).astype(np.float32),
        np.zeros((1, 1), np.int64),
        np.array([len(X)]),
        table.tables,
        False,
        np.zeros(0, np.int64),
        np.zeros((0, len(X)), np.float32),
        out,
    )
    xm, mm = out[0, 0, 0], out[0, 0, 1 + N_LOCAL]
    return float(xm / np.sqrt(mm * (data.astype(np.float64) ** 2).sum()))


def relion_phase(beam_tilt_mrad: tuple[float, float], cs_mm: float, lam: float) -> np.ndarray:
    """Phase by which RELION multiplies an ideal image for rlnBeamTiltX/Y: -2 pi Cs lambda^2 q^2 (q . tilt)."""
    tilt = 1e-3 * np.array(beam_tilt_mrad)
    return -2 * np.pi * cs_mm * 1e7 * lam**2 * R2 * (X * tilt[0] + Y * tilt[1])


def relion_odd_zernike(beam_tilt_mrad: tuple[float, float], cs_mm: float, lam: float) -> tuple[float, ...]:
    """rlnOddZernike of the same beam tilt: r^2 x = (Z31 + 2 Z11) / 3, and y alike."""
    x, y = (-2 * np.pi * cs_mm * 1e7 * lam**2 * 1e-3 * tilt for tilt in beam_tilt_mrad)
    return (2 * y / 3, 2 * x / 3, 0.0, y / 3, x / 3, 0.0)


def test_relions_odd_terms_have_the_other_sign():
    """RELION's image is the ideal one times exp(+i phi); ours, as Warp's, is it times exp(-i phi).

    So rlnOddZernike enters with its sign turned: then data times exp(+i phi) are free of the aberration, and the
    kernel, which puts it on the model, finds the image again.
    """
    tilt, cs, lam, width = (0.6, -0.35), 2.7, wavelength(300.0), 1.0
    phase = relion_phase(tilt, cs, lam)
    theirs = relion_odd_zernike(tilt, cs, lam)
    by_zernike = sum(value * poly for value, (_, poly) in zip(theirs, ODD_BY_HAND, strict=False))
    np.testing.assert_allclose(by_zernike, phase, rtol=0, atol=1e-12)
    assert np.abs(phase).max() > 1.5  # strong enough to tell the signs apart

    ideal = np.exp(-2 * np.pi**2 * width**2 * R2)
    image = ideal * np.exp(1j * phase)
    ours = Optics(zernike_odd=tuple(-value for value in theirs))
    odd = 2 * np.pi * ctf_terms(a_series(ours), X, Y).odd
    np.testing.assert_allclose(image * np.exp(1j * odd), ideal, rtol=0, atol=1e-12)
    np.testing.assert_allclose(tables_of(ours).tables[ODD], odd / (2 * np.pi), rtol=0, atol=1e-6)

    found = agreement(image, ours, width)
    wrong = agreement(image, Optics(zernike_odd=theirs), width)
    none = agreement(image, Optics(), width)
    # the trilinear reading of the Gaussian costs less than a thousandth
    assert found > 0.999
    assert none < 0.97
    assert wrong < none
