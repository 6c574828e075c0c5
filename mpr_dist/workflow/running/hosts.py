"""Hosts behind an engine: which there are, and leaving one out."""

from __future__ import annotations

import socket
from typing import Any

from mpr_dist.engine.executor import Executor


def hosts(executor: Executor) -> dict[str, list[str]]:
    """Name of every host -> addresses of its workers; only this host for an engine without a cluster."""
    client: Any = getattr(executor, "client", None)
    if client is None:
        return {socket.gethostname(): []}
    found: dict[str, list[str]] = {}
    names = client.run(socket.gethostname, on_error="ignore")  # answered beside the tasks, without waiting for them
    for address, name in names.items():
        found.setdefault(name, []).append(address)
    return found


def avoid_host(executor: Executor, host: str) -> bool:
    """Send the workers of ``host`` home when they are done with what they are at; False if no other host is left."""
    known = hosts(executor)
    if host not in known or len(known) < 2:
        return False
    client: Any = getattr(executor, "client")  # noqa: B009  (only engines with a cluster know two hosts)
    client.retire_workers(known[host], close_workers=True, remove=True)
    return True
