"""Charts: well-formed, inside their frame, true to their numbers; images: they decode to what went in."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from mpr_dist.workflow.reporting import plots
from mpr_dist.workflow.reporting.plots import Guide, Line, axis_for, number


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


def points(element):
    return np.array([[float(v) for v in pair.split(",")] for pair in element.get("points").split()])


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 17), (0.0012, 0.0013), (5, 5), (0, 0), (-2e-9, 3e6), (2.5, 2.71), (1e4, 1.2e4)]
)
def test_ticks_are_round_and_cover_the_data(low, high):
    ticks = np.array(plots.nice_ticks(low, high))
    slack = 1e-8 * max(high - low, abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10.0 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert np.isclose(mantissa, (1, 2, 5, 10)).any()


def test_ticks_of_nothing_are_still_ticks():
    assert plots.nice_ticks(float("nan"), float("inf")) == plots.nice_ticks(0, 1)
    assert axis_for("x", [], [np.nan]).high == 1


def test_tick_labels_are_distinct_and_share_their_decimals():
    axis = axis_for("x", [2.51, 2.69])
    labels = [text for _, text in axis.ticks]
    assert labels == ["2.50", "2.55", "2.60", "2.65", "2.70"]
    assert [text for _, text in axis_for("x", [-60, 60], count=6).ticks] == ["−60", "−40", "−20", "0", "20", "40", "60"]


def test_numbers_are_written_for_people():
    assert number(12345.6) == "12\u202f346"
    assert number(0.94449) == "0.944"
    assert number(-1.5) == "−1.5"
    assert number(4.8, 2) == "4.80"
    assert number(-0.0001, 2) == "0.00"
    assert number(float("nan")) == "–"
    assert number(float("inf")) == "∞"
    assert number(0) == "0"


def test_a_resolution_axis_has_round_resolutions_at_their_frequencies():
    axis = plots.resolution_axis(1 / 4.8)
    assert axis.low == 0
    assert axis.high == 1 / 4.8
    assert all(np.isclose(value, 1 / float(text)) and value <= axis.high for value, text in axis.ticks)
    gaps = np.diff([value for value, _ in axis.ticks])
    assert gaps.min() > 0.07 * axis.high
    assert len(axis.ticks) >= 5


def chart():
    x = np.arange(6.0)
    y = np.array([0.0, 1.0, 4.0, np.nan, 16.0, 25.0])
    lines = [
        Line("square <&>", x, y, np.full(6, 2.0), dots=True),
        Line("high", x, np.full(6, 99.0), colour=3, dashed=True),
    ]
    return plots.line_chart(
        'a "chart" & more', axis_for("x", x), axis_for("y", y), lines, [Guide("here", y=10), Guide("there", x=4)]
    )


def test_a_line_chart_is_well_formed_and_named():
    svg = ElementTree.fromstring(chart())
    assert svg.tag == "svg"
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == svg.find("title").text == 'a "chart" & more'
    texts = [t.text for t in svg.iter("text")]
    for expected in "square <&>", "high", "here", "there", "x", "y", "0", "5", "25":
        assert expected in texts
    assert "nan" not in chart()
    assert "http" not in chart()


def test_lines_break_at_gaps_and_stay_inside_the_frame():
    svg = ElementTree.fromstring(chart())
    width, height = (float(v) for v in svg.get("viewBox").split()[2:])
    lines = svg.findall("polyline")
    assert [len(points(line)) for line in lines] == [3, 2, 6]
    for element in [*lines, *svg.findall("polygon")]:
        xy = points(element)
        assert xy.min() >= 0
        assert xy[:, 0].max() <= width
        assert xy[:, 1].max() <= height
    dots = [c for c in svg.iter("circle") if c.find("title") is not None]
    assert len(dots) == 5
    assert dots[2].find("title").text == "square <&>: 4 ± 2 at 2"


def test_error_bars_span_one_sigma_to_either_side_and_name_their_points():
    x, y, sigma = np.array([1.0, 2.0, 3.0]), np.array([2.0, np.nan, 6.0]), np.array([1.0, 1.0, 2.0])
    line = Line("Cs", x, y, sigma, bars=True, names=("TS_1", "TS_2", "TS_3"))
    svg = ElementTree.fromstring(plots.line_chart("t", axis_for("x", [0, 4]), axis_for("y", [0, 10]), [line]))
    bars = [bar for bar in svg.iter("line") if "thin" in bar.get("class").split()]
    heights = {t.text: float(t.get("y")) - 4 for t in svg.iter("text") if t.get("text-anchor") == "end"}
    per_unit = (heights["0"] - heights["10"]) / 10
    found = [sorted((heights["0"] - h) / per_unit for h in numbers(bar, "y1", "y2")) for bar in bars]
    assert np.allclose(found, [[1, 3], [4, 8]], atol=0.01)
    assert svg.findall("polyline") == []
    assert svg.findall("polygon") == []
    dots = [dot.find("title").text for dot in svg.iter("circle")]
    assert dots == ["Cs: 2 ± 1 at TS_1", "Cs: 6 ± 2 at TS_3"]


def test_points_land_where_the_ticks_say():
    x = axis_for("x", [0, 10])
    svg = ElementTree.fromstring(plots.line_chart("t", x, axis_for("y", [0, 100]), [Line("l", [0, 10], [0, 100])]))
    (line,) = svg.findall("polyline")
    ticks = {t.text: t for t in svg.iter("text") if t.get("class") == "tick" and t.get("text-anchor") == "middle"}
    assert np.allclose(points(line)[:, 0], [float(ticks[k].get("x")) for k in ("0", "10")])
    heights = {t.text: float(t.get("y")) - 4 for t in svg.iter("text") if t.get("text-anchor") == "end"}
    assert np.allclose(points(line)[:, 1], [heights["0"], heights["100"]], atol=0.11)


def test_the_bars_of_a_histogram_hold_every_value():
    values = np.random.default_rng(0).gamma(2.0, size=500)
    svg = ElementTree.fromstring(plots.histogram("h", [*values, np.nan], "moved by", "Å"))
    counts = [int(re.search(r": (\d+)$", r.find("title").text)[1]) for r in svg.findall("rect")]
    assert sum(counts) == 500
    assert all(h > 0 and y > 0 for h, y in (numbers(r, "height", "y") for r in svg.findall("rect")))
    assert f"median {number(float(np.median(values)))} Å" in [t.text for t in svg.iter("text")]


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [3.0]])
def test_a_histogram_of_little_is_still_a_chart(values):
    svg = ElementTree.fromstring(plots.histogram("h", values, "moved by", "Å"))
    assert len(svg.findall("rect")) == min(len(values), 1)


def test_gain_bars_are_in_proportion_and_go_left_when_negative():
    svg = ElementTree.fromstring(plots.gain_bars("g", (100.0, -20.0, float("nan")), 100.0, (120, 30)))
    (x0, w0), (x1, w1), (_, w2) = (numbers(r, "x", "width") for r in svg.findall("rect"))
    assert (w0, w1, w2) == (90, 18, 0)
    assert x1 + w1 == x0 == 30
    assert ElementTree.fromstring(plots.gain_bars("g", (0.0,), 0.0)).find("rect").get("width") == "0.0"


def decode(data):
    """Grey values of a PNG without interlace and with filter type 0 in every row; checks every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, []
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        chunks.append((kind, body))
        at += 12 + size
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    columns, rows, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, colour, *rest) == (8, 0, 0, 0, 0)
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(rows, columns + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (64, 64)])
def test_a_png_decodes_to_the_image(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(decode(plots.png(image)), image)


def test_grey_values_span_the_range_whatever_the_units():
    values = np.linspace(-3e-5, 8e-5, 2000).reshape(40, 50)
    image = plots.grey(values)
    assert image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)
    assert np.all(np.diff(image.ravel().astype(int)) >= 0)
    assert np.all(plots.grey(np.zeros((3, 3))) == 128)


def test_an_image_carries_its_own_data():
    tag = ElementTree.fromstring(plots.image_tag(np.arange(12.0).reshape(3, 4), 'xy "middle" & more'))
    assert tag.get("alt") == 'xy "middle" & more'
    head, data = tag.get("src").split(",")
    assert head == "data:image/png;base64"
    assert decode(base64.b64decode(data)).shape == (3, 4)
    assert (tag.get("width"), tag.get("height")) == ("4", "3")
