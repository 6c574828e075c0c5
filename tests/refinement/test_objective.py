"""The objective: its gradient, its symmetries, and the cost of amplitude."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_problem import (
    BOX,
    EVERYTHING,
    N_TILTS,
    PIXEL_A,
    SAMPLES,
    a_series,
    a_state,
    data_of,
    layout_of,
    random_step,
    smooth_volumes,
    some_particles,
)

from mpr_dist.arrays import HOST
from mpr_dist.errors import SeriesError
from mpr_dist.imaging.reference import projector_volume
from mpr_dist.maths.rotations import euler_to_matrix, matrix_to_euler, rotation_z
from mpr_dist.maths.solve import WithoutChain, WithoutPoints
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import Priors
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import evaluate, occam_at
from mpr_dist.refinement.occam import Occam
from mpr_dist.refinement.priors import precision
from mpr_dist.refinement.products import products
from mpr_dist.refinement.state import offset_derivative, pose_offsets

GRID = 2 * BOX
# two species, so that each has amplitudes of its own
FULL = Layout.of(EVERYTHING, a_series(), SAMPLES, ("first", "second"))
BARE = layout_of()
LOOSE = Priors(**{name: 1e4 * value for name, value in vars(Priors()).items()})


def columns_of_one_tilt(columns):
    """Places in a tilt's columns of the parameters that no other tilt has."""
    count = np.bincount(np.concatenate(FULL.tilt_columns), minlength=FULL.n_series)
    return np.flatnonzero(count[columns] == 1)


def a_problem(priors):
    """Two species in one series, away from the centre of the prior, with references that have no kinks."""
    tables = (some_particles(4, 1, SAMPLES), some_particles(3, 8))
    origin = a_state(FULL, particles=tables)
    step, poses = random_step(FULL, origin, 11, 0.5)
    state = FULL.advanced(origin, step, poses)
    data = tuple(data_of(a_series(), p, smooth_volumes(GRID, 20 + i), GRID, 30 + i) for i, p in enumerate(tables))
    return state, origin, precision(FULL, origin.series, tables, priors), data


@pytest.fixture(scope="module")
def problem():
    return a_problem(Priors())


@pytest.fixture(scope="module", params=["usual", "loose"])
def any_problem(request):
    """Also with priors so loose that only the images count."""
    return a_problem(Priors() if request.param == "usual" else LOOSE)


def value(state, problem, layout=FULL, occam=None):
    _, origin, prior, data = problem
    return evaluate(state, origin, layout, prior, data, occam)


def slope_along(step, poses, h, problem, occam=None):
    """Five-point difference of the objective along a direction; its error is of order h^4."""
    state = problem[0]
    total = 0.0
    for i, weight in ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0)):
        moved = FULL.advanced(state, i * h * step, [i * h * p for p in poses])
        total += weight * value(moved, problem, occam=occam).objective
    return total / (12 * h)


def directions():
    """Every class of parameters by itself, positions and orientations, and all at once."""
    of_species = [name for name in FULL.slices if name.startswith("species_")]
    names = [*(name for name in FULL.slices if name not in of_species), "position", "orientation", "everything"]
    names += of_species
    return [(name, i) for i, name in enumerate(names)]


def direction(name, seed, state):
    step, poses = random_step(FULL, state, seed)
    keep = np.zeros(FULL.n_series, bool)
    if name in FULL.slices:
        keep[FULL.slices[name]] = True
    keep |= name == "everything"
    pose = {"position": [1, 1, 1, 0, 0, 0], "orientation": [0, 0, 0, 1, 1, 1], "everything": [1] * 6}.get(name, [0] * 6)
    return np.where(keep, step, 0.0), [p * np.tile(pose, FULL.samples) for p in poses]


@pytest.mark.parametrize(("name", "seed"), directions())
def test_gradient_is_the_finite_difference(any_problem, name, seed):
    """Series vector and poses: the gradient, priors included, is the slope of the objective along any direction."""
    state = any_problem[0]
    found = value(state, any_problem).equations
    step, poses = direction(name, seed, state)
    along = found.g @ step + sum((found.h * np.concatenate(poses)).ravel())
    size = np.abs(found.g * step).sum() + np.abs(found.h * np.concatenate(poses)).sum()
    assert size > 1.0
    # the kernel's float32 leaves noise of 1e-7 of its sums (about 1e3) in the objective, so the step must not be small;
    # at 0.05 that noise is 2e-3 of the slope, and the h^4 term (of the trajectories, above all) below 5e-5 of it
    assert abs(along - slope_along(step, poses, 0.05, any_problem)) < 2e-4 * size + 2e-3


def test_gradient_with_the_cost_of_amplitude(problem):
    """With Occam the gradient in scales and B-factors is still that of the objective."""
    state = problem[0]
    rng = np.random.default_rng(5)
    share = rng.dirichlet(np.ones(2), N_TILTS).T
    r, steepness = rng.uniform(0.2, 3, N_TILTS), np.full(N_TILTS, 0.01)
    occam = Occam(np.full(N_TILTS, 400.0), r, steepness, share, problem[1])
    found = value(state, problem, occam=occam).equations
    for name in ("bfactor", "log_scale", "species_scale", "species_bfactor"):
        step, poses = direction(name, 3, state)
        size = np.abs(found.g * step).sum()
        assert abs(found.g @ step - slope_along(step, poses, 0.1, problem, occam)) < 2e-4 * size  # as above


def test_objective_is_likelihood_and_prior(problem):
    """At the centre of the prior both are equal; elsewhere they differ by the Gaussian log priors."""
    state, origin, prior, data = problem
    centre = evaluate(origin, origin, FULL, prior, data, None)
    assert centre.objective == pytest.approx(centre.likelihood)
    step, poses = random_step(FULL, origin, 11, 0.5)
    pull = step @ prior.series @ step + sum(((p @ k) * p).sum() for p, k in zip(poses, prior.poses, strict=True))
    found = value(state, problem)
    assert found.objective - found.likelihood == pytest.approx(-0.5 * pull, rel=1e-6)


def test_likelihood_is_made_of_products(problem):
    """L = sum over tilts of 2 s <X,m> - s^2 <m,m>, with the sums over all species."""
    state, _, _, data = problem
    found = value(state, problem)
    pairs = zip(state.particles, data, strict=True)
    made = [products(state.series, p, d, None, state.strength(i)) for i, (p, d) in enumerate(pairs)]
    xm, mm = (sum(getattr(m, what).sum(0) for m in made) for what in ("xm", "mm"))
    s = np.exp(state.log_scale)
    np.testing.assert_allclose(found.xm, xm)
    np.testing.assert_allclose(found.mm, mm)
    assert found.likelihood == pytest.approx((2 * s * xm - s**2 * mm).sum())


def test_matrix_is_the_information_of_the_model(problem):
    """Without data the matrix is that of the model alone: positive, and its parts add up over tilts."""
    found = value(problem[0], problem)
    e, prior = found.equations, problem[2]
    n, points = e.b.shape[:2]
    k = FULL.pose_size
    whole = np.zeros((n + k * points,) * 2)
    whole[:n, :n], whole[:n, n:] = e.s, e.b.reshape(n, -1)
    whole[n:, :n] = whole[:n, n:].T
    for i in range(points):
        whole[n + k * i : n + k * i + k, n + k * i : n + k * i + k] = e.p[i]
    scale = np.sqrt(np.diag(whole))
    assert np.linalg.eigvalsh(whole / scale[:, None] / scale).min() > 0
    own = []
    for now, then, precise in zip(problem[0].particles, problem[1].particles, prior.poses, strict=True):
        by_step = offset_derivative(pose_offsets(now, then, FULL.samples))
        own.append(np.swapaxes(by_step, 1, 2) @ precise @ by_step)
    np.testing.assert_allclose(found.pose_information.sum(0) + np.concatenate(own), e.p)
    for t in range(N_TILTS):
        columns = FULL.tilt_columns[t]
        # what all tilts share is not in one alone
        columns = columns[columns_of_one_tilt(columns)]
        block = (e.s - prior.series)[np.ix_(columns, columns)]
        size = np.sqrt(np.outer(np.diag(e.s)[columns], np.diag(e.s)[columns]))
        inside = columns_of_one_tilt(FULL.tilt_columns[t])
        assert (np.abs(found.series_information[t][np.ix_(inside, inside)] - block) < 1e-9 * size).all()


def test_images_that_are_the_model_have_no_gradient(problem):
    """Where the data equal the model, the products with the data are those with the model: nothing pulls."""
    series, data = problem[0].series, problem[3][0]
    data = replace(data, reference=replace(data.reference, q_max=0.2 / PIXEL_A))
    images, samples = data.images, data.images.samples
    n_samples = int(samples.ring_end[samples.ring_of(data.reference.q_max)])
    # the components of the model of one particle are its products with unit vectors, one to each of many copies
    copies = 2 * n_samples
    one = Particles(*(np.repeat(a[1:2], copies, axis=0) for a in vars(problem[0].particles[0]).values()))
    units = np.eye(copies, dtype=np.float32).reshape(copies, 1, n_samples, 2).repeat(N_TILTS, axis=1)
    active, xy_A = (np.repeat(a[1:2], copies, axis=0) for a in (images.active, images.xy_A))
    made = products(series, one, replace(data, images=replace(images, values=units, active=active, xy_A=xy_A)))
    model = made.xm.T.reshape(1, N_TILTS, n_samples, 2).astype(np.float32)
    exact = replace(images, values=model, active=active[:1], xy_A=xy_A[:1])
    first = Particles(*(a[:1] for a in vars(one).values()))
    found = products(series, first, replace(data, images=exact))
    np.testing.assert_allclose(found.xm, found.mm, rtol=1e-6)  # float32
    size = np.sqrt(found.mm[..., None] * np.diagonal(found.dd, axis1=2, axis2=3))
    assert (np.abs(found.xd - found.md) <= 1e-6 * size).all()
    assert found.mm.min() > 0


def turned_particles(particles, matrix):
    """Poses of the copy of every particle that is turned by a rotation of the reference."""
    return replace(particles, angles_deg=matrix_to_euler(euler_to_matrix(particles.angles_deg) @ matrix))


def octahedral_map(seed):
    """A random map of exact octahedral symmetry, zero on the edge of the box that has no mirror image."""
    rng, n = np.random.default_rng(seed), BOX
    c = n // 2
    rough = rng.standard_normal((n - 1,) * 3)
    z, y, x = np.indices(rough.shape) - (c - 1)
    total = np.zeros_like(rough)
    for m in rotations("O").astype(int):
        kx, ky, kz = (m[i, 0] * x + m[i, 1] * y + m[i, 2] * z for i in range(3))
        total += rough[kz + c - 1, ky + c - 1, kx + c - 1]
    out = np.zeros((n, n, n), np.float32)
    out[1:, 1:, 1:] = total * (x**2 + y**2 + z**2 < (c - 2) ** 2)
    return out


def test_octahedral_copies_score_the_same():
    """All 24 poses of a particle with an octahedral reference have the same value, to float32."""
    particles = some_particles(4)
    volumes = np.stack([projector_volume(octahedral_map(i), GRID) for i in range(2)])
    data = (data_of(a_series(), particles, volumes, GRID),)
    origin = a_state(FULL, particles=(particles,))
    found = []
    for matrix in rotations("O"):
        copy = replace(origin, particles=(turned_particles(particles, matrix),))
        found.append(products(copy.series, copy.particles[0], data[0]))
    # permuted axes only change the order of float32 operations
    data_size = (data[0].images.values.astype(float) ** 2).sum((2, 3))
    xm, mm = (np.array([getattr(f, what) for f in found]) for what in ("xm", "mm"))
    assert (np.abs(xm - xm[0]) <= 2e-6 * np.sqrt(mm[0] * data_size)).all()
    np.testing.assert_allclose(mm, np.broadcast_to(mm[0], mm.shape), rtol=2e-6)
    quarter = turned_particles(particles, rotation_z(45.0))
    other = products(origin.series, quarter, data[0])
    assert np.abs(other.xm - found[0].xm).max() > 1e-2 * np.abs(found[0].xm).max()


@pytest.mark.parametrize("symmetry", ["C3", "C5"])
def test_copies_between_grid_points_score_the_same(symmetry):
    """Copies that do not permute the axes have the same value but for interpolation."""
    matrices, particles = rotations(symmetry), some_particles(4)
    x = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(x, x, x, indexing="ij")
    rng, volumes = np.random.default_rng(0), []
    for _ in range(2):
        places = np.einsum("rij,aj->rai", matrices, rng.uniform(-4, 4, (3, 3))).reshape(-1, 3)
        blobs = [np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 1.2**2)) for a, b, c in places]
        volumes.append(projector_volume(np.sum(blobs, axis=0).astype(np.float32), 2 * GRID))
    data = data_of(a_series(), particles, np.stack(volumes), 2 * GRID)

    def xm(matrix):
        return products(a_series(), turned_particles(particles, matrix), data).xm

    start = xm(np.eye(3))
    copies = max(np.abs(xm(m) - start).max() for m in matrices[1:])
    # the grid is four times the box: interpolation is off by (pi r / n)^2 of the amplitude, about 1 percent for
    # blobs at r = 6 of n = 96, and errors of many samples average out
    assert copies < 0.01 * np.abs(start).max()
    assert np.abs(xm(rotation_z(180.0 / len(matrices))) - start).max() > 0.2 * np.abs(start).max()


def test_cross_half_meets_the_other_reference(problem):
    """cross_half compares with the other half's reference: as if all half-sets were exchanged."""
    state, _, _, (first, _) = problem
    p = state.particles[0]
    exchanged = replace(p, half=(3 - p.half).astype(np.int8))
    crossed = products(state.series, p, first, cross_half=True)
    straight = products(state.series, exchanged, first)
    np.testing.assert_array_equal(crossed.xm, straight.xm)
    assert np.abs(crossed.mm - products(state.series, p, first).mm).max() > 0


def test_nothing_beyond_q_max_counts(problem):
    """Samples beyond the reference's q_max change nothing; inactive images give zeros."""
    state, _, _, (first, _) = problem
    limited = replace(first, reference=replace(first.reference, q_max=0.25 / PIXEL_A))
    samples = first.images.samples
    end = samples.ring_end[samples.ring_of(0.25 / PIXEL_A)]
    assert 0 < end < len(samples.kx)
    broken = first.images.values.copy()
    broken[:, :, end:] = np.nan
    found = products(state.series, state.particles[0], limited)
    same = products(state.series, state.particles[0], replace(limited, images=replace(first.images, values=broken)))
    np.testing.assert_array_equal(found.xm, same.xm)
    assert found.mm[~first.images.active].max() == 0
    assert found.mm[first.images.active].min() > 0


def test_nan_is_an_error_of_the_series(problem):
    """An image with NaN stops the series with its name."""
    state, _, _, (first, _) = problem
    broken = first.images.values.copy()
    broken[1, 2, 0] = np.nan
    with pytest.raises(SeriesError, match="TS_01"):
        products(state.series, state.particles[0], replace(first, images=replace(first.images, values=broken)))


def occam_problem():
    rng = np.random.default_rng(1)
    state = a_state(FULL)
    bfactor = state.series.weights.bfactor.values.ravel()
    n, r = rng.uniform(5, 50, N_TILTS), rng.uniform(0.1, 20, N_TILTS)
    share = rng.dirichlet(np.ones(2), N_TILTS).T
    weights = replace(state.series.weights, bfactor=CubicGrid.per_tilt(bfactor - 3.0))
    before = replace(state.with_series(weights=weights), log_scale=state.log_scale + 0.1)
    return state, Occam(n, r, rng.uniform(0.005, 0.02, N_TILTS), share, before)


@pytest.mark.parametrize("tilt", range(N_TILTS))
def test_occam_slope_and_curvature_are_finite_differences(tilt):
    """Slope is d value / d log x, curvature is minus its change: of scale twice, of B steepness times."""
    state, occam = occam_problem()
    _, slope, curvature = occam.at(state)
    h = 1e-4
    for name, factor in (("log_scale", 2.0), ("bfactor", float(occam.steepness[tilt]))):
        step = np.zeros(FULL.n_series)
        step[FULL.slices[name].start + tilt] = h / factor  # log x changes by h
        ahead, behind = (
            occam.at(FULL.advanced(state, sign * step, [np.zeros((5, FULL.pose_size))])) for sign in (1, -1)
        )
        # central differences of smooth functions of size 1e2: h^2 and rounding / h are both below 1e-7
        assert (ahead[0] - behind[0]) / (2 * h) == pytest.approx(slope[tilt], rel=1e-6, abs=1e-7)
        assert -(ahead[1] - behind[1])[tilt] / (2 * h) == pytest.approx(curvature[tilt], rel=1e-6, abs=1e-7)
    assert (slope < 0).all()
    assert (curvature > 0).all()


def test_occam_has_the_slope_of_the_determinant_where_it_is_taken():
    """Where it is taken a tilt that determines d parameters costs d / 2 per unit of log x; no signal costs nothing."""
    state, occam = occam_problem()
    at = replace(occam, origin=state)
    _, slope, _ = at.at(state)
    d = at.n * at.r / (1 + at.r)
    np.testing.assert_allclose(slope, -d / 2, rtol=1e-9)
    nothing, _, _ = at.at(replace(state, log_scale=state.log_scale - 20.0))
    assert abs(nothing) < 1e-9


def test_amplitudes_that_only_change_hands_cost_nothing():
    """Scale and B-factor moved from all tilts to all species leave the model as it was, and the cost."""
    state, occam = occam_problem()
    b = state.series.weights.bfactor.values.ravel()
    weights = replace(state.series.weights, bfactor=CubicGrid.per_tilt(b - 30.0))
    moved = replace(
        state.with_series(weights=weights),
        log_scale=state.log_scale - 0.7,
        species_log_scale=state.species_log_scale + 0.7,
        species_bfactor_A2=state.species_bfactor_A2 + 30.0,
    )
    assert occam.at(moved)[0] == pytest.approx(occam.at(state)[0], rel=1e-12)


def test_determined_parameters_lie_between_none_and_all(problem):
    """A tilt cannot determine more than the parameters there are; without signal it determines none."""
    state = problem[0]
    found = occam_at(state, value(state, problem), FULL)
    d = found.n * found.r / (1 + found.r)
    assert (d >= 0).all()
    assert (d <= 0.95 * found.n + 1e-9).all()
    silent = replace(state, log_scale=state.log_scale - 12.0)
    nothing = occam_at(silent, value(silent, problem), FULL)
    assert (nothing.r < 1e-3).all()
    layout = BARE
    bare = a_state(layout)
    data = data_of(a_series(), bare.particles[0], smooth_volumes(GRID), GRID)
    evaluation = evaluate(bare, bare, layout, precision(layout, bare.series, bare.particles, Priors()), (data,), None)
    assert not occam_at(bare, evaluation, layout).r.any()


def test_successive_exposures_form_a_chain(problem):
    """What couples others is exactly zero: eliminated first, the chain gives the same step and the same covariance."""
    state, origin, prior, data = problem
    e = evaluate(state, origin, FULL, prior, data, None).equations
    alike = [FULL.slices[name] for name in ("image_warp_x", "image_warp_y", "stage_angles", "defocus")]
    assert len(e.chain) == N_TILTS
    assert sorted(np.concatenate(e.chain)) == sorted(np.concatenate([np.arange(p.start, p.stop) for p in alike]))
    for i, rows in enumerate(e.chain):
        for later in e.chain[i + 2 :]:
            assert not e.s[np.ix_(rows, later)].any()
    plain, chained = WithoutPoints(e, 0.0, HOST), WithoutChain(e, 0.0)
    one, other = plain.covariance(whole=True), chained.covariance(whole=True)
    sigma, of_poses = np.sqrt(np.diag(one.s)), np.sqrt(np.diagonal(one.p, axis1=1, axis2=2))
    # rounding times the condition number, which priors keep below some 1e6
    assert np.abs((other.s - one.s) / np.outer(sigma, sigma)).max() < 1e-8
    assert np.abs((other.p - one.p) / (of_poses[:, :, None] * of_poses[:, None])).max() < 1e-8
    for step, again, size in zip(plain.solution(), chained.solution(), (sigma, of_poses), strict=True):
        assert np.abs((again - step) / size).max() < 1e-6


def test_a_species_too_coarse_moves_no_ctf(problem):
    """A species with frozen optics has no say in them, its value does not depend on them, and its gradient is exact."""
    state, origin, prior, data = problem
    blind = tuple(replace(each, frozen=origin.series.optics) for each in data)
    found = evaluate(state, origin, FULL, prior, blind, None).equations
    pull = prior.series @ (FULL.values(state) - FULL.values(origin))
    for each in FULL.classes:
        part = FULL.slices[each.name]
        informed = np.abs(np.diag(found.s - prior.series)[part]).max() > 0
        assert informed != each.is_optics
        if each.is_optics:
            np.testing.assert_allclose(found.g[part], -pull[part], rtol=1e-12, atol=1e-12)
    frozen = (state, origin, prior, blind)
    step, poses = direction("everything", 5, state)
    along = found.g @ step + sum((found.h * np.concatenate(poses)).ravel())
    size = np.abs(found.g * step).sum() + np.abs(found.h * np.concatenate(poses)).sum()
    assert abs(along - slope_along(step, poses, 0.05, frozen)) < 2e-4 * size + 2e-3  # as above
    one = evaluate(state, origin, FULL, prior, (data[0], blind[1]), None).equations
    both = evaluate(state, origin, FULL, prior, data, None).equations
    part = FULL.slices["defocus"]
    assert 0 < np.trace((one.s - prior.series)[part, part]) < np.trace((both.s - prior.series)[part, part])
