"""Masks in TIFF files."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mpr_dist.errors import SeriesError
from mpr_dist.storage.tiff import mask_path, read_mask
from mpr_dist.storage.warp_project import write_mask

MASK = np.zeros((30, 40), bool)
MASK[3:6, 10:30] = True  # in the order of an MRC image: near its first row


def write(path: Path, values: np.ndarray = MASK, dtype: str = "f4", **options: object) -> Path:
    """As Warp writes: last row of the image first."""
    tifffile.imwrite(path, values[::-1].astype(dtype), **options)
    return path


@pytest.mark.parametrize("dtype", ["f4", "u1", "i2", "u2", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_masks_are_read_upside_down(tmp_path, dtype, compression):
    """Any number type and compression; the first row of the file is the last of the image. Warp's are float32, LZW."""
    path = write(tmp_path / "m.tif", dtype=dtype, compression=compression)
    np.testing.assert_array_equal(read_mask(path), MASK)


def test_the_tag_of_orientation_changes_nothing(tmp_path):
    """Warp writes "bottom left" and turns whatever it reads."""
    path = write(tmp_path / "m.tif", extratags=[(274, "H", 1, 4, True)])
    np.testing.assert_array_equal(read_mask(path), MASK)


def test_what_a_simulated_project_writes_is_read(tmp_path):
    write_mask(tmp_path / "mask" / "m.tif", MASK)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask" / "m.tif"), MASK)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask" / "m.tif")[::-1], MASK)


def test_soft_values_are_cut_at_half(tmp_path):
    path = write(tmp_path / "m.tif", np.where(MASK, 0.6, 0.4))
    np.testing.assert_array_equal(read_mask(path), MASK)


def test_compression_that_takes_a_package_says_which(tmp_path, monkeypatch):
    """Without imagecodecs an LZW mask is refused with what to install; nothing is taken for clean."""
    path = write(tmp_path / "m.tif", compression="lzw")
    original = builtins.__import__

    def refuse(name: str, *rest: object):
        if name.split(".")[0] == "imagecodecs":
            raise ImportError(name)
        return original(name, *rest)

    import sys

    for name in [n for n in sys.modules if n.split(".")[0] in ("imagecodecs", "tifffile")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SeriesError, match=r"m\.tif: is compressed.*pip install imagecodecs"):
        read_mask(path)


def test_what_is_no_mask_is_refused(tmp_path):
    for name, values, message in (
        ("stack.tif", np.zeros((2, 30, 40)), "expected one grey image"),
        ("colour.tif", np.zeros((30, 40, 3), "u1"), "expected one grey image"),
        ("nan.tif", np.full((30, 40), np.nan), "NaN or infinite"),
    ):
        tifffile.imwrite(tmp_path / name, values.astype("u1" if "colour" in name else "f4"))
        with pytest.raises(SeriesError, match=message):
            read_mask(tmp_path / name)
    with pytest.raises(SeriesError, match=r"none\.tif: cannot be read"):
        read_mask(tmp_path / "none.tif")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_a_file_cut_off_anywhere_is_refused_or_whole(tmp_path, compression):
    """No error but ours leaves the reader, and what it returns without one is the mask."""
    content = write(tmp_path / "m.tif", compression=compression).read_bytes()
    refused = 0
    for n in range(0, len(content), 37):
        path = tmp_path / "cut.tif"
        path.write_bytes(content[:n])
        try:
            np.testing.assert_array_equal(read_mask(path), MASK)
        except SeriesError:
            refused += 1
    assert refused > 0.5 * len(range(0, len(content), 37))


def test_masks_lie_beside_the_averages():
    assert mask_path(Path("/x/frames/average/a_01.mrc")) == Path("/x/frames/mask/a_01.tif")
