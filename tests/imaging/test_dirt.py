"""Dirt in tilt images: how masks are scaled, what takes the place of what they cover, and whom they leave out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.dirt import fill_masked, masked_share, scaled_mask
from mpr_dist.imaging.particle_images import ParticleImages, TiltImage, load_particle_images
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid

PIXEL_A = 4.0
SHAPE = (180, 200)
BLOB = (90.0, 100.0)  # y, x
# two particles, x and y in px: 30 px beside the middle of a blob of 13 px, and far from it
NEAR, FAR = (130.0, 90.0), (40.0, 140.0)


def distance(y: float, x: float) -> np.ndarray:
    rows, cols = np.indices(SHAPE)
    return np.hypot(rows - y, cols - x)


def plane(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return 40.0 + 0.05 * rows - 0.02 * cols


def noise(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


# ------------------------------------------------------------------------------------------------------------- scaling


def test_a_mask_in_larger_pixels_covers_the_same_field():
    """A disc drawn in pixels of 8 A is the same disc, to a mask pixel, in an image of 2.5 A; pixels (0, 0) coincide."""
    size = np.array([600, 500]) * 2.5
    coarse = np.indices((int(size[1] // 16 * 2), int(size[0] // 16 * 2)))
    per_pixel = size[::-1] / coarse.shape[1:]  # Warp rounds to even numbers of pixels
    mask = np.hypot(coarse[0] * per_pixel[0] - 400, coarse[1] * per_pixel[1] - 900) <= 160
    rows, cols = np.indices((500, 600)) * 2.5
    r = np.hypot(rows - 400, cols - 900)
    found = scaled_mask(mask, (500, 600))
    assert found[r <= 160 - 8].all()
    assert not found[r >= 160 + 8].any()
    assert found.sum() == pytest.approx((r <= 160).sum(), rel=0.02)


def test_a_mask_of_the_images_size_is_taken_as_it_is():
    mask = noise() > 1
    assert scaled_mask(mask, SHAPE) is mask


@pytest.mark.parametrize("shape", [(200, 180), (90, 90), (45, 60), (360, 400)])
def test_a_mask_of_another_shape_is_refused(shape):
    """Turned, cropped or finer than the image: none shows its field. Both sizes are told."""
    with pytest.raises(SeriesError, match=f"mask has {shape[1]} x {shape[0]} px, but its image has 200 x 180 px"):
        scaled_mask(np.zeros(shape, bool), SHAPE)


@pytest.mark.parametrize("shape", [(90, 100), (22, 24), (45, 50), (88, 100)])
def test_sizes_that_warp_rounds_are_accepted(shape):
    """Every size is rounded down to an even one, on its own."""
    assert scaled_mask(np.ones(shape, bool), SHAPE).all()


# ------------------------------------------------------------------------------------------------------------- filling


def test_the_plane_of_the_surroundings_goes_on():
    """Without noise the hidden plane comes back exactly where its slope is small against the spread around it."""
    rows, cols = np.indices(SHAPE)
    truth = plane(rows, cols).astype(np.float32)
    mask = distance(*BLOB) < 5
    dirty = np.where(mask, 1e5, truth).astype(np.float32)
    filled = fill_masked(dirty, mask, PIXEL_A)
    # a step of float32 at 40; values within one standard deviation of the band: its radius is 21 px, the hole's 9 px
    np.testing.assert_allclose(filled, truth, atol=1e-5)


def test_what_is_far_from_the_mask_stays():
    """Beyond 16 A from the mask every pixel keeps its bits, and a mask of nothing changes nothing."""
    image = (100 + noise()).astype(np.float32)
    mask = distance(*BLOB) < 10
    filled = fill_masked(image, mask, PIXEL_A)
    same = filled == image
    assert same[distance(*BLOB) > 10 + 16 / PIXEL_A + 1].all()
    assert not same[mask].any()
    assert fill_masked(image, np.zeros(SHAPE, bool), PIXEL_A) is image


def test_the_fill_does_not_depend_on_what_was_there():
    """Dirt of any brightness, NaN too, gives the same bits, and so does a second time."""
    image = (100 + noise()).astype(np.float32)
    mask = distance(*BLOB) < 10
    fills = [fill_masked(np.where(mask, v, image).astype(np.float32), mask, PIXEL_A) for v in (0, 1e6, np.nan)]
    for fill in fills:
        np.testing.assert_array_equal(fill, fills[0])
    np.testing.assert_array_equal(fill_masked(image, mask, PIXEL_A)[mask], fills[0][mask])


def test_every_region_has_surroundings_of_its_own():
    """Two holes on either side of a step are filled with what lies around each."""
    _, cols = np.indices(SHAPE)
    image = np.where(cols < 100, 10.0, 50.0).astype(np.float32)
    mask = (distance(90, 40) < 8) | (distance(90, 160) < 8)
    filled = fill_masked(np.where(mask, 0, image).astype(np.float32), mask, PIXEL_A)
    np.testing.assert_allclose(filled, image, atol=1e-5)


def test_a_region_at_the_edge_stays_in_bounds():
    """Half of the image masked: the fill is not the slope of a narrow band carried to the far side."""
    _, cols = np.indices(SHAPE)
    image = (100 + noise()).astype(np.float32)
    filled = fill_masked(image, cols >= 60, PIXEL_A)
    hidden = filled[:, 60:]
    # within one standard deviation (1, give or take its own error over 2000 pixels) of the mean around it
    assert np.abs(hidden - 100).max() < 1.2


def test_an_image_masked_all_over_is_flat():
    filled = fill_masked(noise().astype(np.float32), np.ones(SHAPE, bool), PIXEL_A)
    assert np.ptp(filled) == 0
    assert np.isfinite(filled).all()


# ----------------------------------------------------------------------------------------------------------- particles


def test_the_share_of_a_disc():
    """Half-planes through the middle, beside it, and across nothing; discs that are not wanted have none."""
    _, cols = np.indices(SHAPE)
    xy = np.array([[100.0, 90.0], [80.0, 90.0], [150.0, 90.0], [150.0, 90.0]])
    share = masked_share(cols >= 100, xy, np.array([True, True, True, False]), 32.0)
    # the pixels of the middle column belong to the masked side: one column of 33 on a disc of radius 16
    np.testing.assert_allclose(share, [0.5 + 16.5 / 797, 0.0, 1.0, 0.0], atol=2e-3)


def a_series(n: int = 1) -> TiltSeries:
    return TiltSeries(
        name="TS_01",
        angle_deg=np.zeros(n),
        dose=3.0 * np.arange(n),
        axis_angle_deg=np.zeros(n),
        axis_offset_A=np.zeros((n, 2)),
        use_tilt=np.ones(n, bool),
        active=np.ones(n, bool),
        image_size_A=np.array(SHAPE[::-1]) * PIXEL_A,
        volume_size_A=np.array([*SHAPE[::-1], 40]) * PIXEL_A,
        optics=Optics(defocus_um=CubicGrid.constant(1.0)),
    )


def species() -> Species:
    return Species(name="phantom", diameter_A=120.0, symmetry="C1", pixel_size_A=PIXEL_A, box_px=32)


def load(image: np.ndarray, mask: np.ndarray | None, series: TiltSeries | None = None) -> ParticleImages:
    series = series or a_series()
    position = np.array([[*NEAR, 20.0], [*FAR, 20.0]]) * PIXEL_A
    particles = Particles(position, np.zeros((2, 3)), np.array([1, 2], np.int8), np.arange(2))

    def read(t: int) -> TiltImage:
        return TiltImage(image.astype(np.float32), PIXEL_A, mask)

    return load_particle_images(series, species(), particles, read, 0.5 / PIXEL_A, 0.05)


def test_a_mask_keeps_gold_out_of_the_neighbours():
    """A bright bead 30 px from a particle: with its mask the samples are near those of the image without a bead."""
    clean = 100 + noise()
    dirty = clean - 300 * np.exp(-0.5 * (distance(*BLOB) / 5) ** 2)
    mask = distance(*BLOB) < 13
    samples = {"clean": load(clean, None), "dirty": load(dirty, None), "masked": load(dirty, mask)}
    near = {name: images.values[0, 0].astype(np.float64) for name, images in samples.items()}
    error = {name: np.linalg.norm(v - near["clean"]) / np.linalg.norm(near["clean"]) for name, v in near.items()}
    # the noise that the mask and 16 A around it take from the particle's box is lost in any case; the rest is the tail
    # of the bead and the rings' new noise amplitudes
    half = samples["clean"].samples.box_px // 2
    rows, cols = np.indices(SHAPE)
    box = (np.abs(cols - NEAR[0]) <= half) & (np.abs(rows - NEAR[1]) <= half)
    lost = (distance(*BLOB) < 13 + 16 / PIXEL_A)[box].mean()
    assert error["masked"] ** 2 < 1.3 * lost
    assert error["dirty"] > 4 * error["masked"]
    assert samples["masked"].active.all()


def test_a_particle_under_dirt_does_not_count():
    """More than half of its disc masked: not active, samples zero; its neighbour is as it was."""
    image = 100 + noise()
    _, cols = np.indices(SHAPE)
    for edge, counts in ((int(NEAR[0]) + 3, True), (int(NEAR[0]) - 3, False)):
        images = load(image, cols >= edge)
        assert images.active[0, 0] == counts
        assert images.values[0].any() == counts
        assert images.active[1, 0]
        assert images.values[1].any()


def test_all_masked_is_said():
    with pytest.raises(SeriesError, match="TS_01: all particles of phantom are masked in every tilt"):
        load(100 + noise(), np.ones(SHAPE, bool))


def test_a_tilt_that_is_not_in_use_is_not_read():
    """Deselected tilts are left alone, and so are those in which no particle lies."""
    series = replace(a_series(2), active=np.array([True, False]))
    images = load(100 + noise(), None, series)
    np.testing.assert_array_equal(images.active, [[True, False]] * 2)
    assert not images.values[:, 1].any()
