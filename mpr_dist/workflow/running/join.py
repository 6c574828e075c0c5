"""Joining a run from another process or machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mpr_dist.engine.choice import EngineChoice, TlsFiles
from mpr_dist.engine.connection import Connection, read_connection
from mpr_dist.engine.foreign import address_in
from mpr_dist.engine.security import make_tls, write_tls
from mpr_dist.engine.worker import main as work
from mpr_dist.errors import InputError
from mpr_dist.storage.population import load_population


def join(
    population: Path | None, address: str | None, scheduler_file: Path | None, tls: TlsFiles, more: Sequence[str]
) -> int:
    """Be a worker until the run ends or this process is asked to leave. ``more``: arguments of ``engine.worker``.

    Raises:
        InputError: none or several of the three are given, or nothing runs there.
    """
    found = _connection(population, address, scheduler_file, tls)
    if found.address.startswith("tls://") and found.tls is None:
        raise InputError(f"{found.address} asks for certificates: give --tls-ca, --tls-cert and --tls-key")
    with TemporaryDirectory(prefix="mpr-dist-") as folder:  # mode 0700
        secret = Path(folder) / "tls.json"
        if found.tls is not None:
            write_tls(secret, found.tls)
        words = ("--tls", str(secret)) if found.tls is not None else ()
        return work([found.address, *words, *more])


def _connection(population: Path | None, address: str | None, scheduler_file: Path | None, tls: TlsFiles) -> Connection:
    if sum(given is not None for given in (population, address, scheduler_file)) != 1:
        raise InputError("say which run to join: the population, --address or --scheduler-file, one of them")
    if population is not None:
        return read_connection(load_population(population).path)
    own = make_tls(tls) if tls.is_given else None
    if address is not None:
        return Connection(EngineChoice(address).kind, own)
    return Connection(address_in(EngineChoice(scheduler_file=scheduler_file)), own)
