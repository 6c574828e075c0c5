"""Export a population to RELION 5, reconstruct there, and compare the half-maps with ours.

    python examples/relion5_compare.py POP OUT [--species NAME] [--iteration N]

POP must hold half-maps of the iteration (after ``mpr-dist reconstruct`` or ``refine``). RELION's
``relion_tomo_reconstruct_particle`` is run in OUT where it is installed; otherwise the command is printed, and
``--half1``/``--half2`` compares with maps that were made elsewhere. Half-maps agree when their FSC under the mask is
above 0.99 in every shell up to the resolution of the map; the exit code is 1 when they do not.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from mpr_dist.errors import MprError
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.masks import fsc_mask
from mpr_dist.maths.fourier import crop_or_pad_real
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.state.export_request import ExportRequest
from mpr_dist.workflow.state.fsc_table import read_fsc

PROGRAM = "relion_tomo_reconstruct_particle"
AGREE = 0.99


def compare(ours: Path, theirs: Path, mask: Path, resolution_A: float) -> tuple[float, float]:
    """Lowest and mean FSC of two maps under a mask, from the third shell to the resolution.

    A high-pass filter of the images separates the first two shells, which hold less than the particle.
    """
    (a, pixel), (b, other), (m, _) = (read_volume(path) for path in (ours, theirs, mask))
    if abs(pixel / other - 1) > 1e-3:
        raise SystemExit(f"{theirs}: pixels of {other:g} A, ours have {pixel:g} A; reconstruct without binning")
    n = min(len(a), len(b))
    soft = crop_or_pad_real(fsc_mask(m, pixel, resolution_A), n)
    curve = fsc(*(np.asarray(crop_or_pad_real(v, n) * soft, np.float32) for v in (a, b)))
    shells = curve[3 : int(n * pixel / resolution_A) + 1]
    return float(shells.min()), float(shells.mean())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("population", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--species", help="needed when there are several")
    parser.add_argument("--iteration", type=int, help="default: the one in force")
    parser.add_argument("--half1", type=Path, help="half-map that RELION made already")
    parser.add_argument("--half2", type=Path)
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args(arguments)
    population = load_population(options.population)
    species = next(s for s in population.species if options.species in (None, s.name))
    number = population.iteration if options.iteration is None else options.iteration
    ours = population.files(number).species(species.name)
    done = export(ExportRequest(options.population, options.out, options.iteration), "relion5")
    print(*done.lines, sep="\n")
    theirs = (options.half1, options.half2)
    if theirs == (None, None):
        suffix = "" if len(population.species) == 1 else f"_{species.name}"
        box = str(2 * species.species.box_px)
        command = [PROGRAM, "--i", f"optimisation_set{suffix}.star", "--o", "Reconstruct/", "--b", box]
        command += ["--crop", str(species.species.box_px), "--bin", "1", "--sym", species.species.symmetry]
        command += ["--j", str(options.threads), "--no_backup"]
        if shutil.which(PROGRAM) is None:
            print(f"{PROGRAM} is not installed; where it is, run in {options.out}:\n  {' '.join(command)}")
            print("and come back with --half1 Reconstruct/half1.mrc --half2 Reconstruct/half2.mrc")
            return 0
        subprocess.run(command, cwd=options.out, check=True)
        theirs = tuple(options.out / "Reconstruct" / f"half{half}.mrc" for half in (1, 2))
    resolution = read_fsc(ours.fsc).resolution_A
    worst = 1.0
    for half, path, other in zip((1, 2), (ours.half1, ours.half2), theirs, strict=True):
        least, mean = compare(path, other, species.mask, resolution)
        print(f"half-map {half}: FSC {least:.4f} at least, {mean:.4f} in the mean, to {resolution:.2f} A")
        worst = min(worst, least)
    return 0 if worst > AGREE else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MprError as error:
        sys.exit(str(error))
