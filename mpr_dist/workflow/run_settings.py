"""settings.toml of an iteration: everything that was asked for and all versions, frozen when the iteration begins."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import mpr_dist
from mpr_dist.errors import PopulationError
from mpr_dist.model.population import IterationFiles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import read_table, write_table

LIBRARIES = ("numpy", "scipy", "numba", "zarr", "dask", "distributed")


@dataclass(frozen=True)
class RunSettings:
    """What determines the result of a run. ``exponent``: k of the fixed point, the same in all iterations."""

    refine: RefineSettings = field(default_factory=RefineSettings)
    exponent: int = 28

    def table(self, science: str, is_first: bool) -> dict[str, Any]:
        """As TOML has it, which knows no None: what is not set is not there."""
        refine = _without_none(asdict(self.refine))
        refine.pop("iterations")  # how often, not how; a longer run goes through the same states
        return {
            "exponent": self.exponent,
            "is_first": is_first,
            "software": mpr_dist.__version__,
            "science": science,
            "refine": refine,
        }

    def hash(self, science: str, is_first: bool) -> str:
        return sha256(json.dumps(self.table(science, is_first), sort_keys=True).encode()).hexdigest()

    def begin(self, files: IterationFiles, science: str, is_first: bool) -> str:
        """Write settings.toml, or compare with the one an interrupted run left. Returns the hash.

        Raises:
            PopulationError: the iteration was begun with other settings or another version.
        """
        asked = self.table(science, is_first)
        if files.settings.exists():
            begun = read_table(files.settings)
            different = [key for key in _flat(asked) if _flat(begun).get(key) != _flat(asked)[key]]
            different += [key for key in _flat(begun) if key.startswith("refine.") and key not in _flat(asked)]
            if different:
                what = ", ".join(
                    f"{key}: {_flat(begun).get(key, 'not set')} then, {_flat(asked).get(key, 'not set')} now"
                    for key in different
                )
                raise PopulationError(
                    f"iteration {files.number:03d} is unfinished and was begun otherwise ({what}); "
                    "continue it with the same command, or discard it with --restart"
                )
        else:
            versions = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
            write_table(files.settings, {**asked, "versions": versions})
        return self.hash(science, is_first)


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
