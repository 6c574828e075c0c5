"""RELION's reconstruction and ours from the same particle images, on one core: CPU seconds, and whether the maps agree.

    python examples/benchmarks/relion.py [--box 128] [--images 300,1500] [--folder DIR]

Needs ``relion_reconstruct`` (RELION 3.1 and later; Debian: apt-get install relion). The images are projections of the
asymmetric phantom at any orientation and defocus, with noise. Both programs read the same stack, correct for the CTF
and for trilinear insertion, and write a map; both pad twice. The difference between the numbers of images, over their
Fourier samples, is the cost of a sample (reading and transforming included), what does not grow with them the cost of
the map. Where RELION-5 is installed, ``relion_tomo_reconstruct_particle`` and ``mpr-dist reconstruct`` are compared on
a project in both forms, too: --relion5 optimisation_set.star --population POP --symmetry O.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numba
import numpy as np

from mpr_dist.imaging.extract import extract_samples
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.phantom import asymmetric_phantom, density
from mpr_dist.imaging.reconstruct import accumulator_shape, fourier_sums, grid_px, solve_map
from mpr_dist.imaging.reference import projector_volume
from mpr_dist.imaging.samples import box_samples
from mpr_dist.maths.fourier import crop_or_pad_real
from mpr_dist.maths.kernels.compare import N_TABLES
from mpr_dist.maths.kernels.insert import insert
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import read_stack, read_volume, write_volume
from mpr_dist.storage.star import write_table

KILOVOLT, CS_MM, AMPLITUDE, LAMBDA_A = 300.0, 2.7, 0.07, 0.0196875
PADDING, SCALE, BLOCK = 2, 2.0**28, 100
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def tables_of(box_px: int, pixel_A: float, grid: int):
    """Samples to Nyquist, and the tables that the kernels want; see ``kernels.compare``."""
    s = box_samples(box_px, pixel_A, 0.5 / pixel_A)
    q2, theta, to_grid = s.qx**2 + s.qy**2, np.arctan2(s.qy, s.qx), grid * pixel_A
    tables = np.zeros((N_TABLES, len(s.kx)), np.float32)
    tables[:7] = s.qx, s.qy, s.qx * to_grid, s.qy * to_grid, -0.5 * LAMBDA_A * q2, np.cos(2 * theta), np.sin(2 * theta)
    fixed = (0.25 * CS_MM * 1e7 * LAMBDA_A**3 * q2**2 - np.arcsin(AMPLITUDE) / (2 * np.pi)).astype(np.float32)
    return s, tables, fixed[None]


def make_stack(folder: Path, box: int, pixel_A: float, count: int) -> None:
    """stack.mrcs and particles.star: slices of the phantom times their CTF, turned back into images, and noise."""
    rng = np.random.default_rng(0)
    truth = density(asymmetric_phantom(), box, pixel_A)
    write_volume(folder / "truth.mrc", truth, pixel_A)
    volume = projector_volume(truth, PADDING * box)
    s, tables, fixed = tables_of(box, pixel_A, PADDING * box)
    angles = np.stack([rng.uniform(-180, 180, count), np.degrees(np.arccos(rng.uniform(-1, 1, count)))], -1)
    angles = np.concatenate([angles, rng.uniform(-180, 180, (count, 1))], -1)
    defocus = rng.uniform(1e4, 3e4, count)
    images = np.empty((count, box, box), np.float32)
    for i, view in enumerate(euler_to_matrix(angles)):
        k = view[0][:, None] * tables[2] + view[1][:, None] * tables[3]
        flip = k[0] < 0
        k = np.where(flip, -k, k) + np.array([[0], [volume.shape[0] // 2], [volume.shape[0] // 2]])
        nearest = np.rint(k).astype(int)
        value = volume[nearest[2], nearest[1], nearest[0]] @ np.array([1, 1j])
        gamma = 2 * np.pi * (tables[4] * defocus[i] + fixed[0])
        transform = np.zeros((box, box // 2 + 1), complex)
        transform[s.ky, s.kx] = np.where(flip, value.conj(), value) * -np.sin(gamma)
        images[i] = np.fft.fftshift(np.fft.irfft2(transform))
    images = images / images.std() + rng.standard_normal(images.shape, dtype=np.float32)
    write_volume(folder / "stack.mrc", images.astype(np.float32), pixel_A)
    (folder / "stack.mrc").rename(folder / "stack.mrcs")
    write_stars(folder, pixel_A, box, angles, defocus)


def write_stars(folder: Path, pixel_A: float, box: int, angles, defocus) -> None:
    import pandas as pd

    optics = pd.DataFrame({
        "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnVoltage": [KILOVOLT],
        "rlnSphericalAberration": [CS_MM], "rlnAmplitudeContrast": [AMPLITUDE], "rlnImagePixelSize": [pixel_A],
        "rlnImageSize": [box], "rlnImageDimensionality": [2],
    })  # fmt: skip
    count = len(angles)
    particles = pd.DataFrame({
        "rlnImageName": [f"{i + 1:06d}@stack.mrcs" for i in range(count)], "rlnOpticsGroup": np.ones(count, int),
        "rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2],
        "rlnDefocusU": defocus, "rlnDefocusV": defocus, "rlnDefocusAngle": np.zeros(count),
        "rlnOriginXAngst": np.zeros(count), "rlnOriginYAngst": np.zeros(count),
    })  # fmt: skip
    write_table(folder / "particles.star", {"optics": optics, "particles": particles})
    np.savez(folder / "poses.npz", angles=angles, defocus=defocus, pixel_A=pixel_A)


def ours(folder: Path, out: Path, count: int) -> None:
    """The map from the first images of the stack, into ``out``."""
    poses = np.load(folder / "poses.npz")
    pixel_A = float(poses["pixel_A"])
    stack = read_stack(folder / "stack.mrcs")
    box = stack.shape[-1]
    species = Species("phantom", pixel_A, box, 0.5 * box * pixel_A, "C1")
    grid = grid_px(species)
    s, tables, fixed = tables_of(box, pixel_A, grid)
    sums = np.zeros(accumulator_shape(species), np.int64)
    views, zero = euler_to_matrix(poses["angles"]).astype(np.float32)[:, None], np.zeros((1, 2), np.float32)
    weight, middle = np.ones((1, len(s.kx)), np.float32), np.array([[box // 2, box // 2]], np.float64)
    for start in range(0, count, BLOCK):
        part = slice(start, min(start + BLOCK, count))
        n = part.stop - part.start
        values = np.stack([extract_samples(image, middle, np.ones(1, bool), s) for image in stack[part]])
        insert(
            sums, np.zeros(n, np.int8), values, np.ones((n, 1), bool), np.ascontiguousarray(views[part]),
            poses["defocus"][part, None].astype(np.float32), zero, fixed, weight, np.zeros((n, 1), np.int64),
            np.array([len(s.kx)]), tables, False, SCALE,
        )  # fmt: skip
    write_volume(out, solve_map(fourier_sums(sums[0], "C1"), species), pixel_A)


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system seconds of a program on one core."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # a program of MPI in a container may be root
    env = {**os.environ, **ONE_CORE, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_particles(folder: Path, count: int) -> str:
    """A table of the first images only."""
    lines = (folder / "particles.star").read_text().splitlines()
    rows = [i for i, line in enumerate(lines) if "@stack.mrcs" in line]
    name = f"particles_{count}.star"
    (folder / name).write_text("\n".join([*lines[: rows[0]], *(lines[i] for i in rows[:count])]) + "\n")
    return name


def compare_reconstructions(folder: Path, box: int, counts: tuple[int, int]) -> None:
    pixel_A = 256.0 / box
    make_stack(folder, box, pixel_A, max(counts))
    samples = len(box_samples(box, pixel_A, 0.5 / pixel_A).kx)
    found: dict[str, list[float]] = {"relion_reconstruct": [], "mpr_dist": []}
    here = [sys.executable, str(Path(__file__).resolve()), "--ours", str(folder)]
    cpu_seconds([*here, "--out", "warm.mrc", "--images", "2"], folder)  # compiles
    for count in counts:
        table = first_particles(folder, count)
        theirs = ["relion_reconstruct", "--i", table, "--o", "theirs.mrc", "--ctf", "--pad", str(PADDING)]
        found["relion_reconstruct"].append(min(cpu_seconds(theirs, folder) for _ in range(2)))
        mine = [*here, "--out", "ours.mrc", "--images", str(count)]
        found["mpr_dist"].append(min(cpu_seconds(mine, folder) for _ in range(2)))
    version = subprocess.run(["relion_reconstruct", "--version"], capture_output=True, text=True, check=False).stdout
    print(f"{version.strip()}; box {box} px, {samples} Fourier samples in an image, {counts[0]} and {counts[1]} images")
    for name, (few, many) in found.items():
        slope = (many - few) / (counts[1] - counts[0])
        print(f"  {name:20s} {few:7.2f} s  {many:7.2f} s; per image {1e3 * slope:6.2f} ms, per sample"
              f" {1e9 * slope / samples:6.1f} ns; the rest {few - counts[0] * slope:6.2f} s")  # fmt: skip
    theirs_s, ours_s = found.values()
    print(f"  ratio: {theirs_s[0] / ours_s[0]:.1f}, {theirs_s[1] / ours_s[1]:.1f}; per image "
          f"{(theirs_s[1] - theirs_s[0]) / (ours_s[1] - ours_s[0]):.1f}")  # fmt: skip
    maps = [read_volume(folder / name)[0] for name in ("truth.mrc", "theirs.mrc", "ours.mrc")]
    # both end softly at the edge of the box, in ways of their own
    inner = [crop_or_pad_real(np.ascontiguousarray(m), 3 * box // 4 // 2 * 2) for m in maps]
    between, theirs_fsc, ours_fsc = (fsc(inner[a], inner[b])[1:-4].mean() for a, b in ((1, 2), (0, 1), (0, 2)))
    print(f"  mean FSC: between both maps {between:.4f}; to the true density {theirs_fsc:.3f}, {ours_fsc:.3f}")


def compare_relion5(optimisation_set: Path, population: Path, symmetry: str, folder: Path) -> None:
    """RELION-5's subtomogram reconstruction and ours, on one core; the box is that of our species."""
    from mpr_dist.storage.population import load_population

    program = shutil.which("relion_tomo_reconstruct_particle")
    if program is None:
        print("relion_tomo_reconstruct_particle (RELION-5) is not installed: not measured")
        return
    box = load_population(population).species[0].box_px
    theirs = [program, "--i", str(optimisation_set.resolve()), "--o", str(folder / "relion5/"), "--b", str(2 * box)]
    theirs += ["--crop", str(box), "--bin", "1", "--sym", symmetry, "--j", "1"]
    copy = shutil.copytree(population, folder / "population")
    mine = ["mpr-dist", "reconstruct", str(copy), "--engine", "inline"]
    start = time.monotonic()
    seconds = cpu_seconds(theirs, folder), cpu_seconds(mine, folder)
    print(f"RELION-5 {seconds[0]:.1f} s, mpr-dist reconstruct {seconds[1]:.1f} s, ratio {seconds[0] / seconds[1]:.1f}"
          f" ({time.monotonic() - start:.0f} s by the clock)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument("--images", default="300,1500")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--relion5", type=Path)
    parser.add_argument("--population", type=Path)
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        numba.set_num_threads(1)
        ours(given.ours, given.out, int(given.images))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if shutil.which("relion_reconstruct"):
            few, many = (int(n) for n in given.images.split(","))
            compare_reconstructions(Path(folder), given.box, (few, many))
        else:
            print("relion_reconstruct is not installed: not measured")
        if given.relion5:
            compare_relion5(given.relion5, given.population, given.symmetry, Path(folder))


if __name__ == "__main__":
    main()
