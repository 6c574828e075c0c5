"""Trouble stays where it is: who failed, on which host, when a host is avoided and when the run has to stop.

A host is judged by the last few series it worked on. One where four of them failed is avoided from then on, if there is
another, and what failed there is tried once more elsewhere. An isolated bad series on a good host is the series' own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mpr_dist.engine.executor import Executor
from mpr_dist.storage.ledger import Ledger
from mpr_dist.workflow.running.hosts import avoid_host
from mpr_dist.workflow.state.outcomes import Failure

BAD_HOST = "bad host"
BLAMED = 4  # different series that failed ...
OF_LAST = 8  # ... among so many that the host worked on last


@dataclass
class Containment:
    """The failures of one session of an iteration. ``max_failed``: share of ``series`` beyond which the run stops."""

    series: int
    max_failed: float
    ledger: Ledger
    failed: dict[str, Failure] = field(default_factory=dict)
    hosts: dict[str, deque[str]] = field(default_factory=dict)  # "" for a series that went well
    places: dict[str, str] = field(default_factory=dict)  # series -> host where it failed first
    forgiven: set[str] = field(default_factory=set)
    judged: dict[str, bool] = field(default_factory=dict)  # whether a host with many failures could be avoided

    def fail(self, failure: Failure) -> None:
        """Leave a series out, for good unless its host is blamed later."""
        self.failed[failure.series] = failure
        self.ledger.append("failed", series=failure.series, outcome=failure.outcome, reason=failure.reason)

    def note(self, host: str, done: Iterable[str], failed: Iterable[str]) -> None:
        """What a batch brought, for the judgement of its host."""
        last = self.hosts.setdefault(host, deque(maxlen=OF_LAST))
        last.extend("" for _ in done)
        for name in failed:
            if name not in self.forgiven:
                last.append(name)
                self.places[name] = host

    def avoid_bad_hosts(self, executor: Executor) -> list[tuple[str, tuple[str, ...]]]:
        """Hosts to be avoided from now on, with the series that are tried again elsewhere."""
        found = []
        for host, last in self.hosts.items():
            if host not in self.judged and len(set(last) - {""}) >= BLAMED:
                self.judged[host] = avoid_host(executor, host)
            # Where there is no other host, series fail for what they are. What an avoided one still had at hand may
            # fail after it was judged.
            if not self.judged.get(host, False):
                continue
            there = (name for name, place in self.places.items() if place == host and name not in self.forgiven)
            again = tuple(sorted(name for name in there if name in self.failed))
            if not again:
                continue
            self.ledger.append("host", host=host, outcome=BAD_HOST, series=again)
            for name in again:
                del self.failed[name]
            self.forgiven.update(again)
            found.append((host, again))
        return found

    @property
    def too_many(self) -> str:
        """Why the run has to stop; empty when it need not."""
        if not self.failed or len(self.failed) <= self.max_failed * self.series:
            return ""
        share = f"more than --max-failed {self.max_failed:g} allows"
        which = "every one" if len(self.failed) == self.series else str(len(self.failed))
        return f"{which} of {self.series} tilt series failed, {share}. The first reasons: {self.first_reasons}"

    @property
    def first_reasons(self) -> str:
        return "; ".join(f"{name}: {one.reason}" for name, one in sorted(self.failed.items())[:3])

    def record(self) -> Mapping[str, Any]:
        """For DONE."""
        failed = sorted(self.failed.items())
        return {
            "failed": {name: one.reason for name, one in failed},
            "outcomes": {name: one.outcome for name, one in failed},
        }
