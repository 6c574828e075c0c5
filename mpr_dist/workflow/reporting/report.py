"""The report of one iteration as a self-contained HTML page, from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from mpr_dist.units import F32, F64, Bool
from mpr_dist.workflow.reporting import page, plots
from mpr_dist.workflow.reporting.plots import Axis, Guide, Line, axis_for, number
from mpr_dist.workflow.reporting.report_decisions import decisions_section
from mpr_dist.workflow.reporting.report_species import information_section
from mpr_dist.workflow.reporting.report_uncertainty import class_table, limited, tilt_charts, uncertainty_section
from mpr_dist.workflow.series.widths import Width

# beyond this many series their details start folded
OPEN_SERIES = 3
LONG_TABLE = 50
# a page with charts of thousands of series could not be read, nor opened
DETAILED_SERIES = 12
FEW = (
    "Shown are the {shown} of {all} series that gained least in the cross half. The numbers of the others are in their "
    "files (series/NAME.sigma.star) and, class by class, in uncertainty.star."
)
OWN_CROSS = (
    "Own half: particles against the half-map of their own half-set, to which they contribute. Cross half: the same "
    "particles against the other half-map, which never saw them. A gain in both speaks for a real improvement; a gain "
    "in the own half alone suggests that parameters follow noise. Scores count standard deviations above pure noise."
)
LENGTH = "moved by in this iteration, length of the vector"
ANGLE = "turned by in this iteration, about any axis"


def _none() -> F64:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class CurveOfIteration:
    """The corrected FSC (shells,) of one iteration and the resolution it gives, infinite if the maps share nothing."""

    iteration: int
    corrected: F64
    resolution_A: float


@dataclass(frozen=True, eq=False)
class SpeciesReport:
    """What became of one species.

    Attributes:
        frequency_per_A: (shells,) 1/A, of all curves.
        history: earlier iterations and this one, in order; the last is this iteration.
        unmasked, masked, randomised: (shells,) curves of this iteration; empty to leave the chart out.
        slices: (label, (rows, columns)) images of the map.
    """

    name: str
    symmetry: str
    n_particles: int
    box_px: int
    pixel_size_A: float
    frequency_per_A: F64
    history: tuple[CurveOfIteration, ...]
    unmasked: F64 = field(default_factory=_none)
    masked: F64 = field(default_factory=_none)
    randomised: F64 = field(default_factory=_none)
    slices: tuple[tuple[str, F32], ...] = ()


@dataclass(frozen=True, eq=False)
class SeriesReport:
    """What became of one tilt series. Values per tilt are in file order; an empty array means "not refined".

    Attributes:
        own, cross: score before and after, against the own and the other half-map; NaN where not computed.
        scale: (tilts,) amplitude scale; mean_shift_A, shift_sigma_A: (tilts,) change of the mean position in the image
            and its standard deviation; defocus_*_um: (tilts,) at the centre, as imported, now, standard deviation.
        moved_A, turned_deg: (particles,) change of position and orientation in this iteration.
        scale_sigma: (tilts,) standard deviation of the scale; classes, values: as ``class_numbers`` and
            ``class_values`` say them; species: what each contributed.
        used: (tilts,) whether this project works with the tilt; empty = with all of them.
    """

    name: str
    n_particles: int
    angle_deg: F64
    passes: int
    seconds: float
    own: tuple[float, float]
    cross: tuple[float, float]
    scale: F64 = field(default_factory=_none)
    defocus_start_um: F64 = field(default_factory=_none)
    defocus_um: F64 = field(default_factory=_none)
    defocus_sigma_um: F64 = field(default_factory=_none)
    mean_shift_A: F64 = field(default_factory=_none)
    shift_sigma_A: F64 = field(default_factory=_none)
    moved_A: F64 = field(default_factory=_none)
    turned_deg: F64 = field(default_factory=_none)
    scale_sigma: F64 = field(default_factory=_none)
    classes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    species: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    used: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))

    @property
    def n_tilts(self) -> int:
        return int(self.used.sum()) if len(self.used) else len(self.angle_deg)


@dataclass(frozen=True, eq=False)
class ReportData:
    """One iteration of a population.

    Attributes:
        failures: (series, reason) left out of this iteration.
        warnings: whole sentences.
        facts: (name, value) shown at the end: settings, engine, versions, paths.
        classes, directions, information: over all series (``uncertainty_table``).
        release: what the protocol decided (``release_table``); widths: of the priors, and what the data say of them;
            by_hand: fields of priors that were given; learned: whether the next iteration takes the others from there.
    """

    title: str
    population: str
    iteration: int
    species: tuple[SpeciesReport, ...] = ()
    series: tuple[SeriesReport, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    classes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    directions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    information: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    release: Sequence[Mapping[str, Any]] = ()
    widths: Mapping[str, Width] = field(default_factory=dict)
    by_hand: tuple[str, ...] = ()
    learned: bool = False


def render_report(data: ReportData) -> str:
    """The page as text: the same data give the same bytes. It refers to nothing outside itself."""
    body = [
        f"<header><h1>{escape(data.title)}</h1>"
        f'<p class="quiet">Population {escape(data.population)} · iteration {data.iteration}</p></header>',
        _tiles(data),
        *[page.note(text, "Warning") for text in data.warnings],
        *[page.note(reason, f"{name} was left out:", bad=True) for name, reason in data.failures],
        *[_species(species, data.iteration) for species in data.species],
        _overview(data.series),
        _poses(data.series),
        decisions_section(data.release, data.widths, data.by_hand, data.learned),
        information_section(data.information, [(s.name, s.species) for s in data.series]),
        uncertainty_section(data.classes, data.directions, [(s.name, s.values) for s in data.series]),
        _details(data.series),
        _facts(data.facts),
        "<footer>Written by mpr_dist. Charts show single values when the pointer rests on a dot or a bar.</footer>",
    ]
    return page.page(f"{data.title} · iteration {data.iteration}", body)


# ------------------------------------------------------------------------------------------------------------ the top


def resolution_text(resolution_A: float) -> str:
    """A resolution in words: "4.38 Å", or "nothing" when the half-maps share nothing."""
    return f"{number(resolution_A, 2)} Å" if np.isfinite(resolution_A) else "nothing"


def duration_text(seconds: float) -> str:
    """A duration in the two largest of hours, minutes and seconds."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{number(seconds, 1)} s"


def _tiles(data: ReportData) -> str:
    tiles = []
    for species in data.species:
        if not species.history:
            continue
        now = species.history[-1]
        before = species.history[-2].resolution_A if len(species.history) > 1 else float("nan")
        hint = "" if np.isnan(before) else f"before: {resolution_text(before)}"
        tiles.append(page.tile(resolution_text(now.resolution_A), f"{species.name}, FSC 0.143", hint))
    particles = sum(s.n_particles for s in data.series)
    tiles.append(page.tile(number(particles), "particles", f"{number(sum(s.n_tilts for s in data.series))} tilts"))
    failed = f"{len(data.failures)} left out" if data.failures else "none left out"
    tiles.append(page.tile(str(len(data.series)), "tilt series", failed))
    tiles.append(page.tile(duration_text(sum(s.seconds for s in data.series)), "refinement, all series together"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


# -------------------------------------------------------------------------------------------------------------- species


def _species(s: SpeciesReport, iteration: int) -> str:
    heading = (
        f"<h2>{escape(s.name)}</h2>"
        + page.paragraph(
            f"{number(s.n_particles)} particles, symmetry {s.symmetry}, box {s.box_px} px of {number(s.pixel_size_A)} Å"
        )
    )  # fmt: skip
    nothing = ""
    if s.history and not np.isfinite(s.history[-1].resolution_A):
        nothing = page.note(f"{s.name}: the half-maps share no signal, nothing was found in this iteration.", "Warning")
    charts = [page.panel("Half-map agreement, iteration by iteration", _history_chart(s))] if s.history else []
    if s.history and len(s.masked):
        charts.append(page.panel("The mask's part in this iteration", _mask_chart(s)))
    rows = [
        (str(c.iteration), resolution_text(c.resolution_A), _change(s.history[i - 1].resolution_A, c.resolution_A, i))
        for i, c in enumerate(s.history)
    ]
    parts = []
    if s.slices:
        figures = "".join(
            f"<figure>{plots.image_tag(image, f'{s.name}: {label}')}<figcaption>{escape(label)}, "
            f"{number(image.shape[1] * s.pixel_size_A, 0)} Å wide</figcaption></figure>"
            for label, image in s.slices
        )
        parts.append(page.panel(f"Map of iteration {iteration}", f'<div class="slices">{figures}</div>'))
    if rows:
        heads = ("Iteration", "Resolution (FSC 0.143)", "Change")
        parts.append(page.panel("Resolution", page.table(heads, rows, (1, 2))))
    return heading + nothing + page.columns(*charts) + page.columns(*parts)


def _change(before: float, after: float, index: int) -> str:
    if index == 0 or not (np.isfinite(before) and np.isfinite(after)):
        return "–"
    return f"{'+' if after > before else ''}{number(after - before, 2)} Å"


def _fsc_axes(s: SpeciesReport) -> tuple[Axis, Axis]:
    y = Axis("FSC", tuple((t, number(t, 1)) for t in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)), -0.1, 1.02)
    return plots.resolution_axis(float(s.frequency_per_A[-1])), y


def _history_chart(s: SpeciesReport) -> str:
    """This iteration in front, up to four of the latest before it, and the first."""
    x, y = _fsc_axes(s)
    *past, now = s.history
    shown = past if len(past) <= 5 else [past[0], *past[-4:]]
    lines = [
        Line(f"iteration {c.iteration}", s.frequency_per_A, c.corrected, colour=3, strength=0.3 + 0.6 * i / len(shown))
        for i, c in enumerate(shown)
    ]
    lines.append(Line(f"iteration {now.iteration}", s.frequency_per_A, now.corrected, colour=0))
    guides = [Guide("0.143", y=0.143)]
    if np.isfinite(now.resolution_A):
        guides.append(Guide(resolution_text(now.resolution_A), x=1.0 / now.resolution_A))
    return plots.line_chart(f"{s.name}: corrected FSC by iteration", x, y, lines, guides)


def _mask_chart(s: SpeciesReport) -> str:
    x, y = _fsc_axes(s)
    f = s.frequency_per_A
    # the last line lies on top
    lines = [Line("random phases", f, s.randomised, colour=4, dashed=True)] if len(s.randomised) else []
    lines += [Line("unmasked", f, s.unmasked, colour=2)] if len(s.unmasked) else []
    lines += [Line("masked", f, s.masked, colour=1), Line("corrected", f, s.history[-1].corrected, colour=0)]
    return plots.line_chart(f"{s.name}: FSC with and without mask", x, y, lines, [Guide("0.143", y=0.143)])


# --------------------------------------------------------------------------------------------------------------- series


def _gain(score: tuple[float, float]) -> float:
    return score[1] - score[0]


def _remark(s: SeriesReport) -> str:
    if _gain(s.own) > 0 and _gain(s.cross) < 0:
        return "cross half fell: overfitted?"
    empty = int(np.sum(s.scale <= 0)) if len(s.scale) else 0
    return f"{empty} tilt{'s' if empty > 1 else ''} without signal" if empty else ""


def _overview(series: Sequence[SeriesReport]) -> str:
    if not series:
        return ""
    gains = np.abs([g for s in series for g in (_gain(s.own), _gain(s.cross)) if np.isfinite(g)])
    largest = float(gains.max()) if len(gains) else 0.0
    rows = []
    for s in series:
        title = f"{s.name}: gain own half {number(_gain(s.own), 0)}, cross half {number(_gain(s.cross), 0)}"
        rows.append((
            escape(s.name), number(s.n_particles), str(s.n_tilts), str(s.passes), duration_text(s.seconds),
            *[number(v, 0) for v in (*s.own, *s.cross)],
            plots.gain_bars(title, (_gain(s.own), _gain(s.cross)), largest), escape(_remark(s)),
        ))  # fmt: skip
    heads = ("Series", "Particles", "Tilts", "Passes", "Time", "Own half before", "after", "Cross half before", "after")
    table = page.table((*heads, "Gain", "Remark"), rows, range(1, 9))
    if len(series) > LONG_TABLE:
        table = page.foldable(f"<b>All {number(len(series))} series</b>", table)
    content = page.paragraph(OWN_CROSS) + page.key("gain, own half", "gain, cross half") + table
    return f'<h2>Tilt series</h2><section class="panel">{content}</section>'


def _poses(series: Sequence[SeriesReport]) -> str:
    moved = np.concatenate([_none(), *[s.moved_A for s in series]])
    turned = np.concatenate([_none(), *[s.turned_deg for s in series]])
    charts = []
    if len(moved):
        charts.append(page.panel("Positions", plots.histogram("Change of particle positions", moved, LENGTH, "Å")))
    if len(turned):
        chart = plots.histogram("Change of particle orientations", turned, ANGLE, "degrees", 1)
        charts.append(page.panel("Orientations", chart))
    if not charts:
        return ""
    return "<h2>How far poses changed in this iteration</h2>" + page.columns(*charts)


def _details(series: Sequence[SeriesReport]) -> str:
    """Charts and classes of every series; of many those alone that gained least."""
    shown = _worst(series)
    parts = []
    for s in shown:
        charts = _tilt_charts(s)
        if charts:
            summary = f'<b>{escape(s.name)}</b><span class="quiet">{number(s.n_particles)} particles'
            finite = s.mean_shift_A[np.isfinite(s.mean_shift_A)]
            shift = f", mean shift in this iteration {number(float(np.mean(finite)), 2)} Å" if len(finite) else ""
            summary += f"{shift}</span>"
            table = page.panel("Every class", class_table(s.classes)) if s.classes else ""
            inside = page.columns(*charts, narrow=True) + table
            parts.append(page.foldable(summary, inside, opened=len(series) <= OPEN_SERIES))
    if not parts:
        return ""
    few = len(shown) < len(series)
    note = page.paragraph(FEW.format(shown=len(shown), all=number(len(series)))) if few else ""
    return "<h2>Tilt by tilt</h2>" + note + "".join(parts)


def _worst(series: Sequence[SeriesReport]) -> list[SeriesReport]:
    """Those of the smallest gain in the cross half, in the order they came; those not compared come last."""
    gains = np.array([_gain(s.cross) for s in series])
    chosen = np.sort(np.argsort(gains, kind="stable")[:DETAILED_SERIES])  # NaN is sorted to the end
    return [series[i] for i in chosen]


def _tilt_charts(s: SeriesReport) -> list[str]:
    order = np.argsort(s.angle_deg, kind="stable")
    angle = s.angle_deg[order]
    x = axis_for("tilt angle (degrees)", angle, count=6)
    size = (390.0, 240.0)
    charts = []
    if len(s.mean_shift_A):
        shift = s.mean_shift_A[order]
        sigma = s.shift_sigma_A[order] if len(s.shift_sigma_A) else np.zeros(len(shift))
        y = axis_for("mean shift (Å)", [0.0], shift + limited(sigma, shift))
        line = Line("mean shift", angle, shift, sigma, dots=True)
        chart = plots.line_chart(f"{s.name}: shift", x, y, [line], size=size)
        charts.append(page.panel("Shift in the image, in this iteration", chart))
    if len(s.defocus_um):
        now = s.defocus_um[order]
        sigma = s.defocus_sigma_um[order] if len(s.defocus_sigma_um) else np.zeros(len(now))
        start = (
            [Line("imported", angle, s.defocus_start_um[order], colour=5, dashed=True)]
            if len(s.defocus_start_um)
            else []
        )
        # what was not refined has no sigma, rather than one of zero
        current = (
            Line("now, ± sigma", angle, now, sigma, colour=1, dots=True)
            if sigma.any()
            else Line("now, not refined", angle, now, colour=1, dots=True)
        )
        lines = [*start, current]
        spread = limited(sigma, now)
        y = axis_for("defocus (µm)", now - spread, now + spread, *[line.y for line in start])
        title = "Defocus, now and as imported" if start else "Defocus"
        charts.append(page.panel(title, plots.line_chart(f"{s.name}: defocus", x, y, lines, size=size)))
    if len(s.scale):
        scale = s.scale[order]
        sigma = s.scale_sigma[order] if len(s.scale_sigma) else np.zeros(len(scale))
        y = axis_for("amplitude scale", [0.0], scale + limited(sigma, scale))
        line = Line("amplitude scale", angle, scale, sigma, colour=2, dots=True)
        charts.append(page.panel("Amplitude", plots.line_chart(f"{s.name}: amplitude", x, y, [line], size=size)))
    return [*charts, *tilt_charts(s.name, s.angle_deg, s.classes, s.values)]


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    rows = [(escape(name), escape(value)) for name, value in facts]
    return f'<h2>Settings and circumstances</h2><section class="panel">{page.table(("What", "Value"), rows)}</section>'
