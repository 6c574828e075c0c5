"""Laws of simulated images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mpr_dist.errors import InputError
from mpr_dist.imaging import simulate as sim
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.phantom import Atoms, density, octahedral_phantom
from mpr_dist.imaging.project_atoms import projections
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, ImageWarp

PIXEL_A = 3.0


def a_series(angles=(0.0,), dose=(0.0,), optics=None, size_px=128, **changes) -> TiltSeries:
    n = len(angles)
    everything = np.ones(n, bool)
    edge = size_px * PIXEL_A
    return TiltSeries(
        name="TS_01",
        angle_deg=np.array(angles),
        dose=np.array(dose),
        axis_angle_deg=np.full(n, 85.0),
        axis_offset_A=np.tile([4.0, -7.0], (n, 1)),
        use_tilt=everything,
        active=everything,
        image_size_A=np.array([edge, edge]),
        volume_size_A=np.array([edge, edge, 300.0]),
        optics=optics or Optics(defocus_um=CubicGrid.constant(2.0)),
        **changes,
    )


def some_particles(position_A) -> Particles:
    position = np.atleast_2d(np.asarray(position_A, np.float64))
    n = len(position)
    angles = np.tile([30.0, 50.0, -70.0], (n, 1))
    return Particles(position, angles, np.ones(n, np.int8), np.arange(n))


POINT = Atoms(np.zeros((1, 3)), np.array([1000.0]), 4.0)


def test_projection_is_the_sum_of_the_map():
    """Along z, the projection equals the z-sum of the map: both are limited to one band (float32 voxels apart)."""
    atoms = octahedral_phantom(5)
    image = projections(atoms, np.eye(3)[None], np.zeros((1, 2)), 64, 2.5)[0]
    summed = density(atoms, 64, 2.5).sum(axis=0, dtype=np.float64) * 2.5
    np.testing.assert_allclose(image, summed, atol=3e-6 * image.max())


def test_projection_turns_by_the_view():
    """A turned projection equals the projection of turned atoms."""
    rng = np.random.default_rng(0)
    atoms = Atoms(rng.normal(0, 20, (40, 3)), rng.uniform(50, 100, 40), 2.0)
    view = euler_to_matrix([20.0, 40.0, 60.0])
    turned = Atoms(atoms.position_A @ view.T, atoms.weight, atoms.sigma_A)
    a = projections(atoms, view[None], np.zeros((1, 2)), 80, PIXEL_A)
    b = projections(turned, np.eye(3)[None], np.zeros((1, 2)), 80, PIXEL_A)
    np.testing.assert_allclose(a, b, atol=1e-6 * b.max())  # the tails beyond 6 sigma


def test_projection_moves_by_the_offset():
    """An offset moves the centre of mass by as much, x along columns and y along rows."""
    image = projections(POINT, np.eye(3)[None], np.array([[0.3, -0.45]]), 48, PIXEL_A)[0]
    y, x = np.indices(image.shape)
    # the blob's transform at Nyquist, where it is cut, is 1.5e-4
    np.testing.assert_allclose([(image * x).sum(), (image * y).sum()] / image.sum(), [24.3, 23.55], atol=2e-4)


def test_projection_does_not_depend_on_the_box():
    """A larger box shows the same picture: the cut at Nyquist rings, but its rings are those of the same function."""
    atoms = octahedral_phantom(5)
    small, large = (projections(atoms, np.eye(3)[None], np.zeros((1, 2)), n, 4.0)[0] for n in (64, 128))
    # between box sizes only the sampling of the sharp limit differs, which matters where its rings wrap round
    assert np.abs(large[32:96, 32:96] - small).std() < 0.01 * small.std()


def test_small_box_is_refused():
    """A box that cannot hold the particle is an error."""
    with pytest.raises(InputError, match="too small"):
        projections(octahedral_phantom(5), np.eye(3)[None], np.zeros((1, 2)), 24, PIXEL_A)


def test_particles_land_where_geometry_says(monkeypatch):
    """Without a CTF, the centre of mass of a point is at project(): tilt, axis offset and image warp included."""
    monkeypatch.setattr(sim, "_transfer", lambda terms, t, defocus: np.ones((len(defocus), terms.a2.size)))
    warp = ImageWarp(CubicGrid(np.full((1, 1, 1), 11.0)), CubicGrid(np.full((1, 1, 1), -6.0)))
    series = a_series((40.0, 0.0, -30.0), (6.0, 0.0, 3.0), image_warp=warp)
    particles = some_particles([150.0, 230.0, 220.0])
    expected = project(series, particles).xy_A[0] / PIXEL_A
    images = list(sim.contrast_images(series, particles, POINT, sim.Exposure(PIXEL_A)))
    y, x = np.indices(images[0].shape)
    found = [[(i * x).sum() / i.sum(), (i * y).sum() / i.sum()] for i in images]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_particles_are_seen_from_their_view(monkeypatch):
    """A particle of two unequal points appears turned by views(): the vector between them is that of the view."""
    monkeypatch.setattr(sim, "_transfer", lambda terms, t, defocus: np.ones((len(defocus), terms.a2.size)))
    series = a_series((40.0,), (0.0,))
    particles = some_particles([190.0, 200.0, 150.0])
    arm = np.array([12.0, -8.0, 15.0])
    atoms = Atoms(arm[None], np.array([1000.0]), 4.0)
    (image,) = sim.contrast_images(series, particles, atoms, sim.Exposure(PIXEL_A))
    y, x = np.indices(image.shape)
    found = np.array([(image * x).sum(), (image * y).sum()]) / image.sum() * PIXEL_A
    at = project(series, particles).xy_A[0, 0]
    expected = at + (views(series, particles)[0, 0] @ arm)[:2]
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_ctf_has_its_zeros():
    """The transform of a delta is the CTF: it vanishes where gamma is a multiple of pi and follows -sin(gamma)."""
    optics = Optics(defocus_um=CubicGrid.constant(1.5), amplitude=0.1)
    series = a_series(optics=optics, size_px=512)
    middle = some_particles(series.volume_size_A / 2)
    seen = project(series, middle)
    exposure = sim.Exposure(PIXEL_A)
    sharp = Atoms(np.zeros((1, 3)), np.array([1.0]), 0.8)
    (image,) = sim.contrast_images(series, middle, sharp, exposure)
    shift = np.exp(2j * np.pi * np.fft.rfftfreq(512, PIXEL_A) * seen.xy_A[0, 0, 0])
    line = (np.fft.rfft(image.sum(axis=0)) * shift).real * PIXEL_A**2  # the central line, ky = 0
    q = np.fft.rfftfreq(512, PIXEL_A)
    lam, z, cs = optics.wavelength_A, 1e4 * seen.defocus_um[0, 0], 2.7e7
    gamma = -np.pi * lam * z * q**2 + np.pi / 2 * cs * lam**3 * q**4 - np.arcsin(0.1)
    strength = 2 * sim.interaction_constant(300.0) * np.exp(-2 * (np.pi * 0.8 * q) ** 2)
    inner = q < 0.9 / (2 * PIXEL_A)
    np.testing.assert_allclose(line[inner], (-np.sin(gamma) * strength)[inner], atol=0.01 * strength[0])
    for n in range(1, 4):
        zero = np.argmin(np.abs(gamma + n * np.pi))
        assert abs(line[zero]) < 0.15 * strength[zero]
    assert line[0] == pytest.approx(0.1 * strength[0], rel=1e-3)


def test_height_changes_the_defocus():
    """Two particles at different heights get different CTFs: images differ by more than their positions."""
    series = a_series(size_px=256)
    low, high = (some_particles([384.0, 384.0, z]) for z in (50.0, 250.0))
    a, b = (next(sim.contrast_images(series, p, POINT, sim.Exposure(PIXEL_A))) for p in (low, high))
    assert np.abs(a - b).max() > 0.005 * np.abs(a).max()


def test_dose_and_scale_damp_as_stored():
    """Scale and B-factor of a tilt multiply the transform by scale * exp(B q^2 / 4)."""
    weights = DoseWeights(
        bfactor=CubicGrid.per_tilt(np.array([-0.0, -300.0])), weight=CubicGrid.per_tilt(np.array([1.0, 0.5]))
    )
    series = a_series((0.0, 0.0), (0.0, 30.0), weights=weights)
    particles = some_particles(series.volume_size_A / 2)
    first, second = (np.fft.rfft2(i) for i in sim.contrast_images(series, particles, POINT, sim.Exposure(PIXEL_A)))
    q2 = np.fft.fftfreq(128, PIXEL_A)[:, None] ** 2 + np.fft.rfftfreq(128, PIXEL_A) ** 2
    strong = np.abs(first) > 0.05 * np.abs(first).max()
    np.testing.assert_allclose(second[strong] / first[strong], (0.5 * np.exp(-75 * q2))[strong], atol=0.01)


def test_protein_is_dark():
    """In an average the middle of a particle has fewer electrons than the empty background."""
    series = a_series()
    particles = some_particles(series.volume_size_A / 2)
    x, y = np.rint(project(series, particles).xy_A[0, 0] / PIXEL_A).astype(int)
    atoms = Atoms(np.zeros((1, 3)), np.array([2e6]), 25.0)  # wide: only the positive low frequencies of the CTF
    exposure = sim.Exposure(PIXEL_A, dose_per_tilt=100.0)
    (image,) = sim.tilt_images(series, [(particles, atoms)], exposure, seed=1)
    assert image[y - 4 : y + 5, x - 4 : x + 5].mean() < 0.98 * exposure.electrons


def test_shot_noise_is_poisson():
    """Without particles the mean and the variance are the electrons per pixel, and counts are whole numbers."""
    exposure = sim.Exposure(PIXEL_A, dose_per_tilt=3.0, noise_only=True)
    series = a_series(size_px=256)
    (image,) = sim.tilt_images(series, [(some_particles(series.volume_size_A / 2), POINT)], exposure, seed=4)
    n = image.size
    assert image.mean() == pytest.approx(27.0, abs=5 * np.sqrt(27 / n))
    assert image.var() == pytest.approx(27.0, abs=5 * 27 * np.sqrt(2 / n))  # of a near-Gaussian variance
    np.testing.assert_array_equal(image, np.rint(image))


def test_images_do_not_depend_on_each_other():
    """The noise of a tilt is the same whichever tilts come before it, and differs between tilts and series."""
    exposure = sim.Exposure(PIXEL_A)
    series = a_series((0.0, 0.0), (0.0, 3.0))
    nobody = some_particles(np.zeros((0, 3)))
    one, two = (list(sim.tilt_images(series, [(nobody, POINT)], exposure, 9, index)) for index in (0, 1))
    again = list(sim.tilt_images(series, [(nobody, POINT)], exposure, 9, 0))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], two[0])


def test_images_do_not_depend_on_the_number_of_threads():
    """One thread or all of them: the same bits."""
    import numba

    series = a_series((20.0,), (0.0,))
    particles = some_particles([[150.0, 180.0, 150.0], [250.0, 220.0, 120.0]])
    atoms, exposure = octahedral_phantom(2), sim.Exposure(PIXEL_A)
    many = next(sim.contrast_images(series, particles, atoms, exposure))
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = next(sim.contrast_images(series, particles, atoms, exposure))
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(many, one)


def test_solvent_adds_contrast_through_the_ctf():
    """Solvent makes the background vary, and least where the CTF vanishes."""
    series = a_series(optics=Optics(defocus_um=CubicGrid.constant(1.5)), size_px=256)
    exposure = dataclasses.replace(sim.Exposure(PIXEL_A), solvent_rms=0.1)
    contrast = sim.solvent_contrast(series, 0, exposure, np.random.default_rng(0))
    power = np.abs(np.fft.rfft2(contrast)) ** 2
    qy, qx = np.fft.fftfreq(256, PIXEL_A)[:, None], np.fft.rfftfreq(256, PIXEL_A)[None]
    q = np.hypot(qx, qy)
    zero = np.sqrt((np.pi - np.arcsin(0.07)) / (np.pi * series.optics.wavelength_A * 1.5e4))  # gamma = -pi
    assert power[np.abs(q - zero) < 0.0005].mean() < 0.05 * power[np.abs(q - zero / np.sqrt(2)) < 0.002].mean()


def test_a_particle_outside_is_lost():
    """A particle far outside the image adds nothing; one at the edge adds what falls inside."""
    series = a_series()
    far, edge = some_particles([5000.0, 0.0, 150.0]), some_particles([192.0, 10.0, 150.0])
    assert not next(sim.contrast_images(series, far, POINT, sim.Exposure(PIXEL_A))).any()
    assert next(sim.contrast_images(series, edge, POINT, sim.Exposure(PIXEL_A))).any()


def test_interaction_constant():
    """The textbook values at 100, 200 and 300 kV, in rad / (kV A)."""
    found = [1e3 * sim.interaction_constant(v) for v in (100.0, 200.0, 300.0)]
    np.testing.assert_allclose(found, [0.9244, 0.7288, 0.6526], rtol=1e-3)


def test_senseless_exposures_are_refused():
    """A pixel, dose or contrast that cannot be is an error."""
    with pytest.raises(InputError):
        sim.Exposure(0.0)
    with pytest.raises(InputError):
        sim.Exposure(2.0, contrast=-1.0)
