"""References: what is shared, what is filtered, and that slices of the transform are slices of the map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.imaging.reference import (
    filter_halves,
    half_map_fsc,
    map_scale,
    prepare_reference,
    projector_volume,
    use_mask,
    wiener_filter,
)
from mpr_dist.maths.fourier import shells, to_fourier
from mpr_dist.model.species import Species

N, PIXEL_A = 32, 3.0


def coordinates(n):
    x = np.arange(n) - n // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    return x, y, z


def gaussian(n, at, sigma):
    x, y, z = coordinates(n)
    return np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2) / (2 * sigma**2))


def curves_of(corrected, resolution_A) -> FscCurves:
    curve = np.asarray(corrected, np.float64)
    n = 2 * (len(curve) - 1)
    return FscCurves(PIXEL_A, n, curve, curve, 0 * curve, curve, len(curve), resolution_A)


def two_halves(seed=0, noise=0.3):
    """A few blobs, and independent noise in either half."""
    rng = np.random.default_rng(seed)
    signal = sum(gaussian(N, rng.uniform(-6, 6, 3), 1.3) for _ in range(12))
    halves = [(signal + noise * rng.standard_normal(signal.shape)).astype(np.float32) for _ in range(2)]
    return (*halves, gaussian(N, (0, 0, 0), 100.0) * (sum(c**2 for c in coordinates(N)) < 11**2))


def sample(volume, points):
    """Trilinear interpolation of a half-complex transform [z, y, x >= 0, re/im] at points with x >= 0."""
    c = volume.shape[0] // 2
    k = points + np.array([0, c, c])
    cell = np.floor(k).astype(int)
    f = k - cell
    out = 0
    for corner in np.ndindex(2, 2, 2):
        x, y, z = (cell + corner).T
        out = out + np.prod(np.where(corner, f, 1 - f), axis=1)[:, None] * volume[z, y, x]
    return out[:, 0] + 1j * out[:, 1]


@pytest.mark.parametrize(("grid", "at"), [(32, (0.0, 0.0, 0.0)), (32, (1.5, -2.0, 0.5)), (64, (3.0, -4.0, 2.0))])
def test_slices_are_the_analytic_transform(grid, at):
    """Interpolated values of a Gaussian's reference equal its transform / box, within the error of interpolation."""
    sigma = 2.0
    volume = projector_volume(gaussian(N, at, sigma).astype(np.float32), grid)
    assert volume.dtype == np.float32
    assert volume.shape == (grid + 3, grid + 3, grid // 2 + 2, 2)
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.5, 0.5, (500, 3)) * grid * 0.55
    points[:, 0] = np.abs(points[:, 0])
    peak = (2 * np.pi * sigma**2) ** 1.5 / N
    q = points / grid
    expected = peak * np.exp(-2 * (np.pi * sigma) ** 2 * (q**2).sum(-1)) * np.exp(-2j * np.pi * q @ np.array(at))
    # interpolation by weights w repeats the map every `grid` pixels; with the window divided out, all but the map
    # itself is f (1 / w - 1): its sum bounds the error at every frequency
    window = np.prod([np.sinc(c / grid) ** 2 for c in coordinates(N)], axis=0)
    bound = (gaussian(N, at, sigma) * (1 / window - 1)).sum() / N
    error = np.abs(sample(volume, points) - expected)
    assert error.max() < bound + 1e-5 * peak  # and float32
    assert bound < 0.25 * peak
    assert np.abs(expected).max() > 0.2 * peak


def test_a_finer_grid_interpolates_better():
    """Twice the grid: about a quarter of the error."""
    map_ = gaussian(N, (0, 0, 0), 2.0).astype(np.float32)
    q = np.random.default_rng(2).uniform(0, 0.12, (300, 3))
    exact = (8 * np.pi) ** 1.5 / N * np.exp(-8 * np.pi**2 * (q**2).sum(-1))
    errors = [np.sqrt(np.mean(np.abs(sample(projector_volume(map_, g), q * g) - exact) ** 2)) for g in (32, 64)]
    assert errors[1] < 0.35 * errors[0]  # a quarter, but for what float32 and the edge of the box leave


def test_references_are_in_units_of_projections():
    """At grid points of the central plane the transform is that of the z-sum of the map, over the box."""
    map_ = two_halves()[0] * two_halves()[2].astype(np.float32)
    n, grid = N, 32
    volume = projector_volume(map_, grid)
    window = np.prod([np.sinc(c / grid) ** 2 for c in coordinates(n)], axis=0)
    image = to_fourier((map_ / window).sum(axis=0).astype(np.float32)) / n
    c = (grid + 3) // 2
    ky = np.r_[-8:9]
    found = volume[c, c + ky, :9, 0] + 1j * volume[c, c + ky, :9, 1]
    np.testing.assert_allclose(found, image[ky % n, :9], atol=1e-5 * np.abs(image).max())  # float32 transforms


def test_halves_share_low_frequencies_only():
    """Below share_below_A both filtered halves are equal; beyond, each depends on its own half alone."""
    half1, half2, _ = two_halves()
    curves = curves_of(np.full(N // 2 + 1, 0.7), 2 * PIXEL_A)
    share = N * PIXEL_A / 5.5  # the first five shells
    a, b = (to_fourier(h) for h in filter_halves(half1, half2, curves, share))
    other, _ = filter_halves(half1, half1[::-1].copy(), curves, share)
    ring, size = shells(N), np.abs(a).max()
    low = ring <= 5
    np.testing.assert_allclose(a[low], b[low], atol=2e-6 * size)  # float32 transforms there and back
    assert np.abs(a - b)[~low & (ring < N // 2)].mean() > 1e-4 * size
    np.testing.assert_allclose(a[~low], to_fourier(other)[~low], atol=2e-6 * size)
    mean = 0.7 * (to_fourier(half1) + to_fourier(half2)) / 2
    np.testing.assert_allclose(a[low], mean[low], atol=2e-6 * size)


def test_nothing_is_shared_below_the_box():
    """With share_below_A beyond the box only the mean value is common."""
    half1, half2, _ = two_halves()
    a, b = filter_halves(half1, half2, curves_of(np.ones(N // 2 + 1), 2 * PIXEL_A), 10 * N * PIXEL_A)
    np.testing.assert_allclose(
        a - a.mean(), half1 - half1.mean(), atol=1e-4
    )  # up to the corners, which count as Nyquist
    np.testing.assert_allclose(b - b.mean(), half2 - half2.mean(), atol=1e-4)


@given(st.lists(st.floats(-1, 1.0), min_size=5, max_size=17), st.floats(1, 200))
def test_wiener_factors_lie_between_0_and_1(corrected, resolution):
    """The gain is FSC where it is positive, at most 1, and 0 beyond the resolution."""
    curves = curves_of(corrected, resolution)
    before = curves.corrected.copy()
    gain = wiener_filter(curves)
    assert ((gain >= 0) & (gain <= 1)).all()
    beyond = np.arange(len(gain)) >= curves.box_px * PIXEL_A / resolution + 1
    assert not gain[beyond].any()
    within = np.arange(len(gain)) <= curves.box_px * PIXEL_A / resolution
    np.testing.assert_array_equal(gain[within], np.maximum(before, 0)[within])
    np.testing.assert_array_equal(curves.corrected, before)  # the curves stay as they are


def test_a_reference_is_zero_beyond_the_resolution():
    """Both halves vanish in shells beyond the one in which the half-maps cease to agree."""
    half1, half2, _ = two_halves()
    curve = np.full(N // 2 + 1, 0.9)
    resolution = N * PIXEL_A / 7.5
    ring = shells(N)
    for filtered in filter_halves(half1, half2, curves_of(curve, resolution), 40.0):
        size = np.abs(to_fourier(filtered))
        assert size[ring > 8].max() < 1e-6 * size.max()  # float32
        assert size[ring == 7].max() > 1e-3 * size.max()


def test_a_reference_knows_its_resolution():
    """q_max is the fraction of 1 / resolution asked for, and of half-maps of pure noise it is zero."""
    half1, half2, mask = two_halves()
    species = Species("blobs", PIXEL_A, N, 70.0)
    whole, curves = prepare_reference(half1, half2, mask, species)
    half, _ = prepare_reference(half1, half2, mask, species, fraction=0.5)
    assert whole.resolution_A == curves.resolution_A == half_map_fsc(half1, half2, mask, PIXEL_A).resolution_A
    assert whole.q_max == pytest.approx(1 / whole.resolution_A)
    assert half.q_max == pytest.approx(whole.q_max / 2)
    assert whole.volumes.shape[0] == 2
    assert np.isfinite(whole.volumes).all()
    rng = np.random.default_rng(9)
    noise = [rng.standard_normal((N, N, N)).astype(np.float32) for _ in range(2)]
    nothing, _ = prepare_reference(*noise, np.ones((N, N, N), np.float32), species)
    assert nothing.q_max == 0.0
    assert np.isinf(nothing.resolution_A)


def test_the_mask_in_use_has_a_soft_edge():
    """Inside a binary mask 1, falling to 0 outside, wherever the mask came from."""
    binary = (sum(c**2 for c in coordinates(N)) < 8**2).astype(np.float32)
    soft = use_mask(binary, PIXEL_A)
    assert (soft[binary > 0] == 1).all()
    assert ((soft >= 0) & (soft <= 1)).all()
    assert ((soft > 0.1) & (soft < 0.9)).any()
    assert soft[0, 0, 0] == 0


@given(st.floats(1e-3, 1e3))
def test_map_scale_makes_projections_of_unit_strength(factor):
    """The scaled map's z-sum has root mean square 1 inside the mask, in whatever units the map came."""
    half, _, mask = two_halves()
    scaled = half * np.float32(factor)
    found = scaled * map_scale(scaled, mask)
    inside = mask.max(axis=0) > 0.5
    strength = np.sqrt(np.mean((found * mask).sum(axis=0)[inside] ** 2))
    assert strength == pytest.approx(1.0, rel=1e-5)  # float32


def test_an_empty_map_is_not_scaled():
    """Zeros have no strength: the factor is 1."""
    assert map_scale(np.zeros((N, N, N), np.float32), np.ones((N, N, N), np.float32)) == 1.0
