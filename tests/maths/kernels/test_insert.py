"""Insertion is the adjoint of the slice, in whole numbers.

The adjoint is tested with view matrices of sixteenths: places in the grid and trilinear weights then are exact in
float32, and only the rounding of contributions to the fixed point is left.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_slices import grid_points, inner, trilinear

from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.kernels.compare import EWALD, N_TABLES, ODD, OVERLAP
from mpr_dist.maths.kernels.insert import insert
from mpr_dist.maths.rotations import euler_to_matrix

N = 20  # accumulators hold frequencies up to N/2 + 1
SCALE = 2.0**28
SAMPLES = box_samples(16, 1.0, 0.5)
COUNT = len(SAMPLES.kx)


def tables():
    """Frequencies in grid units; no phase depends on defocus."""
    out = np.zeros((N_TABLES, COUNT), np.float32)
    out[2], out[3] = SAMPLES.kx, SAMPLES.ky
    return out


def accumulators():
    return np.zeros((2, N + 3, N + 3, N // 2 + 2, 3), np.int64)


def add(
    sums,
    half,
    images,
    views,
    weight=None,
    fixed=None,
    active=None,
    n_samples=None,
    scale=SCALE,
    table=None,
    is_curved=False,
):
    """Insert images (particles, tilts, samples, 2); by default the CTF, -sin(2 pi fixed), is exactly 1."""
    n_p, n_t = images.shape[:2]
    return insert(
        sums,
        np.asarray(half, np.int8),
        images.astype(np.float32),
        np.ones((n_p, n_t), bool) if active is None else active,
        views.astype(np.float32),
        np.zeros((n_p, n_t), np.float32),
        np.zeros((n_t, 2), np.float32),
        np.full((n_t, COUNT), -0.25, np.float32) if fixed is None else fixed.astype(np.float32),
        np.ones((n_t, COUNT), np.float32) if weight is None else weight.astype(np.float32),
        np.ascontiguousarray(np.broadcast_to(np.arange(n_t), (n_p, n_t))),
        np.full(n_t, COUNT) if n_samples is None else n_samples,
        tables() if table is None else table,
        is_curved,
        scale,
    )


def random_images(rng, n_p=2, n_t=2):
    return rng.standard_normal((n_p, n_t, COUNT, 2)).astype(np.float32)


def random_views(rng, n_p=2, n_t=2):
    """Matrices of sixteenths with rows short enough that no sample (|k| < 8) leaves the grid (10)."""
    return rng.integers(-11, 12, (n_p, n_t, 3, 3)) / 16.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_insertion_is_the_adjoint_of_the_slice(seed):
    """<slice(V), Y> = <V, insert(Y)> for every V on the stored half, up to half a unit per contribution."""
    rng = np.random.default_rng(seed)
    volume = rng.standard_normal((N + 3, N + 3, N // 2 + 2)) + 1j * rng.standard_normal((N + 3, N + 3, N // 2 + 2))
    images, views = random_images(rng), random_views(rng)
    sums = accumulators()
    add(sums, [0, 1], images, views)
    inserted = (sums[..., 0] + 1j * sums[..., 1]).sum(axis=0) / SCALE
    forward = 0.0
    data = images.astype(np.float64)
    for p, t in np.ndindex(2, 2):
        points = grid_points(views[p, t], SAMPLES.kx, SAMPLES.ky)
        forward += inner(trilinear(volume, points), data[p, t, :, 0] + 1j * data[p, t, :, 1])
    # 8 cells, real and imaginary part, each rounded by at most half a unit and multiplied by a part of V
    bound = 4 * COUNT * 8 * 2 * 0.5 / SCALE * np.abs([volume.real, volume.imag]).max()
    assert abs(forward - inner(volume, inserted)) < bound + 1e-10  # and the rounding of double-precision sums


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_slice_and_insertion_of_a_whole_transform(seed):
    """For the transform of a real map the law holds over all of space; the plane x = 0 counts once."""
    rng = np.random.default_rng(seed)
    volume = rng.standard_normal((N + 3, N + 3, N // 2 + 2)) + 1j * rng.standard_normal((N + 3, N + 3, N // 2 + 2))
    volume[:, :, 0] += volume[::-1, ::-1, 0].conj()  # Hermitian
    images, views = random_images(rng, 1, 1), random_views(rng, 1, 1)
    sums = accumulators()
    add(sums, [0], images, views)
    inserted = (sums[0, ..., 0] + 1j * sums[0, ..., 1]) / SCALE
    inserted[:, :, 0] += inserted[::-1, ::-1, 0].conj()  # what the mates of the samples add to the plane
    whole = 2 * inner(volume[:, :, 1:], inserted[:, :, 1:]) + inner(volume[:, :, 0], inserted[:, :, 0])
    data = images[0, 0].astype(np.float64)
    points = grid_points(views[0, 0], SAMPLES.kx, SAMPLES.ky)
    both = 2 * inner(trilinear(volume, points), data[:, 0] + 1j * data[:, 1])
    bound = 2 * COUNT * 8 * 2 * 0.5 / SCALE * np.abs([volume.real, volume.imag]).max()  # as above, twice
    assert abs(whole - both) < bound + 1e-10


def test_a_real_view_inserts_where_it_slices():
    """With rotations the law holds to float32 places in the grid."""
    rng = np.random.default_rng(2)
    volume = rng.standard_normal((N + 3, N + 3, N // 2 + 2)) + 1j * rng.standard_normal((N + 3, N + 3, N // 2 + 2))
    images, views = random_images(rng), euler_to_matrix(rng.uniform(-180, 180, (2, 2, 3)))
    sums = accumulators()
    add(sums, [0, 0], images, views)
    forward = 0.0
    for p, t in np.ndindex(2, 2):
        points = grid_points(views[p, t], SAMPLES.kx, SAMPLES.ky)
        forward += inner(trilinear(volume, points), images[p, t, :, 0] + 1j * images[p, t, :, 1].astype(np.float64))
    backward = inner(volume, (sums[0, ..., 0] + 1j * sums[0, ..., 1]) / SCALE)
    # float32 places are off by 1e-6 grid units, where the slice changes by a few per unit; errors add in quadrature
    assert abs(forward - backward) < 1e-5 * np.linalg.norm(images)
    assert not sums[1].any()


def test_values_and_weights_are_w_c_x_and_w_c_squared():
    """One sample at a grid point adds w C X and (w C)^2 there and nothing elsewhere."""
    images = np.zeros((1, 1, COUNT, 2), np.float32)
    images[0, 0, 0] = 3.0, -2.0
    fixed, weight = np.full((1, COUNT), -1 / 12), np.full((1, COUNT), 0.5)  # C = -sin(-30 degrees) = 1/2
    sums = accumulators()
    largest = add(sums, [1], images, np.eye(3)[None, None], weight, fixed, n_samples=np.array([1]))
    centre = (N + 3) // 2
    cell = sums[1, centre, SAMPLES.ky[0] + centre, SAMPLES.kx[0]]
    np.testing.assert_allclose(cell / SCALE, [0.75, -0.5, 0.0625], rtol=2e-7)  # the sine is one of float32
    assert np.count_nonzero(sums) == 3
    np.testing.assert_allclose(largest / SCALE, [0.0, 0.75], rtol=2e-7)


def test_the_order_of_particles_changes_no_bit():
    """Shuffled particles, or the same in two calls, give identical accumulators."""
    rng = np.random.default_rng(3)
    images, views, half = random_images(rng, 6, 3), random_views(rng, 6, 3), np.array([0, 1, 1, 0, 1, 0])
    first, shuffled, split = accumulators(), accumulators(), accumulators()
    add(first, half, images, views)
    order = rng.permutation(6)
    add(shuffled, half[order], images[order], views[order])
    for part in (order[:2], order[2:]):
        add(split, half[part], images[part], views[part])
    assert first.any()
    assert first.tobytes() == shuffled.tobytes() == split.tobytes()


def test_twice_is_exactly_double():
    """Inserting the same again doubles every number; inserting the negative leaves the weights only."""
    rng = np.random.default_rng(4)
    images, views = random_images(rng), random_views(rng)
    once, twice, opposite = accumulators(), accumulators(), accumulators()
    add(once, [0, 1], images, views)
    for _ in range(2):
        add(twice, [0, 1], images, views)
    np.testing.assert_array_equal(twice, 2 * once)
    add(opposite, [0, 1], images, views)
    add(opposite, [0, 1], -images, views)
    assert not opposite[..., :2].any()
    np.testing.assert_array_equal(opposite[..., 2], 2 * once[..., 2])


@pytest.mark.parametrize("exponent", [4, 12, 28])
def test_the_fixed_point_is_off_by_half_a_unit_per_contribution(exponent):
    """Sums in coarse units differ from those in fine ones by at most half a unit for each of the values added."""
    rng = np.random.default_rng(5)
    images, views = random_images(rng), random_views(rng)
    fine, coarse, touched = accumulators(), accumulators(), accumulators()
    add(fine, [0, 1], images, views, scale=2.0**40)
    add(coarse, [0, 1], images, views, scale=2.0**exponent)
    # how many contributions a cell gets: at most those of the samples within one grid unit of it
    for p, t in np.ndindex(2, 2):
        points = grid_points(views[p, t], SAMPLES.kx, SAMPLES.ky)
        points = np.where(points[:, :1] < 0, -points, points) + np.array([0, (N + 3) // 2, (N + 3) // 2])
        for corner in np.ndindex(2, 2, 2):
            x, y, z = (np.floor(points).astype(int) + corner).T
            np.add.at(touched, (p, z, y, x), 1)
    error = np.abs(coarse / 2.0**exponent - fine / 2.0**40)
    assert (error <= touched * (0.5 * 2.0**-exponent + 0.5 * 2.0**-40)).all()
    assert error.max() > 0


def test_the_largest_contribution_is_reported():
    """The return value is the largest |w C X| or (w C)^2 of each half, in units of the fixed point."""
    rng = np.random.default_rng(6)
    images = random_images(rng)
    largest = add(accumulators(), [0, 1], images, random_views(rng))
    expected = np.maximum(np.abs(images).max(axis=(1, 2, 3)), 1.0)
    np.testing.assert_array_equal(largest, expected.astype(np.float64) * SCALE)


def test_inactive_images_and_trailing_samples_add_nothing():
    """What is not active, and samples beyond n_samples, leave no trace."""
    rng = np.random.default_rng(7)
    images, views = random_images(rng), random_views(rng)
    active, n_samples = np.array([[True, False], [True, True]]), np.array([COUNT, 50])
    expected, found = accumulators(), accumulators()
    cut = images.copy()
    cut[:, 1, 50:] = 0
    add(expected, [0, 1], cut, views, active=active, n_samples=n_samples)
    images[0, 1], images[:, 1, 50:] = np.nan, np.nan
    add(found, [0, 1], images, views, active=active, n_samples=n_samples)
    np.testing.assert_array_equal(found, expected)
    none = accumulators()
    add(none, [0, 1], images, views, active=np.zeros((2, 2), bool))
    assert not none.any()


def test_odd_phases_are_taken_out_of_the_data():
    """Data times exp(+i phi) with no aberration and the data with it leave the same sums, to float32."""
    rng = np.random.default_rng(3)
    images, views = random_images(rng), random_views(rng)
    table = tables()
    table[ODD] = rng.uniform(-1, 1, COUNT)
    turned = (images[..., 0] + 1j * images[..., 1]) * np.exp(2j * np.pi * table[ODD].astype(float))
    one, two = accumulators(), accumulators()
    add(one, [0, 1], images, views, table=table)
    add(two, [0, 1], np.stack([turned.real, turned.imag], -1), views)
    assert np.abs(one - two).max() < 1e-5 * np.abs(two).max()


def test_both_sidebands_at_height_zero_are_the_flat_slice():
    """A curved sphere without curvature adds what the flat one adds: the two halves of a cosine."""
    rng = np.random.default_rng(4)
    images, views = random_images(rng), random_views(rng)
    fixed = rng.uniform(-1, 1, (2, COUNT))
    table = tables()
    table[OVERLAP] = 1.0
    one, two = accumulators(), accumulators()
    add(one, [0, 1], images, views, fixed=fixed)
    add(two, [0, 1], images, views, fixed=fixed, table=table, is_curved=True)
    assert np.abs(one - two).max() < 1e-5 * np.abs(one).max()


def test_sidebands_are_the_adjoint_of_the_curved_model():
    """<X, model of V> = <sums of X, V> for any transform V: the two-sideband slice and its insertion are adjoint."""
    rng = np.random.default_rng(5)
    images, views = random_images(rng, 1, 1), random_views(rng, 1, 1)
    fixed = rng.uniform(-1, 1, (1, COUNT))
    table = tables()
    table[EWALD] = np.rint(16 * rng.uniform(-1, 1, COUNT)) / 16
    sums = accumulators()
    add(sums, [0], images, views, fixed=fixed, table=table, is_curved=True)
    volume = rng.standard_normal((*sums.shape[1:4], 2))
    transform = volume[..., 0] + 1j * volume[..., 1]
    view, wave = views[0, 0].astype(float), np.exp(2j * np.pi * fixed[0].astype(np.float32).astype(float))
    up, down = (trilinear(transform, grid_points(view, table[2], table[3], s * table[EWALD])) for s in (1, -1))
    model = 0.5j * (wave * up - wave.conj() * down)
    data = images[0, 0, :, 0] + 1j * images[0, 0, :, 1].astype(float)
    found = float((sums[0, ..., :2] * volume).sum()) / SCALE
    # sin and cos in float32, 1e-7 of the sizes
    assert abs(found - inner(data, model)) < 1e-5 * np.linalg.norm(data) * np.linalg.norm(model)
