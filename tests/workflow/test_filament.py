"""A helix is refined like any species, and its symmetry is worth what its units are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from refined import refined_population

from mpr_dist.workflow.simulation.recovery import ceiling, map_quality, parameter_errors
from mpr_dist.workflow.simulation.simulate import (
    Plant,
    SimulatedProject,
    SimulateSettings,
    SpeciesPlan,
    simulate_project,
)

SETTINGS = SimulateSettings(
    n_series=1,
    particles_per_series=12,
    n_tilts=11,
    tilt_step_deg=10.0,
    pixel_A=4.0,
    image_px=(288, 288),
    defocus_um=1.5,
    dose_per_tilt=5.0,
    contrast=3.0,
    species=(SpeciesPlan("filament", "filament"),),
    plant=Plant(image_warp=(2, 2)),
)


def refined(path: Path, made: SimulatedProject) -> tuple[float, float, float]:
    """Mean truth FSC at the end, and position error at the start and the end, all tilts (A)."""
    population = refined_population(path, made, 2)
    truth = made.every_species[0].truth
    before, after = (parameter_errors(population, i, truth, "filament").position_A[-1] for i in (0, 2))
    return map_quality(population, 2, truth / "density.mrc", "filament").mean_truth_fsc, before, after


@pytest.mark.slow
def test_a_filament_is_refined(tmp_path):
    """Both ways of treating the same images come close to what the planted geometry gives; the helix comes further."""
    made = simulate_project(tmp_path / "project", SETTINGS)
    one = made.every_species[0]
    assert one.species.helix is not None
    plain = replace(made, every_species=(replace(one, species=replace(one.species, helix=None)),))
    helical, before, after = refined(tmp_path / "helix", made)
    alone, _, after_alone = refined(tmp_path / "alone", plain)
    # twelve particles determine their views to 2 degrees only, which costs 6 % here
    assert helical > 0.92 * ceiling(made)
    assert alone > 0.92 * ceiling(plain)
    # five units for one: what separates the ceilings separates the results, too
    assert helical - alone > 0.7 * (ceiling(made) - ceiling(plain)) > 0.07
    assert after < 0.5 * before
    assert after <= after_alone
