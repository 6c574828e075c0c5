"""M's own project files: .population, .source and .species, and the files beside a species.

All are XML with ``<Param Name= Value= />`` below the root, in any order. Paths are relative to the file
that holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpr_dist.errors import InputError
from mpr_dist.storage.m_files import NO_HASH
from mpr_dist.storage.particle_columns import series_key
from mpr_dist.storage.warp_values import WarpFile

TILT_SERIES = ".tomostar"


@dataclass(frozen=True)
class MSource:
    """One .source, which lies in the processing folder of its series.

    Attributes:
        pixel_size_A: unbinned; volume_px: x, y, z of a tomogram in such pixels.
        hashes: hash of the raw data by name of the series (without extension), in the order of the file.
        is_tilt_series: False for single images and movies, which M refines, too.
        relative_weight: of the source among others.
    """

    path: Path
    guid: str
    name: str
    pixel_size_A: float
    volume_px: tuple[int, int, int]
    hashes: dict[str, str]
    is_tilt_series: bool
    relative_weight: float = 1.0

    def xml(self, series: str) -> Path:
        return self.path.parent / f"{series}.xml"


@dataclass(frozen=True)
class MSpecies:
    """One .species; its maps and particles lie beside it and begin with its file name.

    Attributes:
        samples: temporal samples of positions that M refines.
        ewald: 0 flat, 1 curved, -1 curved the other way.
        helical_units: more than 1 for a helix, with its rise (A) and twist (degrees).
    """

    path: Path
    guid: str
    version: str
    name: str
    pixel_size_A: float
    diameter_A: float
    symmetry: str
    samples: int = 1
    ewald: int = 0
    helical_units: int = 1
    helical_rise_A: float = 0.0
    helical_twist_deg: float = 0.0

    def beside(self, suffix: str) -> Path:
        """Such as "half1.mrc" or "particles.star"."""
        return self.path.with_name(f"{self.path.stem}_{suffix}")


@dataclass(frozen=True)
class MPopulation:
    """One .population with everything it names.

    Attributes:
        options: its last refinement options, as text by M's names.
    """

    path: Path
    name: str
    sources: tuple[MSource, ...]
    species: tuple[MSpecies, ...]
    options: dict[str, str]


def read_m_population(path: Path) -> MPopulation:
    """Read a .population and all that it names.

    Raises:
        InputError: a file is missing or not M's, a value is missing, or a GUID differs from that of the file it names.
    """
    file = WarpFile.parse(Path(path), InputError, ("Population",))
    sources = tuple(read_m_source(p, guid) for guid, p in _members(file, "Sources", "Source"))
    species = tuple(read_m_species(p, guid) for guid, p in _members(file, "Species", "Species"))
    group = file.root.find("LastRefinementOptions")
    params = () if group is None else group.findall("Param")
    options = {param.get("Name", ""): param.get("Value", "") for param in params}
    return MPopulation(file.path, _text(file, "Name", file.path.stem), sources, species, options)


def read_m_source(path: Path, guid: str | None = None) -> MSource:
    """Read a .source. ``guid``: the one that the population has for it; raises InputError as above."""
    file = WarpFile.parse(path, InputError, ("DataSource",))
    group = file.root.find("Files")
    entries = [] if group is None else group.findall("File")
    names = [entry.get("Name", "") for entry in entries]
    values = [entry.get("Hash", "") for entry in entries]
    hashes = {series_key(n): "" if v.startswith(NO_HASH) else v for n, v in zip(names, values, strict=True)}
    if len(hashes) != len(names):
        raise file.fail("<Files>", f"{len(names)} files, but only {len(hashes)} different names; correct them")
    size = [_number(file, f"Dimensions{axis}", 0.0) for axis in "XYZ"]
    return MSource(
        path=path,
        guid=_guid(file, guid),
        name=_text(file, "Name", path.stem),
        pixel_size_A=_number(file, "PixelSize"),
        volume_px=(int(size[0]), int(size[1]), int(size[2])),
        hashes=hashes,
        is_tilt_series=bool(names) and names[0].lower().endswith(TILT_SERIES),
        relative_weight=_number(file, "RelativeWeight", 1.0),
    )


def read_m_species(path: Path, guid: str | None = None) -> MSpecies:
    """Read a .species. ``guid``: the one that the population has for it; raises InputError as above."""
    file = WarpFile.parse(path, InputError, ("Species",))
    ewald = 0
    if _flag(file, "DoEwald"):
        ewald = -1 if _flag(file, "EwaldReverse") else 1
    return MSpecies(
        path=path,
        guid=_guid(file, guid),
        version=_text(file, "Version", ""),
        name=_text(file, "Name", path.stem),
        pixel_size_A=_number(file, "PixelSize"),
        diameter_A=_number(file, "DiameterAngstrom"),
        symmetry=_text(file, "Symmetry", "C1"),
        samples=max(1, int(_number(file, "TemporalResolutionMovement", 1.0))),
        ewald=ewald,
        helical_units=int(_number(file, "HelicalUnits", 1.0)),
        helical_rise_A=_number(file, "HelicalRise", 0.0),
        helical_twist_deg=_number(file, "HelicalTwist", 0.0),
    )


def _members(file: WarpFile, group: str, tag: str) -> list[tuple[str, Path]]:
    """GUID and path of each member of a group directly below the root."""
    found = file.root.find(group)
    members = [] if found is None else found.findall(tag)
    for member in members:
        if not member.get("Path"):
            raise file.fail(f"<{group}>", f"a <{tag}> without Path")
    base = file.path.parent
    return [(member.get("GUID", ""), base / member.get("Path", "").replace("\\", "/")) for member in members]


def _guid(file: WarpFile, expected: str | None) -> str:
    found = file.param_text(file.root, "GUID") or ""
    if expected is not None and found.lower() != expected.lower():
        raise file.fail("GUID", f"is {found or 'missing'}, but the population names {expected}; M refuses this as well")
    return found


def _text(file: WarpFile, name: str, default: str) -> str:
    return file.param_text(file.root, name) or default


def _number(file: WarpFile, name: str, default: float | None = None) -> float:
    text = file.param_text(file.root, name)
    if text is None:
        if default is None:
            raise file.fail(name, "is missing; is this file complete?")
        return default
    return file.number(text, name)


def _flag(file: WarpFile, name: str) -> bool:
    text = file.param_text(file.root, name)
    return text is not None and file.truth(text, name)
