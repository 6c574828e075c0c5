"""How others find a run: its address and certificates, in a file of the population that only its owner can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import mpr_dist
from mpr_dist.engine.security import Tls, write_secret
from mpr_dist.errors import InputError

NAME = "CONNECTION.json"


@dataclass(frozen=True)
class Connection:
    """Where the scheduler of a run is; whoever joins must be of the same version, or the maps might differ."""

    address: str
    tls: Tls | None = None
    software: str = mpr_dist.__version__


def publish_connection(population: Path, connection: Connection) -> None:
    write_secret(population / NAME, asdict(connection))


def withdraw_connection(population: Path) -> None:
    (population / NAME).unlink(missing_ok=True)


def read_connection(population: Path) -> Connection:
    """
    Raises:
        InputError: nothing runs there, not with workers, or another version.
    """
    path = population / NAME
    try:
        record = json.loads(path.read_text("utf-8"))
        tls = None if record["tls"] is None else Tls(**record["tls"])
        found = Connection(record["address"], tls, record["software"])
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: not there: nothing runs in this population, or it runs with the engine inline, which has no "
            "workers; start mpr-dist refine first"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path}: only the one who started the run may read it, and add workers to it") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}); delete it if nothing runs here") from error
    if found.software != mpr_dist.__version__:
        raise InputError(f"{path}: the run has mpr_dist {found.software}, this is {mpr_dist.__version__}: use one")
    return found
