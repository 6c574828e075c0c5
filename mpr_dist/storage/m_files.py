"""M's own project files are written: into a copy of the file they came from where there is one.

What is not ours in it (options, versions, parameters of later releases) stays as it is. A population keeps such copies
of what it took over: ``m.population``, ``sources/NAME/m.source`` and ``species/NAME/m.species``.
"""

from __future__ import annotations

import math
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpr_dist.errors import InputError
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.warp_values import UNSET, WarpFile, append, serialise

_SPACE = uuid.UUID("5b0f3c52-6f0c-4e5c-9d55-2d9b6a1d7f0e")  # of GUIDs made from names
NO_HASH = "unknown-"  # before the name of a series, where M wants a hash and nobody knows it


def carried_population(population: Path) -> Path:
    return population / "m.population"


def carried_source(population: Path, name: str) -> Path:
    return population / "sources" / name / "m.source"


def carried_species(population: Path, name: str) -> Path:
    return population / "species" / name / "m.species"


def guid_of(*names: str) -> str:
    """The same for the same names, on any machine."""
    return str(uuid.uuid5(_SPACE, "\n".join(names)))


@dataclass(frozen=True)
class MEntry:
    """A <File> of a .source: hash of the raw data, "TS_1.tomostar", weight and B-factor as the XML has them."""

    hash: str
    name: str
    weight: str
    bfactor: str


def write_m_source(path: Path, template: Path, params: Mapping[str, str], files: Sequence[MEntry]) -> None:
    """Write a .source; ``template`` may not exist. Raises InputError when one of them cannot be read or written."""
    file = _document(path, template, "DataSource")
    _set_params(file, params)
    _group(file, "UsedSpecies")
    group = _group(file, "Files")
    before = {element.get("Name", ""): element for element in group.findall("File")}
    for element in list(group):
        group.remove(element)
    for entry in files:
        element = before.get(entry.name, ET.Element("File"))
        values = {"Hash": entry.hash, "Name": entry.name, "Weight": entry.weight, "Bfactor": entry.bfactor}
        for name, value in values.items():
            _set(element, name, value)
        group.append(element)
    _write(path, file)


def write_m_species(path: Path, template: Path, params: Mapping[str, str]) -> None:
    """Write a .species; ``template`` may not exist. Raises InputError when one of them cannot be read or written."""
    file = _document(path, template, "Species")
    _set_params(file, params)
    _group(file, "UsedDataSources")
    _write(path, file)


def write_m_population(
    path: Path,
    template: Path,
    name: str,
    species: Sequence[tuple[str, str]],
    sources: Sequence[tuple[str, str]],
) -> None:
    """Write a .population that names (GUID, relative path) of species and sources; ``template`` may not exist."""
    file = _document(path, template, "Population")
    if file.param_text(file.root, "Name") is None:
        _set_params(file, {"Name": name})
    for group_name, tag, members in (("Species", "Species", species), ("Sources", "Source", sources)):
        group = _group(file, group_name)
        for element in list(group):
            group.remove(element)
        for guid, where in members:
            ET.SubElement(group, tag, {"GUID": guid, "Path": where})
    _write(path, file)


def param_of(path: Path, root: str, name: str) -> str | None:
    """A parameter of a file that may not exist; None when it does not, or has no such parameter."""
    if not path.exists():
        return None
    file = WarpFile.parse(path, InputError, (root,))
    return file.param_text(file.root, name)


def _document(path: Path, template: Path, root: str) -> WarpFile:
    if template.exists():
        return WarpFile.parse(template, InputError, (root,))
    return WarpFile(path, ET.Element(root), InputError)


def _group(file: WarpFile, tag: str) -> ET.Element:
    found = file.root.find(tag)
    return append(file.root, tag) if found is None else found


def _set_params(file: WarpFile, params: Mapping[str, str]) -> None:
    for name, value in params.items():
        param = file.param(file.root, name)
        if param is None:
            param = append(file.root, "Param", {"Name": name, "Value": ""})
        _set(param, "Value", value)


def _set(element: ET.Element, name: str, value: str) -> None:
    """Text that says the same number stays as it was."""
    if not _says_the_same(element.get(name), value):
        element.set(name, value)


def _says_the_same(old: str | None, new: str) -> bool:
    if old is None or old.strip() in UNSET:
        return old == new
    try:
        return math.isclose(float(old), float(new), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return old == new


def _write(path: Path, file: WarpFile) -> None:
    ET.indent(file.root, "\t")
    write_atomically(path, serialise(file.root))
