"""Debian's RELION reads what is ours: maps, masks, half-maps, tables. Skipped where it is not installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.model.population import Population
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks
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
