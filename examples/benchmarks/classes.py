"""What each class of parameters brings, and what leaving it out costs, on the simulated project "everything".

    python examples/benchmarks/classes.py OUT [--workers 2] > table.md

First the classes are added one after another, in the order of M's tutorial for EMPIAR-10491; every step goes on from
the one before. Then every class is left out of a refinement of all others, from the start. The score is the mean FSC
between the map and the true density, to Nyquist; the ceiling is the map from the same images with the planted geometry.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.running.launch import EngineChoice, refine_population
from mpr_dist.workflow.simulation.demo import everything_settings
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import ceiling, map_quality
from mpr_dist.workflow.simulation.simulate import SimulatedProject, settings_from, simulate_project

NAME = "phantom"
ALL = everything_settings(1)
# M's tutorial: warp, poses and defocus, then stage angles, magnification, Cs and aberrations, then trajectories
STEPS = (
    ("image warp and poses", {"image_warp": (4, 4), "particles": True}),
    ("+ defocus", {"defocus": True}),
    ("+ stage angles", {"stage_angles": True}),
    (
        "+ magnification, Cs, aberrations, astigmatism",
        {k: getattr(ALL, k) for k in ("magnification", "cs", "aberrations", "astigmatism")},
    ),
    ("+ volume warp", {"volume_warp": ALL.volume_warp}),
    ("+ 2 temporal samples", {"temporal_samples": 2}),
)
LEFT_OUT = {
    "image warp": {"image_warp": None},
    "volume warp": {"volume_warp": None},
    "poses": {"particles": False, "temporal_samples": 0},
    "2 temporal samples": {"temporal_samples": 0},
    "stage angles": {"stage_angles": False},
    "defocus": {"defocus": False},
    "astigmatism": {"astigmatism": False},
    "Cs": {"cs": False},
    "beam tilt (aberrations of order 3)": {"aberrations": ()},
    "magnification": {"magnification": False},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=2, help="of every refinement that leaves a class out")
    given = parser.parse_args()
    made = simulate_project(given.out / "project", settings_from("everything", {}))
    engine, best = EngineChoice("local", given.workers), ceiling(made)
    fresh = given.out / "start"
    import_simulated(fresh, made, "everything")
    start = map_quality(_load(fresh), 0, made.truth / "density.mrc", NAME)
    print(f"ceiling: mean truth FSC {best:.4f}\n\n| refined | half-maps A | mean truth FSC | share of the ceiling |")
    print("|---|---|---|---|")
    _row("start", start, best)
    settings, population = RefineSettings(iterations=1), given.out / "steps"
    shutil.copytree(fresh, population)
    for name, classes in STEPS:
        settings = replace(settings, **classes)
        _row(name, _refined(population, made, settings, 1, engine), best)
    print(f"\n| {given.iterations} iterations without | half-maps A | mean truth FSC | share of the ceiling |")
    print("|---|---|---|---|")
    for i, (name, changes) in enumerate({"nothing: all classes": {}, **LEFT_OUT}.items()):
        population = given.out / f"without-{i}"
        shutil.copytree(fresh, population)
        _row(name, _refined(population, made, replace(ALL, **changes), given.iterations, engine), best)


def _load(path: Path):  # type: ignore[no-untyped-def]
    from mpr_dist.storage.population import load_population

    return load_population(path)


def _refined(path: Path, made: SimulatedProject, settings: RefineSettings, iterations: int, engine: EngineChoice):  # type: ignore[no-untyped-def]
    settings = replace(settings, iterations=iterations)
    sys.stdout.flush()
    outcome = refine_population(path, settings, engine)
    population = outcome.population
    return map_quality(population, population.iteration, made.truth / "density.mrc", NAME)


def _row(name: str, quality, best: float) -> None:  # type: ignore[no-untyped-def]
    score = quality.mean_truth_fsc
    print(f"| {name} | {quality.half_maps_A:.2f} | {score:.4f} | {100 * score / best:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
