"""The frame of a report: one HTML page that carries its own style and needs nothing else, on screen or on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_LIGHT = """
  --paper:#f5f6f8; --panel:#ffffff; --ink:#1b2129; --quiet:#5d6875; --rule:#d9dee5; --grid:#e9ecf0;
  --c0:#1f66b0; --c1:#cf6a12; --c2:#16836a; --c3:#8250b8; --c4:#b5304a; --c5:#7b8794;
  --warn:#8a5a00; --warn-back:#fff5df; --warn-rule:#ecc878; --bad:#a12136; --bad-back:#fdeef0; --bad-rule:#edb9c1;"""
_DARK = """
  --paper:#12161b; --panel:#1a2027; --ink:#e4e8ed; --quiet:#9aa6b3; --rule:#323b46; --grid:#27303a;
  --c0:#6cabf0; --c1:#f2a154; --c2:#54c9a8; --c3:#b999ec; --c4:#f0788e; --c5:#8d99a6;
  --warn:#f3ce82; --warn-back:#2d2617; --warn-rule:#6b551f; --bad:#f5a3b0; --bad-back:#331c21; --bad-rule:#72333f;"""

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }}
main {{ max-width: 1180px; margin: 0 auto; padding: 28px 24px 56px; }}
h1 {{ font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }}
h2 {{ font-size: 20px; margin: 40px 0 12px; letter-spacing: -.005em; }}
h3 {{ font-size: 14.5px; margin: 0 0 8px; }}
p {{ margin: 0 0 10px; max-width: 78ch; }}
a {{ color: var(--c0); }}
.quiet {{ color: var(--quiet); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px; margin: 20px 0; }}
.tile, .panel, details {{ background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; }}
.tile {{ padding: 12px 16px; }}
.tile b {{ display: block; font-size: 25px; line-height: 1.25; font-weight: 600; letter-spacing: -.01em; }}
.tile span {{ color: var(--quiet); font-size: 13px; display: block; }}
.panel {{ padding: 14px 16px; min-width: 0; }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px; }}
.columns.narrow {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }}
.columns + .columns, .panel + .panel, .columns + .panel, .panel + .columns,
.panel + details, details + .panel, details + .columns {{ margin-top: 14px; }}
.columns .panel {{ margin-top: 0; }}
.note {{ border: 1px solid var(--warn-rule); border-left-width: 4px; border-radius: 6px; padding: 10px 14px;
  margin: 0 0 10px; background: var(--warn-back); color: var(--warn); }}
.note.bad {{ border-color: var(--bad-rule); background: var(--bad-back); color: var(--bad); }}
.note b {{ margin-right: 6px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }}
th {{ text-align: left; font-weight: 600; color: var(--quiet); font-size: 12.5px; vertical-align: bottom; }}
th, td {{ padding: 6px 12px 6px 0; border-bottom: 1px solid var(--rule); }}
tbody tr:last-child td {{ border-bottom: 0; }}
.number {{ text-align: right; white-space: nowrap; }}
td:last-child:not(.number) {{ min-width: 120px; }}
td svg {{ width: 120px; height: 22px; display: block; }}
details {{ margin: 0 0 10px; }}
summary {{ cursor: pointer; padding: 11px 16px; }}
summary b {{ margin-right: 10px; }}
summary:focus-visible {{ outline: 2px solid var(--c0); outline-offset: 2px; border-radius: 8px; }}
details .inside {{ padding: 4px 16px 14px; }}
.inside .panel {{ border: 0; padding: 6px 0; }}
figure {{ margin: 0; }}
figcaption {{ font-size: 12.5px; color: var(--quiet); margin-top: 4px; }}
.slices {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(88px, 1fr)); gap: 14px; }}
.slices figure {{ max-width: 300px; }}
.slices img {{ width: 100%; height: auto; display: block; border-radius: 4px; background: #000; }}
.key i {{ display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 5px 0 0; }}
.key span {{ margin-right: 14px; }}
svg {{ width: 100%; height: auto; display: block; }}
svg text {{ fill: var(--ink); font: 11.5px system-ui, -apple-system, "Segoe UI", Arial, sans-serif; }}
svg .tick {{ fill: var(--quiet); font-variant-numeric: tabular-nums; }}
svg .label {{ fill: var(--quiet); font-size: 12px; }}
svg .hint {{ fill: var(--quiet); font-size: 11px; }}
.grid {{ stroke: var(--grid); }} .axis {{ stroke: var(--quiet); stroke-opacity: .7; }}
.guide {{ stroke: var(--quiet); stroke-dasharray: 2 3; }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }}
.dashed {{ stroke-dasharray: 5 4; stroke-width: 1.6; }}
.thin {{ stroke-width: 1.3; stroke-opacity: .75; }}
.band {{ fill-opacity: .18; }}
{"".join(f".line.c{i} {{ stroke: var(--c{i}); }} .fill.c{i}, .band.c{i} {{ fill: var(--c{i}); }} " for i in range(6))}
footer {{ margin-top: 44px; padding-top: 12px; border-top: 1px solid var(--rule); font-size: 13px;
  color: var(--quiet); }}
@media print {{
  :root {{ color-scheme: light; {_LIGHT} --paper:#ffffff; }}
  * {{ print-color-adjust: exact; }}
  body {{ font-size: 10pt; }} main {{ max-width: none; padding: 0; }}
  .columns {{ grid-template-columns: 1fr 1fr; }} .columns.narrow {{ grid-template-columns: 1fr 1fr 1fr; }}
  .scroll {{ overflow: visible; }} table {{ font-size: 8pt; }} th {{ font-size: 7.5pt; }}
  th, td {{ padding: 4px 6px 4px 0; }} td svg {{ width: 70px; }} .tile b {{ font-size: 15pt; }}
  .panel, .tile, figure, tr, .note, details {{ break-inside: avoid; }} h2, h3, summary {{ break-after: avoid; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }}
}}
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; ``body`` are elements."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def panel(heading: str, *content: str) -> str:
    """A framed part of a section with a small heading."""
    return f'<section class="panel"><h3>{escape(heading)}</h3>{"".join(content)}</section>'


def columns(*parts: str, narrow: bool = False) -> str:
    """Parts side by side where there is room, two in a row or three narrow ones."""
    style = "columns narrow" if narrow else "columns"
    return f'<div class="{style}">{"".join(parts)}</div>' if parts else ""


def tile(value: str, label: str, hint: str = "") -> str:
    """One number to be seen first."""
    more = f"<span>{escape(hint)}</span>" if hint else ""
    return f'<div class="tile"><span>{escape(label)}</span><b>{escape(value)}</b>{more}</div>'


def note(text: str, word: str = "Note", bad: bool = False) -> str:
    """A sentence that must not be overlooked."""
    style = "note bad" if bad else "note"
    return f'<p class="{style}" role="note"><b>{escape(word)}</b>{escape(text)}</p>'


def paragraph(text: str) -> str:
    """A quiet sentence of explanation."""
    return f'<p class="quiet">{escape(text)}</p>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table; cells are HTML (escape texts before), columns in ``numeric`` are aligned right."""

    def cell(kind: str, column: int, content: str) -> str:
        scope = ' scope="col"' if kind == "th" else ""
        style = ' class="number"' if column in numeric else ""
        return f"<{kind}{scope}{style}>{content}</{kind}>"

    head = "".join(cell("th", i, escape(h)) for i, h in enumerate(heads))
    lines = "".join(f"<tr>{''.join(cell('td', i, c) for i, c in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def foldable(summary: str, *content: str, opened: bool = False) -> str:
    """Content that opens on a click (and is open on paper); ``summary`` is HTML."""
    state = " open" if opened else ""
    return f'<details{state}><summary>{summary}</summary><div class="inside">{"".join(content)}</div></details>'


def key(*names: str) -> str:
    """The meaning of the palette's first colours, where there is no legend."""
    marks = "".join(f'<span><i style="background:var(--c{i})"></i>{escape(n)}</span>' for i, n in enumerate(names))
    return f'<p class="key quiet">{marks}</p>'
