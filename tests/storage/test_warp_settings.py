"""WarpTools projects: settings, the list of series, tomostar tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.storage.warp_settings import find_series, find_unprocessed, read_settings, read_tomostar

DEFAULT = {
    "DataFolder": "tomostar",
    "ProcessingFolder": "warp_tiltseries",
    "Extension": "*.tomostar",
    "PixelSize": "2.4",
    "BinTimes": "1",
}


def settings_file(folder: Path, dimensions: str = "640 640 134", top: str = "", **changes: str | None) -> Path:
    params = "".join(f'<Param Name="{k}" Value="{v}"/>' for k, v in (DEFAULT | changes).items() if v is not None)
    sizes = "".join(
        f'<Param Name="Dimensions{a}" Value="{n}"/>' for a, n in zip("XYZ", dimensions.split(), strict=False)
    )
    path = folder / "warp.settings"
    path.write_text(f"<Settings>{top}<Import>{params}</Import><Tomo>{sizes}</Tomo></Settings>")
    return path


def test_values(tmp_path: Path) -> None:
    """Folders start at the settings file; sizes in A use the unbinned pixel."""
    settings = read_settings(settings_file(tmp_path))
    assert settings.data_folder == tmp_path / "tomostar"
    assert settings.processing_folder == tmp_path / "warp_tiltseries"
    assert settings.binned_pixel_size_A == pytest.approx(4.8)
    assert settings.volume_px == (640, 640, 134)
    assert settings.volume_size_A == pytest.approx((1536, 1536, 321.6))


def test_older_and_sparser_files(tmp_path: Path) -> None:
    """No processing folder means the data folder; the pixel size may stand at the root; no binning means none."""
    assert read_settings(settings_file(tmp_path, ProcessingFolder="")).processing_folder == tmp_path / "tomostar"
    legacy = settings_file(tmp_path, top='<Param Name="PixelSizeX" Value="1.5"/>', PixelSize=None, BinTimes=None)
    assert read_settings(legacy).binned_pixel_size_A == 1.5
    assert read_settings(settings_file(tmp_path, DataFolder="/data\\tomostar")).data_folder == Path("/data/tomostar")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Extension": "*.eer"}, "Extension: expected .*tomostar, got .*eer"),
        ({"Extension": None}, "Extension"),
        ({"PixelSize": None}, "PixelSize: is missing"),
        ({"PixelSize": "0"}, "PixelSize: expected a positive"),
        ({"PixelSize": "1,5"}, "decimal comma"),
        ({"dimensions": "0 0 0"}, "Dimensions: .*0x0x0.*--tomo_dimensions"),
        ({"dimensions": "640 640"}, "DimensionsZ: is missing"),
        ({"dimensions": "640 640 1.5"}, "Dimensions: expected tomogram sizes in whole"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    """Each refusal names the file and the parameter."""
    with pytest.raises(InputError, match=message) as caught:
        read_settings(settings_file(tmp_path, **changes))
    assert "warp.settings" in str(caught.value)


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    """Missing, not XML, or something else."""
    with pytest.raises(InputError, match="cannot be read"):
        read_settings(tmp_path / "missing.settings")
    path = tmp_path / "x.settings"
    path.write_text("PixelSize = 2")
    with pytest.raises(InputError, match="not a complete XML"):
        read_settings(path)
    path.write_text("# version 50001\n\ndata_global\n\nloop_\n_rlnTomoName #1\nTS_01\n")
    with pytest.raises(InputError, match=r"is a STAR table, .* --relion-tomograms"):
        read_settings(path)
    with pytest.raises(InputError, match="is a folder"):
        read_settings(tmp_path)
    path.write_text("<Population/>")
    with pytest.raises(InputError, match="expected a file with <Settings>, got <Population>"):
        read_settings(path)


def test_series_of_a_project(tmp_path: Path) -> None:
    """Tilt series sorted by name; other XML is passed over, a broken one is listed so that reading names it."""
    settings = read_settings(settings_file(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        find_series(settings)
    settings.processing_folder.mkdir()
    settings.data_folder.mkdir()
    with pytest.raises(InputError, match="holds no tilt-series XML"):
        find_series(settings)
    for name, text in (("b", "<TiltSeries/>"), ("a", "<TiltSeries/>"), ("movie", "<Movie/>"), ("c", "<Tilt")):
        (settings.processing_folder / f"{name}.xml").write_text(text)
    for name in ("a", "z", "y"):
        (settings.data_folder / f"{name}.tomostar").touch()
    assert [path.stem for path in find_series(settings)] == ["a", "b", "c"]
    assert find_unprocessed(settings) == ("y", "z")


def test_tomostar(tmp_path: Path) -> None:
    """Optional columns are zero; bad numbers, missing columns and empty tables are refused."""
    path = tmp_path / "TS.tomostar"
    head = "data_\nloop_\n_wrpMovieName\n_wrpAngleTilt\n_wrpDose\n"
    path.write_text(head + "../a.tif -3 3.5\n../b.tif 0.01 0\n")
    star = read_tomostar(path)
    assert star.movies == ("../a.tif", "../b.tif")
    assert star.angle_deg.tolist() == [-3, 0.01]
    assert star.dose.tolist() == [3.5, 0]
    assert star.axis_angle_deg.tolist() == [0, 0]
    assert star.axis_offset_A.shape == (2, 2)
    for text, message in (
        (head, "no tilts"),
        (head + "../a.tif x 0\n", "wrpAngleTilt: expected finite numbers, got 'x'"),
        (head + "../a.tif 1 nan\n", "wrpDose: expected finite numbers, got 'nan'"),
        (head.replace("_wrpDose\n", "") + "../a.tif 1\n", "column wrpDose is missing"),
        ("data_\n_wrpDose 1\n", "has no table"),
    ):
        path.write_text(text)
        with pytest.raises(SeriesError, match=message):
            read_tomostar(path)


def test_real_projects(shared: Path) -> None:
    """A project of WarpTools: settings, series, and tomostar tables that agree with one another."""
    settings = read_settings(shared / "data/apoferritin/warp_tiltseries.settings")
    assert settings.pixel_size_A == settings.binned_pixel_size_A == 2.4
    assert [path.name for path in find_series(settings)] == ["TS_01.xml", "TS_02.xml", "TS_03.xml"]
    assert find_unprocessed(settings) == ()
    other = read_settings(shared / "data/real/warp_settings/uermel+cryoet-alignment__test.settings")
    assert other.volume_px == (4096, 4096, 2000)
    assert other.volume_size_A[0] == pytest.approx(4096 * 1.54)
    star = read_tomostar(shared / "data/real/warp_tomostar/uermel+cryoet-alignment__test.tomostar")
    assert len(star.movies) == 31
    assert star.angle_deg[0] == 45.01
    assert set(star.axis_angle_deg) == {83.94}
    assert star.dose.min() == 0
