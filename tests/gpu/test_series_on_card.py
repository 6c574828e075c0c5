"""A whole series on a card and on the host: images, refinement, back-projection. The answers agree to float32.

Without a card the CUDA text runs on the CPU, on arrays that do not mix with the host's.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import shim
from planted import NEAR, SPECIES, draw

from mpr_dist.arrays import HOST
from mpr_dist.imaging.geometry import project
from mpr_dist.imaging.image_store import CardStream, CardValues, ImageRoom
from mpr_dist.imaging.particle_images import TiltImage, load_particle_images
from mpr_dist.imaging.reconstruct import accumulator_shape, backproject, fourier_sums, solve_map
from mpr_dist.maths.fourier import shell_sums, to_fourier
from mpr_dist.maths.solve import covariance, solve
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.objective import evaluation_of
from mpr_dist.refinement.priors import precision
from mpr_dist.refinement.products import products
from mpr_dist.refinement.state import pose_offsets
from mpr_dist.refinement.step import refine_series
from mpr_dist.workflow.checking.self_test import failed_parts

SETTINGS = RefineSettings(
    image_warp=(2, 2), stage_angles=True, defocus=True, particles=True, max_passes=12, priors=NEAR
)


@pytest.fixture(scope="module")
def drawn():
    return draw(SETTINGS, 1, n_tilts=5, count=8)


def placed(data, device, kind="there"):
    """The same images on a device: all of them there, or block after block."""
    if not device.is_card:
        return data
    values = CardStream(data.images.values, device)
    if kind == "there":
        values = CardValues(data.images.values.shape, device)
        for t in range(values.shape[1]):
            values[np.arange(values.shape[0]), t] = device.put(data.images.values[:, t])
    return replace(data, images=replace(data.images, values=values))


def refined(drawn, data):
    series, particles = drawn.start.series, drawn.start.particles
    return refine_series(series, particles, series, particles, (data,), drawn.settings)


def half_maps(drawn, data, state):
    """Both half-maps of the images, from where a state says they are."""
    sums = np.zeros(accumulator_shape(SPECIES), np.int64)
    series, particles = state.series, state.particles[0]
    images = replace(data.images, xy_A=project(series, particles).xy_A)
    backproject(sums, series, SPECIES, particles, images)
    data.images.device.settle()
    return [solve_map(fourier_sums(half, "C1"), SPECIES) for half in sums]


def fsc(one, other):
    a, b = to_fourier(one), to_fourier(other)
    cross, first, second = shell_sums((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)
    return cross[1:] / np.sqrt(first[1:] * second[1:])


def test_a_refined_series_is_that_of_the_host(card, drawn):
    """Every parameter ends within a twentieth of its sigma of where the host's ends; sigmas agree to 1 %."""
    here, there = refined(drawn, drawn.data), refined(drawn, placed(drawn.data, card))
    layout = here.sigmas.layout
    away = layout.values(there.state) - layout.values(here.state)
    sigma = np.sqrt(np.diag(here.sigmas.series_covariance))
    # both stop where the gain falls below 0.5: a step of float32 rounding may come before or after
    assert np.abs(away / sigma).max() < 0.05
    poses = pose_offsets(there.state.particles[0], here.state.particles[0])
    spread = np.sqrt(np.diagonal(here.sigmas.pose_covariance, axis1=1, axis2=2))
    assert np.abs(poses / spread).max() < 0.05
    np.testing.assert_allclose(there.sigmas.series_covariance.diagonal(), sigma**2, rtol=0.02)  # variances
    assert there.passes == here.passes
    assert there.objective[1] == pytest.approx(here.objective[1], rel=1e-4)


def test_normal_equations_stay_on_the_card(card, drawn):
    """Made, with their priors, and solved there: as on the host to float64 rounding, if there is room."""
    layout = Layout.of(drawn.settings, drawn.start.series, 1)
    state = layout.shaped(drawn.start)
    prior = precision(layout, state.series, state.particles, drawn.settings.priors)
    moved = layout.advanced(state, np.full(layout.n_series, 1e-3), [np.full((8, layout.pose_size), 1e-3)])
    passes = [products(moved.series, moved.particles[0], drawn.data, layout)]
    found = []
    for where, room in ((HOST, None), (card, None), (card, 1 << 12)):
        if room is not None and card.name == "shim":
            card.room = room
        data = (
            replace(drawn.data, images=replace(drawn.data.images, values=CardStream(drawn.data.images.values, card))),
        )
        of = evaluation_of(passes, moved, state, layout, prior, data if where is card else (drawn.data,), None)
        if card.name == "shim" or room is None:
            assert of.equations.where is (where if room is None else HOST)
        found.append((of, solve(of.equations, 1e-3), covariance(of.equations)))
    here, steps, spread = found[0]
    for there, there_steps, there_spread in found[1:]:
        assert there.objective == pytest.approx(here.objective, rel=1e-12)
        for one, other in zip(here.equations.arrays, there.equations.on_host().arrays, strict=True):
            assert isinstance(other, np.ndarray)
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9 * np.abs(one).max())
        for one, other in zip(here.series_information, there.series_information, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-9 * np.abs(one).max())
        np.testing.assert_allclose(there.pose_information, here.pose_information, rtol=1e-9)
        # rounding times the condition number, which priors keep below some 1e6
        for one, other in zip((*steps, spread.s), (*there_steps, there_spread.s), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-7 * np.abs(one).max())


def test_two_refinements_on_a_card_have_the_same_bits(card, drawn):
    """Nothing on the card depends on scheduling."""
    one, two = (refined(drawn, placed(drawn.data, card)) for _ in range(2))
    layout = one.sigmas.layout
    assert layout.values(one.state).tobytes() == layout.values(two.state).tobytes()
    assert one.sigmas.pose_covariance.tobytes() == two.sigmas.pose_covariance.tobytes()


def test_half_maps_are_those_of_the_host(card, drawn):
    """FSC above 0.999 in every shell."""
    here = half_maps(drawn, drawn.data, drawn.truth)
    there = half_maps(drawn, placed(drawn.data, card), drawn.truth)
    for one, other in zip(here, there, strict=True):
        assert fsc(one, other).min() > 0.999
    assert fsc(here[0], here[1]).min() < 0.999  # the halves themselves differ


@pytest.mark.parametrize("symmetry", ["C1", "C3"])
def test_sums_become_maps_as_on_the_host(card, drawn, symmetry):
    """Symmetry, division, transform and correction in float64: maps agree to 1e-6 of their range."""
    sums = np.zeros(accumulator_shape(SPECIES), np.int64)
    backproject(sums, drawn.start.series, SPECIES, drawn.start.particles[0], drawn.data.images)
    here, there = (solve_map(fourier_sums(sums[0], symmetry, device=where), SPECIES) for where in (HOST, card))
    assert np.abs(there - here).max() < 1e-6 * np.abs(here).max()
    assert isinstance(there, np.ndarray)


def test_blocks_and_slabs_change_no_bit(shim_card, drawn):
    """Images that come block by block, sums that are made slab by slab, memory that runs out now and then."""
    whole = placed(drawn.data, shim_card)
    first = products(drawn.start.series, drawn.start.particles[0], whole)
    sums = [np.zeros(accumulator_shape(SPECIES), np.int64) for _ in range(2)]
    start = drawn.start.series, SPECIES, drawn.start.particles[0]
    backproject(sums[0], *start, whole.images)
    shim_card.settle()
    shim_card.room, shim_card.refusals = sums[0][0].nbytes // 3, 2
    streamed = placed(drawn.data, shim_card, "streamed")
    second = products(*start[::2], streamed)
    shim_card.refusals = 2
    backproject(sums[1], *start, streamed.images)
    assert second.dd.tobytes() == first.dd.tobytes()
    assert sums[1].tobytes() == sums[0].tobytes()
    assert sums[0].any()
    assert shim_card.refusals == 0


def test_a_series_that_a_card_cannot_hold(shim_card, drawn):
    """A third of what images, references and sums need together: the same bits, and never more than that.

    Refinement and back-projection go block by block and slab by slab; what cannot be divided the host does.
    """
    start = drawn.start.series, SPECIES, drawn.start.particles[0]
    data = placed(drawn.data, shim_card)
    expected = products(*start[::2], data)
    sums = [np.zeros(accumulator_shape(SPECIES), np.int64) for _ in range(2)]
    backproject(sums[0], *start, data.images)
    shim_card.release()
    del data
    gc.collect()
    needed = drawn.data.images.values.nbytes + drawn.data.reference.volumes.nbytes + sums[0].nbytes
    try:
        shim.MEMORY.limit = shim.MEMORY.live + needed // 3
        shim.MEMORY.peak = shim.MEMORY.live
        with ImageRoom(device=shim_card) as room:
            values = room.place(drawn.data.images.values.shape)
            for t in range(values.shape[1]):
                values[np.arange(values.shape[0]), t] = shim_card.put(drawn.data.images.values[:, t])
            small = replace(drawn.data, images=replace(drawn.data.images, values=values))
            found = products(*start[::2], small)
            backproject(sums[1], *start, small.images)
            shim_card.settle()
            result = refined(drawn, small)
        assert shim.MEMORY.peak <= shim.MEMORY.limit
    finally:
        shim.MEMORY.limit = None
    assert found.dd.tobytes() == expected.dd.tobytes()
    assert sums[1].tobytes() == sums[0].tobytes()
    assert result.found


def a_tilt(rng, shape):
    """Noise with a ramp, in units of its own."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (300 + 0.3 * x - 0.2 * y + 12.0 * rng.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("room", [1 << 30, 1 << 12], ids=["resident", "streamed"])
def test_images_are_those_of_the_host(card, drawn, room):
    """Tilt images are rescaled, filtered, cut, transformed and whitened as on the host, to float32."""
    series, particles = drawn.start.series, drawn.start.particles[0]
    rng = np.random.default_rng(0)
    pixel_A = 4.0
    shape = tuple(int(n) for n in series.image_size_A[::-1] / pixel_A)
    tilts = [a_tilt(rng, shape) for _ in range(series.n_tilts)]

    def read(t):
        return TiltImage(tilts[t], pixel_A)

    species = replace(SPECIES, pixel_size_A=5.0)
    here = load_particle_images(series, species, particles, read, 0.08, 0.1)
    if card.name == "shim":
        card.room = room
    with ImageRoom(device=card) as images_room:
        there = load_particle_images(series, species, particles, read, 0.08, 0.1, images_room)
        found = np.concatenate([card.take(values) for _, values in there.blocks()])
    np.testing.assert_array_equal(there.active, here.active)
    np.testing.assert_allclose(there.noise, here.noise, rtol=1e-4)
    # whitened to variance 1; the ramp is taken out in float32
    assert np.abs(found - here.values).max() < 2e-4
    assert np.abs(here.values).max() > 2
    assert there.device is card
    assert here.device is HOST


def test_the_self_test_of_the_doctor_passes(device):
    """Known answers of every kernel and the solver, on the host and on a card."""
    assert failed_parts(device) == {}
