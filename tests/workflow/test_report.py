"""The report: well-formed, self-contained, complete, honest when nothing was found."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from mpr_dist.workflow.reporting.report import (
    CurveOfIteration,
    ReportData,
    SeriesReport,
    SpeciesReport,
    duration_text,
    render_report,
    resolution_text,
)

FREQUENCY = np.arange(25) / (48 * 2.4)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checker(HTMLParser):
    """Fails on elements that are not closed in order; collects text and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    return checker


def curve(resolution_A):
    return 1 / (1 + np.exp((FREQUENCY - 1 / resolution_A) * 100))


def species(resolutions=(10.9, 5.55)):
    history = tuple(CurveOfIteration(i, curve(min(r, 50)), r) for i, r in enumerate(resolutions))
    images = tuple((name, np.random.default_rng(0).standard_normal((48, 48))) for name in ("xy", "xz"))
    return SpeciesReport("apo <15>", "O", 180, 48, 2.4, FREQUENCY, history, curve(9.0), curve(6.0), curve(20.0), images)


def series(name="TS_01", **changes):
    rng = np.random.default_rng(1)
    angle = np.linspace(-40, 40, 9)
    values = SeriesReport(
        name, 60, angle, 7, 75.0, (12000.0, 15210.0), (9000.0, 11000.0), np.cos(np.deg2rad(angle)),
        np.full(9, 2.5), np.full(9, 2.53), np.full(9, 0.01), rng.uniform(0, 3, 9), np.full(9, 0.4),
        rng.uniform(0, 4, 60), rng.uniform(0, 2, 60),
    )  # fmt: skip
    return replace(values, **changes)


def data(**changes):
    values = ReportData(
        "Refinement & more", "apo15", 1, (species(),), (series(), series("TS_02")),
        (("TS_07", "the average of tilt 12 is missing"),), ("sigma is optimistic.",), (("Engine", "local, 2 workers"),),
    )  # fmt: skip
    return replace(values, **changes)


def test_the_page_is_well_formed_and_shows_its_numbers():
    page = check(render_report(data()))
    text = " ".join(page.texts)
    for expected in (
        "Refinement & more", "apo15", "iteration 1", "5.55 Å", "10.90 Å", "−5.35 Å", "apo <15>", "TS_01", "TS_02",
        "15\u202f210", "11\u202f000", "1 min 15 s", "2 min 30 s", "TS_07 was left out:",
        "the average of tilt 12 is missing", "sigma is optimistic.", "local, 2 workers", "Tilt by tilt",
    ):  # fmt: skip
        assert expected in text


def test_the_page_needs_nothing_outside_itself():
    html = render_report(data())
    assert "://" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert not re.findall(r"url\(", html)
    for tag, name, value in check(html).attributes:
        assert not name.startswith("on")
        assert tag != "link"
        if name in ("src", "href"):
            assert value.startswith("data:image/png;base64,")


def test_every_drawing_is_well_formed_and_every_picture_described():
    html = render_report(data())
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 2 + 2 + 2 + 2 * 3
    for drawing in drawings:
        svg = ElementTree.fromstring(drawing)
        assert svg.find("title").text
        assert "nan" not in drawing
        assert "inf" not in drawing
    images = [value for tag, name, value in check(html).attributes if tag == "img" and name == "alt"]
    assert images == ["apo <15>: xy", "apo <15>: xz"]


def test_the_colours_of_drawings_are_defined_for_light_dark_and_paper():
    html = render_report(data())
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    used = set(re.findall(r'class="(?:line|fill|band) (c\d)', html))
    assert used
    assert all(f"--{colour}:" in html for colour in used)


def test_the_same_data_give_the_same_bytes():
    assert render_report(data()) == render_report(data())


def test_nothing_found_is_said_in_words():
    html = render_report(data(species=(species((float("inf"), float("inf"))),)))
    text = " ".join(check(html).texts)
    assert "nothing was found in this iteration" in text
    assert ">nothing</b>" in html
    assert "inf" not in "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))


def test_a_gain_in_the_own_half_alone_is_remarked():
    assert "overfitted?" in render_report(data(series=(series(cross=(9000.0, 8900.0)),)))
    assert "overfitted?" not in render_report(data())


def test_tilts_without_signal_are_counted():
    scale = np.ones(9)
    scale[[0, 8]] = -0.1, 0.0
    assert "2 tilts without signal" in render_report(data(series=(series(scale=scale),)))


def test_what_was_not_refined_is_left_out():
    bare = SeriesReport("TS_01", 60, np.linspace(-40, 40, 9), 0, 0.4, (float("nan"),) * 2, (float("nan"),) * 2)
    html = render_report(data(series=(bare,)))
    text = " ".join(check(html).texts)
    assert "How far poses changed" not in text
    assert "Tilt by tilt" not in text
    assert "nan" not in text
    check(render_report(ReportData("Empty", "p", 0)))


@pytest.mark.parametrize(("count", "opened"), [(3, 3), (4, 0)])
def test_details_of_many_series_start_folded(count, opened):
    html = render_report(data(series=tuple(series(f"TS_{i}") for i in range(count))))
    assert html.count("<details open>") == opened
    assert html.count("<details") == count


@pytest.mark.parametrize("count", [12, 13, 300])
def test_of_many_series_those_that_gained_least_are_shown(count):
    """Gains of the cross half grow with the number; the first could not be compared."""
    gains = [float("nan"), *(100.0 * i for i in range(1, count))]
    many = tuple(series(f"TS_{i}", cross=(9000.0, 9000.0 + gain)) for i, gain in enumerate(gains))
    html = render_report(data(series=many))
    shown = re.findall(r"<summary><b>(TS_\d+)</b>", html)
    if count == 12:
        assert shown == [f"TS_{i}" for i in range(12)]
        assert "gained least" not in html
    else:
        assert shown == [f"TS_{i}" for i in range(1, 13)]
        assert f"the 12 of {count} series that gained least" in html
    assert html.count("<td>TS_") == count
    assert ("<b>All 300 series</b>" in html) == (count == 300)
    check(html)


CLASSES = {
    "stage_angles": {
        "words": "stage angles", "unit": "deg", "parameters": 27, "series": 2, "change": 2.5, "sigma": 0.25,
        "prior": 1.0, "change_to_prior": 2.5, "spread_to_prior": 2.51, "independent": 20.0,
        "determined": 0.93, "reference_share": 0.12,
    },
    "cs": {
        "words": "Cs", "unit": "mm", "parameters": 1, "series": 2, "change": 0.01, "sigma": 0.02, "prior": 0.1,
        "change_to_prior": 0.1, "spread_to_prior": 0.22, "independent": 2.0, "determined": 0.04,
        "reference_share": None,
    },
}  # fmt: skip
DIRECTIONS = {
    "all positions along x against image warp": {"series": 2, "weak": 2, "lowest": 0.0, "median": 0.013},
    "aberration Z1+1 against image warp x": {"series": 2, "weak": 0, "lowest": 0.8, "median": 0.9},
}


def with_classes(name="TS_01", sigma=0.02):
    angles = np.linspace(-1, 1, 9)
    tilts = {"tilts": True, "axes": ["X", "Y", "Z"], "value": [angles] * 3, "sigma": [[0.2] * 8 + [None]] * 3}
    cs = {"tilts": False, "axes": ["Cs"], "value": [[2.7]], "sigma": [[sigma]]}
    return series(name, classes=CLASSES, values={"stage_angles": tilts, "cs": cs})


def test_how_well_classes_are_known_is_shown_over_all_series_and_in_each():
    html = render_report(data(series=(with_classes(), with_classes("TS_02")), classes=CLASSES, directions=DIRECTIONS))
    page = check(html)
    text = " ".join(page.texts)
    assert html.count("<td>stage angles</td>") == html.count("<td>Cs</td>") == 3
    for expected in ("How well it is known", "93 %", "12 %", "4 %", "TS_01: stage angles", "TS_02: stage angles"):
        assert expected in text
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 2 + 2 + 2 + 1 + 2 * 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing


def test_priors_that_do_not_fit_are_told_in_words():
    html = render_report(data(classes=CLASSES))
    text = " ".join(check(html).texts)
    assert "Stage angles moved by 2.5 where the prior expected 1 degrees: it was too tight" in text
    # two numbers prove nothing
    assert "Cs moved" not in text
    small = CLASSES["stage_angles"] | {"spread_to_prior": 0.1}
    assert "it was too loose, and lets noise in" in render_report(data(classes={"stage_angles": small}))


def test_directions_that_only_the_prior_decides_are_told_apart_from_others():
    text = " ".join(check(render_report(data(classes=CLASSES, directions=DIRECTIONS))).texts)
    assert "Only the prior decides" in text
    assert "The maps do not depend on it" in text
    assert "all positions along x against image warp 2 of 2 1 %" in re.sub(r"\s+", " ", text)
    assert "aberration Z1+1" not in text
    assert "Only the prior decides" not in render_report(data(classes=CLASSES))


@pytest.mark.parametrize(("count", "dots"), [(2, 2), (100, 100), (1000, 100), (1001, 91)])
def test_of_very_many_series_dots_are_chosen_evenly(count, dots):
    many = tuple(with_classes(f"TS_{i}") for i in range(count))
    html = render_report(data(series=many, classes=CLASSES))
    chart = re.search(r'<svg[^>]*aria-label="Cs".*?</svg>', html, flags=re.DOTALL)[0]
    assert chart.count("<circle") == chart.count("thin") == dots
    assert (f"{dots} of {count} series are shown" in html) == (count > 100)
    assert len(html) < 2_000_000


def test_a_long_history_shows_its_first_and_latest_curves():
    html = render_report(data(species=(species(tuple(np.linspace(12, 5, 12))),)))
    chart = re.search(r"<svg[^>]*by iteration.*?</svg>", html, flags=re.DOTALL)[0]
    assert [int(i) for i in re.findall(r">iteration (\d+)<", chart)] == [0, 7, 8, 9, 10, 11]


def test_durations_and_resolutions_read_well():
    assert duration_text(4.25) == "4.2 s"
    assert duration_text(59.7) == "1 min 00 s"
    assert duration_text(3725) == "1 h 02 min"
    assert resolution_text(4.384) == "4.38 Å"
    assert resolution_text(float("inf")) == "nothing"


def test_tilts_that_the_project_does_not_work_with_are_neither_counted_nor_called_empty():
    used = np.arange(9) < 5
    chosen = series(scale=np.where(used, 0.4, np.nan), mean_shift_A=np.where(used, 2.0, np.nan), used=used)
    text = " ".join(check(render_report(data(series=(chosen,)))).texts)
    assert "5 tilts" in text
    assert "without signal" not in text
    assert "mean shift: 2 ± 0.4 at 0" in text  # the last that is used
    assert "at 40" not in text.split("Defocus")[0].split("Tilt by tilt")[1]
    empty = replace(chosen, scale=np.where(np.arange(9) == 2, 0.0, chosen.scale))
    assert "1 tilt without signal" in " ".join(check(render_report(data(series=(empty,)))).texts)


def test_numbers_of_different_kinds_are_labelled():
    """Lengths beside root mean squares per axis; this iteration beside since import."""
    head = {"unit": "A", "parameters": 180, "change": 3.03, "sigma": 1.0}
    classes = {"position": head | {"words": "particle positions"}, "image_warp": head | {"words": "image warp"}}
    text = " ".join(check(render_report(data(classes=classes))).texts)
    assert "moved by in this iteration, length of the vector" in text
    assert "Change since import, rms" in text
    assert "particle positions, per axis" in text
    assert "image warp, per axis" not in text
    assert "mean shift in this iteration" in text
    assert "Defocus, now and as imported" in text


def test_what_was_not_refined_has_no_sigma():
    """Rather than one of zero, which would read as perfectly known."""
    alone = replace(data(), series=(series(defocus_sigma_um=np.zeros(9)),))
    assert "now, not refined" in render_report(alone)
    assert "now, not refined" not in render_report(replace(data(), series=(series(),)))
