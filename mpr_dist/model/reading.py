"""How an importer understood what it read: told to the user in one paragraph, and to scripts as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any


def counted(number: int, one: str, more: str = "") -> str:
    """A number with its noun: "1 batch", "3 batches"."""
    return f"{number} {one if number == 1 else more or one + 's'}"


@dataclass(frozen=True)
class Dropped:
    """What was left out for one reason. ``what``: "particles", "tilts" or "series"."""

    what: str
    count: int
    reason: str

    @property
    def counted(self) -> str:
        """ "1 particle", "2 tilts", "1 series"."""
        return counted(
            self.count, self.what if self.what.endswith("series") else self.what.removesuffix("s"), self.what
        )


@dataclass(frozen=True)
class Reading:
    """One whole sentence per topic, empty where the files say nothing about it.

    Attributes:
        positions: where positions count from; origins: shifts, and their sign; angles: their convention and sense.
        units: of all of these; names: what links particles, tilts and series; halves: the half-sets.
        notes: anything else that the user should check.
        dropped: particles, tilts and series that are not taken, by reason.
    """

    positions: str = ""
    origins: str = ""
    angles: str = ""
    units: str = ""
    names: str = ""
    halves: str = ""
    notes: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """All but what was dropped."""
        return (*(text for text in self._topics.values() if text), *self.notes)

    @property
    def paragraph(self) -> str:
        """All of it, what was dropped at the end."""
        return " ".join((*self.sentences, self._dropped_sentence))

    def plus(self, *notes: str, dropped: Iterable[Dropped] = ()) -> Reading:
        """With more notes, and more that was dropped; counts of 0 are passed over."""
        more = tuple(each for each in dropped if each.count)
        return replace(self, notes=(*self.notes, *notes), dropped=(*self.dropped, *more))

    def record(self) -> dict[str, Any]:
        """The same for scripts."""
        dropped = [{"what": d.what, "count": d.count, "reason": d.reason} for d in self.dropped]
        return {**self._topics, "notes": list(self.notes), "dropped": dropped}

    @property
    def _topics(self) -> dict[str, str]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("notes", "dropped")}

    @property
    def _dropped_sentence(self) -> str:
        if not self.dropped:
            return "Dropped: nothing."
        return f"Dropped: {'; '.join(f'{d.counted} ({d.reason})' for d in self.dropped)}."
