"""Files that RELION and Warp wrote: taken in as a project, or refused for the reason they deserve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from mpr_dist.errors import InputError
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.relion import read_particles
from mpr_dist.storage.relion_tilts import read_tilts
from mpr_dist.storage.relion_tomograms import read_tomograms
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest

TUTORIAL, OWN = "turonova+cryoCAT__", "3dem+relion__"
IMAGE_PX = (3838, 3710)


def empty_image(path: Path, nx: int, ny: int) -> None:
    """An MRC file that only its header fills: nothing is read of its pixels here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((1, 1), np.float32))
    header = np.fromfile(path, np.int32, 256)
    header[[0, 1, 2, 7, 8, 9]] = nx, ny, 1, nx, ny, 1
    header.tofile(path)
    with path.open("r+b") as stream:
        stream.truncate(1024 + 4 * nx * ny)


@pytest.fixture
def tutorial(shared: Path, tmp_path: Path) -> Path:
    """RELION-5's tutorial as its project was: one series with its 40 tilts, and the particles in it."""
    folder, root = shared / "data/real/relion5", tmp_path / "project"
    tilts = root / "Tomograms/job006/tilt_series/TS_01.star"
    tilts.parent.mkdir(parents=True)
    shutil.copy(folder / f"{TUTORIAL}relion5_TS_01_tilt.star", tilts)
    (frame,) = read_blocks(tilts).values()
    for name in frame["rlnMicrographName"]:
        empty_image(root / name, *IMAGE_PX)
    tomograms = read_blocks(folder / f"{TUTORIAL}R5_tutorial_run_tomograms.star")
    write_table(root / "Tomograms/job006/tomograms.star", tomograms)
    particles = read_blocks(folder / f"{TUTORIAL}R5_tutorial_run_data.first1200lines.star")
    particles["particles"] = particles["particles"].query("rlnTomoName == 'TS_01'").reset_index(drop=True)
    (root / "Refine3D/job010").mkdir(parents=True)
    write_table(root / "Refine3D/job010/run_data.star", particles)
    rng = np.random.default_rng(0)
    axis = np.arange(64) - 32
    ball = np.hypot(np.hypot(axis[:, None, None], axis[None, :, None]), axis[None, None]) < 20
    signal = rng.normal(0, 1, (64, 64, 64)) * ball
    for half in (1, 2):
        write_volume(root / f"half{half}.mrc", (signal + 0.1 * rng.normal(0, 1, signal.shape)).astype(np.float32), 5.4)
    write_volume(root / "mask.mrc", ball.astype(np.float32), 5.4)
    return root


def test_the_tutorial_comes_and_goes(tutorial: Path, tmp_path: Path) -> None:
    """Positions to 1e-3 A, angles to 1e-4 degree; tilts and all other columns of RELION's files as they were."""
    create_population(tmp_path / "population", "tutorial")
    summary = add_relion_source(
        tmp_path / "population", SourceRequest("tutorial", tutorial / "Tomograms/job006/tomograms.star")
    )
    assert [name for name, _ in summary.left_out] == ["TS_03", "TS_43", "TS_45", "TS_54"]  # their tables are not here
    assert "tilt_series/TS_03.star is not found" in summary.left_out[0][1]
    assert "less underfocus" in summary.reading.angles  # rlnTomoHand is -1
    maps = [tutorial / name for name in ("half1.mrc", "half2.mrc", "mask.mrc")]
    table = tutorial / "Refine3D/job010/run_data.star"
    add_species(tmp_path / "population", SpeciesRequest("gag", *maps, table, 160.0, "C6"))
    done = export(ExportRequest(tmp_path / "population", tmp_path / "out"), "relion5")
    assert done.table["species"][0]["error_A"]["most"] < 1e-3
    before, after = read_particles(table), read_particles(tmp_path / "out/particles.star")
    assert np.abs(before.position_A - after.position_A).max() < 1e-3
    turns = [Rotation.from_euler("ZYZ", each.angles_deg, degrees=True) for each in (before, after)]
    assert np.rad2deg((turns[0].inv() * turns[1]).magnitude()).max() < 1e-4
    old, new = read_blocks(table), read_blocks(tmp_path / "out/particles.star")
    ours = [name for name in old["particles"] if any(w in name for w in ("Origin", "Coordinate", "Subtomogram"))]
    ours += ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    kept = [name for name in old["particles"] if name not in ours]
    pd.testing.assert_frame_equal(new["particles"][kept], old["particles"][kept])
    pd.testing.assert_frame_equal(new["optics"][list(old["optics"])], old["optics"])
    assert new["general"] == old["general"]
    (tilts,) = read_blocks(tutorial / "Tomograms/job006/tilt_series/TS_01.star").values()
    (again,) = read_blocks(tmp_path / "out/tilt_series/TS_01.star").values()
    pd.testing.assert_frame_equal(again[list(tilts)], tilts)
    about = read_blocks(tutorial / "Tomograms/job006/tomograms.star")["global"].iloc[:1]
    told = read_blocks(tmp_path / "out/tomograms.star")["global"]
    rest = [name for name in about if name != "rlnTomoTiltSeriesStarFile"]
    pd.testing.assert_frame_equal(told[rest], about[rest])


def test_relions_own_test_project(shared: Path, tmp_path: Path) -> None:
    """Five series with both matrices and numbers; without their images they cannot be a source, and that is said."""
    folder = shared / "data/real/relion5_tilt_series"
    inside = tmp_path / "tilt_series_metadata"
    (inside / "tilt_series").mkdir(parents=True)
    shutil.copy(folder / f"{OWN}tilt_series.star", inside / "tilt_series.star")
    for path in folder.glob(f"{OWN}220728_*.star"):
        shutil.copy(path, inside / "tilt_series" / path.name.removeprefix(OWN))
    table = read_tomograms(inside / "tilt_series.star")
    assert len(table.names) == 5
    for index in range(5):
        relion, _ = read_tilts(table, index)
        assert relion.n_tilts == 41
        assert relion.hand == 1
        assert relion.projection is not None
    create_population(tmp_path / "p", "p")
    with pytest.raises(InputError, match=r"41 of 41 images are missing, the first is MotionCorr"):
        add_relion_source(tmp_path / "p", SourceRequest("grid", inside / "tilt_series.star"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("relion3.0/alisterburt+dynamo2m__example.star", "particle table"),
        ("relion3.1/turonova+cryoCAT__bin6_TM_starfile.star", "particle table"),
        ("relion4/chanzuckerberg+cryoet-data-portal-backend__relion_4_star.star", "particle table"),
        ("relion5/ml-struct-bio+cryodrgn__relion5.star", "particle table"),
        ("relion5/turonova+cryoCAT__relion5_TS_01_tilt.star", "table of one tilt series"),
        ("relion5_tilt_series/3dem+relion__220728_TS_01.star", "table of one tilt series"),
        ("warp_relion_export/bpowell122+tomodrgn__warptools_test_4-tomos_tomograms.star", "--warp-settings"),
        ("warp_m_2d_series_relion30/ml-struct-bio+cryodrgn__sta_testing.star", "particle table"),
        ("imod/teamtomo+etomofiles__TS_001.xf", "not a STAR file"),
    ],
)
def test_what_is_no_table_of_tomograms_is_refused(shared: Path, tmp_path: Path, name: str, words: str) -> None:
    create_population(tmp_path / "p", "p")
    with pytest.raises(InputError) as error:
        add_relion_source(tmp_path / "p", SourceRequest("grid", shared / "data/real" / name))
    assert words in str(error.value)


def test_matrices_that_warp_wrote(shared: Path) -> None:
    """Rotations without shifts; where the scale is 0, M had deselected the tilt."""
    table = read_tomograms(
        shared / "data/real/warp_relion_export/bpowell122+tomodrgn__warptools_test_4-tomos_tomograms.star"
    )
    relion, _ = read_tilts(table, 0)
    assert relion.projection is not None
    assert relion.scale is not None
    assert (relion.scale == 0).sum() == 37 - 34
    rotation: Any = relion.projection[:, :3, :3]
    # seven digits in the file
    assert np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() < 1e-5


def test_coordinates_in_pixels_of_the_images(shared: Path) -> None:
    """Coordinates of RELION are in pixels of the tilt series, those of Warp in pixels of its images."""
    path = shared / "data/real/warp_relion_export/bpowell122+tomodrgn__warptools_test_4-tomos.star"
    table = read_particles(path)
    sizes = {name: np.array([4400, 6000, 1400]) * 1.667 for name in set(table.series)}
    assert not table.outside(sizes).any()
    assert "12 A (rlnImagePixelSize)" in table.reading.positions + table.reading.units
