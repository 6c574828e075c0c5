"""Debian's RELION reads what is ours: maps, masks, half-maps, tables. Skipped where it is not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mpr_dist.imaging.ctf import ctf
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.relion_optics import mapped_defocus
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.maths.zernike import odd_phase_rad
from mpr_dist.model.optics import Optics
from mpr_dist.model.population import Population
from mpr_dist.storage.mrc import read_volume, stack_bytes
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.population import load_population
from mpr_dist.storage.relion_aberrations import aberrations_of
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulatedProject
from mpr_dist.workflow.state.export_request import ExportRequest
from mpr_dist.workflow.state.fsc_table import read_fsc

pytestmark = pytest.mark.skipif(
    shutil.which("relion_postprocess") is None, reason="RELION is not installed (apt-get install relion)"
)


def relion(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def population(project: SimulatedProject, tmp_path_factory: pytest.TempPathFactory) -> Population:
    path = tmp_path_factory.mktemp("debian") / "population"
    import_simulated(path, project, "debian")
    return load_population(path)


def test_maps_and_masks(population: Population, tmp_path: Path) -> None:
    """Sizes, pixels and voxel statistics that relion_image_handler prints are those of the files."""
    (species,) = population.species
    files = population.files(0).species(species.name)
    for path in (files.half1, files.half2, files.map, species.mask):
        assert path is not None
        printed = relion("relion_image_handler", "--i", str(path), "--stats", folder=tmp_path)
        volume, pixel = read_volume(path)
        size = re.search(r"\(x,y,z,n\)= (\d+) x (\d+) x (\d+) x 1", printed)
        assert size is not None
        assert {int(n) for n in size.groups()} == {len(volume)}
        numbers = dict(re.findall(r"(avg|stddev|minval|maxval|angpix)\s*= ([-\d.e+]+)", printed))
        expected = (volume.mean(), volume.std(), volume.min(), volume.max(), pixel)
        for name, value in zip(("avg", "stddev", "minval", "maxval", "angpix"), expected, strict=True):
            # it prints six digits
            assert float(numbers[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6)


def test_postprocess_on_half_maps(population: Population, tmp_path: Path) -> None:
    """RELION's FSC of the half-maps without a mask is ours; with it, the resolution is the same to a shell or two."""
    (species,) = population.species
    files = population.files(0).species(species.name)
    (tmp_path / "out").mkdir()
    pixel = f"{species.species.pixel_size_A:g}"
    command = ["relion_postprocess", "--i", str(files.half1), "--i2", str(files.half2), "--mask", str(species.mask)]
    relion(*command, "--angpix", pixel, "--o", "out/postprocess", folder=tmp_path)
    blocks = read_blocks(tmp_path / "out/postprocess.star")
    theirs, ours = blocks["fsc"]["rlnFourierShellCorrelationUnmaskedMaps"].to_numpy(), read_fsc(files.fsc)
    n = min(len(theirs), len(ours.unmasked))
    # RELION's shells lack a part of the plane kx = 0; in shells of noise that is up to a tenth of the scatter of an FSC
    assert np.abs(theirs[1 : n - 1] - ours.unmasked[1 : n - 1]).max() < 0.03
    strong = slice(1, 1 + int(np.argmax(theirs < 0.9)))
    assert np.abs(theirs[strong] - ours.unmasked[strong]).max() < 2e-3
    box_A = species.species.box_px * species.species.pixel_size_A
    shell = box_A / float(blocks["general"]["rlnFinalResolution"])
    assert abs(shell - box_A / ours.resolution_A) < 2.5


def test_reconstruction_of_a_tilted_and_stretched_beam(tmp_path: Path) -> None:
    """relion_reconstruct undoes rlnBeamTilt and rlnMagMat in images that our model predicts from the same table.

    With the transpose, the inverse or no matrix, or the other sign of the tilt, its map is a worse one: the conventions
    are the same, down to which frequencies the matrix maps.
    """
    n, pixel, stretch = 64, 2.0, np.array([[1.03, 0.04], [-0.03, 0.97]])
    rng = np.random.default_rng(11)
    atoms = rng.normal(0, 9, (60, 3))
    angles = np.stack([rng.uniform(0, 360, 200), np.degrees(np.arccos(rng.uniform(-1, 1, 200))), np.zeros(200)], 1)
    group = {
        "rlnOpticsGroup": 1,
        "rlnOpticsGroupName": "one",
        "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7,
        "rlnAmplitudeContrast": 0.07,
        "rlnImagePixelSize": pixel,
        "rlnImageSize": n,
        "rlnImageDimensionality": 2,
    }
    tilt = {"rlnBeamTiltX": 2.0, "rlnBeamTiltY": -1.3}
    matrices = {f"rlnMagMat{i}{j}": stretch[i, j] for i in range(2) for j in range(2)}
    (said,) = aberrations_of(Columns(tmp_path, pd.DataFrame([group | tilt | matrices])))
    qx, qy = np.meshgrid(np.fft.rfftfreq(n, pixel), np.fft.fftfreq(n, pixel))
    k = np.stack([said.matrix[0, 0] * qx + said.matrix[0, 1] * qy, said.matrix[1, 0] * qx + said.matrix[1, 1] * qy], -1)
    u, v, at = mapped_defocus(*(np.array([value]) for value in (9000.0, 8000.0, 30.0)), said.matrix)
    transfer = ctf(Optics(), qx, qy, 5e-5 * float((u + v)[0]), 1e-4 * float((u - v)[0]), float(at[0]), 0.0)
    transfer = transfer * np.exp(-2 * (np.pi * 1.5) ** 2 * (k**2).sum(-1) - 1j * odd_phase_rad(said.odd, qx, qy))
    to_middle = np.exp(-2j * np.pi * (qx + qy) * pixel * (n // 2))
    seen = atoms @ euler_to_matrix(angles).transpose(0, 2, 1)
    images = [
        np.fft.irfft2(transfer * to_middle * np.exp(-2j * np.pi * (k @ each[:, :2].T)).sum(-1), (n, n)) for each in seen
    ]
    (tmp_path / "images.mrcs").write_bytes(b"".join(stack_bytes(1e4 / np.abs(images).max() * np.array(images), pixel)))
    places = np.fft.fftshift(np.fft.fftfreq(n, 1 / (n * pixel)))
    z, y, x = (np.exp(-((places[:, None] - atoms[:, i]) ** 2) / (2 * 1.5**2)) for i in (2, 1, 0))
    truth = np.einsum("za,ya,xa->zyx", z, y, x)
    particles = {
        "rlnImageName": [f"{i + 1:06d}@images.mrcs" for i in range(len(images))],
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True)),
        **{"rlnOriginXAngst": 0.0, "rlnOriginYAngst": 0.0, "rlnOpticsGroup": 1},
        **{"rlnDefocusU": 9000.0, "rlnDefocusV": 8000.0, "rlnDefocusAngle": 30.0},
    }

    def agreement(name: str, **columns: float) -> float:
        """Mean FSC of RELION's map and the truth, from 6 to 4.5 A."""
        blocks = {"optics": pd.DataFrame([group | columns]), "particles": pd.DataFrame(particles)}
        write_table(tmp_path / f"{name}.star", blocks)
        relion(
            "relion_reconstruct",
            "--i",
            f"{name}.star",
            "--o",
            f"{name}.mrc",
            "--ctf",
            "--skip_gridding",
            folder=tmp_path,
        )
        made = np.asarray(read_volume(tmp_path / f"{name}.mrc")[0])
        return float(fsc(made, truth.astype(np.float32))[int(n * pixel / 6) : int(n * pixel / 4.5)].mean())

    right = agreement("right", **tilt, **matrices)
    assert right > 0.98
    others = {"transposed": stretch.T, "inverse": np.linalg.inv(stretch), "none": np.eye(2)}
    for name, matrix in others.items():
        wrong = {f"rlnMagMat{i}{j}": matrix[i, j] for i in range(2) for j in range(2)}
        assert agreement(name, **tilt, **wrong) < right - 0.05, name
    assert agreement("untilted", **matrices) < right - 0.1
    assert agreement("other_sign", rlnBeamTiltX=-2.0, rlnBeamTiltY=1.3, **matrices) < right - 0.1


def test_tables(population: Population, tmp_path: Path) -> None:
    """RELION reads particles and writes them again, labels it does not know maintained; and prints the other tables."""
    export(ExportRequest(population.path, tmp_path / "project"), "relion5")
    path = tmp_path / "project/particles.star"
    relion("relion_star_handler", "--i", str(path), "--o", "again.star", folder=tmp_path)
    before, after = read_blocks(path)["particles"], read_blocks(tmp_path / "again.star")["particles"]
    for column in before:
        a, b = before[column], after[column]
        is_text = a.dtype.kind not in "if"
        same = a.astype(str) == b.astype(str) if is_text else np.isclose(a, b, rtol=1e-5, atol=1e-5)
        assert same.all(), column
    (tilts,) = (tmp_path / "project/tilt_series").iterdir()
    ((name, frame),) = read_blocks(tilts).items()
    printed = relion(
        "relion_star_printtable", str(tilts), f"data_{name}", "rlnTomoYTilt", "rlnDefocusU", folder=tmp_path
    )
    rows = np.array([line.split() for line in printed.splitlines()], np.float64)
    assert np.array_equal(rows, frame[["rlnTomoYTilt", "rlnDefocusU"]].to_numpy())
