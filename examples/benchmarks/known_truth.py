"""How near a refined population of the example data comes to its truth: map, scales, B-factors, envelope.

    python examples/benchmarks/known_truth.py POPULATION DATA [--species apo] > table.md

DATA is the folder of the small apoferritin project with known truth: truth/density.mrc, truth/SERIES.xml, and, two
folders above it, tools/score.py. Maps are scored iteration by iteration; scales and B-factors are those of the last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from mpr_dist.imaging.ctf import tilt_bfactors_A2, tilt_scales
from mpr_dist.model.population import Population
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series

# a B-factor counts where its standard deviation is below; the envelope is compared at this resolution
KNOWN_A2, AT_A = 60.0, 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--species", default="apo")
    given = parser.parse_args()
    population = load_population(given.population)
    print("| iteration | mean truth FSC |\n|---|---|")
    for number in range(population.iteration + 1):
        print(f"| {number} | {_score(population, number, given.species, given.data):.4f} |")
    print("\n| | Spearman of scales | tilts with known B | their error over sigma | envelope at 8 A | of the default |")
    print("|---|---|---|---|---|---|")
    for _, entry in population.series:
        print(f"| {entry.name} | {' | '.join(_weights(population, entry.name, given.data / 'truth'))} |")


def _score(population: Population, number: int, species: str, data: Path) -> float:
    files = population.files(number).species(species)
    tool = data.parents[1] / "tools" / "score.py"
    command = [sys.executable, str(tool), str(files.half1), str(files.half2), str(data / "truth" / "density.mrc")]
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["mean_truth_fsc"])


def _weights(population: Population, name: str, truth: Path) -> list[str]:
    """Scales and B-factors of a series: an offset of B and a factor of the envelope belong to the map and are free."""
    true = read_tilt_series(truth / f"{name}.xml", volume_size_A=None)
    start = read_tilt_series(population.files(0).series(name).xml, volume_size_A=None)
    sigma = population.files(population.iteration).series(name).xml.with_name(f"{name}.sigma.star")
    blocks = read_blocks(sigma)
    scale = np.exp(blocks["log_scale"]["mprValue"].to_numpy(float))
    bfactor, deviation = (blocks["bfactor"][column].to_numpy(float) for column in ("mprValue", "mprSigma"))
    known = deviation < KNOWN_A2
    error = (bfactor - tilt_bfactors_A2(true))[known]
    over_sigma = np.sqrt(np.mean(((error - error.mean()) / deviation[known]) ** 2))
    planted = _envelope(tilt_scales(true), tilt_bfactors_A2(true))
    found, default = (
        _envelope_error(_envelope(*each), planted)
        for each in ((scale, bfactor), (tilt_scales(start), tilt_bfactors_A2(start)))
    )
    rank = spearmanr(scale, tilt_scales(true)).statistic
    return [f"{rank:.3f}", str(known.sum()), f"{over_sigma:.2f}", f"{found:.3f}", f"{default:.3f}"]


def _envelope(scale: np.ndarray, bfactor_A2: np.ndarray) -> np.ndarray:
    return scale * np.exp(bfactor_A2 / (4 * AT_A**2))


def _envelope_error(envelope: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((envelope * (envelope @ true) / (envelope @ envelope) - true) ** 2)))


if __name__ == "__main__":
    main()
