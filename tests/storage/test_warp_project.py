"""Laws of WarpTools projects written from nouns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.storage import warp_project as wp
from mpr_dist.storage.mrc import read_header, read_image
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_settings import find_series, read_settings, read_tomostar
from mpr_dist.storage.warp_xml import read_tilt_series, write_tilt_series

ELEMENTS = ["Angles", "Dose", "UseTilt", "AxisAngle", "AxisOffsetX", "AxisOffsetY", "MoviePath", "FOVFraction"]
ELEMENTS += ["OptionsCTF", "CTF", "GridCTF", "GridCTFDefocusDelta", "GridCTFDefocusAngle", "GridCTFPhase"]
ELEMENTS += (
    [f"GridMovement{a}" for a in "XY"] + [f"GridVolumeWarp{a}" for a in "XYZ"] + [f"GridAngle{a}" for a in "XYZ"]
)
ELEMENTS += ["GridDoseBfacs", "GridDoseBfacsDelta", "GridDoseBfacsAngle", "GridDoseWeights"]
ELEMENTS += ["GridLocationBfacs", "GridLocationWeights"]


def rounded(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random numbers with so few digits that the text of a float32 keeps them all."""
    return np.round(rng.normal(0, 3, shape), 4)


def a_series(project: wp.WarpProject, n: int = 5) -> TiltSeries:
    rng = np.random.default_rng(0)
    return TiltSeries(
        name="TS_07",
        angle_deg=np.linspace(10.5, -9.5, n),
        dose=3.0 * np.array([4, 1, 0, 2, 3]),
        axis_angle_deg=np.full(n, -84.5),
        axis_offset_A=rounded(rng, n, 2),
        use_tilt=np.array([True, True, False, True, True]),
        active=np.array([True, True, False, True, True]),
        image_size_A=np.array([512.0, 384.0]),
        volume_size_A=np.array([512.0, 384.0, 128.0]),
        image_paths=project.averages("TS_07", n),
        level_angle_deg=(1.5, -2.25),
        are_angles_inverted=True,
        optics=Optics(
            200.0,
            1.25,
            0.125,
            *(CubicGrid(rounded(rng, n, 1, 1)) for _ in range(4)),
            magnification=np.array([[1.0, 0.25], [0.5, 1.0]]),
            zernike_odd=(0.5, -1.5),
        ),
        image_warp=ImageWarp(CubicGrid(rounded(rng, n, 2, 3)), CubicGrid(rounded(rng, n, 2, 3))),
        volume_warp=VolumeWarp(*(LinearGrid4(rounded(rng, 2, 1, 3, 2)) for _ in range(3))),
        stage_angles=StageAngles(*(CubicGrid(rounded(rng, n, 1, 1)) for _ in range(3))),
        weights=DoseWeights(bfactor=CubicGrid(rounded(rng, n, 1, 1)), weight=CubicGrid(rounded(rng, n, 1, 1))),
    )


@pytest.fixture
def project(tmp_path) -> wp.WarpProject:
    made = wp.WarpProject(tmp_path / "project")
    made.make_folders()
    return made


def same(a: TiltSeries, b: TiltSeries) -> None:
    for name in ("angle_deg", "dose", "axis_angle_deg", "axis_offset_A", "use_tilt", "image_size_A", "volume_size_A"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.name, a.level_angle_deg, a.are_angles_inverted) == (b.name, b.level_angle_deg, b.are_angles_inverted)
    for group in ("optics", "image_warp", "volume_warp", "stage_angles", "weights"):
        for name, value in vars(getattr(a, group)).items():
            other = getattr(getattr(b, group), name)
            values = (value.values, other.values) if hasattr(value, "values") else (value, other)
            np.testing.assert_array_equal(*values, err_msg=f"{group}.{name}")


def test_skeleton_reads_back(project):
    """A series written from nothing reads back as the same noun, with the averages found through the movies."""
    series = a_series(project)
    wp.write_skeleton(project.xml("TS_07"), series, 2.0)
    read = read_tilt_series(project.xml("TS_07"), volume_size_A=None)
    same(series, read)
    assert [p.name for p in read.image_paths] == [f"TS_07_{t:03d}.mrc" for t in range(5)]
    # the folders that the paths pass through exist, so that the files behind them would be found
    assert [p.resolve() for p in read.image_paths] == [p.resolve() for p in series.image_paths]


def test_skeleton_has_every_element(project):
    """Every element that Warp writes is there once, after a byte order mark."""
    wp.write_skeleton(project.xml("TS_07"), a_series(project), 2.0)
    data = project.xml("TS_07").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf<?xml")
    for element in ELEMENTS:
        assert data.count(f"\n\t<{element}".encode() + b">") + data.count(f"\n\t<{element} ".encode()) == 1, element


def test_skeleton_serves_as_template(project, tmp_path):
    """Written again through the XML writer, a skeleton does not change by a byte."""
    series = a_series(project)
    wp.write_skeleton(project.xml("TS_07"), series, 2.0)
    write_tilt_series(tmp_path / "again.xml", project.xml("TS_07"), series)
    assert (tmp_path / "again.xml").read_bytes() == project.xml("TS_07").read_bytes()


def test_settings_and_tomostar_read_back(project):
    """The settings lead to the series, its size and pixel; the tomostar holds angles and doses."""
    series = a_series(project)
    wp.write_settings(project.settings, series, 2.0, 3.0)
    wp.write_tomostar(project.tomostar("TS_07"), series)
    wp.write_skeleton(project.xml("TS_07"), series, 2.0)
    settings = read_settings(project.settings)
    assert (settings.pixel_size_A, settings.bin_times, settings.volume_px) == (2.0, 0.0, (256, 192, 64))
    assert find_series(settings) == (project.xml("TS_07"),)
    tomostar = read_tomostar(project.tomostar("TS_07"))
    np.testing.assert_array_equal(tomostar.angle_deg, series.angle_deg)
    np.testing.assert_array_equal(tomostar.dose, series.dose)
    assert tomostar.movies[1] == "../warp_frameseries/TS_07_001.tif"


def test_average_is_float16(project):
    """Whole counts come back exactly, rows as y; the file takes two bytes per pixel and names its pixel size."""
    image = np.arange(48, dtype=np.float32).reshape(6, 8)
    path = project.average("TS_07", 0)
    wp.write_average(path, image, 2.4)
    np.testing.assert_array_equal(read_image(path), image)
    nx, ny, nz, pixel = read_header(path)
    assert (nx, ny, nz) == (8, 6, 1)
    assert pixel == pytest.approx(2.4, rel=1e-6)  # float32 header
    assert path.stat().st_size == 1024 + 2 * 48


def test_average_out_of_range_is_refused(project):
    """What a float16 cannot hold is an error, not an infinity."""
    with pytest.raises(InputError, match="float16"), np.errstate(over="ignore"):
        wp.write_average(project.average("TS_07", 0), np.full((4, 4), 1e6, np.float32), 2.0)


def test_run_data_positions(project):
    """Coordinate times pixel minus origin is the position; angles, half-sets and names are as given."""
    rng = np.random.default_rng(1)
    names = ("TS_01", "TS_02")
    particles = {
        name: Particles(rng.uniform(0, 900, (3, 3)), rng.uniform(-90, 90, (3, 3)), np.array([1, 2, 1], np.int8), rows)
        for name, rows in zip(names, (np.arange(3), np.arange(3, 6)), strict=True)
    }
    origin = {name: rng.normal(0, 2, (3, 3)) for name in names}
    wp.write_run_data(project.run_data, particles, Optics(), 4.25, origin, 48)
    blocks = read_blocks(project.run_data)
    table, optics = blocks["particles"], blocks["optics"]
    pixel = float(optics["rlnImagePixelSize"][0])
    found = table[[f"rlnCoordinate{a}" for a in "XYZ"]].to_numpy() * pixel
    found -= table[[f"rlnOrigin{a}Angst" for a in "XYZ"]].to_numpy()
    np.testing.assert_allclose(found, np.concatenate([particles[n].position_A[:, 0] for n in names]), atol=5e-6)
    assert list(table["rlnMicrographName"]) == ["TS_01.tomostar"] * 3 + ["TS_02.tomostar"] * 3
    assert list(table["rlnRandomSubset"]) == [1, 2, 1] * 2
    np.testing.assert_allclose(table["rlnAngleTilt"][:3], particles["TS_01"].angles_deg[:, 0, 1], atol=1e-6)


def test_series_without_images_is_refused(project):
    """Files that must name movies cannot be made for a series that has none."""
    series = TiltSeries("A", *np.zeros((3, 1)), np.zeros((1, 2)), *np.ones((2, 1), bool), np.ones(2), np.ones(3))
    with pytest.raises(SeriesError, match="image paths"):
        wp.write_tomostar(project.tomostar("A"), series)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    """A file where the project's folder should be is named in the message."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        wp.WarpProject(Path(tmp_path / "file")).make_folders()


def test_masks_are_written_beside_the_averages(project):
    """An 8-bit TIFF in mask/, as large as the image, last row first; the same content gives the same bytes."""
    dirt = np.zeros((6, 9), np.uint8)
    dirt[1:4, 5:] = 1
    path = project.mask("TS_07", 3)
    wp.write_mask(path, dirt)
    assert path.parent.parent == project.average("TS_07", 3).parent.parent
    assert path.stem == project.average("TS_07", 3).stem
    read = tifffile.imread(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[::-1], dirt)
    before = path.read_bytes()
    wp.write_mask(path, dirt)
    assert path.read_bytes() == before


def test_a_rigid_stage_is_written_and_others_are_silent(project):
    """MprRigidStage is ours: it stands in the file only where it is true."""
    for rigid in (True, False):
        wp.write_skeleton(project.xml("TS_07"), replace(a_series(project), is_stage_rigid=rigid), 2.0)
        assert (b"MprRigidStage" in project.xml("TS_07").read_bytes()) == rigid
        assert read_tilt_series(project.xml("TS_07"), volume_size_A=None).is_stage_rigid == rigid
