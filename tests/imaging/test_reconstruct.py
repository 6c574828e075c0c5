"""Half-maps: the gate on images with known geometry, and the algebra of the sums."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mpr_dist.errors import MprError, SeriesError
from mpr_dist.imaging.geometry import project
from mpr_dist.imaging.particle_images import ParticleImages, load_particle_images
from mpr_dist.imaging.reconstruct import (
    LARGEST_CONTRIBUTION,
    LARGEST_SUM,
    FourierSums,
    accumulator_shape,
    backproject,
    fourier_sums,
    grid_px,
    solve_map,
)
from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights
from mpr_dist.storage.mrc import read_image, write_volume
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series

SMALL = Species("small", 3.0, 16, 30.0)
UNIT = 2.0**28


@pytest.mark.slow
def test_the_gate(shared, tmp_path):
    """Half-maps from exact geometry and default weights reach a mean truth FSC of 0.93 by an independent score."""
    data, pixel = shared / "data/apoferritin", 2.4
    species = Species("apoferritin", pixel, 108, 130.0, "O")
    sums = np.zeros(accumulator_shape(species), np.int64)
    for name in ("TS_01", "TS_02", "TS_03"):
        series = read_tilt_series(data / f"truth/{name}.xml", volume_size_A=None)
        series = replace(series, weights=DoseWeights())
        table = read_blocks(data / f"truth/{name}_particles.star")[""]
        particles = Particles(
            table[["x_A", "y_A", "z_A"]].to_numpy(float),
            table[["rot", "tilt", "psi"]].to_numpy(float),
            table["half"].to_numpy(np.int8),
            np.arange(len(table)),
        )

        def read_tilt(t, name=name):
            return read_image(data / f"warp_frameseries/average/{name}_{t:03d}.mrc"), pixel

        images = load_particle_images(series, species, particles, read_tilt, 0.5 / pixel, 0.05)
        backproject(sums, series, species, particles, images)
    paths = [tmp_path / "half1.mrc", tmp_path / "half2.mrc"]
    for path, half in zip(paths, sums, strict=True):
        write_volume(path, solve_map(fourier_sums(half, "O"), species), pixel)
    score = [sys.executable, shared / "tools/score.py", *paths, data / "truth/density.mrc", "--json"]
    found = json.loads(subprocess.run(score, check=True, capture_output=True, text=True).stdout)
    assert found["mean_truth_fsc"] >= 0.93
    assert found["half_fsc_0.143_A"] == pytest.approx(2 * pixel)


def a_problem(seed=0):
    """Two particles of either half in three tilts, with random images cut for where they are."""
    n_t, rng = 3, np.random.default_rng(seed)
    series = TiltSeries(
        name="TS_01",
        angle_deg=np.array([-30.0, 0.0, 30.0]),
        dose=np.array([3.0, 0.0, 6.0]),
        axis_angle_deg=np.full(n_t, 85.0),
        axis_offset_A=np.zeros((n_t, 2)),
        use_tilt=np.ones(n_t, bool),
        active=np.ones(n_t, bool),
        image_size_A=np.array([300.0, 300.0]),
        volume_size_A=np.array([300.0, 300.0, 100.0]),
        optics=Optics(defocus_um=CubicGrid.constant(1.0)),
    )
    particles = Particles(
        rng.uniform(40, 60, (4, 3)) + np.array([100.0, 100.0, 0.0]),
        rng.uniform(0, 180, (4, 3)),
        np.array([1, 2, 1, 2], np.int8),
        np.arange(4),
    )
    return series, particles, images_of(series, particles, rng)


def images_of(series, particles, rng):
    samples = box_samples(32, SMALL.pixel_size_A, 0.5 / SMALL.pixel_size_A)
    shape = (len(particles), series.n_tilts)
    return ParticleImages(
        samples,
        rng.standard_normal((*shape, len(samples.kx), 2)).astype(np.float32),
        np.ones(shape, bool),
        project(series, particles).xy_A,
        np.ones((series.n_tilts, samples.n_rings)),
        np.full(series.n_tilts, len(samples.kx)),
    )


def select(particles, images, rows):
    p, i = particles, images
    picked = Particles(p.position_A[rows], p.angles_deg[rows], p.half[rows], p.row[rows])
    return picked, replace(i, values=i.values[rows], active=i.active[rows], xy_A=i.xy_A[rows])


def empty():
    return np.zeros(accumulator_shape(SMALL), np.int64)


def random_sums(seed):
    return np.random.default_rng(seed).integers(-(2**32), 2**32, accumulator_shape(SMALL)[1:])


def turned(cube, matrix):
    """G'(k) = G(R k) of a whole odd cube [z, y, x], for a rotation that permutes the axes."""
    c = len(cube) // 2
    z, y, x = np.indices(cube.shape) - c
    kx, ky, kz = (sum(int(matrix[i, j]) * (x, y, z)[j] for j in range(3)) for i in range(3))
    return cube[kz + c, ky + c, kx + c]


def test_particles_may_come_in_any_order_and_number():
    """All particles at once, in turn, or backwards: the same bits; particles only touch their own half."""
    series, particles, images = a_problem()
    whole, parts = empty(), empty()
    backproject(whole, series, SMALL, particles, images)
    for rows in ([3, 1], [2], [0]):
        backproject(parts, series, SMALL, *select(particles, images, rows))
    assert whole.any(axis=(1, 2, 3, 4)).all()
    np.testing.assert_array_equal(whole, parts)
    first = empty()
    backproject(first, series, SMALL, *select(particles, images, [0, 2]))
    np.testing.assert_array_equal(first[0], whole[0])
    assert not first[1].any()


def test_a_contribution_out_of_range_fails_the_series():
    """Images so strong that the fixed point cannot hold them raise an error that names the series."""
    series, particles, images = a_problem()
    strong = replace(images, values=images.values * np.float32(1e5 * LARGEST_CONTRIBUTION))
    with pytest.raises(SeriesError, match="TS_01"):
        backproject(empty(), series, SMALL, particles, strong)
    broken = replace(images, values=np.full_like(images.values, np.inf))
    with pytest.raises(SeriesError, match="TS_01"):
        backproject(empty(), series, SMALL, particles, broken)


def test_images_cut_elsewhere_are_refused():
    """Images belong to the positions they were cut for: with other positions nothing is added."""
    series, particles, images = a_problem()
    sums = empty()
    with pytest.raises(MprError, match="other positions"):
        backproject(sums, series, SMALL, replace(particles, position_A=particles.position_A + 0.1), images)
    assert not sums.any()


def test_sums_out_of_range_are_refused():
    """An accumulator beyond 2^61, of either sign, stops with an error."""
    sums = empty()[0]
    for value in (LARGEST_SUM + 1, -LARGEST_SUM - 1):
        sums[3, 3, 3, 1] = value
        with pytest.raises(MprError, match="2\\^61"):
            fourier_sums(sums, "C1")
    sums[3, 3, 3, 1] = LARGEST_SUM
    assert fourier_sums(sums, "C1").numerator[3, 3, 3].imag == LARGEST_SUM / UNIT


def test_fixed_point_becomes_numbers():
    """Away from the plane x = 0, sums in C1 are the integers over 2^28."""
    sums = random_sums(0)
    found = fourier_sums(sums, "C1")
    np.testing.assert_array_equal(found.numerator[:, :, 1:], (sums[..., 0] + 1j * sums[..., 1])[:, :, 1:] / UNIT)
    np.testing.assert_array_equal(found.weight[:, :, 1:], sums[:, :, 1:, 2] / UNIT)


@pytest.mark.parametrize("symmetry", ["C1", "C3", "C4"])
def test_the_plane_x_0_is_hermitian(symmetry):
    """F(-k) = conj F(k) within the plane that holds both, and weights are even."""
    found = fourier_sums(random_sums(1), symmetry)
    plane, weight = found.numerator[:, :, 0], found.weight[:, :, 0]
    # values of up to 4 * 2^5, summed in another order
    np.testing.assert_allclose(plane, plane[::-1, ::-1].conj(), rtol=0, atol=1e-11)
    np.testing.assert_allclose(weight, weight[::-1, ::-1], rtol=0, atol=1e-11)
    assert np.abs(plane.imag).max() > 1


@pytest.mark.parametrize(("symmetry", "tolerance"), [("C1", 0.0), ("C3", 1e-11), ("O", 1e-11)])
def test_sums_are_additive(symmetry, tolerance):
    """The sums of two accumulators together are the sums of each, added: symmetry is linear."""
    a, b = random_sums(2), random_sums(3)
    both, one, two = (fourier_sums(x, symmetry) for x in (a + b, a, b))
    # exact without symmetry; otherwise products with weights round in double precision
    np.testing.assert_allclose(both.numerator, one.numerator + two.numerator, rtol=0, atol=tolerance)
    np.testing.assert_allclose(both.weight, one.weight + two.weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("symmetry", ["C2", "C4", "D2", "D4", "O"])
def test_a_symmetric_object_only_gains_weight(symmetry):
    """Sums that have the symmetry already are multiplied by its order, inside the sphere that every copy fills."""
    matrices, n = rotations(symmetry), accumulator_shape(SMALL)[1]
    c, rng = n // 2, np.random.default_rng(4)
    real, imaginary, weight = rng.integers(-(2**20), 2**20, (3, n, n, n))
    cubes = [real + real[::-1, ::-1, ::-1], imaginary - imaginary[::-1, ::-1, ::-1], weight + weight[::-1, ::-1, ::-1]]
    cubes = [sum(turned(cube, matrix) for matrix in matrices) for cube in cubes]
    half = np.stack(cubes, -1)[:, :, c:]
    # the accumulator's plane x = 0 holds each pair once or split in any way: here by halves
    stored = half.copy() * 2
    stored[:, :, 0] = half[:, :, 0]
    found = fourier_sums(stored, symmetry)
    z, y, x = np.indices(half.shape[:3]) - np.array([c, c, 0])[:, None, None, None]
    inside = x**2 + y**2 + z**2 <= (c - 1) ** 2
    order = len(matrices)
    np.testing.assert_array_equal(found.numerator.real[inside] * UNIT, 2 * order * half[inside, 0])
    np.testing.assert_array_equal(found.numerator.imag[inside] * UNIT, 2 * order * half[inside, 1])
    np.testing.assert_array_equal(found.weight[inside] * UNIT, 2 * order * half[inside, 2])


@pytest.mark.parametrize("symmetry", ["C3", "D3", "C7"])
def test_symmetry_is_that_of_the_group_in_between_grid_points(symmetry):
    """A smooth symmetric transform stays what it is, times the order, up to trilinear interpolation."""
    matrices, (_, nz, ny, nx, _) = rotations(symmetry), accumulator_shape(SMALL)
    c, width = nz // 2, 6.0
    z, y, x = np.indices((nz, ny, nx)) - np.array([c, c, 0])[:, None, None, None]
    k = np.stack([x, y, z], -1).astype(float)
    places = np.einsum("rij,j->ri", matrices, [0.03, 0.02, 0.025])
    # a few blobs in real space: their transform is a sum of phases under a Gaussian
    smooth = np.exp(-(k**2).sum(-1) / (2 * width**2)) * np.exp(-2j * np.pi * k @ places.T).sum(-1)
    stored = np.stack([smooth.real, smooth.imag, np.abs(smooth)], -1)
    stored[:, :, 0] /= 2
    found = fourier_sums(np.rint(stored * UNIT).astype(np.int64), symmetry).numerator / len(matrices)
    inside = (k**2).sum(-1) <= (c - 2) ** 2
    # linear interpolation is off by at most 1/8 of the second derivative along each axis: |f''| <= (1/width^2 +
    # (2 pi 0.036)^2) |f(0)|, three axes
    bound = 3 / 8 * (1 / width**2 + (2 * np.pi * 0.036) ** 2 + 2 * 2 * np.pi * 0.036 / width) * len(matrices)
    assert np.abs(found - smooth)[inside].max() < bound
    assert bound < 0.1 * len(matrices)


def test_a_map_is_the_inverse_transform_of_its_sums():
    """From numerator = F x weight the map comes back: even weights, weak floor, a blob well inside the box."""
    species, sigma = Species("blob", 3.0, 32, 60.0), 2.0
    n = grid_px(species)
    _, nz, ny, nx, _ = accumulator_shape(species)
    z, y, x = np.indices((nz, ny, nx)) - np.array([nz // 2, nz // 2, 0])[:, None, None, None]
    at = np.array([2.0, -1.0, 3.0])
    phase = np.exp(-2j * np.pi / n * (x * at[0] + y * at[1] + z * at[2]))
    # sums are in units of (transform of a projection) / box_px; trilinear insertion would have damped the edges
    transform = np.exp(-2 * (np.pi * sigma / n) ** 2 * (x**2 + y**2 + z**2)) * phase / species.box_px
    weight = np.full(transform.shape, 7.0)
    found = solve_map(FourierSums(transform * weight, weight), species, floor=0.05)
    grid = np.arange(32) - 16
    z, y, x = np.meshgrid(grid, grid, grid, indexing="ij")
    blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2) / (2 * sigma**2))
    blob /= (2 * np.pi * sigma**2) ** 1.5
    window = np.sinc(x / n) ** 2 * np.sinc(y / n) ** 2 * np.sinc(z / n) ** 2
    # the blob's transform at Nyquist is exp(-20), its tails at the edge of the soft sphere exp(-8) of the peak
    np.testing.assert_allclose(found, blob / window, atol=1e-3 * blob.max())


def test_unseen_cells_are_damped_not_blown_up():
    """Where hardly any image contributed, the result is smaller than numerator / weight, and nothing is not NaN."""
    _, nz, ny, nx, _ = accumulator_shape(SMALL)
    weight = np.full((nz, ny, nx), 1.0)
    weight[nz // 2 + 4, nz // 2, 2] = 1e-6
    numerator = np.zeros((nz, ny, nx), np.complex128)
    numerator[nz // 2 + 4, nz // 2, 2] = 1e-6
    weak = solve_map(FourierSums(numerator, weight), SMALL)
    weight[nz // 2 + 4, nz // 2, 2], numerator[nz // 2 + 4, nz // 2, 2] = 1.0, 1.0
    strong = solve_map(FourierSums(numerator, weight), SMALL)
    assert np.abs(weak).max() < 1e-3 * np.abs(strong).max()  # 1e-6 / (0.05 of the shell's mean) against 1
    nothing = solve_map(FourierSums(np.zeros((nz, ny, nx), np.complex128), np.zeros((nz, ny, nx))), SMALL)
    assert not nothing.any()


def test_accumulators_are_half_of_an_odd_cube():
    """Two halves, three parts; the centre is a cell, and every frequency of the box has a neighbour beyond it."""
    halves, nz, ny, nx, parts = accumulator_shape(SMALL)
    assert (halves, parts) == (2, 3)
    assert nz == ny == 2 * (nx - 1) + 1
    assert nx - 1 > grid_px(SMALL) // 2
