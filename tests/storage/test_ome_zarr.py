"""OME-Zarr as others read it: valid by yaozarrs, in angstrom, every level in its place."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaozarrs
import zarr

from mpr_dist.errors import InputError
from mpr_dist.storage.ome_zarr import write_ome_zarr

PIXEL = 1.35


def _maps(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {label: rng.standard_normal((n, n, n)).astype(np.float32) for label in ("map", "half-map 1", "half-map 2")}


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("n", [20, 70, 132])
def test_valid_and_in_place(tmp_path, version, n):
    """132 px has two chunks along each axis, 70 px an odd half, 20 px one level only."""
    maps, path = _maps(n), tmp_path / "map.zarr"
    write_ome_zarr(path, "gag", maps, PIXEL, version)
    yaozarrs.validate_zarr_store(str(path))
    opened = yaozarrs.open_group(path)
    assert str(opened.ome_version()) == version
    attributes = dict(zarr.open_group(str(path), mode="r").attrs)
    about = attributes["ome"] if version == "0.5" else attributes
    (image,) = about["multiscales"]
    assert [axis["name"] for axis in image["axes"]] == ["c", "z", "y", "x"]
    assert {axis["unit"] for axis in image["axes"] if axis["type"] == "space"} == {"angstrom"}
    assert [channel["label"] for channel in about["omero"]["channels"]] == list(maps)
    group = zarr.open_group(str(path), mode="r")
    np.testing.assert_array_equal(group["0"][:], np.stack(list(maps.values())))
    z = np.arange(n)[:, None, None] * np.ones((n, n, n))
    for level, dataset in enumerate(image["datasets"]):
        scale, move = (dataset["coordinateTransformations"][i] for i in (0, 1))
        found = group[dataset["path"]]
        assert scale["scale"][1:] == [PIXEL * 2**level] * 3
        # a map that is its own coordinate says where the voxels of a level are
        for _ in range(level):
            m = len(z) // 2
            z = z[: 2 * m, : 2 * m, : 2 * m].reshape(m, 2, m, 2, m, 2).mean((1, 3, 5))
        stated = move["translation"][1] + scale["scale"][1] * np.arange(found.shape[1])
        np.testing.assert_allclose(stated, PIXEL * z[:, 0, 0], rtol=1e-12, atol=1e-9)
        z = np.arange(n)[:, None, None] * np.ones((n, n, n))
    assert len(image["datasets"]) == {20: 1, 70: 2, 132: 3}[n]


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_coarse_levels_are_means(tmp_path, version):
    maps = _maps(64)
    write_ome_zarr(tmp_path / "m.zarr", "gag", maps, PIXEL, version)
    found = zarr.open_group(str(tmp_path / "m.zarr"), mode="r")["1"][1]
    block = maps["half-map 1"][2:4, 6:8, 10:12].mean(dtype=np.float64)
    assert found[1, 3, 5] == pytest.approx(block, abs=1e-6)


def test_written_again_it_has_the_same_bytes_and_no_leftovers(tmp_path, digests):
    write_ome_zarr(tmp_path / "m.zarr", "gag", _maps(32), PIXEL)
    before = digests(tmp_path)
    write_ome_zarr(tmp_path / "m.zarr", "gag", _maps(48), PIXEL)
    assert digests(tmp_path) != before
    write_ome_zarr(tmp_path / "m.zarr", "gag", _maps(32), PIXEL)
    assert digests(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_refused(tmp_path):
    with pytest.raises(InputError, match="one size"):
        write_ome_zarr(tmp_path / "m.zarr", "gag", {"a": np.zeros((4,) * 3), "b": np.zeros((6,) * 3)}, PIXEL)
    with pytest.raises(InputError, match="pixel size"):
        write_ome_zarr(tmp_path / "m.zarr", "gag", _maps(8), 0.0)
    with pytest.raises(InputError, match=r"0\.6 is not known"):
        write_ome_zarr(tmp_path / "m.zarr", "gag", _maps(8), PIXEL, "0.6")
    assert list(tmp_path.iterdir()) == []


def test_other_programs_find_the_version_where_it_belongs(tmp_path):
    """0.5: zarr 3, below "ome"; 0.4: zarr 2, in the multiscales, chunks separated by slashes."""
    for version in ("0.5", "0.4"):
        write_ome_zarr(tmp_path / version, "gag", _maps(16), PIXEL, version)
    new = json.loads((tmp_path / "0.5" / "zarr.json").read_text())
    assert (new["zarr_format"], new["attributes"]["ome"]["version"]) == (3, "0.5")
    old = json.loads((tmp_path / "0.4" / ".zattrs").read_text())
    assert old["multiscales"][0]["version"] == "0.4"
    assert json.loads((tmp_path / "0.4" / "0" / ".zarray").read_text())["dimension_separator"] == "/"
