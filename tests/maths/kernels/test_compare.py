"""The fused kernel against a plain double-precision twin, its derivatives against finite differences of the twin."""

from __future__ import annotations

from types import SimpleNamespace

import numba
import numpy as np
import pytest
from plain_slices import Image, away_from_cells, inner

from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.kernels.compare import (
    BLOCK,
    GAMMA,
    GRADIENT_X,
    GRADIENT_Y,
    N_TABLES,
    PHASE,
    compare,
    n_out,
)
from mpr_dist.maths.rotations import euler_to_matrix

PIXEL_A, BOX, GRID = 3.0, 32, 40
LAMBDA = 0.0197
# steps of the local parameters: every sample stays in its cell (20 grid units x 1e-5 rad is less than the margin) and
# the truncation, of second order, is below 1e-8
KINDS = (PHASE, GAMMA, GRADIENT_X, GRADIENT_Y, GAMMA)
STEPS = (1e-3, 1e-3, 1e-5, 1e-5, 1e-5, 1.0, 1e-2, 1e-3, 1e-3, 1e-5, 1e-5, 1e-3)
N_LOCAL = len(STEPS)
N_OUT = n_out(len(KINDS))
MARGIN = 1e-3
UPPER = [(j, k) for j in range(N_LOCAL) for k in range(j, N_LOCAL)]


def a_problem(n_particles=2, n_tilts=2, seed=0, is_curved=False):
    """Random references, images and views; samples near a face of an interpolation cell are left out."""
    rng = np.random.default_rng(seed)
    volumes = rng.standard_normal((2, GRID + 3, GRID + 3, GRID // 2 + 2, 2)).astype(np.float32)
    angles = rng.uniform(-180, 180, (n_particles, n_tilts, 3))
    views = euler_to_matrix(angles).astype(np.float32)
    s = box_samples(BOX, PIXEL_A, 0.5 / PIXEL_A)
    to_grid = GRID / BOX
    keep = np.ones(len(s.kx), bool)
    height = 3.0 * LAMBDA * (s.qx**2 + s.qy**2) * GRID * PIXEL_A  # more curved than real, to be seen
    for view in views.reshape(-1, 3, 3):
        for sign in (1, -1) if is_curved else (0,):
            u, v = s.kx * to_grid, s.ky * to_grid
            keep &= away_from_cells(view.astype(np.float64), u, v, MARGIN, sign * height)
    qx, qy = s.qx[keep], s.qy[keep]
    theta, q2 = np.arctan2(qy, qx), qx**2 + qy**2
    grid_A = GRID * PIXEL_A
    n = len(qx)
    rows = (qx, qy, qx * grid_A, qy * grid_A, -0.5 * LAMBDA * q2, np.cos(2 * theta), np.sin(2 * theta), q2 / 4)
    rows += (rng.uniform(-0.5, 0.5, n), height[keep], np.zeros(n))
    assert len(rows) == N_TABLES
    turns = 0.25 * 2.7e7 * LAMBDA**3 * q2**2 - 0.01
    return SimpleNamespace(
        volumes=volumes,
        reference=np.arange(n_particles, dtype=np.int64) % 2,
        images=rng.standard_normal((n_particles, n_tilts, n, 2)).astype(np.float32),
        active=np.ones((n_particles, n_tilts), bool),
        views=views,
        shifts=rng.uniform(-5, 5, (n_particles, n_tilts, 2)).astype(np.float32),
        defocus=rng.uniform(1e4, 3e4, (n_particles, n_tilts)).astype(np.float32),
        astig=rng.uniform(-500, 500, (n_tilts, 2)).astype(np.float32),
        fixed=np.tile(turns, (n_tilts, 1)).astype(np.float32),
        weight=rng.uniform(0.2, 1.5, (n_tilts + 1, n)).astype(np.float32),
        weight_row=rng.integers(0, n_tilts + 1, (n_particles, n_tilts)),
        n_samples=np.full(n_tilts, n, np.int64),
        tables=np.array(rows).astype(np.float32),
        is_curved=is_curved,
        kinds=np.array(KINDS, np.int64),
        rows=rng.uniform(-1, 1, (len(KINDS), n)).astype(np.float32),
    )


def run(problem):
    p = problem
    out = np.full((*p.active.shape, N_OUT), np.nan)
    where = (p.views, p.shifts, p.defocus, p.astig)
    compare(
        p.volumes,
        p.reference,
        p.images,
        p.active,
        *where,
        p.fixed,
        p.weight,
        p.weight_row,
        p.n_samples,
        p.tables,
        p.is_curved,
        p.kinds,
        p.rows,
        out,
    )
    return out


def twin(problem, p, t):
    """The image p, t and its data in double precision, from the very numbers that the kernel gets."""
    n = problem.n_samples[t]
    volume = problem.volumes[problem.reference[p]].astype(np.float64)
    image = Image(
        volume[..., 0] + 1j * volume[..., 1],
        problem.views[p, t].astype(np.float64),
        problem.shifts[p, t].astype(np.float64),
        float(problem.defocus[p, t]),
        problem.astig[t].astype(np.float64),
        problem.fixed[t, :n].astype(np.float64),
        problem.weight[problem.weight_row[p, t], :n].astype(np.float64),
        problem.tables[:, :n].astype(np.float64),
        problem.is_curved,
        KINDS,
        tuple(problem.rows[:, :n].astype(np.float64)),
    )
    data = problem.images[p, t, :n].astype(np.float64)
    return image, data[:, 0] + 1j * data[:, 1]


def differences(image):
    """Central finite differences of the model with respect to all local parameters."""
    return [(image.moved(j, h).model() - image.moved(j, -h).model()) / (2 * h) for j, h in enumerate(STEPS)]


def parts(row):
    """<X,m>, <X,dm>, <m,m>, <m,dm>, <dm,dm> of one row of the output."""
    n = N_LOCAL
    return row[0], row[1 : 1 + n], row[1 + n], row[2 + n : 2 + 2 * n], row[2 + 2 * n :]


@pytest.fixture(scope="module", params=["flat", "curved"])
def solved(request):
    problem = a_problem(is_curved=request.param == "curved")
    return problem, run(problem)


@pytest.mark.parametrize(("p", "t"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_values_are_those_of_the_plain_twin(solved, p, t):
    """<X,m> and <m,m> equal the double-precision sums over slice, CTF, phase and weight."""
    problem, out = solved
    image, data = twin(problem, p, t)
    model = image.model()
    xm, _, mm, _, _ = parts(out[p, t])
    # phases of up to 5 turns in float32 are off by 2e-6 rad, places in the grid by 1e-6: both average out over samples
    size = np.linalg.norm(data) * np.linalg.norm(model)
    assert abs(xm - inner(data, model)) < 1e-6 * size
    assert mm == pytest.approx(inner(model, model), rel=1e-6)


@pytest.mark.parametrize(("p", "t"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_derivatives_are_finite_differences(solved, p, t):
    """All products with all derivatives agree with finite differences inside a cell to 1e-5 of their size."""
    problem, out = solved
    image, data = twin(problem, p, t)
    model, derivatives = image.model(), differences(image)
    sizes = [np.linalg.norm(d) for d in derivatives]
    _, xd, _, md, dd = parts(out[p, t])
    for j, d in enumerate(derivatives):
        assert abs(xd[j] - inner(data, d)) < 1e-5 * np.linalg.norm(data) * sizes[j], f"<X, d_{j}>"
        assert abs(md[j] - inner(model, d)) < 1e-5 * np.linalg.norm(model) * sizes[j], f"<m, d_{j}>"
    for found, (j, k) in zip(dd, UPPER, strict=True):
        expected = inner(derivatives[j], derivatives[k])
        assert abs(found - expected) < 1e-5 * sizes[j] * sizes[k], f"<d_{j}, d_{k}>"


@pytest.mark.parametrize("parameter", range(N_LOCAL))
def test_sums_change_as_their_derivatives_say(solved, parameter):
    """d<X,m> = <X,dm> and d<m,m> = 2 <m,dm>: the same sums of the twin, moved by a step, differ accordingly."""
    problem, out = solved
    image, data = twin(problem, 0, 0)
    h = STEPS[parameter]
    after, before = image.moved(parameter, h).model(), image.moved(parameter, -h).model()
    _, xd, _, md, _ = parts(out[0, 0])
    size = np.linalg.norm(after - before) / (2 * h)
    slope = (inner(data, after) - inner(data, before)) / (2 * h)
    assert abs(xd[parameter] - slope) < 1e-5 * np.linalg.norm(data) * size
    slope = (inner(after, after) - inner(before, before)) / (2 * h)
    assert abs(2 * md[parameter] - slope) < 2e-5 * np.linalg.norm(after) * size


def test_inactive_images_give_zero(solved):
    """What is not active is zero, whatever its data; the others do not notice."""
    problem, out = solved
    changed = SimpleNamespace(**vars(problem))
    changed.active = np.array([[True, False], [False, True]])
    changed.images = problem.images.copy()
    changed.images[0, 1] = np.nan
    found = run(changed)
    assert not found[~changed.active].any()
    np.testing.assert_array_equal(found[changed.active], out[changed.active])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_the_number_of_threads_changes_no_bit():
    """One thread or two: identical bits."""
    problem = a_problem(3, 3, seed=5)
    before, found = numba.get_num_threads(), []
    try:
        for n in (1, 2):
            numba.set_num_threads(n)
            found.append(run(problem).tobytes())
    finally:
        numba.set_num_threads(before)
    assert found[0] == found[1]


def test_places_in_memory_change_no_bit():
    """The same numbers in other places of a crowded heap: identical bits.

    Compiled loops have a scalar version for arrays that may overlap, and what "may" means depends on addresses.
    """
    problem = a_problem(3, 3, seed=5)
    first, neighbours = run(problem).tobytes(), []
    for trial in range(1000):
        name = ("weight", "tables", "images", "fixed")[trial % 4]
        values = getattr(problem, name)
        # holes a little larger than the array, with room behind it for what the kernel allocates
        holes = []
        for _ in range(4):
            holes.append(np.empty(values.nbytes + 4672 + 16 * (trial // 4 % 60), np.uint8))
            neighbours.append(np.empty(1500, np.uint8))
        del holes[::2]
        assert run(SimpleNamespace(**{**vars(problem), name: values.copy()})).tobytes() == first


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 200])
def test_only_the_leading_samples_count(count):
    """n_samples per tilt cuts the sums: what follows may be anything, and the sums are those of the twin's prefix."""
    problem = a_problem()
    problem.weight_row = np.broadcast_to(np.arange(2), problem.active.shape).copy()  # the first row is the first tilt's
    problem.n_samples = np.array([count, problem.n_samples[1]])
    first = run(problem)
    problem.images[:, 0, count:] = np.nan
    problem.weight[0, count:] = np.nan
    np.testing.assert_array_equal(run(problem), first)
    image, data = twin(problem, 1, 0)
    model = image.model()
    # as for the values: float32 phases and places
    assert abs(first[1, 0, 0] - inner(data, model)) <= 3e-6 * np.linalg.norm(data) * np.linalg.norm(model)
    np.testing.assert_allclose(first[1, 0, 1 + N_LOCAL], inner(model, model), rtol=3e-6)


def test_each_particle_meets_its_own_reference():
    """reference[p] chooses the volume: swapping volumes and choices together changes no bit."""
    problem = a_problem()
    first = run(problem)
    problem.volumes, problem.reference = problem.volumes[::-1].copy(), 1 - problem.reference
    np.testing.assert_array_equal(run(problem), first)
    problem.reference = 1 - problem.reference
    assert np.abs(run(problem)[..., 0] - first[..., 0]).min() > 0
