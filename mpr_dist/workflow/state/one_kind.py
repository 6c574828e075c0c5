"""Tilt series of one source are alike in their images and tomograms; others need a source of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

from mpr_dist.model.population import SeriesEntry

Kind = tuple[tuple[int, int], float, tuple[int, int, int]]


class OfAKind(Protocol):
    """A series that may be taken. ``kind``: image px, pixel in A, tomogram px."""

    @property
    def entry(self) -> SeriesEntry: ...

    @property
    def kind(self) -> Kind: ...


T = TypeVar("T", bound=OfAKind)


def of_one_kind(candidates: Sequence[T]) -> tuple[list[T], list[tuple[str, str]]]:
    """Those with the most common sizes and pixel, and the names of the others, with the reason."""
    if not candidates:
        return [], []
    common = Counter(c.kind for c in candidates).most_common(1)[0][0]
    others = [
        (c.entry.name, f"{_sizes(c.kind)}, the others have {_sizes(common)}; add it as a source of its own (--files)")
        for c in candidates
        if c.kind != common
    ]
    return [c for c in candidates if c.kind == common], others


def _sizes(kind: Kind) -> str:
    image, pixel, volume = kind
    return f"images of {image[0]} x {image[1]} px at {pixel:g} A and a tomogram of {' x '.join(map(str, volume))} px"
