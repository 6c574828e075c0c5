"""Files of defects: maps turned as the gain, texts in the frames' own pixels, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.model.movie import MovieSource
from mpr_dist.storage.defects import read_defects
from mpr_dist.storage.movies import open_movie, read_gain, read_movie_source, write_movie
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.warp_project import write_movie_settings

SHAPE = (6, 8)


@pytest.fixture
def source(tmp_path) -> MovieSource:
    return MovieSource(tmp_path, tmp_path, ".tif", False, 1.0)


@pytest.mark.parametrize("suffix", ["mrc", "tif"])
def test_a_map_is_turned_as_the_gain_is(source, tmp_path, suffix):
    """A gain that is 2 exactly where the map is not 0 stays so, however both are turned."""
    marked = np.zeros(SHAPE, np.float32)
    marked[1, 2], marked[4, 7] = 1, 255
    for name, values in (("gain", 1 + (marked > 0)), ("defects", marked)):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "mrc":
            write_volume(path, np.asarray(values, np.float32)[None], 1.0)
        else:
            tifffile.imwrite(path, np.asarray(values, np.float32))
    files = {"gain": tmp_path / f"gain.{suffix}", "defects": tmp_path / f"defects.{suffix}"}
    for flags in np.ndindex(2, 2, 2):
        flip_x, flip_y, transpose = map(bool, flags)
        turned = replace(source, **files, flip_x=flip_x, flip_y=flip_y, transpose=transpose)
        gain = read_gain(turned)
        bad = read_defects(turned, SHAPE[::-1] if transpose else SHAPE)
        np.testing.assert_array_equal(bad, gain > 1.2)
        assert bad.sum() == 2
    with pytest.raises(SeriesError, match="of 8 x 6 px for frames of 6 x 8 px"):
        read_defects(replace(source, **files), SHAPE[::-1])


def test_a_text_has_rectangles_of_the_frames_as_they_are(source, tmp_path):
    """x, y, width, height; flips of the gain do not concern it. The first row of a TIFF's frame is the file's last."""
    path = tmp_path / "defects.txt"
    path.write_text("# bad columns\n2 0 1 6\n\n5 3 2 2\n")
    expected = np.zeros(SHAPE, bool)
    expected[:, 2], expected[3:5, 5:7] = True, True
    np.testing.assert_array_equal(read_defects(replace(source, defects=path, flip_x=True), SHAPE), expected)
    frames = np.full((2, *SHAPE), 9, np.uint8)
    frames[:, expected] = 200
    write_movie(tmp_path / "a.tif", frames, 1.0)
    for frame in open_movie(tmp_path / "a.tif").frames(None, read_defects(replace(source, defects=path), SHAPE)):
        np.testing.assert_array_equal(frame, 9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CameraSizeX 5760\nBadColumns 3 4\n", "line 1 is 'CameraSizeX 5760', expected four whole numbers"),
        ("1 1 2\n", "x, y, width and height"),
        ("1 1 -2 2\n", "expected four whole numbers"),
        ("0 0 8 6\n", "every pixel is bad"),
    ],
)
def test_texts_that_are_none_are_refused(source, tmp_path, text, words):
    path = tmp_path / "defects.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_defects(replace(source, defects=path), SHAPE)


def test_what_lies_outside_or_is_missing_is_told(source, tmp_path):
    path = tmp_path / "defects.txt"
    path.write_text("7 0 2 1\n")
    with pytest.raises(SeriesError, match="pixels 7 to 8 and 0 to 0 lie outside of frames of 8 x 6 px"):
        read_defects(replace(source, defects=path), SHAPE)
    for name in ("none.txt", "none.mrc"):
        with pytest.raises(InputError, match=name):
            read_defects(replace(source, defects=tmp_path / name), SHAPE)
    assert read_defects(source, SHAPE) is None


def test_the_settings_name_them(tmp_path):
    """As Warp has it: a path from the folder of the settings, used where CorrectDefects says so."""
    path = tmp_path / "warp_frameseries.settings"
    write_movie_settings(path, 1.5, "*.tif", 3.2, "gain.mrc")
    text = path.read_text("utf-8-sig").replace('"DefectsPath" Value=""', '"DefectsPath" Value="frames/bad.mrc"')
    path.write_text(text)
    assert read_movie_source(path).defects is None
    path.write_text(text.replace('"CorrectDefects" Value="False"', '"CorrectDefects" Value="True"'))
    assert read_movie_source(path).defects == tmp_path / "frames" / "bad.mrc"
