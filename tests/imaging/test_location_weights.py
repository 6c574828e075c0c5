"""Weights by location reach the images: a few rows of the kernels' tables stand for all places of a tilt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from test_conventions import BOX_PX, PIXEL_A, R2, SAMPLES, a_series

from mpr_dist.imaging.ctf import LOCATION_STEPS, location_terms
from mpr_dist.imaging.particle_images import ParticleImages, kernel_tables
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.warp import CubicGrid, DoseWeights


def test_every_image_has_about_the_weight_of_its_place():
    """Rows per tilt and step of scale and B-factor; within a step a particle has the mean of those that share it."""
    grids = CubicGrid(np.array([[[1.3, 1.0, 0.6]]])), CubicGrid(np.array([[[0.0], [-40.0]]]))
    weights = DoseWeights(location_weight=grids[0], location_bfactor=grids[1], series_bfactor=-10.0)
    series = replace(a_series(Optics()), weights=weights)
    rng, count = np.random.default_rng(1), 200
    place = rng.uniform(0, 1, (count, 3)) * series.volume_size_A
    particles = Particles(place, np.zeros((count, 3)), np.ones(count, np.int8), np.arange(count))
    images = ParticleImages(
        SAMPLES,
        np.zeros((count, 2, 1, 2), np.float32),
        np.ones((count, 2), bool),
        np.zeros((count, 2, 2)),
        np.ones((2, SAMPLES.n_rings)),
        np.full(2, len(R2)),
    )
    tables = kernel_tables(series, Species("s", PIXEL_A, BOX_PX, 40.0), images, 2 * BOX_PX, particles)
    scale, b = location_terms(series, place)
    expected = scale[:, None] * np.exp((b[:, None] - 10.0) * R2 / 4)
    assert len(tables.weight) <= 2 * LOCATION_STEPS**2
    steps = np.log(1.3 / 0.6) / LOCATION_STEPS, 40.0 / LOCATION_STEPS
    for t in range(2):
        row = tables.weight_row[:, t]
        np.testing.assert_array_equal(tables.tilt_of_row[row], t)
        inside = R2 < 0.01  # 10 A: beyond, half a step of B alone is a tenth
        off = np.log(tables.weight[row][:, inside] / expected[:, inside])
        assert np.abs(off).max() <= steps[0] + steps[1] * 0.01 / 4 + 1e-5
        assert np.sqrt(np.mean(off**2)) < 0.06


def test_a_weight_of_the_whole_volume_costs_no_rows():
    weights = DoseWeights(location_weight=CubicGrid.constant(0.8), location_bfactor=CubicGrid.constant(-20.0))
    series = replace(a_series(Optics()), weights=weights)
    particles = Particles(np.full((3, 3), 100.0), np.zeros((3, 3)), np.ones(3, np.int8), np.arange(3))
    images = ParticleImages(
        SAMPLES,
        np.zeros((3, 2, 1, 2), np.float32),
        np.ones((3, 2), bool),
        np.zeros((3, 2, 2)),
        np.ones((2, SAMPLES.n_rings)),
        np.full(2, len(R2)),
    )
    tables = kernel_tables(series, Species("s", PIXEL_A, BOX_PX, 40.0), images, 2 * BOX_PX, particles)
    assert tables.weight.shape == (2, len(R2))
    np.testing.assert_allclose(tables.weight[0], 0.8 * np.exp(-20.0 * R2 / 4), rtol=1e-6)  # float32
