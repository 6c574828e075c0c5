"""What the protocols bring on simulated projects, iteration by iteration: auto, M's order, and all classes by hand.

    python examples/benchmarks/auto.py OUT --case everything [--protocol auto --protocol m --protocol hand] > table.md

Cases: everything (3 series of 40 particles, most of what can be wrong is planted), demo (2 of 30), few (6 of 5). By
hand are the classes and grids that were planted. The score is the mean FSC between the map and the true density, from 0
to Nyquist.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.running.launch import EngineChoice, refine_population
from mpr_dist.workflow.series.release_table import over_all
from mpr_dist.workflow.series.uncertainty_table import read_details
from mpr_dist.workflow.series.widths import WORDS, settings_of, widths_found
from mpr_dist.workflow.simulation.demo import demo_settings, everything_settings
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import ceiling, map_quality
from mpr_dist.workflow.simulation.simulate import SimulatedProject, settings_from, simulate_project

NAME = "phantom"
CASES = {"everything": ("everything", {}), "demo": ("demo", {}),
         "few": ("demo", {"n_series": 6, "particles_per_series": 5})}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--case", choices=CASES, default="everything")
    parser.add_argument("--protocol", choices=("auto", "m", "hand"), action="append")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=4)
    given = parser.parse_args()
    preset, changes = CASES[given.case]
    made = simulate_project(given.out / "project", settings_from(preset, changes))
    fresh = given.out / "start"
    import_simulated(fresh, made, given.case)
    print(f"{given.case}: ceiling, mean truth FSC {ceiling(made):.4f}")
    for protocol in given.protocol or ("auto", "m", "hand"):
        path = given.out / protocol
        shutil.copytree(fresh, path)
        settings = _settings(protocol, given.case, given.iterations)
        sys.stdout.flush()
        population = refine_population(path, settings, EngineChoice("local", given.workers)).population
        _table(protocol, population, made)


def _settings(protocol: str, case: str, iterations: int) -> RefineSettings:
    hand = everything_settings(iterations) if case == "everything" else demo_settings(iterations)
    if protocol == "hand":
        return hand
    return RefineSettings(iterations, image_warp=hand.image_warp if protocol == "m" else None, protocol=protocol)


def _table(protocol: str, population: Population, made: SimulatedProject) -> None:
    print(f"\n{protocol}\n\n| iteration | half-maps A | mean truth FSC | cross half, all series | released |")
    print("|---|---|---|---|---|")
    for number in range(population.iteration + 1):
        quality = map_quality(population, number, made.truth / "density.mrc", NAME)
        files = population.files(number)
        details = {entry.name: read_details(files, entry.name) for _, entry in population.series} if number else {}
        cross = np.sum([one["cross_half"] for one in details.values()], axis=0) if details else ()
        scores = " to ".join(f"{score:.1f}" for score in cross)
        released = ", ".join(f"{r['words']} {r['grids']}".strip() for r in over_all(details) if r["released"])
        print(f"| {number} | {quality.half_maps_A:.2f} | {quality.mean_truth_fsc:.4f} | {scores} | {released} |")
    found = widths_found(details.values(), settings_of(files).priors)
    words = [f"{WORDS[field][0]} {one.found:.3g} {WORDS[field][1]}" for field, one in found.items()]
    print(f"\nwidths of the priors found in the last iteration: {', '.join(words)}", flush=True)


if __name__ == "__main__":
    main()
