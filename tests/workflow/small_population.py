"""A population from a simulated project: a few series of eight particles each."""

from __future__ import annotations

from pathlib import Path

from mpr_dist.model.population import Population
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulatedProject


def build_population(directory: Path, made: SimulatedProject) -> Population:
    import_simulated(directory, made, "small")
    return load_population(directory)
