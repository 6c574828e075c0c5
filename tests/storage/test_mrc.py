"""MRC files: what is written reads back, what other programs write is understood, what is broken is refused."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.storage.mrc import read_header, read_image, read_volume, write_volume


def foreign(path: Path, data: np.ndarray, pixel_A: float = 2.5) -> Path:
    """A file as mrcfile, another implementation, writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it warns about the NaN that some tests put in
        out = mrcfile.new(path, data=data, overwrite=True)
        out.voxel_size = pixel_A
        out.close()
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


def test_a_volume_reads_back_as_written(tmp_path: Path) -> None:
    """Values are kept to the bit, with the order of axes and the pixel size."""
    data = noise(3, 4, 5)
    write_volume(tmp_path / "v.mrc", data, 1.7005)
    back, pixel_A = read_volume(tmp_path / "v.mrc")
    assert back.dtype == np.float32
    assert np.array_equal(back, data)
    assert pixel_A == pytest.approx(1.7005, rel=1e-6)
    assert read_header(tmp_path / "v.mrc")[:3] == (5, 4, 3)


def test_another_implementation_accepts_our_volume(tmp_path: Path) -> None:
    """mrcfile finds nothing to complain about, and the same numbers."""
    data = noise(4, 4, 4)
    write_volume(tmp_path / "v.mrc", data, 2.4)
    assert mrcfile.validate(tmp_path / "v.mrc")
    with mrcfile.open(tmp_path / "v.mrc") as seen:
        assert seen.is_volume()
        assert np.array_equal(seen.data, data)
        assert float(seen.voxel_size.z) == pytest.approx(2.4, rel=1e-6)
        assert float(seen.header.rms) == pytest.approx(float(data.std()), rel=1e-5)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    """No date enters the file, and nothing else is left in the folder."""
    for name in ("a.mrc", "b.mrc"):
        write_volume(tmp_path / name, noise(4, 4, 4), 2.4)
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mrc", "b.mrc"]


def test_a_refused_volume_leaves_the_old_file(tmp_path: Path) -> None:
    """NaN, a flat array, a pixel of zero or a missing folder: the file that was there stays."""
    path = tmp_path / "v.mrc"
    write_volume(path, noise(2, 2, 2), 1.0)
    before = path.read_bytes()
    with pytest.raises(InputError, match="NaN"):
        write_volume(path, np.full((2, 2, 2), np.nan, np.float32), 1.0)
    with pytest.raises(InputError, match="three axes"):
        write_volume(path, noise(2, 2), 1.0)
    with pytest.raises(InputError, match="positive"):
        write_volume(path, noise(2, 2, 2), 0.0)
    with pytest.raises(InputError, match="cannot be written"):
        write_volume(tmp_path / "nowhere" / "v.mrc", noise(2, 2, 2), 1.0)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["v.mrc"]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float32, np.uint16, np.float16])
def test_every_mode_of_the_field_is_read(tmp_path: Path, dtype: type) -> None:
    """Modes 0, 1, 2, 6 and 12 give the numbers that another implementation put in."""
    data = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    back, pixel_A = read_volume(foreign(tmp_path / "v.mrc", data))
    assert np.array_equal(back, data.astype(np.float32))
    assert pixel_A == pytest.approx(2.5)


def test_big_endian_and_extended_header(tmp_path: Path) -> None:
    """Byte order comes from the header's sense, and the bytes of an extended header are skipped."""
    data = noise(2, 3, 4)
    with mrcfile.new(tmp_path / "v.mrc", data=data.astype(">f4")) as out:
        out.set_extended_header(np.frombuffer(b"x" * 640, "V640"))
    assert struct.unpack_from(">i", (tmp_path / "v.mrc").read_bytes())[0] == 4
    assert np.array_equal(read_volume(tmp_path / "v.mrc")[0], data)


def test_unsigned_bytes_of_imod(tmp_path: Path) -> None:
    """Mode 0 is unsigned when IMOD wrote it without its flag for signed bytes."""
    path = foreign(tmp_path / "v.mrc", np.array([[[-1, 1]]], np.int8))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<2i", raw, 152, 1146047817, 0)
    path.write_bytes(raw)
    assert read_volume(path)[0].ravel().tolist() == [255.0, 1.0]
    struct.pack_into("<2i", raw, 152, 1146047817, 1)
    path.write_bytes(raw)
    assert read_volume(path)[0].ravel().tolist() == [-1.0, 1.0]


def test_an_image_is_2d_or_one_slice(tmp_path: Path) -> None:
    """Both spellings of a single image give the same array; a stack is refused."""
    data = noise(6, 8)
    assert np.array_equal(read_image(foreign(tmp_path / "a.mrc", data)), data)
    assert np.array_equal(read_image(foreign(tmp_path / "b.mrc", data[None])), data)
    with pytest.raises(SeriesError, match="2 slices"):
        read_image(foreign(tmp_path / "c.mrc", noise(2, 6, 8)))


@pytest.mark.parametrize(("read", "error"), [(read_volume, InputError), (read_image, SeriesError)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_value_that_is_not_finite_gets_through(tmp_path: Path, read, error, bad: float) -> None:
    """The message says where the first one is."""
    data = noise(1, 6, 8)
    data[0, 4, 3] = bad
    with pytest.raises(error, match="x 3, y 4, z 0"):
        read(foreign(tmp_path / "v.mrc", data))


@pytest.mark.parametrize(("read", "error"), [(read_volume, InputError), (read_image, SeriesError)])
def test_broken_files_are_refused(tmp_path: Path, read, error) -> None:
    """Missing, empty, not MRC, cut off, a mode nobody supports: each is named with its file."""
    path = tmp_path / "v.mrc"
    with pytest.raises(error, match=r"v\.mrc: cannot be read"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(error, match="not an MRC file"):
        read(path)
    path.write_bytes(b"data_particles\n" * 100)
    with pytest.raises(error, match="not an MRC file"):
        read(path)
    raw = foreign(path, noise(1, 6, 8)).read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(error, match=r"truncated.*1216 bytes, the file has 1215"):
        read(path)
    path.write_bytes(raw[:12] + struct.pack("<i", 101) + raw[16:])
    with pytest.raises(error, match="mode 101"):
        read(path)
    path.write_bytes(struct.pack("<3i", 0, 6, 8) + raw[12:])
    with pytest.raises(error, match="0 x 6 x 8"):
        read(path)


def test_pixels_that_are_not_cubic_and_permuted_axes(tmp_path: Path) -> None:
    """Both would silently distort a map; float32 rounding of the pixel size does not count."""
    path = foreign(tmp_path / "v.mrc", noise(4, 4, 4))
    with mrcfile.open(path, "r+") as out:
        out.voxel_size = (2.5, 2.5, 2.50001)
    assert read_volume(path)[1] == pytest.approx(2.5)
    with mrcfile.open(path, "r+") as out:
        out.voxel_size = (2.5, 2.5, 2.6)
    with pytest.raises(InputError, match="not cubic"):
        read_volume(path)
    with mrcfile.open(path, "r+") as out:
        out.voxel_size = 2.5
        out.header.mapc, out.header.mapr = 2, 1
    with pytest.raises(InputError, match="order"):
        read_volume(path)


def test_a_header_without_a_pixel_size_gives_zero(tmp_path: Path) -> None:
    """Zero is for the caller to replace by what the user says; it is not an error here."""
    assert read_header(foreign(tmp_path / "v.mrc", noise(2, 2, 2), 0.0)) == (2, 2, 2, 0.0)


def test_real_files_agree_with_another_implementation(shared: Path) -> None:
    """float16 averages and stacks of Warp, maps of RELION."""
    averages = shared / "data/apoferritin/warp_frameseries/average"
    for path in sorted(averages.glob("*.mrc"))[:3]:
        with mrcfile.open(path) as seen:
            assert np.array_equal(read_image(path), np.asarray(seen.data, np.float32).reshape(640, 640))
    volumes = [shared / "data/apoferritin/relion/half1.mrc"]
    stacks = sorted((shared / "data/real/warp_relion_export").glob("*.mrcs"))
    assert len(stacks) == 2
    for path in volumes + stacks:
        with mrcfile.open(path, permissive=True) as seen:
            back, pixel_A = read_volume(path)
            assert np.array_equal(back, np.asarray(seen.data, np.float32))
            assert pixel_A == pytest.approx(float(seen.voxel_size.x), rel=1e-5)
