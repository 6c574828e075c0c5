"""STAR files: reading agrees with an independent parser, writing is plain, exact and repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from mpr_dist.errors import InputError
from mpr_dist.storage.star import read_blocks, write_table


def star(folder: Path, text: str) -> Path:
    path = folder / "t.star"
    path.write_text(text)
    return path


def loop(columns: str, *rows: str) -> str:
    return "data_\nloop_\n" + "".join(f"_{c}\n" for c in columns.split()) + "\n".join(rows) + "\n"


def test_blocks_of_every_kind(tmp_path: Path) -> None:
    """Loops, single values, comments, column numbers, empty tables and empty texts in one file."""
    text = (
        "\ufeff# version 50001\n\ndata_general\n\n_rlnA 3\n_rlnFile   \n_rlnB 'two words'\n\n# c\n"
        "data_optics\n\nloop_ \n_rlnId #1 \n_rlnPixelSize #2\n 1 2.5 \n\n 2 1e1 # last\n\n\n"
        "data_none\nloop_\n_rlnX\n\ndata_TS_01.tomostar\n"
    )
    blocks = read_blocks(star(tmp_path, text))
    assert blocks["general"] == {"rlnA": 3, "rlnFile": "", "rlnB": "two words"}
    assert blocks["optics"]["rlnId"].tolist() == [1, 2]
    assert blocks["optics"]["rlnPixelSize"].tolist() == [2.5, 10.0]
    assert len(blocks["none"]) == 0
    assert list(blocks["none"].columns) == ["rlnX"]
    assert blocks["TS_01.tomostar"] == {}


def test_names_stay_text_and_numbers_become_numbers(tmp_path: Path) -> None:
    """A series called 01006 keeps its zero; one text in a column makes the column text."""
    text = loop("rlnTomoName rlnX rlnY rlnZ rlnOther", "01006 1 0.1 1 1_0", "7 2 3 x 2")
    table = read_blocks(star(tmp_path, text))[""]
    assert table["rlnTomoName"].tolist() == ["01006", "7"]
    assert table["rlnX"].dtype == np.int64
    assert table["rlnY"].tolist() == [0.1, 3.0]
    assert table["rlnZ"].tolist() == ["1", "x"]
    assert table["rlnOther"].tolist() == ["1_0", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no data block"),
        ("\n\n# only a comment\n", "no data block"),
        ("hello\n", "line 1: not a STAR file"),
        (loop("a b", "1 2", "3"), "line 6: expected 2 values.*got 1"),
        (loop("a b", "1 2 3"), "line 5: expected 2 values.*got 3"),
        (loop("a a", "1 2"), "column 'a' occurs twice"),
        (loop("a b", "1 'x"), "quotation"),
        ("data_x\nloop_\n_a\n1\ndata_x\nloop_\n_a\n1\n", "occurs twice"),
        ("data_x\nloop_\n_a\n1\nloop_\n_a\n1\n", "second 'loop_'"),
        ("data_x\n1 2 3\n", "expected a label"),
    ],
)
def test_what_is_not_star_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """The message has the file, the line, what was expected and what came."""
    with pytest.raises(InputError, match=message) as caught:
        read_blocks(star(tmp_path, text))
    assert "t.star" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    """Missing files, folders and binary files are refused without a traceback of another kind."""
    with pytest.raises(InputError, match="cannot be read"):
        read_blocks(tmp_path / "missing.star")
    with pytest.raises(InputError, match="cannot be read"):
        read_blocks(tmp_path)
    (tmp_path / "b.star").write_bytes(b"data_\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        read_blocks(tmp_path / "b.star")


def test_written_tables_read_back_exactly(tmp_path: Path) -> None:
    """Every float, integer and text survives, also through an independent parser."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "rlnX": rng.standard_normal(50) * 10.0 ** rng.integers(-12, 12, 50),
            "rlnId": rng.integers(-5, 10**12, 50),
            "rlnTomoName": [f"TS_{i:02d}" for i in range(50)],
        }
    )
    path = tmp_path / "t.star"
    write_table(path, {"general": {"rlnN": 50, "rlnPath": "a b"}, "particles": table})
    ours, theirs = read_blocks(path), starfile.read(path, always_dict=True, parse_as_string=["rlnTomoName"])
    assert ours["general"] == {"rlnN": 50, "rlnPath": "a b"}
    assert theirs["general"] == {"rlnN": 50, "rlnPath": "a b"}
    pd.testing.assert_frame_equal(ours["particles"], table, check_exact=True, check_dtype=False)
    assert list(theirs["particles"]["rlnTomoName"]) == list(table["rlnTomoName"])
    for name in ("rlnX", "rlnId"):
        assert np.allclose(theirs["particles"][name], table[name], rtol=1e-15, atol=0)


def test_written_tables_are_plain_and_repeatable(tmp_path: Path) -> None:
    """What Warp's parser needs: loop_, numbered columns, one line per row, no date, no quotes."""
    table = pd.DataFrame({"wrpA": np.array([0.1, 2.0], np.float32), "wrpName": ["a", "b"], "wrpOn": [True, False]})
    for name in ("a.star", "b.star"):
        write_table(tmp_path / name, {"": table})
    text = (tmp_path / "a.star").read_text()
    assert text == (tmp_path / "b.star").read_text()
    lines = [line for line in text.splitlines() if line]
    assert lines == ["data_", "loop_", "_wrpA #1", "_wrpName #2", "_wrpOn #3", "0.1 a 1", "2.0 b 0"]


def test_tables_that_could_not_be_read_back_are_not_written(tmp_path: Path) -> None:
    """NaN and text that would break the table are refused with column and row; the old file stays."""
    path = tmp_path / "t.star"
    write_table(path, {"": pd.DataFrame({"a": [1.0]})})
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"column b, row 2.*nan"):
        write_table(path, {"": pd.DataFrame({"b": [1.0, np.nan]})})
    with pytest.raises(InputError, match="column c, row 1"):
        write_table(path, {"": pd.DataFrame({"c": ["x\ny"]})})
    assert path.read_bytes() == before


def test_odd_text_survives(tmp_path: Path) -> None:
    """Empty text, blanks, and text that looks like a comment or a label are quoted."""
    texts = ["", "a b", "#1", "_x", "it's", "'q'"]
    write_table(tmp_path / "t.star", {"": pd.DataFrame({"rlnName": texts})})
    assert read_blocks(tmp_path / "t.star")[""]["rlnName"].tolist() == texts


def test_real_files_agree_with_an_independent_parser(shared: Path) -> None:
    """Every STAR file of other programs gives the blocks, columns and values that starfile finds."""
    paths = sorted((shared / "data").rglob("*.star")) + sorted((shared / "data").rglob("*.tomostar"))
    assert len(paths) > 40
    for path in paths:
        ours, theirs = read_blocks(path), starfile.read(path, always_dict=True)
        assert list(ours) == list(theirs), path
        for name, block in ours.items():
            if isinstance(block, dict):
                assert {k: str(v) for k, v in block.items()} == {k: str(v) for k, v in theirs[name].items()}
                continue
            assert list(block.columns) == list(theirs[name].columns), path
            for column in block.columns:
                if pd.api.types.is_numeric_dtype(block[column]):
                    assert np.allclose(block[column], theirs[name][column], rtol=1e-14, atol=0), (path, column)
                else:
                    assert len(block) == len(theirs[name]), (path, column)
