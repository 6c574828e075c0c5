"""How an importer understood what it read: told to the user in one paragraph, and to scripts as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

# what a reader must not miss is written in capitals
_LOUD = re.compile(r"\b(NOTE|NOT TAKEN OVER|NOT APPLIED|TRANSPOSED)\b")


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
        """All of it but the warnings, what was dropped at the end."""
        calm = (_calm_and_loud(text)[0] for text in self.sentences)
        return " ".join((*(text for text in calm if text), self._dropped_sentence))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must not miss, a line each; every one begins with NOTE or NOT."""
        loud = (_calm_and_loud(text)[1] for text in self.sentences)
        return tuple(text if text.startswith("NOT") else f"NOTE: {text}" for text in loud if text)

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


def _calm_and_loud(text: str) -> tuple[str, str]:
    """What of a text goes into the paragraph, and what goes on a line of its own."""
    calm, mark, loud = text.partition("NOTE: ")
    if mark:
        return calm.rstrip(), mark + loud
    return ("", text) if _LOUD.search(text) else (text, "")
