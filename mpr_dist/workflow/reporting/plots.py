"""Charts as inline SVG and images as PNG data, made of text alone.

Every function is pure and returns one element. Colours are CSS classes (``c0`` to ``c5``, ``axis``, ``grid`` ...) that
the page defines for light and dark; an SVG carries no style and no reference to anything outside itself.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpr_dist.units import F64

# room around the plotted area, in the units of the viewBox: left, right, top (without legend), bottom
LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 44.0
CHARACTER = 6.3  # mean width of a character at the legend's size
ROW = 19.0
RESOLUTIONS_A = (100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.8, 2.6, 2.4, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1)


@dataclass(frozen=True)
class Axis:
    """One axis of a chart: its label, its ticks as (value, text), and the first and last value shown."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Line:
    """One line of a chart.

    Attributes:
        x, y: (points,); values that are not finite leave a gap.
        sigma: (points,) half-height of the band around the line, or None.
        colour: 0 to 5, the page's palette; strength: its opacity; dashed, dots: how it is drawn.
        bars: single dots with error bars instead of a line with a band; names: (points,) shown instead of x on hover.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    sigma: ArrayLike | None = None
    colour: int = 0
    strength: float = 1.0
    dashed: bool = False
    dots: bool = False
    bars: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guide:
    """A thin straight line across the chart at a value of x or y, with a word beside it."""

    label: str
    x: float | None = None
    y: float | None = None


# ------------------------------------------------------------------------------------------------------------- numbers


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values (1, 2 or 5 times a power of ten apart) that enclose low to high."""
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = 0.0, 1.0
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        margin = 0.5 * abs(low) if low else 0.5
        low, high = low - margin, high + margin
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * (1 - 1e-9))
    # values that miss a tick by rounding only do not ask for another one
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    decimals = max(0, -math.floor(math.log10(step)))
    return [round(i * step, decimals) + 0.0 for i in range(first, last + 1)]


def number(value: float, decimals: int | None = None) -> str:
    """A value as people read it: a true minus, thin spaces between thousands, a dash where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals is None:
        decimals = 0 if value == round(value) or abs(value) >= 1000 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace(",", "\u202f").replace("-", "−")


def axis_for(label: str, *values: ArrayLike, count: int = 5) -> Axis:
    """Axis with round ticks that encloses all finite values."""
    flat = np.concatenate([np.zeros(0), *[np.ravel(np.asarray(v, np.float64)) for v in values]])
    flat = flat[np.isfinite(flat)]
    ticks = nice_ticks(float(flat.min()), float(flat.max()), count) if flat.size else nice_ticks(0.0, 1.0, count)
    decimals = max((len(repr(t).split(".")[1]) for t in ticks if t != round(t) and "e" not in repr(t)), default=0)
    return Axis(label, tuple((t, number(t, decimals) if abs(t) >= 1e-4 or t == 0 else f"{t:g}") for t in ticks),
                ticks[0], ticks[-1])  # fmt: skip


def resolution_axis(highest_per_A: float) -> Axis:
    """Axis of spatial frequency from 0 to ``highest_per_A``, with ticks written as resolutions in A."""
    ticks: list[tuple[float, str]] = []
    for resolution in RESOLUTIONS_A:
        frequency = 1.0 / resolution
        last = ticks[-1][0] if ticks else 0.0
        if frequency <= highest_per_A * (1 + 1e-9) and frequency - last >= 0.075 * highest_per_A:
            ticks.append((frequency, f"{resolution:g}"))
    return Axis("resolution (Å)", tuple(ticks), 0.0, highest_per_A)


# -------------------------------------------------------------------------------------------------------------- charts


@dataclass(frozen=True)
class _Frame:
    """Where values land in the viewBox."""

    x: Axis
    y: Axis
    left: float
    top: float
    right: float
    bottom: float

    def px(self, value: ArrayLike) -> F64:
        t = (np.asarray(value, np.float64) - self.x.low) / (self.x.high - self.x.low)
        return np.asarray(self.left + np.clip(t, 0.0, 1.0) * (self.right - self.left))

    def py(self, value: ArrayLike) -> F64:
        t = (np.asarray(value, np.float64) - self.y.low) / (self.y.high - self.y.low)
        return np.asarray(self.bottom - np.clip(t, 0.0, 1.0) * (self.bottom - self.top))


def line_chart(
    title: str,
    x: Axis,
    y: Axis,
    lines: Sequence[Line],
    guides: Sequence[Guide] = (),
    size: tuple[float, float] = (500.0, 290.0),
) -> str:
    """A chart of lines as one <svg>. Values outside the axes are drawn at their edge; dots show their values on hover.

    The legend stands above the plot, in as many rows as it needs, and is left out for a single line.
    """
    width, height = size
    legend, rows = _legend(lines, width) if len(lines) > 1 else ("", 0)
    frame = _Frame(x, y, LEFT, TOP + ROW * rows, width - RIGHT, height - BOTTOM)
    body = [legend, _axes(frame)]
    body += [(_bars if line.bars else _band)(frame, line) for line in lines if line.sigma is not None]
    body += [_guide(frame, guide) for guide in guides]
    body += [_stroke(frame, line) for line in lines]
    return _svg(title, width, height, body)


def histogram(
    title: str, values: ArrayLike, label: str, unit: str, colour: int = 0, size: tuple[float, float] = (500.0, 230.0)
) -> str:
    """A histogram of the finite values as one <svg>, about 30 bars between round ends, with the median marked."""
    flat = np.ravel(np.asarray(values, np.float64))
    flat = flat[np.isfinite(flat)]
    x = axis_for(f"{label} ({unit})", flat, [0.0] if flat.size and flat.min() >= 0 else [])
    bars = (len(x.ticks) - 1) * max(1, round(30 / (len(x.ticks) - 1)))
    counts, edges = np.histogram(flat, np.linspace(x.low, x.high, bars + 1))
    y = axis_for("particles", [0.0, float(max(counts.max(), 1))], count=4)
    y = Axis(y.label, tuple(t for t in y.ticks if t[0] == round(t[0])), y.low, y.high)
    width, height = size
    frame = _Frame(x, y, LEFT, TOP + 8, width - RIGHT, height - BOTTOM)
    rectangles = []
    left, right, top, base = frame.px(edges[:-1]), frame.px(edges[1:]), frame.py(counts), frame.bottom
    for i in np.flatnonzero(counts):
        w = max(right[i] - left[i] - 1.0, 0.5)
        hint = f"{number(edges[i])} to {number(edges[i + 1])}: {counts[i]}"
        rectangles.append(
            f'<rect class="fill c{colour}" x="{left[i] + 0.5:.1f}" y="{top[i]:.1f}" width="{w:.1f}" '
            f'height="{base - top[i]:.1f}"><title>{escape(hint)}</title></rect>'
        )
    median = float(np.median(flat)) if flat.size else math.nan
    guides = [_guide(frame, Guide(f"median {number(median)} {unit}", x=median))] if flat.size else []
    return _svg(title, width, height, [_axes(frame), *rectangles, *guides])


def gain_bars(title: str, gains: Sequence[float], largest: float, size: tuple[float, float] = (120.0, 22.0)) -> str:
    """A few horizontal bars from a common zero, for a table cell; ``largest`` is the value at full length."""
    width, height = size
    middle, rows = 0.25 * width, max(len(gains), 1)
    bars = [f'<line class="axis" x1="{middle:.1f}" y1="0" x2="{middle:.1f}" y2="{height:.1f}"/>']
    for row, gain in enumerate(gains):
        share = gain / largest if math.isfinite(gain) and largest > 0 else 0.0
        length = max(-middle, min(width - middle, share * (width - middle)))
        bars.append(
            f'<rect class="fill c{row}" x="{middle + min(length, 0.0):.1f}" y="{row * height / rows + 1:.1f}" '
            f'width="{abs(length):.1f}" height="{height / rows - 2:.1f}"/>'
        )
    return _svg(title, width, height, bars)


def _svg(title: str, width: float, height: float, body: Iterable[str]) -> str:
    name = escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{name}"><title>{name}</title>'
        f"{''.join(body)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", name: str = "tick", turn: bool = False) -> str:
    rotation = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{rotation}>{escape(text)}</text>'


def _axes(f: _Frame) -> str:
    out = []
    for value, label in f.y.ticks:
        at = float(f.py(value))
        out.append(f'<line class="grid" x1="{f.left:.1f}" y1="{at:.1f}" x2="{f.right:.1f}" y2="{at:.1f}"/>')
        out.append(_text(f.left - 7, at + 4, label, "end"))
    for value, label in f.x.ticks:
        at = float(f.px(value))
        out.append(f'<line class="axis" x1="{at:.1f}" y1="{f.bottom:.1f}" x2="{at:.1f}" y2="{f.bottom + 4:.1f}"/>')
        out.append(_text(at, f.bottom + 17, label))
    out.append(f'<line class="axis" x1="{f.left:.1f}" y1="{f.bottom:.1f}" x2="{f.right:.1f}" y2="{f.bottom:.1f}"/>')
    out.append(_text((f.left + f.right) / 2, f.bottom + 36, f.x.label, name="label"))
    out.append(_text(13, (f.top + f.bottom) / 2, f.y.label, name="label", turn=True))
    return "".join(out)


def _legend(lines: Sequence[Line], width: float) -> tuple[str, int]:
    out, x, row = [], LEFT, 0
    for line in lines:
        needed = 30 + CHARACTER * len(line.label) + 14
        if x > LEFT and x + needed > width - RIGHT:
            x, row = LEFT, row + 1
        y = 10 + ROW * row
        if not line.bars:
            out.append(f'<line {_look(line)} x1="{x:.1f}" y1="{y:.1f}" x2="{x + 22:.1f}" y2="{y:.1f}"/>')
        if line.dots or line.bars:
            out.append(f'<circle class="fill c{line.colour}" cx="{x + 11:.1f}" cy="{y:.1f}" r="2.6"/>')
        out.append(_text(x + 28, y + 4, line.label, "start", "legend"))
        x += needed
    return "".join(out), row + 1


def _look(line: Line) -> str:
    """The attributes that say how a line is drawn."""
    faint = f' stroke-opacity="{line.strength:g}"' if line.strength < 1 else ""
    return f'class="line c{line.colour}{" dashed" if line.dashed else ""}"{faint}'


def _runs(*values: F64) -> list[slice]:
    """Stretches in which all values are finite."""
    good = np.concatenate([[False], np.all([np.isfinite(v) for v in values], axis=0), [False]])
    starts, ends = np.flatnonzero(good[1:] & ~good[:-1]), np.flatnonzero(good[:-1] & ~good[1:])
    return [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]


def _path(x: F64, y: F64) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _band(f: _Frame, line: Line) -> str:
    x, y, sigma = (np.asarray(v, np.float64) for v in (line.x, line.y, line.sigma))
    out = []
    for run in _runs(x, y, sigma):
        there, back = f.px(x[run]), f.px(x[run])[::-1]
        outline = _path(there, f.py((y + sigma)[run])) + " " + _path(back, f.py((y - sigma)[run])[::-1])
        out.append(f'<polygon class="band c{line.colour}" points="{outline}"/>')
    return "".join(out)


def _bars(f: _Frame, line: Line) -> str:
    x, y, sigma = (np.asarray(v, np.float64) for v in (line.x, line.y, line.sigma))
    at, low, high = f.px(x), f.py(y - sigma), f.py(y + sigma)
    look = f'class="line c{line.colour} thin"'
    return "".join(
        f'<line {look} x1="{at[i]:.1f}" y1="{low[i]:.1f}" x2="{at[i]:.1f}" y2="{high[i]:.1f}"/>'
        for i in np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(sigma))
    )


def _stroke(f: _Frame, line: Line) -> str:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    out = [
        f'<polyline {_look(line)} points="{_path(f.px(x[r]), f.py(y[r]))}"/>'
        for r in _runs(x, y)
        if r.stop - r.start > 1 and not line.bars
    ]
    sigma = None if line.sigma is None else np.asarray(line.sigma, np.float64)
    for i in np.flatnonzero(np.isfinite(x) & np.isfinite(y)) if line.dots or line.bars else ():
        spread = f" ± {number(float(sigma[i]))}" if sigma is not None else ""
        where = line.names[i] if line.names else number(float(x[i]))
        hint = f"{line.label}: {number(float(y[i]))}{spread} at {where}"
        out.append(
            f'<circle class="fill c{line.colour}" cx="{f.px(x[i]):.1f}" cy="{f.py(y[i]):.1f}" r="2.6">'
            f"<title>{escape(hint)}</title></circle>"
        )
    return "".join(out)


def _guide(f: _Frame, guide: Guide) -> str:
    if guide.x is not None:
        at = float(f.px(guide.x))
        anchor, step = ("end", -5) if at > (f.left + f.right) / 2 else ("start", 5)
        return f'<line class="guide" x1="{at:.1f}" y1="{f.top:.1f}" x2="{at:.1f}" y2="{f.bottom:.1f}"/>' + _text(
            at + step, f.top + 9, guide.label, anchor, "hint"
        )
    at = float(f.py(guide.y if guide.y is not None else f.y.low))
    return f'<line class="guide" x1="{f.left:.1f}" y1="{at:.1f}" x2="{f.right:.1f}" y2="{at:.1f}"/>' + _text(
        f.left + 5, at - 5, guide.label, "start", "hint"
    )


# -------------------------------------------------------------------------------------------------------------- images


def grey(values: ArrayLike, clip: tuple[float, float] = (0.1, 99.9)) -> NDArray[np.uint8]:
    """A slice (rows, columns) as grey values 0 to 255 between two percentiles; 128 everywhere if it is flat."""
    image = np.nan_to_num(np.asarray(values, np.float64))
    low, high = np.percentile(image, clip)
    if high <= low:
        return np.full(image.shape, 128, np.uint8)
    return np.asarray(np.rint(255.0 * np.clip((image - low) / (high - low), 0.0, 1.0)), np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey image (rows, columns) as a PNG file, first row on top."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows, columns = image.shape
    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    # every row starts with its filter type: 0, none
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), image], axis=1).tobytes()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def image_tag(values: ArrayLike, description: str) -> str:
    """A slice as an <img> that carries its own data."""
    data = base64.b64encode(png(grey(values))).decode("ascii")
    rows, columns = np.shape(values)
    return (
        f'<img alt="{escape(description, quote=True)}" width="{columns}" height="{rows}" '
        f'src="data:image/png;base64,{data}"/>'
    )
