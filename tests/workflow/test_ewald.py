"""The Ewald sphere: images with a curved one fit best, and give the best map, with the curvature of their own hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.imaging.reconstruct import accumulator_shape, backproject, fourier_sums, solve_map
from mpr_dist.imaging.reference import Reference, projector_volume
from mpr_dist.refinement.products import SpeciesData, products
from mpr_dist.storage.mrc import read_image
from mpr_dist.workflow.simulation.simulate import simulate_project
from mpr_dist.workflow.simulation.simulate_settings import Plant, SimulateSettings

pytestmark = pytest.mark.slow

PIXEL_A, BOX = 2.5, 72


@pytest.fixture(scope="module", params=["upright", "inverted"])
def made(request, tmp_path_factory):
    """Electrons of 5 kV: at 5 A the edge of the particle is 1.3 rad out of phase with its middle."""
    settings = SimulateSettings(
        n_series=1,
        particles_per_series=8,
        n_tilts=5,
        tilt_step_deg=15.0,
        pixel_A=PIXEL_A,
        image_px=(400, 400),
        box_px=BOX,
        voltage_kV=5.0,
        cs_mm=0.0,
        defocus_um=0.3,
        contrast=1.0,
        ewald=1,
        are_angles_inverted=request.param == "inverted",
        plant=Plant.nothing(),
    )
    return simulate_project(tmp_path_factory.mktemp("ewald") / "project", settings)


def images_of(made, species):
    (name, series), *_ = made.true_series.items()
    particles = made.true_particles[name]

    def read(t):
        return read_image(series.image_paths[t]), PIXEL_A

    return series, particles, load_particle_images(series, species, particles, read, 0.5 / PIXEL_A, 0.05)


def species_with(made, ewald: int):
    return replace(made.species, ewald=ewald)


def test_the_right_hand_makes_the_best_map(made):
    """From the very geometry: curved and of the planted hand beats flat, flat beats the other hand."""
    scores = {}
    truth = made.every_species[0].density()
    for ewald in (1, 0, -1):
        species = species_with(made, ewald)
        series, particles, images = images_of(made, species)
        sums = np.zeros(accumulator_shape(species), np.int64)
        backproject(sums, series, species, particles, images)
        halves = [solve_map(fourier_sums(half, species.symmetry), species) for half in sums]
        curve = fsc(halves[0] + halves[1], truth)
        scores[ewald] = float(curve[BOX // 4 : BOX // 2].mean())
    assert scores[1] > scores[0] + 0.005
    assert scores[0] > scores[-1] + 0.005


def test_the_right_hand_fits_best(made):
    """Against the true density: the correlation of images and model is highest for the planted hand."""
    found = {}
    volume = projector_volume(made.every_species[0].density(), 2 * BOX)
    reference = Reference(np.stack([volume, volume]), 2 * BOX, 0.5 / PIXEL_A, 2 * PIXEL_A)
    for ewald in (1, 0, -1):
        species = species_with(made, ewald)
        series, particles, images = images_of(made, species)
        product = products(series, particles, SpeciesData(species, images, reference))
        found[ewald] = float(product.xm.sum() / np.sqrt(product.mm.sum()))
    assert found[1] > 1.02 * found[0]
    assert found[0] > 1.02 * found[-1]
