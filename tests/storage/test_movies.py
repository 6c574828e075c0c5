"""Movies on the disk: the same frames from TIFF and MRC, gain as Warp turns it, motion through XML and back."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.model.movie import Motion, MovieSource
from mpr_dist.model.warp import CubicGrid
from mpr_dist.storage.movies import (
    find_movie,
    open_movie,
    read_gain,
    read_motion,
    read_movie_source,
    write_motion,
    write_movie,
)
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.warp_project import write_movie_settings

FRAMES = np.random.default_rng(0).poisson(3.0, (4, 12, 10)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["tif", "mrc"])
def test_frames_come_back(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_movie(path, FRAMES, 1.5)
    movie = open_movie(path)
    assert movie.shape == FRAMES.shape
    np.testing.assert_array_equal(list(movie.frames(None)), FRAMES)
    gain = np.random.default_rng(1).uniform(0.5, 2, FRAMES.shape[1:]).astype(np.float32)
    np.testing.assert_array_equal(list(movie.frames(gain)), FRAMES * gain)
    with pytest.raises(SeriesError, match="gain reference of 12 x 10 px"):
        next(movie.frames(gain.T))


def test_tiff_rows_are_upside_down(tmp_path):
    """Warp turns every TIFF; what other programs see first in the file is the last row of the image."""
    import tifffile

    write_movie(tmp_path / "a.tif", FRAMES, 1.5)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif")[:, ::-1], FRAMES)


def test_damaged_movies_are_told(tmp_path):
    for suffix in ("tif", "mrc"):
        path = tmp_path / f"a.{suffix}"
        write_movie(path, FRAMES, 1.5)
        path.write_bytes(path.read_bytes()[:1100] if suffix == "mrc" else path.read_bytes()[:300])
        with pytest.raises(SeriesError, match=f"a.{suffix}"):
            list(open_movie(path).frames(None))
    with pytest.raises(SeriesError, match="check the path"):
        open_movie(tmp_path / "b.tif")


def test_gain_is_turned_as_warp_does(tmp_path):
    """Over its mean, zeros to one, then flipped along x, flipped along y, transposed."""
    raw = np.random.default_rng(2).uniform(1, 3, (6, 8)).astype(np.float32)
    raw[2, 3] = 0
    write_volume(tmp_path / "gain.mrc", raw[None], 1.0)
    expected = np.where(raw == 0, 1, raw / raw.mean())
    for flags in np.ndindex(2, 2, 2):
        flip_x, flip_y, transpose = map(bool, flags)
        found = read_gain(
            MovieSource(tmp_path, tmp_path, ".tif", False, 1.0, 1, tmp_path / "gain.mrc", flip_x, flip_y, transpose)
        )
        turned = expected[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        np.testing.assert_allclose(found, turned.T if transpose else turned, rtol=1e-6)
    with pytest.raises(InputError, match="gain reference"):
        read_gain(MovieSource(tmp_path, tmp_path, ".tif", False, 1.0, 1, tmp_path / "none.mrc"))


def test_settings_of_frame_series(tmp_path):
    path = tmp_path / "warp_frameseries.settings"
    write_movie_settings(path, 1.5, "*.tif", 3.2, "gain.mrc")
    source = read_movie_source(path)
    assert (source.pixel_A, source.suffix, source.flip_x, source.transpose) == (1.5, ".tif", True, False)
    assert source.gain == tmp_path / "frames" / "gain.mrc"
    np.testing.assert_allclose(source.frame_doses(4), [0.4, 1.2, 2.0, 2.8], rtol=1e-6)  # 3.2 of all together
    text = path.read_text("utf-8-sig")
    for old, new, words in (
        ("*.tif", "*.dm4", "convert them"),
        ("*.tif", "*.tomostar", "frame series"),
        ('"PixelSize" Value="1.5"', '"PixelSize" Value="0"', "positive pixel size"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=words):
            read_movie_source(path)
    (tmp_path / "frames" / "deep").mkdir(parents=True)
    write_movie(tmp_path / "frames" / "deep" / "a.tif", FRAMES, 1.5)
    assert find_movie(source, "a") is None
    path.write_text(text.replace('"DoRecursiveSearch" Value="False"', '"DoRecursiveSearch" Value="True"'))
    assert find_movie(read_movie_source(path), "a") == tmp_path / "frames" / "deep" / "a.tif"


def test_motion_comes_back(tmp_path):
    """Global, local and further grids; what else the XML holds stays. The sum is what counts."""
    rng = np.random.default_rng(3)
    shapes = ((5, 1, 1), (2, 3, 4), (3, 2, 2), (3, 2, 2))
    motion = Motion(tuple((CubicGrid(rng.normal(size=s)), CubicGrid(rng.normal(size=s))) for s in shapes))
    template = tmp_path / "template.xml"
    node = '<Node X="0" Y="0" Z="0" Value="7" />'
    grid = f'<GridMovementX Width="1" Height="1" Depth="1">\n\t\t{node}\n\t</GridMovementX>'
    template.write_text(f'<Movie UnselectManual="null">\n\t{grid}\n\t<CTF />\n</Movie>')
    write_motion(tmp_path / "a.xml", template, motion)
    found = read_motion(tmp_path / "a.xml")
    assert len(found.grids) == 4
    places = rng.uniform(0, 1, (6, 2))
    np.testing.assert_allclose(found.at(places, 7), motion.at(places, 7), atol=1e-5)  # Warp's numbers are float32
    assert "<CTF />" in (tmp_path / "a.xml").read_text("utf-8-sig")
    with pytest.raises(SeriesError, match="times"):
        read_motion(template)
    twice = motion.plus(Motion((motion.grids[-1],)))
    assert len(twice.grids) == 4  # grids of one shape are added up
    np.testing.assert_allclose(
        twice.at(places, 7), motion.at(places, 7) + Motion((motion.grids[-1],)).at(places, 7), atol=1e-12
    )


def eer(frames: np.ndarray, path) -> None:
    """A movie as Falcon 4 writes it: per page the distances between electrons, 7 bits each, and 4 for the place inside
    the pixel (compression 65001 of TIFF)."""

    def page(frame: np.ndarray) -> bytes:
        bits: list[int] = []
        skip = 0
        for hit in frame.ravel():
            skip += 1
            if hit:
                assert skip < 128  # a longer way takes codes of its own
                bits += [(skip - 1) >> i & 1 for i in range(7)] + [0] * 4
                skip = 0
        bits += [skip >> i & 1 for i in range(7)]
        code = np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()
        return code + b"\0" * (len(code) % 2)

    height, width = frames.shape[1:]
    words = b"<metadata></metadata>   "
    data = bytearray(b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(words)) + words)
    for i, one in enumerate(map(page, frames)):
        tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 4, 1, 1), (259, 4, 1, 65001), (262, 4, 1, 1)]
        strip = len(data) + 8 + 20 * 9 + 8
        tags += [(273, 4, 1, strip), (278, 4, 1, height), (279, 4, 1, len(one)), (65001, 7, len(words), 16)]
        data += struct.pack("<Q", len(tags)) + b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
        data += struct.pack("<Q", 0 if i + 1 == len(frames) else strip + len(one)) + one
    path.write_bytes(data)


def test_eer_frames_are_added_up_in_groups(tmp_path):
    """Groups of so many, or so many groups; what is left over is not used. A gain divides."""
    raw = np.random.default_rng(4).uniform(size=(7, 32, 48)) < 0.1
    eer(raw, tmp_path / "a.eer")
    for group, expected in ((3, [raw[:3].sum(0), raw[3:6].sum(0)]), (-3, [raw[i : i + 2].sum(0) for i in (0, 2, 4)])):
        movie = open_movie(tmp_path / "a.eer", group)
        assert movie.shape == (len(expected), 32, 48)
        np.testing.assert_array_equal(list(movie.frames(None)), expected)
    with pytest.raises(SeriesError, match="too few"):
        open_movie(tmp_path / "a.eer", 8)
    gain = np.random.default_rng(5).uniform(1, 2, (1, 32, 48)).astype(np.float32)
    write_volume(tmp_path / "gain.mrc", gain, 1.0)
    found = read_gain(MovieSource(tmp_path, tmp_path, ".eer", False, 1.0, 3, tmp_path / "gain.mrc"))
    np.testing.assert_allclose(found, gain.mean() / gain[0], rtol=1e-5)
