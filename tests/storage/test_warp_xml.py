"""Tilt-series XML: nothing is lost, only what changed is changed, and what cannot be understood is refused."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpr_dist.errors import SeriesError
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.storage.warp_roots import is_tilt_series
from mpr_dist.storage.warp_xml import read_tilt_series, write_tilt_series

VOLUME = (4000.0, 4000.0, 1000.0)
REAL = [
    "data/real/warp_xml/warpem+warpylib__00254.xml",
    "data/real/warp_xml/warpem+warpylib__TS_1.xml",
    "data/real/warp_xml/warpem+warpylib__xf_import_00254.xml",
    *(f"data/apoferritin/{folder}/TS_0{i}.xml" for folder in ("warp_tiltseries", "truth") for i in (1, 2, 3)),
]
GRID = '<{0} Width="{1}" Height="{2}" Depth="{3}" MarginX="0" MarginY="0" MarginZ="0">{4}</{0}>'


def content(path: Path) -> list[tuple[str, dict[str, str], str]]:
    """Every element in order: name, attributes, text without its indentation."""
    return [(e.tag, dict(e.attrib), (e.text or "").strip()) for e in ET.fromstring(path.read_bytes()).iter()]


def nodes(values: np.ndarray) -> str:
    """<Node> elements of values [z, y, x]."""
    return "".join(
        f'<Node X="{x}" Y="{y}" Z="{z}" Value="{values[z, y, x]}" />' for z, y, x in np.ndindex(*values.shape)
    )


def series_file(folder: Path, body: str = "", attributes: str = "", n: int = 3, name: str = "TS_01.xml") -> Path:
    """A small file with nothing but angles, and what a test adds."""
    angles = "\n".join(str(10 * i - 10) for i in range(n))
    path = folder / name
    path.write_text(f"<TiltSeries {attributes}>\n\t<Angles>{angles}</Angles>\n{body}</TiltSeries>")
    return path


def read(path: Path, **kwargs: Any) -> TiltSeries:
    return read_tilt_series(path, volume_size_A=VOLUME, **kwargs)


@pytest.mark.parametrize("name", REAL)
def test_an_unchanged_series_gives_the_same_content(shared: Path, tmp_path: Path, name: str) -> None:
    """Every attribute, element, text, Param and node of real files survives, in order."""
    write_tilt_series(tmp_path / "out.xml", shared / name, read(shared / name))
    assert (tmp_path / "out.xml").read_bytes().startswith(b"\xef\xbb\xbf<?xml")
    assert content(tmp_path / "out.xml") == content(shared / name)


CHANGES: dict[str, Callable[[TiltSeries], TiltSeries]] = {
    "GridMovementX": lambda s: dataclasses.replace(
        s, image_warp=ImageWarp(CubicGrid(s.image_warp.x.values + 0.1), s.image_warp.y)
    ),
    "GridVolumeWarpZ": lambda s: dataclasses.replace(
        s, volume_warp=VolumeWarp(z=LinearGrid4(np.arange(120.0).reshape(5, 4, 3, 2)))
    ),
    "GridAngleY": lambda s: dataclasses.replace(
        s, stage_angles=StageAngles(s.stage_angles.x, CubicGrid(np.full((s.n_tilts, 2, 2), -0.5)), s.stage_angles.z)
    ),
    "AxisOffsetX": lambda s: dataclasses.replace(s, axis_offset_A=s.axis_offset_A + np.array([1.5, 0.0])),
    "UseTilt": lambda s: dataclasses.replace(s, use_tilt=~s.use_tilt),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("tag", CHANGES)
def test_one_change_touches_one_element(shared: Path, tmp_path: Path, name: str, tag: str) -> None:
    """All other elements are as they were, and the changed one reads back to float32."""
    changed = CHANGES[tag](read(shared / name))
    write_tilt_series(tmp_path / "out.xml", shared / name, changed)

    def others(path: Path) -> list[tuple[str, dict[str, str], str]]:
        root = ET.fromstring(path.read_bytes())
        child = next(e for e in root if e.tag == tag)
        inside = {id(e) for e in child.iter()}
        return [(e.tag, dict(e.attrib), (e.text or "").strip()) for e in root.iter() if id(e) not in inside]

    assert others(tmp_path / "out.xml") == others(shared / name)
    assert content(tmp_path / "out.xml") != content(shared / name)
    back = read(tmp_path / "out.xml")
    pairs = {
        "GridMovementX": (back.image_warp.x.values, changed.image_warp.x.values),
        "GridVolumeWarpZ": (back.volume_warp.z.values, changed.volume_warp.z.values),
        "GridAngleY": (back.stage_angles.y.values, changed.stage_angles.y.values),
        "AxisOffsetX": (back.axis_offset_A, changed.axis_offset_A),
        "UseTilt": (back.use_tilt, changed.use_tilt),
    }
    assert np.array_equal(np.float32(pairs[tag][0]), np.float32(pairs[tag][1]))


def test_everything_at_once_into_a_file_that_has_nothing(tmp_path: Path) -> None:
    """Elements and attributes that the template lacks are made; a second round changes nothing more."""
    template = series_file(tmp_path)
    rng = np.random.default_rng(5)
    bare = read(template)
    full = dataclasses.replace(
        bare,
        dose=np.array([3.0, 0.0, 6.0]),
        axis_angle_deg=np.full(3, -85.6),
        axis_offset_A=rng.standard_normal((3, 2)),
        use_tilt=np.array([True, False, True]),
        level_angle_deg=(1.25, -2.5),
        are_angles_inverted=True,
        optics=dataclasses.replace(
            bare.optics,
            voltage_kV=200.0,
            cs_mm=2.6,
            amplitude=0.1,
            defocus_um=CubicGrid.per_tilt(rng.random(3)),
            magnification=np.array([[1.01, 0.02], [0.03, 0.99]]),
            zernike_odd=(1.0, 2.5),
            zernike_even=(0.5,),
        ),
        volume_warp=VolumeWarp(x=LinearGrid4(rng.random((2, 1, 2, 3)))),
        weights=dataclasses.replace(bare.weights, weight=CubicGrid.per_tilt(rng.random(3)), series_bfactor=-12.5),
    )
    write_tilt_series(tmp_path / "a.xml", template, full)
    back = read(tmp_path / "a.xml")
    for field in ("dose", "axis_angle_deg", "axis_offset_A", "use_tilt", "level_angle_deg"):
        assert np.array_equal(np.float32(getattr(back, field)), np.float32(getattr(full, field))), field
    assert back.are_angles_inverted is True
    assert back.active.tolist() == [True, False, True]
    for field in ("voltage_kV", "cs_mm", "amplitude", "magnification", "zernike_odd", "zernike_even"):
        assert np.allclose(getattr(back.optics, field), getattr(full.optics, field), rtol=1e-7), field
    assert np.allclose(back.optics.defocus_um.values, full.optics.defocus_um.values, rtol=1e-7)
    assert np.allclose(back.volume_warp.x.values, full.volume_warp.x.values, rtol=1e-7)
    assert np.allclose(back.weights.weight.values, full.weights.weight.values, rtol=1e-7)
    assert back.weights.series_bfactor == -12.5
    write_tilt_series(tmp_path / "b.xml", tmp_path / "a.xml", back)
    assert (tmp_path / "b.xml").read_bytes() == (tmp_path / "a.xml").read_bytes()


def test_what_is_not_understood_is_kept(tmp_path: Path) -> None:
    """Unknown attributes, elements, Params, texts and comments survive a change elsewhere."""
    body = (
        '\t<!-- by hand -->\n\t<TiltPS1D ID="0">0|1;0.5|2</TiltPS1D>\n\t<Future a="b"><Deep>x &amp; y</Deep></Future>\n'
        '\t<CTF><Param Name="IceOffset" Value="7" /><Param Name="Cs" Value="2.7" /></CTF>\n'
    )
    template = series_file(tmp_path, body, 'PlaneNormal="1, 2, 3" NewThing="kept"')
    series = read(template)
    write_tilt_series(
        tmp_path / "out.xml",
        template,
        dataclasses.replace(series, optics=dataclasses.replace(series.optics, cs_mm=2.5)),
    )
    text = (tmp_path / "out.xml").read_text("utf-8-sig")
    kept = ("<!-- by hand -->", "0|1;0.5|2", "<Deep>x &amp; y</Deep>", 'NewThing="kept"', '"IceOffset" Value="7"')
    assert all(piece in text for piece in kept)
    assert '<Param Name="Cs" Value="2.5" />' in text


def test_missing_lists_have_warps_defaults(tmp_path: Path) -> None:
    """Only Angles is obligatory; empty and 'null' attributes count as absent."""
    series = read(series_file(tmp_path, "<Dose></Dose>", 'LevelAngleX="" Bfactor="null" AreAnglesInverted=""'))
    assert series.name == "TS_01"
    assert series.angle_deg.tolist() == [-10, 0, 10]
    assert series.dose.tolist() == [0, 0, 0]
    assert series.use_tilt.all()
    assert series.axis_offset_A.shape == (3, 2)
    assert series.image_paths == ()
    assert series.level_angle_deg == (0.0, 0.0)
    assert not series.are_angles_inverted
    assert np.array_equal(series.optics.magnification, np.eye(2))
    assert series.weights.weight.values.ravel().tolist() == [1.0]
    assert series.image_size_A.tolist() == [0, 0]
    assert series.volume_size_A.tolist() == list(VOLUME)


def test_utf16_of_warp_1_and_utf8_give_the_same_series(shared: Path, tmp_path: Path) -> None:
    """The encoding is taken from the byte order mark; what is written is UTF-8."""
    source = shared / REAL[1]
    text = source.read_text("utf-8-sig").replace('encoding="utf-8"', 'encoding="utf-16"')
    (tmp_path / "TS_1.xml").write_bytes(text.encode("utf-16"))
    a, b = read(source), read(tmp_path / "TS_1.xml")
    assert np.array_equal(a.image_warp.x.values, b.image_warp.x.values)
    assert np.array_equal(a.angle_deg, b.angle_deg)
    write_tilt_series(tmp_path / "out.xml", tmp_path / "TS_1.xml", b)
    assert content(tmp_path / "out.xml") == content(source)
    assert (tmp_path / "out.xml").read_text("utf-8-sig").startswith('<?xml version="1.0" encoding="utf-8"?>')


def test_grids_are_read_by_the_indices_of_their_nodes(tmp_path: Path) -> None:
    """x is fastest in [z, y, x]; the order of nodes in the file means nothing."""
    values = np.arange(24.0).reshape(4, 3, 2)
    lines = nodes(values).replace("><", ">\n<").splitlines()
    shuffled = "".join(np.random.default_rng(1).permutation(lines))
    grid = read(series_file(tmp_path, GRID.format("GridMovementX", 2, 3, 4, shuffled))).image_warp.x
    assert np.array_equal(grid.values, values)
    four = '<GridVolumeWarpX Width="2" Height="1" Depth="1" Duration="2">' + "".join(
        f'<Node X="{x}" Y="0" Z="0" W="{w}" Value="{10 * w + x}" />' for w in (1, 0) for x in (0, 1)
    )
    warp = read(series_file(tmp_path, four + "</GridVolumeWarpX>")).volume_warp.x
    assert warp.values[:, 0, 0, :].tolist() == [[0, 1], [10, 11]]


def test_magnification_in_both_spellings(tmp_path: Path) -> None:
    """Four numbers are columns; three are scales on axes turned by minus the angle."""
    four = read(series_file(tmp_path, attributes='MagnificationCorrection="1.1, 0.2, 0.3, 0.9"')).optics.magnification
    assert np.allclose(four, [[1.1, 0.3], [0.2, 0.9]])
    three = read(series_file(tmp_path, attributes='MagnificationCorrection="1.1, 0.9, 0"')).optics.magnification
    assert np.allclose(three, np.diag([1.1, 0.9]))
    turned = read(series_file(tmp_path, attributes='MagnificationCorrection="1.1, 0.9, 30"')).optics.magnification
    axis = np.array([np.cos(np.deg2rad(30)), -np.sin(np.deg2rad(30))])
    assert np.allclose(turned @ axis, 1.1 * axis)


@pytest.mark.parametrize(
    ("body", "attributes", "message"),
    [
        ("<Dose>1\n2</Dose>", "", "<Dose>: expected 3 values.*got 2"),
        ("<UseTilt>True\nTrue\nTrue\nTrue</UseTilt>", "", "<UseTilt>: expected 3 values.*got 4"),
        ("<UseTilt>True\nperhaps\nTrue</UseTilt>", "", "<UseTilt>, line 2: expected True or False, got 'perhaps'"),
        ("<MoviePath>a.tif</MoviePath>", "", "<MoviePath>: expected 3"),
        ("<MoviePath>a.tif\n\nb.tif</MoviePath>", "", "<MoviePath>, line 2: is empty"),
        ("<FOVFraction>1\n1</FOVFraction>", "", "<FOVFraction>: expected 3"),
        ("<AxisAngle>1\n2,5\n3</AxisAngle>", "", "<AxisAngle>, line 2: expected a number, got '2,5'; .*decimal comma"),
        ("<AxisOffsetX>1\n\n3</AxisOffsetX>", "", "<AxisOffsetX>, line 2: expected a number"),
        ("<Dose>1\nNaN\n3</Dose>", "", "<Dose>, line 2: expected a finite number"),
        ("", 'LevelAngleX="abc"', "attribute LevelAngleX"),
        ("", 'AreAnglesInverted="maybe"', "attribute AreAnglesInverted"),
        ("", 'MagnificationCorrection="1, 0"', "attribute MagnificationCorrection: expected 3 or 4"),
        ("", 'ImageDimensionsAngstrom="1,5, 2,5"', "ImageDimensionsAngstrom: expected 2 numbers with decimal points"),
        (GRID.format("GridCTF", 1, 1, 2, nodes(np.zeros((1, 1, 1)))), "", "<GridCTF>: 1x1x2 needs 2 nodes, got 1"),
        (GRID.format("GridCTF", 1, 1, 1, '<Node X="0" Y="0" Z="5" Value="1"/>'), "", "lies outside 1x1x1"),
        (GRID.format("GridCTF", 1, 1, 2, 2 * nodes(np.zeros((1, 1, 1)))), "", "occurs twice"),
        (GRID.format("GridCTF", 1, 1, 1, nodes(np.full((1, 1, 1), np.inf))), "", "expected a finite number"),
        (GRID.format("GridCTF", 0, 1, 1, ""), "", "at least one node"),
        (GRID.format("GridCTF", "x", 1, 1, ""), "", "whole number"),
        (GRID.format("GridCTF", 10**9, 10**9, 1, ""), "", "needs 1000000000000000000 nodes, got 0"),
        ("<Dose>1\n1_0\n3</Dose>", "", "<Dose>, line 2: expected a number, got '1_0'"),
        ('<CTF><Param Name="Voltage" Value="300,0"/></CTF>', "", "<CTF> Voltage.*decimal comma"),
        ('<CTF><Param Name="Voltage" Value="0"/></CTF>', "", "voltage above 0"),
        ('<CTF><Param Name="ZernikeCoeffsOdd" Value="1;x"/></CTF>', "", "<CTF> ZernikeCoeffsOdd"),
    ],
)
def test_what_cannot_be_understood_is_refused(tmp_path: Path, body: str, attributes: str, message: str) -> None:
    """The message names the file, the element, what was expected and what came."""
    path = series_file(tmp_path, body, attributes)
    with pytest.raises(SeriesError, match=message) as caught:
        read(path)
    assert "TS_01.xml" in str(caught.value)


def test_files_that_are_no_tilt_series(tmp_path: Path) -> None:
    """Missing, cut off, of another kind, without angles: refused; an unknown tomogram size as well."""
    with pytest.raises(SeriesError, match="cannot be read"):
        read(tmp_path / "missing.xml")
    path = tmp_path / "x.xml"
    for text, message in (
        ("<TiltSeries><Angles>1", "cut off"),
        ("", "cut off"),
        ('<?xml version="1.0" encoding="klingon"?><TiltSeries/>', "not a complete XML"),
        ("<Movie/>", "expected a file with <TiltSeries>, got <Movie>"),
        ("<TiltSeries><Angles> </Angles></TiltSeries>", "<Angles>: is missing or empty"),
    ):
        path.write_text(text)
        with pytest.raises(SeriesError, match=message):
            read(path)
    with pytest.raises(SeriesError, match="size of the tomogram is unknown"):
        read_tilt_series(series_file(tmp_path), volume_size_A=None)
    with pytest.raises(SeriesError, match="3 positive sizes"):
        read_tilt_series(series_file(tmp_path), volume_size_A=(1.0, np.nan, 1.0))


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    """No prefix of a good file passes for a series."""
    good = series_file(tmp_path, GRID.format("GridCTF", 1, 1, 3, nodes(np.ones((3, 1, 1)))), 'Weight="1"').read_bytes()
    path = tmp_path / "cut.xml"
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(SeriesError, match=r"cut\.xml"):
            read(path)


def test_kinds_of_xml_are_told_apart(tmp_path: Path) -> None:
    """By the root element; a broken file counts as a series so that reading it names it."""
    path = tmp_path / "x.xml"
    for text, expected in (("<TiltSeries/>", True), ("<Movie/>", False), ("<Mov", True)):
        path.write_text(text)
        assert is_tilt_series(path) is expected


def test_sizes_from_file_and_argument(tmp_path: Path) -> None:
    """The image size of the file wins unless it is zero; the volume size comes from the settings."""
    path = series_file(
        tmp_path, attributes='ImageDimensionsAngstrom="1536, 1000" VolumeDimensionsAngstrom="1536, 1000, 321.6"'
    )
    series = read(path, image_size_A=(5.0, 6.0))
    assert series.image_size_A.tolist() == [1536, 1000]
    assert series.volume_size_A.tolist() == list(VOLUME)
    assert read_tilt_series(path, volume_size_A=None).volume_size_A.tolist() == [1536, 1000, 321.6]
    zero = series_file(tmp_path, attributes='ImageDimensionsAngstrom="0, 0"')
    assert read(zero, image_size_A=(5.0, 6.0)).image_size_A.tolist() == [5, 6]


def test_images_are_found_beside_the_movies(tmp_path: Path) -> None:
    """Relative to DataDirectory, or to the processing folder when that is empty or on another machine."""
    body = "<MoviePath>../frames/a_-10.0.tif\n..\\frames\\b.eer\n/abs/c.mrc</MoviePath>"
    processing, raw = tmp_path / "warp", tmp_path / "raw"
    processing.mkdir()
    raw.mkdir()
    for attributes, base in (
        ("", processing),
        ('DataDirectory=""', processing),
        ('DataDirectory="/of/another/machine"', processing),
        ('DataDirectory="D:\\other\\machine"', processing),
        ('DataDirectory="../raw"', processing / "../raw"),
        (f'DataDirectory="{raw}"', raw),
    ):
        paths = read(series_file(processing, body, attributes)).image_paths
        assert paths[0] == base / "../frames/average/a_-10.0.mrc"
        assert paths[1] == base / "../frames/average/b.mrc"
        assert paths[2] == Path("/abs/average/c.mrc")
    elsewhere = read(series_file(tmp_path, body), processing_folder=processing).image_paths
    assert elsewhere[0] == processing / "../frames/average/a_-10.0.mrc"


def test_images_of_a_real_project_exist(shared: Path) -> None:
    """One image per tilt, where the project keeps it."""
    series = read(shared / "data/apoferritin/warp_tiltseries/TS_02.xml")
    assert len(series.image_paths) == series.n_tilts == 41
    assert all(path.is_file() for path in series.image_paths)


def test_values_of_a_real_refined_series(shared: Path) -> None:
    """Numbers picked out of the file by eye."""
    series = read(shared / REAL[1])
    assert series.n_tilts == 41
    assert series.angle_deg[0] == 40.01
    assert series.dose.min() == 0
    assert series.level_angle_deg == (1.457031, -5.920115)
    assert series.weights.series_bfactor == -16.02326
    assert series.image_warp.x.values.shape == (41, 4, 6)
    assert series.optics.cs_mm == 3.27283443186616
    assert series.optics.zernike_odd[1] == -11.709824
    assert len(series.optics.zernike_even) == 8
    assert np.allclose(series.optics.magnification, [[1.0062196, 0.004283654], [0.00422745, 1.0009562]])
    inverted = read(shared / REAL[0])
    assert inverted.are_angles_inverted
    assert inverted.weights.bfactor.is_trivial
    assert read(shared / REAL[2]).optics.defocus_um.is_trivial


def test_a_bad_series_is_not_written(tmp_path: Path) -> None:
    """NaN, or another number of tilts than the template: refused, and the old file stays."""
    template = series_file(tmp_path)
    before = template.read_bytes()
    series = read(template)
    bad = dataclasses.replace(series, image_warp=ImageWarp(CubicGrid.constant(np.nan)))
    with pytest.raises(SeriesError, match="GridMovementX"):
        write_tilt_series(template, template, bad)
    too_large = dataclasses.replace(series, dose=np.full(3, 1e39))
    with pytest.raises(SeriesError, match="Dose"):
        write_tilt_series(template, template, too_large)
    with pytest.raises(SeriesError, match="3 tilts, series TS_02 has 4"):
        write_tilt_series(tmp_path / "out.xml", template, read(series_file(tmp_path, n=4, name="TS_02.xml")))
    assert template.read_bytes() == before
    assert not (tmp_path / "out.xml").exists()


def test_a_rigid_stage_is_remembered(tmp_path: Path) -> None:
    """MprRigidStage is ours: absent means no, both values survive, and a file that never had it does not get it."""
    bare = read(series_file(tmp_path))
    assert bare.is_stage_rigid is False
    write_tilt_series(tmp_path / "same.xml", tmp_path / "TS_01.xml", bare)
    assert "MprRigidStage" not in (tmp_path / "same.xml").read_text("utf-8-sig")
    write_tilt_series(tmp_path / "rigid.xml", tmp_path / "TS_01.xml", dataclasses.replace(bare, is_stage_rigid=True))
    assert ET.parse(tmp_path / "rigid.xml").getroot().get("MprRigidStage") == "True"
    rigid = read(tmp_path / "rigid.xml")
    assert rigid.is_stage_rigid is True
    write_tilt_series(tmp_path / "back.xml", tmp_path / "rigid.xml", dataclasses.replace(rigid, is_stage_rigid=False))
    assert read(tmp_path / "back.xml").is_stage_rigid is False


def test_aberrations_and_magnification_are_written_as_warp_writes_them(shared: Path, tmp_path: Path) -> None:
    """One value changed in the refined series: the other texts stay; numbers joined by ; or by comma and blank."""
    series = read(shared / REAL[1])
    o = series.optics
    m = o.magnification.copy()
    m[0, 1] = 0.0051  # third in the text, which goes by columns
    odd = (o.zernike_odd[0], -2.25, *o.zernike_odd[2:])
    even = (*o.zernike_even[:3], 1e-7, *o.zernike_even[4:])
    changed = dataclasses.replace(o, magnification=m, zernike_odd=odd, zernike_even=even)
    write_tilt_series(tmp_path / "o.xml", shared / REAL[1], dataclasses.replace(series, optics=changed))
    root = ET.parse(tmp_path / "o.xml").getroot()
    assert root.get("MagnificationCorrection") == "1.0062196, 0.00422745, 0.0051, 1.0009562"
    params = {p.get("Name"): p.get("Value") for p in root.iterfind("CTF/Param")}
    expected = "3.4192607;-2.25;1.0511842;1.9012975;-6.1630774;-0.74032724;0;0;0;0;0;0"
    assert params["ZernikeCoeffsOdd"] == expected
    assert params["ZernikeCoeffsEven"].startswith("0.85632384;-0.025704637;-0.7790994;1")
    back = read(tmp_path / "o.xml").optics
    assert back.zernike_odd == odd
    np.testing.assert_allclose(back.zernike_even, even, rtol=1e-7)
    np.testing.assert_array_equal(back.magnification, m)
    before = {p.get("Name"): p.get("Value") for p in ET.parse(shared / REAL[1]).getroot().iterfind("CTF/Param")}
    assert {k for k in before if params[k] != before[k]} == {"ZernikeCoeffsOdd", "ZernikeCoeffsEven"}


def test_a_series_without_aberrations_gets_them(shared: Path, tmp_path: Path) -> None:
    """Empty lists become full ones, and an identity becomes a magnification, in a file that M never saw."""
    series = read(shared / REAL[0])
    odd, m = tuple(np.float32(np.arange(12) - 5.5).tolist()), np.array([[1.0, 0.001], [-0.002, 0.999]])
    optics = dataclasses.replace(series.optics, zernike_odd=odd, zernike_even=(0.5,) * 8, magnification=m)
    write_tilt_series(tmp_path / "o.xml", shared / REAL[0], dataclasses.replace(series, optics=optics))
    back = read(tmp_path / "o.xml").optics
    assert (back.zernike_odd, back.zernike_even) == (odd, (0.5,) * 8)
    np.testing.assert_allclose(back.magnification, m, rtol=1e-7)
