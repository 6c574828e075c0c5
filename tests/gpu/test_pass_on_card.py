"""A pass of the refinement on a card: geometry, tables, derivatives, normal equations, and what meets the host."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bent_equations import after_step, random_equations
from planted import ALONE, NEAR, SPECIES, draw
from shim import TRAFFIC
from small_problem import EVERYTHING, SAMPLES, a_series, a_state, data_of, smooth_volumes, some_particles

from mpr_dist.arrays import HOST
from mpr_dist.errors import SeriesError
from mpr_dist.imaging.image_store import CardValues
from mpr_dist.imaging.particle_images import kernel_tables
from mpr_dist.imaging.reconstruct import accumulator_shape, backproject
from mpr_dist.maths.solve import solve
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.warp import CubicGrid, DoseWeights
from mpr_dist.refinement.braking import Braking
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.linearisation import Linearisation
from mpr_dist.refinement.objective import effective_parameters, evaluate
from mpr_dist.refinement.priors import precision

# of every kind of parameter that is refined most
SETTINGS = RefineSettings(image_warp=(3, 2), stage_angles=True, defocus=True, particles=True, priors=NEAR)


def close(found, expected):
    """Float64 on both, in another order of operations: 1e-12 of the largest; condition numbers are small."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def on(card, data):
    """The same images on a card."""
    values = CardValues(data.images.values.shape, card)
    for t in range(values.shape[1]):
        values[np.arange(values.shape[0]), t] = card.put(data.images.values[:, t])
    return replace(data, images=replace(data.images, values=values))


@pytest.fixture(params=["upright", "inverted", "rigid"])
def series(request):
    """Everything in it that can move; grids of several shapes."""
    return a_series(are_angles_inverted=request.param == "inverted", is_stage_rigid=request.param == "rigid")


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_geometry_is_that_of_the_host(card, series, samples):
    """Places, depths, defocus and views of particles that stay and of those that move."""
    particles = some_particles(5, 1, samples)
    here, there = (Linearisation.of(series, particles, device=where) for where in (HOST, card))
    for name in ("xy_A", "depth_A", "defocus_um", "unwarped_xy_A"):
        close(card.take(getattr(there.projection, name)), getattr(here.projection, name))
    for name in ("views", "carried_A", "turn_weights", "position_weights"):
        close(card.take(getattr(there, name)), getattr(here, name))
    assert np.ptp(here.projection.defocus_um) > 0.1


def test_derivatives_of_every_class_are_those_of_the_host(card, series):
    """Tilts of as many parameters at once on the card, one by one on the host."""
    layout = Layout.of(replace(EVERYTHING, volume_warp=(2, 2, 1, 2)), series, SAMPLES)
    state = a_state(layout, series, (some_particles(5, 1, SAMPLES),))
    here, there = (
        Jacobian(Linearisation.of(state.series, state.particles[0], device=where), layout) for where in (HOST, card)
    )
    widths = [len(columns) for columns in layout.tilt_columns]
    assert widths[1] < widths[2] == widths[3]  # the first dose has no volume warp
    for tilts in (slice(0, 1), slice(1, 2), slice(2, 4)):
        for name in ("series", "pose"):
            found = card.take(getattr(there, name)(tilts))
            for t, one in zip(range(*tilts.indices(4)), found, strict=True):
                close(one, getattr(here, name)(slice(t, t + 1))[0])


@pytest.mark.parametrize("ewald", [0, 1])
@pytest.mark.parametrize("by_location", [False, True])
def test_tables_are_those_of_the_host(card, series, ewald, by_location):
    """Aberrations, magnification, damping by tilt, direction and place, curvature: rows in float32, the same levels."""
    rng = np.random.default_rng(0)
    weights = DoseWeights(
        bfactor_delta=CubicGrid.per_tilt(np.array([0.0, 5.0, 9.0, 2.0])),
        bfactor_angle=CubicGrid.per_tilt(np.array([0.0, 30.0, 50.0, 70.0])),
    )
    if by_location:
        grids = CubicGrid(rng.uniform(0.7, 1.2, (1, 2, 3))), CubicGrid(rng.uniform(-40, 0, (1, 3, 2)))
        weights = replace(weights, location_weight=grids[0], location_bfactor=grids[1])
    series, particles = replace(series, weights=weights), some_particles(6)
    data = data_of(series, particles, smooth_volumes(40), 40)
    species = replace(data.species, ewald=ewald)
    here, there = (kernel_tables(series, species, data.images, 40, particles, where) for where in (HOST, card))
    for name in ("tables", "fixed", "astig", "weight"):
        expected, found = getattr(here, name), card.take(getattr(there, name))
        assert found.dtype == np.float32
        # turns and A of very different size: float32 of each
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(card.take(there.weight_row), here.weight_row)
    np.testing.assert_array_equal(there.tilt_of_row, here.tilt_of_row)
    assert (len(here.weight) > series.n_tilts) == by_location


@pytest.mark.parametrize("name", ["image_warp", "volume_warp", "trajectories", "rigid_stage", "magnification"])
def test_an_evaluation_is_that_of_the_host(card, name):
    """Objective, equations and what the images say, from products in float32."""
    settings, how = ALONE[name]
    drawn = draw(settings, 1, n_tilts=5, count=6, **how)
    layout = Layout.of(settings, drawn.start.series, how.get("samples", 1))
    state = layout.shaped(drawn.truth)
    prior = precision(layout, drawn.start.series, drawn.start.particles, settings.priors)
    here, there = (
        evaluate(state, drawn.start, layout, prior, (data,), None) for data in (drawn.data, on(card, drawn.data))
    )
    assert there.objective == pytest.approx(here.objective, rel=1e-5)
    np.testing.assert_allclose(there.sums, here.sums, rtol=1e-4, atol=1e-4 * np.abs(here.sums).max())
    pairs = [*zip(there.equations.on_host().arrays, here.equations.arrays, strict=True)]
    pairs += [*zip(there.series_information, here.series_information, strict=True)]
    pairs += [(there.pose_information, here.pose_information)]
    for found, expected in pairs:
        # gradients are differences of sums over 1e3 samples
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max(initial=0.0))


def test_images_that_are_not_finite_are_refused_by_a_card(card):
    """The host hears of it with the objective."""
    drawn = draw(SETTINGS, 1, n_tilts=3, count=4)
    drawn.data.images.values[1, 2, 5] = np.nan
    layout = Layout.of(SETTINGS, drawn.start.series)
    prior = precision(layout, drawn.start.series, drawn.start.particles, NEAR)
    with pytest.raises(SeriesError, match="planted with its reference gave NaN"):
        evaluate(drawn.start, drawn.start, layout, prior, (on(card, drawn.data),), None)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_pass_exchanges_parameters_and_one_objective(shim_card, samples):
    """Up go a few numbers for every parameter, particle and tilt, down sums of tilts; the host waits once.

    Nothing that goes either way is as large as the images, their samples or their derivatives.
    """
    drawn = draw(SETTINGS, 1, n_tilts=9, count=12, samples=samples)
    layout = Layout.of(SETTINGS, drawn.start.series, samples)
    prior = precision(layout, drawn.start.series, drawn.start.particles, NEAR)
    data = (on(shim_card, drawn.data),)
    evaluate(drawn.start, drawn.start, layout, prior, data, None)
    TRAFFIC.since()
    evaluate(drawn.truth, drawn.start, layout, prior, data, None)
    up, down, waits = TRAFFIC.since()
    # float64; of particles the prior of a pose (6 x 6 for a sample that stays) is most, of tilts the places of their
    # parameters; which images there are
    few = 4 * layout.n_series + (80 * samples + layout.pose_size**2) * 12 + 60 * 9 + 12 * 9
    assert up < 8 * few
    assert down <= 8 * (4 * 9 + 2)
    assert waits == 1
    assert 8 * few < drawn.data.images.values.nbytes / 5


def test_neither_covariance_nor_tables_come_and_go(shim_card):
    """What each tilt determines is found where the equations are; tables are made where images are inserted."""
    drawn = draw(SETTINGS, 1, n_tilts=9, count=12)
    layout, series, particles = Layout.of(SETTINGS, drawn.start.series), drawn.start.series, drawn.start.particles
    prior = precision(layout, series, particles, NEAR)
    here, there = (
        evaluate(drawn.start, drawn.start, layout, prior, (data,), None)
        for data in (drawn.data, on(shim_card, drawn.data))
    )
    TRAFFIC.since()
    found = effective_parameters(there, layout)
    up, down, waits = TRAFFIC.since()
    assert up + down < here.equations.s.nbytes / 4
    assert waits == 1
    np.testing.assert_allclose(found, effective_parameters(here, layout), rtol=1e-3)  # products are float32
    assert found.min() > 1
    images, sums = on(shim_card, drawn.data).images, np.zeros(accumulator_shape(SPECIES), np.int64)
    backproject(sums, series, SPECIES, particles[0], images)
    TRAFFIC.since()
    backproject(sums, series, SPECIES, particles[0], images)
    tables = (11 + 2 * 9) * len(images.samples.kx)  # rows of samples, float32
    assert TRAFFIC.since()[0] < 4 * tables / 10


def test_steps_are_held_back_as_on_the_host(device):
    """The memory of a step is made where the equations are; the host waits for it once."""
    here = random_equations(4)
    step, poses = solve(here)
    then = after_step(here, step, poses, np.array([0.3, 2.5, 9.0, 1.0]))
    put = [
        replace(each, s=device.put(each.s), b=device.put(each.b), p=device.put(each.p), h=device.put(each.h))
        for each in (here, then)
    ]
    before, after = (replace(each, device=device, where=device) for each in put)
    expected = Braking.none(4).after(here, then, step, poses)
    TRAFFIC.since()
    found = Braking.none(4).after(before, after, step, poses)
    if device.name == "shim":
        assert TRAFFIC.since()[2] == 1
    np.testing.assert_allclose(found.overshot, expected.overshot, rtol=1e-9, atol=1e-12)
    mixed = Braking.none(4).after(before, then, step, poses)  # there was no room for the second ones
    np.testing.assert_allclose(mixed.overshot, expected.overshot, rtol=1e-9, atol=1e-12)
    close(device.take(found.braked(before).p), expected.braked(here).p)
    assert expected.overshot.max() > 5
