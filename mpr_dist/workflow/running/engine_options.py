"""Where to run, from the table [engine] of a TOML file and from what was given besides; the latter wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mpr_dist.engine.choice import EngineChoice, JobOptions, TlsFiles, parse_adaptive, parse_gpus
from mpr_dist.errors import InputError
from mpr_dist.workflow.running.run_options import read_toml

# names in the file -> fields; [engine.job] and [engine.tls] have the names of theirs
NAMES = {
    "engine": "kind",
    "workers": "workers",
    "threads": "threads",
    "scheduler_file": "scheduler_file",
    "gpus": "gpus",
    "device": "device",
    "workers_per_gpu": "workers_per_gpu",
    "adaptive": "adaptive",
    "host": "host",
    "memory_per_worker": "memory_per_worker",
    "scratch": "scratch",
}
KINDS = {
    "int": int,
    "int | None": int,
    "str": str,
    "str | None": str,
    "Path | None": str,
    "tuple[str, ...]": list,
    "tuple[int, int] | None": str,
}
WORDS = {int: "a whole number", str: "text", list: "a list of texts"}


def engine_choice(file: Path | None, given: Mapping[str, Any], tls: Mapping[str, Path | None]) -> EngineChoice:
    """``given``: values by the names in the file; ``tls``: ca, cert, key. None means "not given".

    Raises:
        InputError: a name or value is not understood, or the values contradict each other.
    """
    table = {} if file is None else _table(str(file), read_toml(file), "engine")
    where = "engine" if file is None else str(file)
    job = _checked(f"{where}, [engine.job]", JobOptions, _table(where, table, "job"))
    files = _checked(f"{where}, [engine.tls]", TlsFiles, _table(where, table, "tls"))
    own = {name: value for name, value in table.items() if name not in ("job", "tls")}
    _known(f"{where}, [engine]", own, NAMES)
    given = {name: value for name, value in given.items() if value is not None}
    if "engine" in given:
        own.pop("scheduler_file", None)  # the engine of the command line wins over a scheduler named in the file
    if not {"workers", "adaptive"}.isdisjoint(given):
        own = {name: value for name, value in own.items() if name not in ("workers", "adaptive")}
    chosen = {NAMES[name]: value for name, value in (own | given).items()}
    if isinstance(chosen.get("gpus"), str):
        chosen["gpus"] = list(parse_gpus(chosen["gpus"]))
    values = _checked(f"{where}, [engine]", EngineChoice, chosen)
    if "adaptive" in values:
        values["adaptive"] = parse_adaptive(values["adaptive"])
    certificates = files | {name: path for name, path in tls.items() if path is not None}
    return EngineChoice(**values, job=JobOptions(**job), tls=TlsFiles(**certificates))


def _table(where: str, outer: Mapping[str, Any], name: str) -> dict[str, Any]:
    inner = outer.get(name, {})
    if not isinstance(inner, dict):
        raise InputError(f"{where}: {name} must be a table, got {inner!r}")
    return dict(inner)


def _known(where: str, table: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    for name in table:
        if name not in names:
            raise InputError(f"{where}: {name!r} is not known; known are {', '.join(names)}")


def _checked(where: str, kind: type, table: Mapping[str, Any]) -> dict[str, Any]:
    """The values in the types that the fields of ``kind`` have."""
    types = {field.name: KINDS.get(str(field.type)) for field in fields(kind)}
    _known(where, table, types)
    found: dict[str, Any] = {}
    for name, value in table.items():
        wanted = types[name]
        plain: Any = str(value) if isinstance(value, Path) else value
        is_texts = isinstance(plain, list) and all(isinstance(each, str) for each in plain)
        if wanted is None or (not is_texts if wanted is list else type(plain) is not wanted):
            raise InputError(f"{where}: {name} needs {WORDS[wanted or str]}, got {value!r}")
        is_path = name in ("scheduler_file", "scratch", "logs", "ca", "cert", "key")
        found[name] = Path(plain).expanduser() if is_path else tuple(plain) if wanted is list else plain
    return found
