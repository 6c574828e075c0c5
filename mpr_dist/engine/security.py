"""Who may talk to the scheduler: TLS with certificates of this run or of the site, and files only their owner can read.

Whoever reaches a Dask scheduler can run code on every worker. On the loopback address that is this machine; beyond it
only holders of a certificate are let in.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mpr_dist.engine.choice import TlsFiles
from mpr_dist.errors import InputError


@dataclass(frozen=True)
class Tls:
    """Authority, certificate and key: the PEM texts themselves, or absolute paths of files."""

    ca: str
    cert: str
    key: str

    def security(self) -> Any:
        """A distributed.security.Security for scheduler, workers and clients; connections without it are refused."""
        from distributed.security import Security

        roles = ("scheduler", "worker", "client")
        own = {
            f"tls_{role}_{part}": value for role in roles for part, value in (("cert", self.cert), ("key", self.key))
        }
        return Security(tls_ca_file=self.ca, require_encryption=True, **own)


def make_tls(files: TlsFiles) -> Tls:
    """The site's certificates if they are given; else an authority of our own that lives as long as the run.

    Raises:
        InputError: none are given and the package that could make them is missing.
    """
    if files.ca is not None and files.cert is not None and files.key is not None:
        return Tls(*(str(path.absolute()) for path in (files.ca, files.cert, files.key)))
    from distributed.security import Security

    try:
        made = Security.temporary()
    except ImportError as error:
        raise InputError(
            "connections to other machines are encrypted, which needs the package cryptography: "
            "pip install 'mpr_dist[tls]', or give the site's certificates: --tls-ca, --tls-cert, --tls-key"
        ) from error
    return Tls(made.tls_ca_file, made.tls_client_cert, made.tls_client_key)


def write_secret(path: Path, value: Any) -> None:
    """JSON that only its owner can read (mode 0600), never seen half written."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(value, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tls(path: Path, tls: Tls) -> None:
    write_secret(path, asdict(tls))


def read_tls(path: Path) -> Tls:
    """
    Raises:
        InputError: missing, unreadable, or not such a file.
    """
    try:
        return Tls(**json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); the run that wrote it may be over") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: holds no certificates ({error})") from error
