"""A species: one kind of particle, with its map, mask and symmetry."""

from __future__ import annotations

from dataclasses import dataclass

from mpr_dist.errors import InputError


@dataclass(frozen=True)
class Species:
    """What does not change about a species.

    Attributes:
        box_px: even edge of the cubic maps; pixel_size_A: their pixel.
        diameter_A: of the particle; images further than half of it outside an image edge are left out.
        ewald: 0 takes the Ewald sphere as flat, 1 as curved the way the depth of the series says, -1 the other way.
        symmetry: point group, RELION's names and axes ("C1", "C4", "D2", "O").
    """

    name: str
    pixel_size_A: float
    box_px: int
    diameter_A: float
    symmetry: str = "C1"
    ewald: int = 0

    def __post_init__(self) -> None:
        if self.box_px % 2 or self.box_px < 8:
            raise InputError(f"species {self.name}: the box must be even and at least 8 px, got {self.box_px}")
        if self.ewald not in (-1, 0, 1):
            raise InputError(f"species {self.name}: ewald must be -1, 0 or 1, got {self.ewald}")
        if not 0 < self.diameter_A <= self.box_px * self.pixel_size_A:
            raise InputError(
                f"species {self.name}: diameter {self.diameter_A:g} A does not fit a box of "
                f"{self.box_px * self.pixel_size_A:g} A"
            )
