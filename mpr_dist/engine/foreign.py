"""A Dask scheduler that others have started: on a cluster, in Kubernetes, by hand. We come as a client and go."""

from __future__ import annotations

import json
from typing import Any

import mpr_dist
from mpr_dist.engine.choice import EngineChoice
from mpr_dist.engine.dask_executor import DaskExecutor
from mpr_dist.engine.local import settings
from mpr_dist.engine.security import Tls, make_tls
from mpr_dist.errors import InputError

CONNECT_S = 30


class ForeignExecutor(DaskExecutor):
    """Workers of a scheduler that is not ours."""


def open_foreign(choice: EngineChoice, workers: int) -> ForeignExecutor:
    """
    Raises:
        InputError: nobody answers there, TLS is wanted and there is no certificate, or its workers lack this program.
    """
    from distributed import Client

    address = choice.kind if choice.scheduler_file is None else address_in(choice)
    tls = _tls(choice, address)
    undo = settings()
    try:
        client = Client(address, timeout=CONNECT_S, **({} if tls is None else {"security": tls.security()}))
        _check_workers(client, address)
    except (OSError, RuntimeError) as error:
        undo.__exit__(None, None, None)
        raise InputError(
            f"no Dask scheduler answers at {address} ({_first_line(error)}); check the address and that it runs"
            + ("" if tls is None else ", and that the certificates are those of this scheduler")
        ) from error
    return ForeignExecutor(client, workers, tls=tls, closing=(lambda: undo.__exit__(None, None, None),))


def address_in(choice: EngineChoice) -> str:
    """The address in a scheduler file, as ``dask scheduler --scheduler-file`` writes it."""
    path = choice.scheduler_file
    assert path is not None
    try:
        return str(json.loads(path.read_text("utf-8"))["address"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); does the scheduler run?") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a scheduler file of Dask ({error!r})") from error


def _tls(choice: EngineChoice, address: str) -> Tls | None:
    if not address.startswith("tls://"):
        return None
    if choice.tls.is_given:
        return make_tls(choice.tls)
    import dask

    stored = [dask.config.get(f"distributed.comm.tls.{key}", None) for key in ("ca-file", "client.cert", "client.key")]
    if all(stored):
        return Tls(*stored)
    raise InputError(f"{address} asks for certificates: give --tls-ca, --tls-cert and --tls-key")


def _check_workers(client: Any, address: str) -> None:
    """Workers that cannot run our tasks are found before the first one is lost to them."""
    try:
        versions = client.run(version_here)
    except ImportError as error:
        client.close()
        raise InputError(
            f"the workers of {address} lack this program ({error}); install mpr_dist where they run"
        ) from error
    others = sorted({version for version in versions.values() if version != mpr_dist.__version__})
    if others:
        client.close()
        raise InputError(f"workers of {address} have mpr_dist {others[0]}, this is {mpr_dist.__version__}: use one")


def version_here() -> str:
    return mpr_dist.__version__


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
