"""Planted optics, measured on the images themselves, and against formulas evaluated from the atoms."""

from __future__ import annotations

import numpy as np
import pytest
from test_simulate import PIXEL_A, POINT, a_series, some_particles

from mpr_dist.errors import InputError
from mpr_dist.imaging import simulate as sim
from mpr_dist.imaging.ctf import ewald_height
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.phantom import Atoms
from mpr_dist.imaging.project_atoms import projection_spectra, slab_spectra
from mpr_dist.imaging.spoiled import Bead, Spoiled, dirt_mask
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.warp import CubicGrid

STRETCH = np.array([[1.06, 0.05], [-0.02, 0.97]])
FOCUS = CubicGrid.constant(1.5)


@pytest.fixture
def no_ctf(monkeypatch) -> None:
    monkeypatch.setattr(sim, "_transfer", lambda terms, t, defocus: np.ones((*np.shape(defocus), terms.a2.size)))


def image_of(series, atoms, particles=None, **exposure) -> np.ndarray:
    particles = particles or some_particles(series.volume_size_A / 2)
    return next(sim.contrast_images(series, particles, atoms, sim.Exposure(PIXEL_A, **exposure)))


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (x, y) and covariance, in A and A^2."""
    y, x = np.indices(image.shape)
    r = PIXEL_A * np.stack([x.ravel(), y.ravel()])
    weight = image.ravel() / image.sum()
    centre = r @ weight
    return centre, (weight * (r - centre[:, None])) @ (r - centre[:, None]).T


def a_cloud(n: int = 200, radius_A: float = 50.0, sigma_A: float = 1.5) -> Atoms:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, 3))
    x *= (radius_A * rng.uniform(0, 1, n) ** (1 / 3) / np.linalg.norm(x, axis=1))[:, None]
    return Atoms(x, rng.uniform(50, 300, n), sigma_A)


def transform_of_atoms(atoms: Atoms, view: np.ndarray, k: np.ndarray) -> np.ndarray:
    """(samples,) F(A' k) summed over the atoms, k (samples, 3) in the image frame: no grid, no interpolation."""
    x = atoms.position_A @ view.T
    width = np.exp(-2 * (np.pi * atoms.sigma_A) ** 2 * (k**2).sum(1))
    return width * (np.exp(-2j * np.pi * (k @ x.T)) @ atoms.weight)


def frequencies(n: int, inside: float = 0.9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """qx, qy of an rfft of n px, and which samples lie well inside the band."""
    qx, qy = np.meshgrid(np.fft.rfftfreq(n, PIXEL_A), np.fft.fftfreq(n, PIXEL_A))
    return qx, qy, np.maximum(np.abs(qx), np.abs(qy)) < inside * 0.5 / PIXEL_A


def centred_transform(image: np.ndarray, series, particles=None) -> np.ndarray:
    """Transform (V A^3) of an image about where its only particle lies."""
    particles = particles or some_particles(series.volume_size_A / 2)
    x, y = project(series, particles).xy_A[0, 0]
    qx, qy, _ = frequencies(len(image))
    return np.fft.rfft2(image) * PIXEL_A**2 * np.exp(2j * np.pi * (qx * x + qy * y))


def test_magnification_moves_points_about_the_particle(no_ctf):
    """A point at x in the particle's image appears at M' x; the particle itself stays where it is."""
    series = a_series((20.0,), optics=Optics(defocus_um=FOCUS, magnification=STRETCH))
    particles = some_particles(series.volume_size_A / 2)
    at, view = project(series, particles).xy_A[0, 0], views(series, particles)[0, 0]
    for arm in ([25.0, -14.0, 9.0], [-11.0, 20.0, 28.0]):
        centre, _ = moments(image_of(series, Atoms(np.array([arm]), np.array([1000.0]), 4.0)))
        np.testing.assert_allclose(centre - at, STRETCH.T @ (view @ arm)[:2], atol=5e-3)
    centre, covariance = moments(image_of(series, POINT))
    np.testing.assert_allclose(centre, at, atol=5e-3)
    # a round blob becomes an ellipse; its covariance feels the ringing of the cut at Nyquist, 1.5e-4 of the peak
    np.testing.assert_allclose(covariance, 16.0 * STRETCH.T @ STRETCH, rtol=0.05, atol=0.1)


def test_magnified_projections_are_the_transform_at_Mq():
    """F(A' (Mq, 0)) from the atoms, at every frequency of the band."""
    atoms, view, n = a_cloud(), views(a_series(), some_particles(np.zeros(3)))[:, 0], 64
    found = projection_spectra(atoms, view, np.zeros((1, 2)), n, PIXEL_A, STRETCH)[0]
    qx, qy, inside = frequencies(n)
    q = np.stack([qx, qy])[:, inside]
    expected = transform_of_atoms(atoms, view[0], np.stack([*(STRETCH @ q), 0 * q[0]], 1))
    centred = found * np.exp(2j * np.pi * (qx + qy) * PIXEL_A * (n // 2))
    np.testing.assert_allclose(centred[inside] * PIXEL_A**2, expected, atol=1e-3 * np.abs(expected).max())


def test_first_order_terms_are_a_shift(no_ctf):
    """exp(-i c qx) moves the image by c / 2 pi: Warp's exp(+i phase) on the data moves it back."""
    zernike = (2 * np.pi * -4.0, 2 * np.pi * 7.0)  # (1, -1) is y, (1, 1) is x
    plain, moved = (a_series(optics=Optics(defocus_um=FOCUS, zernike_odd=z)) for z in ((), zernike))
    shift = moments(image_of(moved, POINT))[0] - moments(image_of(plain, POINT))[0]
    np.testing.assert_allclose(shift, [7.0, -4.0], atol=5e-3)


def test_beam_tilt_multiplies_the_transform_by_its_phase():
    """Coma of a tilted beam, 2 pi Cs lambda^2 q^2 (tilt . q), as microscopists write it, from Zernike terms 1 and 3."""
    cs_A, tilt_rad = 2.7e7, np.array([1.5e-3, -0.8e-3])
    lam = Optics().wavelength_A
    c = 2 * np.pi * cs_A * lam**2 * tilt_rad / 3
    zernike = (2 * c[1], 2 * c[0], 0.0, c[1], c[0], 0.0)
    plain, tilted = (a_series(optics=Optics(defocus_um=FOCUS, zernike_odd=z), size_px=256) for z in ((), zernike))
    atoms = a_cloud()
    ideal, real = (np.fft.rfft2(image_of(series, atoms)) for series in (plain, tilted))
    qx, qy, inside = frequencies(256)
    phase = 2 * np.pi * cs_A * lam**2 * (qx**2 + qy**2) * (tilt_rad[0] * qx + tilt_rad[1] * qy)
    assert np.abs(phase[inside]).max() > 1.0
    # what the box cuts off the spread image
    error = np.abs(real - ideal * np.exp(-1j * phase))[inside]
    assert np.sqrt((error**2).mean()) < 0.01 * np.sqrt((np.abs(ideal[inside]) ** 2).mean())


@pytest.mark.parametrize("phase_pi", [0.25, 0.5, 1.3])
def test_a_phase_plate_changes_the_lowest_frequency(phase_pi):
    """Without frequency, all that is left of the CTF is sin(pi phase + arc sine of the amplitude contrast)."""
    optics = Optics(amplitude=0.1, defocus_um=FOCUS, phase_shift_pi=CubicGrid.constant(phase_pi))
    total = image_of(a_series(optics=optics), POINT).sum() * PIXEL_A**2
    strength = 2 * sim.interaction_constant(300.0) * 1000.0
    assert total / strength == pytest.approx(np.sin(np.pi * phase_pi + np.arcsin(0.1)), abs=1e-3)


def test_even_terms_of_second_order_are_astigmatism():
    """c Z(2, +-2) in gamma is an astigmatism of delta/2 = -c / (pi lambda) A: the images are the same."""
    half_A, angle = 800.0, 25.0
    c = -np.pi * Optics().wavelength_A * half_A
    twice = np.deg2rad(2 * angle)
    zernike = Optics(defocus_um=FOCUS, zernike_even=(c * np.sin(twice), 0.0, c * np.cos(twice)))
    classic = Optics(
        defocus_um=FOCUS,
        defocus_delta_um=CubicGrid.constant(2e-4 * half_A),
        defocus_angle_deg=CubicGrid.constant(angle),
    )
    a, b = (image_of(a_series(optics=o, size_px=256), a_cloud()) for o in (zernike, classic))
    np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(a).max())  # boxes differ in size


def test_spherical_aberration_is_that_of_the_series():
    """Another Cs is another image: the ratio of the transforms is that of the two CTFs."""
    atoms = Atoms(np.zeros((1, 3)), np.array([1000.0]), 1.0)
    lines = []
    for cs_mm in (2.7, 6.0):
        optics = Optics(defocus_um=FOCUS, cs_mm=cs_mm)
        series = a_series(optics=optics, size_px=512)
        defocus_A = 1e4 * project(series, some_particles(series.volume_size_A / 2)).defocus_um[0, 0]
        q = np.fft.rfftfreq(512, PIXEL_A)
        gamma = np.pi * optics.wavelength_A * (-defocus_A * q**2 + 0.5e7 * cs_mm * optics.wavelength_A**2 * q**4)
        line = centred_transform(image_of(series, atoms), series)[0].real
        expected = -np.sin(gamma - np.arcsin(0.07)) * np.exp(-2 * (np.pi * q) ** 2)
        inner = q < 0.85 * 0.5 / PIXEL_A
        scale = 2 * sim.interaction_constant(300.0) * 1000.0
        # the sharp limit at Nyquist rings beyond the box
        np.testing.assert_allclose(line[inner] / scale, expected[inner], atol=0.02)
        lines.append(line[inner] / scale)
    assert np.abs(lines[0] - lines[1]).max() > 0.05


@pytest.mark.parametrize(("inverted", "ewald"), [(False, 1), (True, 1), (False, -1)])
@pytest.mark.parametrize("stretch", [np.eye(2), STRETCH])
def test_slabs_are_the_curved_ewald_sphere(inverted, ewald, stretch):
    """Slabs with CTFs of their own heights give (i/2) (exp(i gamma) F(q, +z) - exp(-i gamma) F(q, -z))."""
    optics = Optics(20.0, 2.7, 0.07, FOCUS, magnification=stretch)  # slow electrons: a strong curvature
    series = a_series((15.0,), optics=optics, size_px=256, are_angles_inverted=inverted)
    particles, atoms = some_particles(series.volume_size_A / 2), a_cloud()
    found = centred_transform(image_of(series, atoms, ewald=ewald), series)
    flat = centred_transform(image_of(series, atoms), series)
    qx, qy, inside = frequencies(256)
    q = np.stack([qx, qy])[:, inside]
    q2 = (q**2).sum(0)
    lam, view = optics.wavelength_A, views(series, particles)[0, 0]
    gamma = -np.pi * lam * 1e4 * project(series, particles).defocus_um[0, 0] * q2
    gamma += np.pi / 2 * 2.7e7 * lam**3 * q2**2 - np.arcsin(0.07)
    height = ewald * ewald_height(series, q2)
    up, down = (transform_of_atoms(atoms, view, np.stack([*(stretch @ q), s * height], 1)) for s in (1, -1))
    strength = 2 * sim.interaction_constant(20.0) * np.cos(np.deg2rad(15.0))  # the scale of a tilt that nobody fitted
    expected = strength * 0.5j * (np.exp(1j * gamma) * up - np.exp(-1j * gamma) * down)

    wrong = strength * 0.5j * (np.exp(1j * gamma) * down - np.exp(-1j * gamma) * up)

    def error(values):  # at high frequencies, where the sphere is far from flat
        far = q2 > 0.11**2
        return np.sqrt((np.abs(values - expected)[far] ** 2).mean() / (np.abs(expected[far]) ** 2).mean())

    assert error(found[inside]) < 0.02  # 1.4 % is left with slabs of any thickness: what the box cuts off
    assert error(flat[inside]) > 0.1
    assert error(wrong) > 0.2


def test_slabs_add_up_to_the_projection():
    """Heights and all: the sum over slabs is the projection; every slab holds the atoms of its height."""
    atoms, view = a_cloud(), views(a_series((30.0,)), some_particles(np.zeros(3)))[0, 0]
    offset = np.array([0.3, -0.4])
    whole = projection_spectra(atoms, view[None], offset[None], 64, PIXEL_A)[0]
    slabs, height = slab_spectra(atoms, view, offset, 64, PIXEL_A, 7.0)
    np.testing.assert_allclose(slabs.sum(0), whole, atol=1e-9 * np.abs(whole).max())
    z = atoms.position_A @ view[2]
    inside = [atoms.weight[np.abs(z - h) <= 3.5].sum() for h in height]
    np.testing.assert_allclose(slabs[:, 0, 0].real * PIXEL_A**2, inside, rtol=1e-6)


def test_a_moving_particle_is_seen_where_it_is(no_ctf):
    """Two samples along the dose: every tilt shows the particle at the place of its own dose."""
    series = a_series((0.0, 0.0, 0.0), (0.0, 30.0, 12.0))
    ends = series.volume_size_A / 2 + np.array([[0.0, 0.0, 0.0], [12.0, -8.0, 5.0]])
    particles = Particles(ends[None], np.zeros((1, 2, 3)), np.ones(1, np.int8), np.arange(1))
    found = [moments(i)[0] for i in sim.contrast_images(series, particles, POINT, sim.Exposure(PIXEL_A))]
    for t, share in enumerate((0.0, 1.0, 0.4)):
        still = some_particles(ends[0] + share * (ends[1] - ends[0]))
        np.testing.assert_allclose(found[t], project(series, still).xy_A[0, t], atol=5e-3)


def test_beads_are_dark_and_masked():
    """In the middle of a bead nothing arrives; the mask covers it and little else; other tilts are as without."""
    series, exposure = a_series((0.0, 0.0), (0.0, 3.0)), sim.Exposure(PIXEL_A)
    nobody = some_particles(np.zeros((0, 3)))
    bead = Bead(1, np.array([150.0, 240.0]), 45.0)
    clean, dirty = (
        list(sim.tilt_images(series, [(nobody, POINT)], exposure, 3, spoiled=Spoiled(beads))) for beads in ((), (bead,))
    )
    np.testing.assert_array_equal(clean[0], dirty[0])
    mask = dirt_mask((bead,), dirty[1].shape, PIXEL_A).astype(bool)
    assert dirty[1][80 - 8 : 80 + 9, 50 - 8 : 50 + 9].max() == 0
    assert dirty[1][~mask].mean() == pytest.approx(exposure.electrons, rel=0.01)
    assert mask.sum() * PIXEL_A**2 == pytest.approx(np.pi * (45.0 + 2 * PIXEL_A) ** 2, rel=0.05)


def test_a_blocked_tilt_shows_nothing_but_few_electrons():
    series, exposure = a_series((0.0, 0.0), (0.0, 3.0)), sim.Exposure(PIXEL_A, dose_per_tilt=30.0)
    strong = Atoms(np.zeros((1, 3)), np.array([2e6]), 25.0)
    specimen = [(some_particles(series.volume_size_A / 2), strong)]
    good, blocked = sim.tilt_images(series, specimen, exposure, 3, spoiled=Spoiled(blocked=(1,)))
    assert blocked.mean() == pytest.approx(0.1 * exposure.electrons, rel=0.01)
    assert blocked.var() == pytest.approx(blocked.mean(), rel=0.05)
    assert good[60:69, 60:69].mean() < 0.95 * exposure.electrons


def test_species_share_an_image():
    """Particles of two species darken the image together, each where it lies."""
    series, exposure = a_series((0.0,)), sim.Exposure(PIXEL_A, dose_per_tilt=1e4)
    a, b = (some_particles([x, 192.0, 150.0]) for x in (120.0, 260.0))
    strong = Atoms(np.zeros((1, 3)), np.array([2e5]), 8.0)
    (image,) = sim.tilt_images(series, [(a, strong), (b, strong)], exposure, 0)
    expected = sum(next(sim.contrast_images(series, p, strong, exposure)) for p in (a, b))
    noise = 1 / np.sqrt(exposure.electrons)
    assert (1 - image / exposure.electrons - expected).std() == pytest.approx(noise, rel=0.05)
    assert expected.std() > 5 * noise


def test_a_hand_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="ewald"):
        sim.Exposure(PIXEL_A, ewald=2)
