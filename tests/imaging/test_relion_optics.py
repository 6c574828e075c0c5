"""Beam tilt and magnification of RELION's optics groups in our terms, against the physics of a stretched image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_relion_geometry import TILTS, relion_tilts

from mpr_dist.errors import InputError
from mpr_dist.imaging.ctf import ctf, ctf_terms
from mpr_dist.imaging.relion_optics import mapped_defocus
from mpr_dist.imaging.relion_series import series_of
from mpr_dist.maths.zernike import even_terms, odd_terms, of_mapped_frequencies, zernike
from mpr_dist.model.optics import Optics
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.relion_aberrations import Aberrations, aberrations_of
from mpr_dist.units import wavelength_A

STRETCH = np.array([[1.03, 0.02], [-0.01, 0.98]])
U, V, ANGLE, BEAM, ODD = 21000.0, 19500.0, 35.0, (1.1, -0.7), (0.4, -0.8, 12.0, 3.0, -7.0, 20.0)


def some_frequencies(n: int = 400, reach: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(3)
    q = rng.uniform(-reach, reach, (2, n))
    return q[:, np.hypot(*q) < reach]


def of_table(**columns: object) -> Aberrations:
    given = {"rlnSphericalAberration": 2.7, "rlnVoltage": 300.0, **columns}
    (found,) = aberrations_of(Columns(Path("particles.star"), pd.DataFrame([given])))
    return found


def stretched(matrix: np.ndarray) -> dict[str, float]:
    return {f"rlnMagMat{i}{j}": float(matrix[i, j]) for i in range(2) for j in range(2)}


def the_table(matrix: np.ndarray) -> Aberrations:
    text = str(list(ODD)).replace(" ", "")
    return of_table(rlnOddZernike=text, rlnBeamTiltX=BEAM[0], rlnBeamTiltY=BEAM[1], **stretched(matrix))


@pytest.mark.parametrize(("parity", "terms"), [(1, odd_terms(5)), (0, even_terms(4)), (1, odd_terms(3))])
def test_polynomials_at_mapped_frequencies(parity: int, terms: tuple[tuple[int, int], ...]) -> None:
    """The new coefficients give at q what the old ones give at M q; for even ones but for a constant."""
    q, c = some_frequencies(reach=1.0), np.random.default_rng(1).normal(size=len(terms))
    at_mapped = sum(a * zernike(n, m, *(STRETCH @ q)) for a, (n, m) in zip(c, terms, strict=True))
    found = of_mapped_frequencies(tuple(c), parity, STRETCH)
    at_q = sum(a * zernike(n, m, *q) for a, (n, m) in zip(found, terms, strict=True))
    difference = at_q - at_mapped
    assert np.ptp(difference) < 1e-12
    assert parity == 0 or np.abs(difference).max() < 1e-12
    assert np.ptp(at_mapped) > 1
    back = of_mapped_frequencies(found, parity, np.linalg.inv(STRETCH))
    np.testing.assert_allclose(back, c, atol=1e-11)


@pytest.mark.parametrize(("u", "v"), [(21000.0, 19500.0), (19500.0, 21000.0), (-3000.0, 2000.0)])
def test_defocus_at_mapped_frequencies(u: float, v: float) -> None:
    """The defocus term of gamma at q is that of RELION at M q; and back, U and V keep their names."""
    one = (np.array([u]), np.array([v]), np.array([170.0]))
    q, flat = some_frequencies(), Optics(cs_mm=0.0)

    def turns(k: np.ndarray, u: np.ndarray, v: np.ndarray, angle: np.ndarray) -> np.ndarray:
        around = np.arctan2(k[1], k[0]) - np.deg2rad(angle)
        return (k**2).sum(0) * (u + v + (u - v) * np.cos(2 * around)) / 2 * flat.wavelength_A / 2

    mapped = mapped_defocus(*one, STRETCH)
    np.testing.assert_allclose(turns(q, *mapped), turns(STRETCH @ q, *one), atol=1e-10)
    for a, b in zip(mapped_defocus(*mapped, np.linalg.inv(STRETCH)), one, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def observed(atoms_A: np.ndarray, weight: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The transform of a stretched image: a point at x lies at M' x, what is at q was at M q in the specimen.

    The microscope worked on the frequencies of the specimen: defocus, astigmatism, Cs, and the phase of RELION's beam
    tilt and odd coefficients.
    """
    k = STRETCH @ q
    ideal = np.exp(-2 * (np.pi * 1.0) ** 2 * (k**2).sum(0)) * (weight @ np.exp(-2j * np.pi * (atoms_A @ STRETCH @ q)))
    lam, tilt = wavelength_A(300.0), 1e-3 * np.array(BEAM)
    phase = -2 * np.pi * 2.7e7 * lam**2 * (k**2).sum(0) * (tilt @ k)
    phase = phase + sum(c * zernike(n, m, *k) for c, (n, m) in zip(ODD, odd_terms(3), strict=True))
    delta, mean = 1e-4 * (U - V), 1e-4 * (U + V) / 2
    return ideal * ctf(Optics(), k[0], k[1], mean, delta, ANGLE, 0.0) * np.exp(1j * phase)


def predicted(table: Aberrations, atoms_A: np.ndarray, weight: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What our model sees: a slice at M q, the optics at q, after the import of RELION's table."""
    relion = relion_tilts(
        defocus_u_A=np.full(TILTS, U), defocus_v_A=np.full(TILTS, V), defocus_angle_deg=np.full(TILTS, ANGLE)
    )
    made = series_of("TS", relion, (64, 64), (Path("a.mrc"),) * TILTS, table.matrix).series
    k = made.optics.magnification @ q
    ideal = np.exp(-2 * (np.pi * 1.0) ** 2 * (k**2).sum(0)) * (weight @ np.exp(-2j * np.pi * (atoms_A @ k)))
    o = made.optics
    defocus, delta, angle = (float(g.values[0, 0, 0]) for g in (o.defocus_um, o.defocus_delta_um, o.defocus_angle_deg))
    odd = ctf_terms(replace(made, optics=replace(o, zernike_odd=table.odd)), *q).odd
    return ideal * ctf(Optics(), q[0], q[1], defocus, delta, angle, 0.0) * np.exp(-2j * np.pi * odd)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b.conj()).real.sum() / np.sqrt((np.abs(a) ** 2).sum() * (np.abs(b) ** 2).sum()))


def test_a_stretched_image_is_predicted() -> None:
    """With rlnMagMat and rlnBeamTilt as they stand in the table, and not with the transpose or the inverse."""
    rng = np.random.default_rng(8)
    atoms, weight, q = rng.normal(0, 20, (40, 2)), rng.uniform(0.5, 1, 40), some_frequencies(4000)
    image = observed(atoms, weight, q)
    right = agreement(image, predicted(the_table(STRETCH), atoms, weight, q))
    # what is left is the change of the Cs term, at most 4 * 3 % of 0.8 rad at 5 A
    assert 1 - right < 1e-3
    wrong = [the_table(m) for m in (STRETCH.T, np.linalg.inv(STRETCH), np.linalg.inv(STRETCH).T, np.eye(2))]
    text = str(list(ODD))
    wrong += [of_table(rlnOddZernike=text, **stretched(STRETCH))]
    wrong += [of_table(rlnOddZernike=text, rlnBeamTiltX=-BEAM[0], rlnBeamTiltY=-BEAM[1], **stretched(STRETCH))]
    for table in wrong:
        assert 1 - agreement(image, predicted(table, atoms, weight, q)) > 20 * (1 - right)


def test_a_beam_tilt_is_added_to_odd_coefficients() -> None:
    """Twice the tilt is twice the phase, whether there is a list or not; without Cs it means nothing."""
    alone, both = of_table(rlnBeamTiltX=1.1, rlnBeamTiltY=-0.7), the_table(np.eye(2))
    assert np.allclose(np.array(both.odd) + ODD, alone.odd)
    assert np.allclose(of_table(rlnBeamTiltX=2.2, rlnBeamTiltY=-1.4).odd, 2 * np.array(alone.odd))
    assert of_table().odd == ()
    without = Columns(Path("p.star"), pd.DataFrame([{"rlnBeamTiltX": 1.0}]))
    assert aberrations_of(without) == [Aberrations()]


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), np.diag([1.0, -1.0]), np.diag([1.0, 40.0])])
def test_what_is_no_magnification_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(InputError, match="is no magnification"):
        of_table(**stretched(matrix))


def test_a_beam_tilt_needs_a_voltage() -> None:
    """Of 0 kV there is no wavelength; without a tilt nobody asks for one."""
    with pytest.raises(InputError, match="rlnVoltage: expected a positive value, got 0"):
        of_table(rlnVoltage=0.0, rlnBeamTiltX=1.0)
    assert of_table(rlnVoltage=0.0).odd == ()
