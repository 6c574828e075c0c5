"""A refinement of all that the plain simulations plant, for tests of several files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.running.launch import EngineChoice, refine_population
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulatedProject


def refined_population(
    path: Path, made: SimulatedProject, iterations: int, names: Sequence[str] | None = None
) -> Population:
    """Import a project, all species or those of these names, and refine warps as planted, poses, stage and defocus."""
    import_simulated(path, made, "refined", names)
    warp = made.settings.plant.image_warp
    settings = RefineSettings(iterations, image_warp=warp, particles=True, stage_angles=True, defocus=True)
    return refine_population(path, settings, EngineChoice("inline")).population
