"""settings.toml of an iteration: everything that was asked for and all versions, frozen when the iteration begins."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mpr_dist
from mpr_dist.errors import PopulationError
from mpr_dist.model.population import IterationFiles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population, read_table, write_table

LIBRARIES = ("numpy", "scipy", "numba", "llvmlite", "zarr", "dask", "distributed")
# those that compute: another version may change the last bits of a result
COMPUTING = ("numpy", "scipy", "numba", "llvmlite")


@dataclass(frozen=True)
class RunSettings:
    """What determines the result of a run.

    Attributes:
        exponent: k of the fixed point, the same in all iterations.
        change: series that were added to, or left out of, an earlier iteration; empty for a run.
        widths: where widths of priors come from that were not asked for (``widths.with_widths``).
        common_log_magnification: of the last iteration, to be taken out (``common_magnification``).
    """

    refine: RefineSettings = field(default_factory=RefineSettings)
    exponent: int = 28
    change: Mapping[str, Any] = field(default_factory=dict)
    widths: Mapping[str, Any] = field(default_factory=dict)
    common_log_magnification: float = 0.0

    def table(self, science: str, is_first: bool) -> dict[str, Any]:
        """As TOML has it, which knows no None: what is not set is not there."""
        refine = _without_none(asdict(self.refine))
        for name in ("iterations", "until"):  # how often, not how; a longer run goes through the same states
            refine.pop(name)
        common = {"log_magnification": self.common_log_magnification} if self.common_log_magnification else {}
        besides = {"change": dict(self.change), "widths": dict(self.widths), "taken_out": common}
        return {
            "exponent": self.exponent,
            "is_first": is_first,
            "software": mpr_dist.__version__,
            "science": science,
            "refine": refine,
        } | {name: table for name, table in besides.items() if table}

    def hash(self, science: str, is_first: bool) -> str:
        return sha256(json.dumps(self.table(science, is_first), sort_keys=True).encode()).hexdigest()

    def begin(self, files: IterationFiles, science: str, is_first: bool) -> str:
        """Write settings.toml, or compare with the one an interrupted run left. Returns the hash.

        Raises:
            PopulationError: the iteration was begun with other settings or another version.
        """
        if files.settings.exists():
            self.compare(files, science, is_first)
        else:
            write_table(files.settings, {**self.table(science, is_first), "versions": versions()})
        return self.hash(science, is_first)

    def compare(self, files: IterationFiles, science: str, is_first: bool) -> None:
        """Compare with the settings.toml that an interrupted run left.

        Raises:
            PopulationError: the iteration was begun with other settings or another version.
        """
        asked = self.table(science, is_first)
        begun = read_table(files.settings)
        different = [key for key in _flat(asked) if _flat(begun).get(key) != _flat(asked)[key]]
        different += [key for key in _flat(begun) if key.startswith(("refine.", "change.")) and key not in _flat(asked)]
        if different:
            what = ", ".join(
                f"{key}: {_flat(begun).get(key, 'not set')} then, {_flat(asked).get(key, 'not set')} now"
                for key in different
            )
            raise PopulationError(
                f"iteration {files.number:03d} is unfinished and was begun otherwise ({what}); "
                "continue it with the same command, or discard it with --restart"
            )
        check_versions(begun, f"iteration {files.number:03d} is unfinished and was begun with")


@cache
def versions() -> dict[str, str]:
    """Of Python and the libraries, as settings.toml records them."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def check_versions(begun: Mapping[str, Any], what: str) -> None:
    """Compare the libraries that compute with those that settings.toml ``begun`` names.

    Raises:
        PopulationError: they differ, so the bits of what is added now would, too.
    """
    then = begun.get("versions", {})
    now = versions()
    different = [name for name in COMPUTING if name in then and then[name] != now[name]]
    if different:
        old = ", ".join(f"{name} {then[name]}" for name in different)
        new = ", ".join(f"{name} {now[name]}" for name in different)
        raise PopulationError(
            f"{what} {old}, but here is {new}: the last bits would differ, so they are not mixed. "
            "Continue with the versions named, or begin it again with --restart"
        )


def ewald_in_force(directory: Path) -> str:
    """The Ewald sphere of the iteration that a population stands at; "off" where none was ever asked for."""
    population = load_population(directory)
    path = population.files(population.iteration).settings
    refine = read_table(path).get("refine", {}) if path.exists() else {}
    return str(refine.get("ewald", "off")) if isinstance(refine, dict) else "off"


def priors_in_force(directory: Path) -> dict[str, float]:
    """Field of ``Priors`` -> width, as the last iteration that refined something had them; empty where none did."""
    population = load_population(directory)
    for number in range(population.iteration, 0, -1):
        path = population.files(number).settings
        refine = read_table(path).get("refine", {}) if path.exists() else {}
        if isinstance(refine, dict) and any(refine.get(name) for name in ("image_warp", "particles", "stage_angles")):
            found = refine.get("priors", {})
            return {name: float(value) for name, value in found.items()} if isinstance(found, dict) else {}
    return {}


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    cleaned: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            cleaned[key] = _without_none(value)
        elif value is not None:
            cleaned[key] = list(value) if isinstance(value, tuple) else value
    return cleaned


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
