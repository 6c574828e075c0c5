"""Alignments of IMOD and AreTomo, and tables of defocus: numbers that other programs made of them, and odd files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import MprError
from mpr_dist.storage.alignments import ImodFiles, read_aln, read_imod
from mpr_dist.storage.ctf_table import read_ctf_table
from mpr_dist.storage.warp_xml import read_tilt_series

ALN = """# AreTomo Alignment / Priims bprmMn
# RawSize = 512 480 5
# NumPatches = 0
# DarkFrame = {dark}
# AlphaOffset = 2.00
# BetaOffset = 0.00
# SEC ROT GMAG TX TY SMEAN SFIT SCALE BASE TILT
{rows}
# Local Alignment
"""


def test_warps_import_of_an_imod_alignment(shared: Path) -> None:
    """Angles, axis and offsets that Warp itself made of these files, with pixels of 10 A."""
    folder = shared / "data/real"
    files = [folder / f"imod/warpem+warpylib__00254.{end}" for end in ("xf", "tlt")]
    warp = read_tilt_series(folder / "warp_xml/warpem+warpylib__xf_import_00254.xml", volume_size_A=(1.0, 1.0, 1.0))
    found = read_imod(ImodFiles(*files), warp.n_tilts)
    np.testing.assert_allclose(found.tilt_deg, warp.angle_deg, atol=1e-6)
    np.testing.assert_allclose(found.axis_deg, warp.axis_angle_deg, atol=1e-4)  # .xf has seven decimals
    np.testing.assert_allclose(10 * found.shift_px, warp.axis_offset_A, atol=1e-3)


def test_etomo_with_its_command_files(shared: Path) -> None:
    """An axis beyond 90 degrees, a stack binned for the tomogram, a full image of another size: nothing to warn of."""
    stem = "uermel+cryoet-alignment_imod_1__"
    folder = shared / "data/real/imod"
    names = {"xf": "tilt_1.xf", "tlt": "tilt_1.tlt", "x_tilt": "tilt_1.xtilt"}
    names |= {"tilt_com": "tilt.com", "newst_com": "newst.com"}
    found = read_imod(ImodFiles(**{what: folder / f"{stem}{name}" for what, name in names.items()}), 59)
    assert found.tomogram_px == (3708, 3832, 2000)
    assert found.axis_deg[0] == pytest.approx(np.rad2deg(np.arctan2(-0.9834202, -0.1813379)), abs=1e-4)
    assert not any("SUBSETSTART" in note for note in found.notes)
    assert found.use.all()


def test_views_cut_out_in_etomo(tmp_path: Path) -> None:
    """Their angles say which images of the stack are missing; other counts are refused."""
    np.savetxt(tmp_path / "a.xf", [[1.0, 0, 0, 1, 0, 0]] * 3)
    for name, angles in (("a.tlt", [-3, 0, 6]), ("a.rawtlt", [-3, 0, 6]), ("a_cutviews0.rawtlt", [3])):
        np.savetxt(tmp_path / name, np.array(angles, float))
    files = ImodFiles(
        tmp_path / "a.xf", tmp_path / "a.tlt", None, tmp_path / "a.rawtlt", tmp_path / "a_cutviews0.rawtlt"
    )
    assert read_imod(files, 4).image.tolist() == [0, 1, 3]
    with pytest.raises(MprError, match="1 views were cut out and 3 are left, but the stack has 5"):
        read_imod(files, 5)
    with pytest.raises(MprError, match="give the stack that was aligned"):
        read_imod(ImodFiles(files.xf, files.tlt), 4)


def test_what_imod_asks_for_besides_is_told(tmp_path: Path) -> None:
    """Shifts of the tomogram, a part of the images, magnification: named, and NOT APPLIED."""
    np.savetxt(tmp_path / "a.xf", [[1.1, 0, 0, 1.1, 0, 0]] * 3)
    np.savetxt(tmp_path / "a.tlt", [-3.0, 0.0, 3.0])
    com = "FULLIMAGE 400 400\nTHICKNESS 100\nSHIFT 0.0 12\nLOCALFILE a.xf.local\nSUBSETSTART 60 0\n"
    (tmp_path / "tilt.com").write_text(com)
    (tmp_path / "newst.com").write_text("SizeToOutputInXandY\t100,100\nBinByFactor\t4\n")
    files = ImodFiles(
        tmp_path / "a.xf", tmp_path / "a.tlt", None, None, None, tmp_path / "tilt.com", tmp_path / "newst.com"
    )
    found = read_imod(files, 3)
    text = " ".join(found.notes)
    for words in ("magnification", "SHIFT 0.0 12", "SUBSETSTART 60 0"):
        assert words in text
    assert text.count("NOT APPLIED") == 3
    assert found.local_file == tmp_path / "a.xf.local"  # importing tells of it


def test_the_x_axis_tilt_of_the_tomogram_is_subtracted(tmp_path: Path) -> None:
    """tilt takes XAXISTILT from the x tilts of the views, and adds OFFSET to their tilts."""
    np.savetxt(tmp_path / "a.xf", [[1, 0, 0, 1, 0, 0]] * 3)
    np.savetxt(tmp_path / "a.tlt", [-3.0, 0.0, 3.0])
    np.savetxt(tmp_path / "a.xtilt", [1.0, 1.0, 1.0])
    (tmp_path / "tilt.com").write_text("FULLIMAGE 400 400\nTHICKNESS 100\nXAXISTILT 0.25\nOFFSET 2\n")
    files = ImodFiles(tmp_path / "a.xf", tmp_path / "a.tlt", tmp_path / "a.xtilt", tilt_com=tmp_path / "tilt.com")
    found = read_imod(files, 3)
    assert found.x_tilt_deg.tolist() == [0.75] * 3
    assert found.tilt_deg.tolist() == [-1.0, 2.0, 5.0]


@pytest.mark.parametrize(
    ("sections", "dark"),
    [
        ((0, 2, 3, 4), "1 1 -3.0"),  # counted in the file, from 0
        ((1, 3, 4, 5), "1 2 -3.0"),  # from 1
        ((0, 1, 2, 3), "1 1 -3.0"),  # dark frames not counted
        ((1, 2, 3, 4), "1 0 -3.0"),  # the same from 1, as AreTomo 3 wrote it
    ],
)
def test_sections_of_aretomo(sections: tuple[int, ...], dark: str, tmp_path: Path) -> None:
    """The image of every tilt, whichever way its sections are counted."""
    tilts = (-4.0, 2.0, 5.0, 8.0)  # with the offset of 2 degrees
    rows = "\n".join(f"{s} 85.0 1.0 {s}.5 -1.0 1 1 1 0 {t}" for s, t in zip(sections, tilts, strict=True))
    (tmp_path / "a.aln").write_text(ALN.format(dark=dark, rows=rows))
    found = read_aln(tmp_path / "a.aln")
    assert found.image.tolist() == [0, 2, 3, 4]
    np.testing.assert_allclose(found.stage_deg, [-6.0, 0.0, 3.0, 6.0])
    np.testing.assert_allclose(found.tilt_deg, tilts)


@pytest.mark.parametrize("first", [0, 1])
def test_local_alignments_count_tilts_from_0_or_1(first: int, tmp_path: Path) -> None:
    """Two patches in each of four tilts; the shift tells which tilt a line is of. From 2 on nobody knows."""
    rows = "\n".join(f"{s} 85.0 1.0 0 0 1 1 1 0 {t}" for s, t in ((0, -4.0), (2, 2.0), (3, 5.0), (4, 8.0)))
    text = ALN.format(dark="1 1 -3.0", rows=rows).replace("NumPatches = 0", "NumPatches = 2")

    def local(start: int) -> str:
        return "\n".join(f"{start + t} {p} 3.0 4.0 {10 * t + p}.0 0.5 1.0" for p in (1, 0) for t in range(4))

    (tmp_path / "a.aln").write_text(f"{text}{local(first)}\n")
    patches = read_aln(tmp_path / "a.aln").patches
    assert patches is not None
    assert patches.shift_px[..., 0].tolist() == [[10.0 * t, 10.0 * t + 1] for t in range(4)]
    (tmp_path / "a.aln").write_text(f"{text}{local(2)}\n")
    found = read_aln(tmp_path / "a.aln")
    assert found.patches is None
    assert "NOT APPLIED" in found.notes[-1]


def test_a_stack_in_the_order_of_exposure(tmp_path: Path) -> None:
    """SEC is what counts where angles go up and down, if it makes up the stack."""
    rows = [f"{s} 85.0 1.0 0 0 1 1 1 0 {t}" for s, t in ((0, 2.0), (1, 5.0), (2, -1.0), (4, -4.0))]
    (tmp_path / "a.aln").write_text(ALN.format(dark="4 3 6.0", rows="\n".join(rows)))
    assert read_aln(tmp_path / "a.aln").image.tolist() == [0, 1, 2, 4]
    (tmp_path / "a.aln").write_text(ALN.format(dark="4 1 6.0", rows="\n".join(rows)))
    with pytest.raises(MprError, match="do not make up the 5 images"):
        read_aln(tmp_path / "a.aln")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.aln", "# nothing", "is not an alignment of AreTomo"),
        ("a.aln", ALN.format(dark="1 1 -3", rows="0 85 1 0 0 1 1 1 0 x"), "line 8: expected numbers"),
        ("a.txt", "1 2 3", "expected 7 numbers"),
        ("a.txt", "# only\n", "holds no rows"),
        ("a.csv", "defocus_u,angle\n1,2\n3\n", "as many values in every line"),
        ("a.csv", "defocus_u,angle\n1,x\n", "expected a number, got 'x'"),
        ("a.star", "data_x\n\nloop_\n_rlnVoltage\n300\n", "no table with rlnDefocusU"),
    ],
)
def test_files_that_are_something_else(name: str, text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(MprError, match=words) as caught:
        (read_aln if name == "a.aln" else read_ctf_table)(path)
    assert name in str(caught.value)


def test_table_of_gctf(tmp_path: Path) -> None:
    """A STAR table with images of a stack in any order; degrees, A, and the series by its name."""
    rows = "3@TS_1.st 20000 19000 30 90\n1@TS_1.st 22000 21000 -10 0\n2@TS_1.st 24000 23000 0 45"
    names = ("rlnMicrographName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")
    head = "\n".join(f"_{name}" for name in names)
    (tmp_path / "x.star").write_text(f"data_\n\nloop_\n{head}\n{rows}\n")
    table = read_ctf_table(tmp_path / "x.star")
    assert table.image is not None
    assert table.image.tolist() == [2, 0, 1]
    assert table.phase_deg.tolist() == [90.0, 0.0, 45.0]
    assert (table.u_A[1], table.v_A[1], table.angle_deg[1]) == (22000.0, 21000.0, -10.0)
    assert table.dose is None
    assert len(table.of("TS_1")) == 3
    singles = rows.replace("3@TS_1.st", "Micrographs/TS_1_30.0.mrc").replace("1@TS_1.st", "TS_1_0.0.mrc")
    (tmp_path / "y.star").write_text(f"data_\n\nloop_\n{head}\n{singles.replace('2@TS_1.st', 'TS_12_0.0.mrc')}\n")
    both = read_ctf_table(tmp_path / "y.star")
    assert both.of("TS_1").u_A.tolist() == [20000.0, 22000.0]
    assert both.of("TS_12").u_A.tolist() == [24000.0]
    assert len(both.of("other")) == 3


def test_defocus_of_imod(tmp_path: Path) -> None:
    """Version 2: defocus alone, in nm, fits of several views count for the middle. Version 3: what the flags say."""
    path = tmp_path / "a.defocus"
    path.write_text("1 3 -60 -54 3000 2\n5 5 -48 -48 3300\n")
    old = read_ctf_table(path)
    assert old.image is not None
    assert old.image.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(old.u_A, [30000, 30000, 31000, 32000, 33000])
    assert (old.v_A == old.u_A).all()
    path.write_text("15 0 0. 0. 0. 3\n1 1 -60 -60 3000 2900 0.5 1.5\n2 2 -57 -57 3100 3000 -0.5 1.6\n")
    new = read_ctf_table(path)
    np.testing.assert_allclose(new.v_A, [29000, 30000])
    np.testing.assert_allclose(new.angle_deg, np.rad2deg([0.5, -0.5]))
    np.testing.assert_allclose(new.phase_deg, np.rad2deg([1.5, 1.6]))
    for text in ("1 0 0 0 0 3\n1 1 -60 -60 3000\n", "1 1 -60 -60 3000\n", "x\n", ""):
        path.write_text(text)
        with pytest.raises(MprError, match=r"a\.defocus"):
            read_ctf_table(path)
