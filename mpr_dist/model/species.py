"""A species: one kind of particle, with its map, mask and symmetry."""

from __future__ import annotations

from dataclasses import dataclass

from mpr_dist.errors import InputError


@dataclass(frozen=True)
class Helix:
    """Helical symmetry about z, besides the point group of the axis.

    Attributes:
        rise_A, twist_deg: from one asymmetric unit to the next, rho(x) = rho(Rz(twist) x + rise z); a right-handed
            helix has a twist above 0.
        units: asymmetric units that every particle stands for: as many as the distance between particles holds.
    """

    rise_A: float
    twist_deg: float
    units: int

    def __post_init__(self) -> None:
        if not self.rise_A > 0:
            raise InputError(
                f"a helix needs a rise above 0 A, got {self.rise_A:g}; a left-handed one has a twist below 0"
            )
        if not -180 <= self.twist_deg <= 180:
            raise InputError(f"the twist of a helix lies between -180 and 180 degrees, got {self.twist_deg:g}")
        if self.units < 1:
            raise InputError(f"a helix needs at least 1 asymmetric unit per particle, got {self.units}")

    @property
    def steps(self) -> range:
        """Of the copies along the axis, as even to both sides as their number allows."""
        return range(-((self.units - 1) // 2), self.units // 2 + 1)


@dataclass(frozen=True)
class Species:
    """What does not change about a species.

    Attributes:
        box_px: even edge of the cubic maps; pixel_size_A: their pixel.
        diameter_A: of the particle; images further than half of it outside an image edge are left out.
        ewald: 0 takes the Ewald sphere as flat, 1 as curved the way the depth of the series says, -1 the other way.
        symmetry: point group, RELION's names and axes ("C1", "C4", "D2", "O").
        helix: helical symmetry besides; the point group is then that of the axis, C or D.
    """

    name: str
    pixel_size_A: float
    box_px: int
    diameter_A: float
    symmetry: str = "C1"
    ewald: int = 0
    helix: Helix | None = None

    def __post_init__(self) -> None:
        if self.box_px % 2 or self.box_px < 8:
            raise InputError(f"species {self.name}: the box must be even and at least 8 px, got {self.box_px}")
        if self.ewald not in (-1, 0, 1):
            raise InputError(f"species {self.name}: ewald must be -1, 0 or 1, got {self.ewald}")
        if self.helix is not None:
            self._check_helix(self.helix)
        if not 0 < self.diameter_A <= self.box_px * self.pixel_size_A:
            raise InputError(
                f"species {self.name}: diameter {self.diameter_A:g} A does not fit a box of "
                f"{self.box_px * self.pixel_size_A:g} A"
            )

    def _check_helix(self, helix: Helix) -> None:
        if self.symmetry[:1].upper() not in ("C", "D"):
            raise InputError(f"species {self.name}: the axis of a helix has symmetry C or D, got {self.symmetry}")
        length = self.box_px * self.pixel_size_A
        if helix.rise_A * helix.units > length / 2:
            raise InputError(
                f"species {self.name}: {helix.units} units of {helix.rise_A:g} A are more than half of its box of "
                f"{length:g} A, so that the ends of the box would count; use fewer units or a larger diameter"
            )

    @property
    def symmetry_text(self) -> str:
        """For people: "C6", or "C1 with helix of 4.8 A and -1.2 degrees, 12 units"."""
        h = self.helix
        if h is None:
            return self.symmetry
        return f"{self.symmetry} with helix of {h.rise_A:g} A and {h.twist_deg:g} degrees, {h.units} units"

    @property
    def asymmetric_units(self) -> int:
        """Beyond those of the point group that a particle stands for."""
        return self.helix.units if self.helix is not None else 1
