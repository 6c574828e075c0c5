"""What was summed is what comes back, in any grouping; a changed byte never passes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec

from mpr_dist.errors import PopulationError
from mpr_dist.storage import accumulators as acc
from mpr_dist.storage.publish import Disk
from mpr_dist.units import I64

SHAPE = (12, 10, 6)


@pytest.fixture(autouse=True)
def _small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acc, "SLAB_BYTES", 5 * 6 * 8 * 60)  # slabs of 5, 5 and 2


def _manifest(*series: str) -> acc.Manifest:
    return acc.Manifest({name: "hash" for name in series}, 28, "settings", "0.1.0", {"apo": SHAPE})


def _sums(seed: int) -> dict[str, I64]:
    return {"apo": np.random.default_rng(seed).integers(-(2**40), 2**40, (2, *SHAPE, 3))}


def _write(path: Path, seed: int) -> Path:
    name, ours = acc.write_partial(path, _manifest(f"TS_{seed:02d}"), _sums(seed))
    assert ours
    return path / name


def test_round_trip(tmp_path: Path) -> None:
    partial = _write(tmp_path, 1)
    manifest = acc.verify(partial)
    assert manifest.series == {"TS_01": "hash"}
    assert acc.slab_starts(SHAPE) == (0, 5, 10)
    np.testing.assert_array_equal(acc.read_accumulator(partial, "apo"), _sums(1)["apo"])
    assert os.listdir(tmp_path) == [partial.name]


def test_who_comes_second_is_dropped(tmp_path: Path) -> None:
    partial = _write(tmp_path, 1)
    assert acc.write_partial(tmp_path, _manifest("TS_01"), _sums(1)) == (partial.name, False)
    assert _manifest("TS_01").name != _manifest("TS_02").name


def test_slabs_add_up_exactly_in_any_order(tmp_path: Path) -> None:
    partials = [_write(tmp_path, seed) for seed in range(4)]
    expected = sum(_sums(seed)["apo"] for seed in range(4))
    for order in (partials, partials[::-1]):
        whole = np.concatenate([acc.sum_slab(order, "apo", z) for z in acc.slab_starts(SHAPE)], axis=1)
        np.testing.assert_array_equal(whole, expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("spoiled")
    partial = _write(path, 1)
    chunks = sorted(p for p in partial.rglob("*") if p.is_file() and p.parent.name != "apo" and "c" in p.parts[-6:])
    chunks = [p for p in chunks if p.name not in ("zarr.json", "manifest.json")]
    assert len(chunks) == 3
    chunk = data.draw(st.sampled_from(chunks))
    content = bytearray(chunk.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    chunk.write_bytes(bytes(content))
    damage = _damage(partial)
    if damage is None:  # a bit of zstd's header that does not matter: what is read is still what was written
        np.testing.assert_array_equal(acc.read_accumulator(partial, "apo"), _sums(1)["apo"])
    else:
        assert damage.partial == partial


def _damage(partial: Path) -> acc.DamagedPartial | None:
    try:
        acc.verify(partial)
    except acc.DamagedPartial as damage:
        return damage
    return None


def test_a_lost_chunk_or_manifest_is_found(tmp_path: Path) -> None:
    partial = _write(tmp_path, 1)
    chunk = next(p for p in (partial / "apo").rglob("*") if p.is_file() and p.name != "zarr.json")
    chunk.unlink()
    with pytest.raises(acc.DamagedPartial, match="not those written"):
        acc.verify(partial)
    (partial / "manifest.json").write_text("{}")
    with pytest.raises(acc.DamagedPartial, match="manifest"):
        acc.verify(partial)


@pytest.mark.parametrize("how", ["linked", "no links", "left by another", "another codec"])
def test_the_sum_of_one_partial_has_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Under second names where that can be, otherwise as copies; the slab of zeros has none. What was there goes."""
    sums = _sums(1)
    sums["apo"][:, 5:10] = 0
    source = tmp_path / acc.write_partial(tmp_path, _manifest("TS_01"), sums)[0]
    target = tmp_path / "target"
    if how == "another codec":
        monkeypatch.setattr(acc, "BloscCodec", lambda **_: BloscCodec(typesize=8, cname="zstd", clevel=1))
    acc.create_arrays(target, {"apo": SHAPE})
    if how == "no links":
        monkeypatch.setattr(Disk, "link", _no_links)
    if how == "left by another":
        for z, values in ((0, _sums(2)["apo"][:, :5]), (5, _sums(3)["apo"][:, 5:10])):
            acc.write_slab(target, "apo", z, values)
    crc = [acc.write_sum(target, [source], "apo", z) for z in acc.slab_starts(SHAPE)]
    assert acc.close_arrays(target, tmp_path / "sum", _manifest("TS_01"), {"apo": crc})
    np.testing.assert_array_equal(acc.read_accumulator(tmp_path / "sum", "apo"), sums["apo"])
    np.testing.assert_array_equal(acc.read_accumulator(source, "apo"), sums["apo"])
    names = [path.stat().st_nlink for path in (tmp_path / "sum" / "apo" / "c").rglob("*") if path.is_file()]
    assert names == ([2, 2] if how in ("linked", "left by another") else [1, 1])


def _no_links(disk: Disk, source: Path, target: Path) -> None:
    raise OSError(95, "Operation not supported")


def test_a_damaged_partial_gets_no_second_name(tmp_path: Path) -> None:
    """It is read before."""
    source, target = _write(tmp_path, 1), tmp_path / "target"
    chunk = next(path for path in (source / "apo" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"123456789")
    acc.create_arrays(target, {"apo": SHAPE})
    with pytest.raises(acc.DamagedPartial):
        _ = [acc.write_sum(target, [source], "apo", z) for z in acc.slab_starts(SHAPE)]


def test_overflow_stops(tmp_path: Path) -> None:
    big = {"apo": np.full((2, *SHAPE, 3), 2**60 + 2**59)}
    partials = [tmp_path / acc.write_partial(tmp_path, _manifest(name), big)[0] for name in ("a", "b")]
    assert acc.sum_slab(partials[:1], "apo", 0).max() == 2**60 + 2**59
    with pytest.raises(PopulationError, match=r"2\^61"):
        acc.sum_slab(partials, "apo", 0)


def test_accumulators_know_whether_they_were_touched() -> None:
    sums = acc.Accumulators({"apo": SHAPE})
    assert list(sums) == ["apo"]
    assert not sums.touched
    sums["apo"][0, 0, 0, 0, 0] = 7
    assert sums.touched
    sums.clear()
    assert sums["apo"].shape == (2, *SHAPE, 3)
    assert not sums["apo"].any()


def test_damage_travels_between_processes() -> None:
    damage = pickle.loads(pickle.dumps(acc.DamagedPartial(Path("a"), "why")))
    assert (damage.partial, damage.why, str(damage)) == (Path("a"), "why", "a: why")
