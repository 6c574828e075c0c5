"""Values as Warp writes them into XML: numbers, truth values, lists, Params; and grids of nodes.

Warp gives up silently on a file it cannot read; here every such value is an error that names the file and the element.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import MprError
from mpr_dist.units import F64

UNSET = ("", "null")
STAR_HINT = "tilt series of RELION come in with source add --relion-tomograms tomograms.star"
IMAGE_PATHS = "MprImagePath"  # images of series that came from other programs, one per tilt


def _is_star(data: bytes) -> bool:
    """Whether the first line that is neither empty nor a comment begins a block of a STAR file."""
    lines = (line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").splitlines())
    return next((line for line in lines if line and not line.startswith(b"#")), b"").startswith(b"data_")


@dataclass(frozen=True)
class WarpFile:
    """One parsed file: its elements, and the errors that reading them may end in."""

    path: Path
    root: ET.Element
    error: type[MprError]

    @staticmethod
    def parse(path: Path, error: type[MprError], roots: Sequence[str]) -> WarpFile:
        """Read UTF-8 or UTF-16 with or without a byte order mark; comments are kept.

        Raises:
            error: missing, not XML, or a root element that is not one of ``roots``.
        """
        if path.is_dir():
            raise error(f"{path}: is a folder; give the file in it")
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise error(f"{path}: cannot be read ({problem.strerror}); check the path") from problem
        parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True, insert_pis=True))
        try:
            root = ET.fromstring(data, parser)
        except (ET.ParseError, ValueError, LookupError) as problem:  # the last two: an encoding that does not exist
            if _is_star(data):
                raise error(f"{path}: is a STAR table, not an XML file; {STAR_HINT}") from problem
            raise error(f"{path}: not a complete XML file ({problem}); is it cut off?") from problem
        if root.tag not in roots:
            raise error(f"{path}: expected a file with <{roots[0]}>, got <{root.tag}>")
        return WarpFile(path, root, error)

    def fail(self, where: str, problem: str) -> MprError:
        return self.error(f"{self.path}: {where}: {problem}")

    def find(self, tag: str) -> ET.Element | None:
        return self.root.find(f".//{tag}")

    def number(self, text: str, where: str) -> float:
        """A finite number; a decimal comma gets its own message."""
        try:
            value = float(text.replace("_", "?"))  # Python reads 1_0 as 10
        except ValueError:
            hint = ""
            if text.count(",") == 1:
                hint = "; it looks like a decimal comma from a localised Windows: replace commas by points"
            raise self.fail(where, f"expected a number, got '{text.strip()[:40]}'{hint}") from None
        if not math.isfinite(value):
            raise self.fail(where, f"expected a finite number, got '{text.strip()}'")
        return value

    def truth(self, text: str, where: str) -> bool:
        word = text.strip().lower()
        if word not in ("true", "false", "1", "0"):
            raise self.fail(where, f"expected True or False, got '{text.strip()[:40]}'")
        return word in ("true", "1")

    def vector(self, text: str, where: str, counts: Sequence[int]) -> tuple[float, ...]:
        """Numbers between commas; their count must be one of ``counts``."""
        fields = [field.strip() for field in text.split(",")]
        if len(fields) not in counts:
            expected = " or ".join(str(count) for count in counts)
            raise self.fail(where, f"expected {expected} numbers with decimal points, got '{text.strip()[:60]}'")
        return tuple(self.number(field, where) for field in fields)

    def param(self, group: ET.Element | None, name: str) -> ET.Element | None:
        """The <Param> of that name directly below ``group``; their order means nothing."""
        children = () if group is None else group.findall("Param")
        return next((child for child in children if child.get("Name") == name), None)

    def param_text(self, group: ET.Element | None, name: str) -> str | None:
        """Its value, or None when it is absent or unset."""
        param = self.param(group, name)
        text = None if param is None else param.get("Value", "").strip()
        return None if text is None or text in UNSET else text


def number_text(value: float) -> str:
    """The fewest digits that give the same float32, without a needless ".0"; Warp keeps its numbers in float32."""
    text = str(np.float32(value))
    return text[:-2] if text.endswith(".0") else text


def read_nodes(file: WarpFile, tag: str, axes: str) -> tuple[F64, tuple[float, float, float]] | None:
    """Node values of a grid and its margins x, y, z, or None when the file has no such grid.

    Args:
        axes: "XYZ" (values [z, y, x]) or "XYZW" (values [w, z, y, x]).
    """
    element = file.find(tag)
    if element is None:
        return None
    shape = grid_shape(file, element, axes)
    nodes = element.findall("Node")
    if len(nodes) != math.prod(shape):  # before any array is made: a damaged size may be astronomic
        needed = f"{'x'.join(map(str, shape[::-1]))} needs {math.prod(shape)} nodes"
        raise file.fail(f"<{tag}>", f"{needed}, got {len(nodes)}")
    values = np.full(shape, np.nan)
    for node in nodes:
        index = node_index(file, node, tag, axes)
        if any(i < 0 or i >= n for i, n in zip(index, shape, strict=True)):
            raise file.fail(f"<{tag}>", f"node {index[::-1]} lies outside {'x'.join(map(str, shape[::-1]))}")
        if not np.isnan(values[index]):
            raise file.fail(f"<{tag}>", f"node {index[::-1]} occurs twice")
        values[index] = file.number(node.get("Value", ""), f"<{tag}>, node {index[::-1]}")
    margins = tuple(file.number(element.get(f"Margin{axis}", "0"), f"<{tag}> Margin{axis}") for axis in "XYZ")
    return values, (margins[0], margins[1], margins[2])


def grid_shape(file: WarpFile, element: ET.Element, axes: str) -> tuple[int, ...]:
    """Nodes per axis, slowest first, from Width, Height, Depth (and Duration)."""
    names = ("Width", "Height", "Depth", "Duration")[: len(axes)]
    shape = [_count(file, element.get(name, "1"), f"<{element.tag}> {name}") for name in reversed(names)]
    if min(shape) < 1:
        raise file.fail(f"<{element.tag}>", f"expected at least one node per axis, got {shape[::-1]}")
    return tuple(shape)


def node_index(file: WarpFile, node: ET.Element, tag: str, axes: str) -> tuple[int, ...]:
    return tuple(_count(file, node.get(axis, "0"), f"<{tag}>, attribute {axis} of a node") for axis in reversed(axes))


def _count(file: WarpFile, text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise file.fail(where, f"expected a whole number, got '{text[:40]}'") from None


def write_nodes(file: WarpFile, tag: str, axes: str, values: F64, margins: Sequence[float] | None) -> None:
    """Put node values into the tree; only what differs is touched when the number of nodes stays the same.

    Args:
        margins: x, y, z for an "XYZ" grid, None for one without.
    """
    element = file.find(tag)
    if element is None:
        element = append(file.root, tag)
    is_new = not element.attrib
    same_shape = not is_new and grid_shape(file, element, axes) == values.shape
    for name, count in zip(("Width", "Height", "Depth", "Duration"), values.shape[::-1], strict=False):
        element.set(name, str(count))
    for axis, margin in zip("XYZ", margins or (), strict=False):
        if is_new or file.number(element.get(f"Margin{axis}", "0"), tag) != margin:
            element.set(f"Margin{axis}", number_text(margin))
    if same_shape:
        for node in element.findall("Node"):
            value = values[node_index(file, node, tag, axes)]
            if float(node.get("Value", "")) != value:
                node.set("Value", number_text(float(value)))
        return
    _replace_nodes(element, axes, values)


def _replace_nodes(element: ET.Element, axes: str, values: F64) -> None:
    nodes = element.findall("Node")
    indent, close = (element.text, nodes[-1].tail) if nodes else ("\n\t\t", "\n\t")
    for node in nodes:
        element.remove(node)
    element.text = indent
    for index in np.ndindex(values.shape):
        places = {axis: str(i) for axis, i in zip(axes, index[::-1], strict=True)}
        node = ET.SubElement(element, "Node", places | {"Value": number_text(float(values[index]))})
        node.tail = indent
    element[-1].tail = close


def append(parent: ET.Element, tag: str, attributes: dict[str, str] | None = None) -> ET.Element:
    """A new last child, indented like the one before it."""
    before = parent[-1] if len(parent) else None
    child = ET.SubElement(parent, tag, attributes or {})
    if before is not None:
        child.tail, before.tail = before.tail, parent.text
    return child


def serialise(root: ET.Element) -> list[bytes]:
    """UTF-8 with a byte order mark, as .NET writes it; blanks and indentation stay as they were read."""
    text = ET.tostring(root, encoding="unicode", short_empty_elements=True)
    return [b"\xef\xbb\xbf", b'<?xml version="1.0" encoding="utf-8"?>\n', text.encode("utf-8"), b"\n"]
