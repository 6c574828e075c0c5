"""Everything at once: a simulated project in which most of what can be wrong is wrong, refined to its ceiling."""

from __future__ import annotations

import pytest

from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.reference import use_mask
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.mrc import read_volume
from mpr_dist.workflow.create import create_population
from mpr_dist.workflow.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.launch import EngineChoice, refine_population
from mpr_dist.workflow.recovery import map_quality
from mpr_dist.workflow.simulate import half_maps_from, settings_from, simulate_project

pytestmark = pytest.mark.slow

SETTINGS = RefineSettings(
    iterations=2,
    image_warp=(4, 4),
    volume_warp=(2, 2, 1, 4),
    particles=True,
    temporal_samples=2,
    stage_angles=True,
    defocus=True,
    astigmatism=True,
    cs=True,
    aberrations=(3,),
    magnification=True,
)


def test_everything_at_once_reaches_the_ceiling(tmp_path):
    """Mean FSC with the true density: at least 0.97 of that of the map from the planted geometry, in two iterations."""
    made = simulate_project(tmp_path / "project", settings_from("everything", {}))
    half1, half2 = half_maps_from(made, made.true_series, made.true_particles)
    mask = use_mask(read_volume(made.mask)[0], made.settings.pixel_A)
    curve = fsc((half1 + half2) * mask, read_volume(made.truth / "density.mrc")[0] * mask)
    ceiling = float(curve[1 : len(half1) // 2].mean())

    population, species = tmp_path / "population", made.species
    create_population(population, "everything")
    add_warp_source(population, SourceRequest("simulated", made.files.settings))
    tables = (*made.half_maps, made.mask, made.files.run_data)
    add_species(population, SpeciesRequest("phantom", *tables, float(species.diameter_A), species.symmetry))
    outcome = refine_population(population, SETTINGS, EngineChoice("local", workers=2))
    start, end = (map_quality(outcome.population, i, made.truth / "density.mrc", "phantom") for i in (0, 2))
    assert start.mean_truth_fsc < 0.5
    assert end.mean_truth_fsc >= 0.97 * ceiling
