"""Settings of ``refine`` from a TOML file and from what was given besides; the latter wins."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mpr_dist.errors import InputError
from mpr_dist.model.settings import RELEASED, Priors, RefineSettings
from mpr_dist.workflow.state.run_settings import ewald_in_force, priors_in_force

_NUMBERS = (int, float)
_NAMES = ("excluded", "priors_by_hand")
_AXES = {"image_warp": 2, "volume_warp": 4, "movie_motion": 3, "location_grid": 2}
_SHAPES = {
    "image_warp": "WIDTHxHEIGHT, such as 6x4",
    "volume_warp": "WIDTHxHEIGHTxDEPTHxDOSE, such as 2x2x1x10",
    "movie_motion": "WIDTHxHEIGHTxTIME, such as 1x1x4",
    "location_grid": "WIDTHxHEIGHT, such as 3x3",
}


def refine_settings(
    file: Path | None, given: Mapping[str, Any], priors: Mapping[str, float | None], ewald: str = "off"
) -> RefineSettings:
    """Settings by the names of ``RefineSettings`` and ``Priors``; None means "not given".

    ewald: the sphere where neither the file nor ``given`` says one.

    The file may hold them at its top or in a table [refine], such as settings.toml of an iteration does. A table
    [engine] says where to run (engine_options) and nothing about the result.

    Raises:
        InputError: the file cannot be read, a name or value is not understood, or nothing is to be refined.
    """
    table = {} if file is None else _settings_in(file)
    where = "settings" if file is None else str(file)
    from_file = table.pop("priors", {})
    if not isinstance(from_file, dict):
        raise InputError(f"{where}: priors must be a table, got {from_file!r}")
    by_hand = set(table.get("priors_by_hand", from_file))
    if _learns(table):  # of an iteration: the others were found, not given
        from_file = {name: value for name, value in from_file.items() if name in by_hand}
    table = _how_often(table, given)
    values = {"ewald": ewald} | table | {name: value for name, value in given.items() if value is not None}
    chosen = from_file | {name: value for name, value in priors.items() if value is not None}
    values["priors_by_hand"] = sorted(by_hand | {name for name, value in priors.items() if value is not None})
    values["excluded"] = _excluded(where, table, given)
    checked = {name: _checked(where, RefineSettings(), name, value) for name, value in values.items()}
    sigmas = {name: _checked(where, Priors(), name, value) for name, value in chosen.items()}
    for name, sigma in sigmas.items():
        if not 0 < sigma < math.inf:
            raise InputError(
                f"{where}: the prior {name} is a standard deviation and must be positive and finite, got {sigma:g}"
            )
    chosen_settings = RefineSettings(**checked, priors=Priors(**sigmas))
    if not chosen_settings.refines_anything:
        raise InputError(
            "nothing was chosen to refine: give --image-warp, --particles, --stage-angles, --defocus or others; "
            "for new maps alone there is mpr-dist reconstruct"
        )
    return chosen_settings


def _how_often(table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The table without what an option decides otherwise: so many iterations, or until one."""
    said = {name for name in ("iterations", "until") if given.get(name) is not None}
    if len(said) == 2:
        raise InputError("--iterations means so many more, --until the last one: give one of them")
    if "until" in said and given["until"] < 1:
        raise InputError(f"--until is the number of an iteration, 1 or more; got {given['until']}")
    return {name: value for name, value in table.items() if not said or name not in ("iterations", "until")}


def _learns(table: Mapping[str, Any]) -> bool:
    """Whether the priors of a settings file may have come from data."""
    return table.get("priors_from") == "data" or (not table.get("priors_from") and table.get("protocol") == "auto")


def _excluded(where: str, table: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Classes that no protocol may release: those named so, and those switched off. A file lists its own."""
    named = given.get("excluded") if given.get("excluded") is not None else table.get("excluded", ())
    listed = named.split(",") if isinstance(named, str) else named
    if not isinstance(listed, list | tuple) or not all(type(each) is str for each in listed):
        raise InputError(f"{where}: excluded needs a list of classes; got {named!r}")
    names = {each.strip().replace("-", "_") for each in listed if each.strip()}
    if not names <= set(RELEASED):
        unknown = ", ".join(sorted(names - set(RELEASED)))
        raise InputError(f"{where}: no class is called {unknown}; there are {', '.join(RELEASED)}")
    switched = given if "excluded" in table else {**table, **given}
    return sorted(names | {name for name in RELEASED if switched.get(name) is False})


def weight_settings(directory: Path, by: str, anisotropic: bool, location_grid: str) -> RefineSettings:
    """Settings of an iteration that fits weights and moves nothing, with sphere and priors as they are in force.

    Raises:
        InputError: a value is not understood.
    """
    given = {"weights": by, "anisotropic_weights": anisotropic, "location_grid": location_grid, "only_weights": True}
    given |= {"iterations": 1}
    return refine_settings(None, given, priors_in_force(directory), ewald_in_force(directory))


def parse_grid(text: str, name: str, axes: int) -> tuple[int, ...]:
    """ "6x4" -> (6, 4). Raises InputError for anything but ``axes`` whole numbers."""
    parts = [part.strip() for part in text.lower().replace("×", "x").split("x")]
    if len(parts) != axes or not all(part.isdigit() for part in parts):
        raise InputError(f"{name} is given as {_SHAPES[name]}; got {text!r}")
    return tuple(int(part) for part in parts)


def _orders(text: str) -> tuple[int, ...]:
    """ "2,3" -> (2, 3)"""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        raise InputError(f"aberrations are given by their orders, such as 3 or 2,3,4; got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def read_toml(path: Path) -> dict[str, Any]:
    """
    Raises:
        InputError: missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from error


def _settings_in(path: Path) -> dict[str, Any]:
    table = read_toml(path)
    inner = table.get("refine", {name: value for name, value in table.items() if name != "engine"})
    if not isinstance(inner, dict):
        raise InputError(f"{path}: refine must be a table, got {inner!r}")
    return dict(inner)


def _checked(where: str, default: RefineSettings | Priors, name: str, value: Any) -> Any:
    """The value in the type that the field has."""
    known = [field.name for field in fields(default) if field.name != "priors"]
    if name not in known:
        raise InputError(f"{where}: {name!r} is not known; known are {', '.join(known)}")
    if name in _AXES:
        grid = parse_grid(value, name, _AXES[name]) if isinstance(value, str) else value
        if isinstance(grid, list | tuple) and len(grid) == _AXES[name] and all(type(n) is int for n in grid):
            return tuple(grid)
        raise InputError(f"{where}: {name} needs {_AXES[name]} whole numbers, {_SHAPES[name]}; got {value!r}")
    if name in _NAMES:
        if isinstance(value, list | tuple) and all(type(each) is str for each in value):
            return tuple(value)
        raise InputError(f"{where}: {name} needs a list of names; got {value!r}")
    if name == "aberrations":
        orders = _orders(value) if isinstance(value, str) else value
        if isinstance(orders, list | tuple) and all(type(n) is int for n in orders):
            return tuple(sorted(set(orders)))
        raise InputError(f"{where}: aberrations needs orders, such as [3]; got {value!r}")
    kind = type(getattr(default, name))
    if kind is float and type(value) in _NUMBERS:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: {name} needs a value of type {kind.__name__}, got {value!r}")
    return value
