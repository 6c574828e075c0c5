"""Another mask for a species, from now on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.masks import check_mask, threshold_mask
from mpr_dist.imaging.reference import species_fsc
from mpr_dist.maths.fourier import crop_or_pad_real
from mpr_dist.model.population import Population
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import PIXEL_TOLERANCE, read_volume, write_volume
from mpr_dist.storage.population import set_mask
from mpr_dist.units import F32
from mpr_dist.workflow.state.create import opened
from mpr_dist.workflow.state.reference_files import read_mask
from mpr_dist.workflow.state.species_state import latest_input


@dataclass(frozen=True)
class MaskRequest:
    """One ``species update-mask`` command: a binary mask, or a map and how to make one of it.

    Attributes:
        mask: file of a binary mask; source: of a map, by default the species' own map in force.
        threshold, extend_px, sphere_diameter_A: see ``imaging.masks.threshold_mask``.
    """

    path: Path
    name: str
    mask: Path | None = None
    source: Path | None = None
    threshold: float | None = None
    extend_px: float = 0.0
    sphere_diameter_A: float | None = None

    def __post_init__(self) -> None:
        if (self.mask is None) == (self.threshold is None):
            raise InputError("update-mask: give either --mask, or --threshold for a mask of the species' map")


def update_mask(request: MaskRequest) -> list[str]:
    """Write the new mask beside the old one and name it in species.toml; says what it does to the FSC.

    Raises:
        InputError: the mask or the map cannot be used. PopulationError: locked, or no such species.
    """
    with opened(request.path) as population:
        known = latest_input(population, request.name)
        species = known.species
        mask = _new_mask(request, species, known.previous.map)
        halves = [read_volume(path)[0] for path in (known.previous.half1, known.previous.half2)]
        before, after = (
            species_fsc(halves[0], halves[1], each, species).resolution_A for each in (read_mask(known), mask)
        )
        target = _free_name(population, request.name)
        write_volume(target, mask, species.pixel_size_A)
        set_mask(population, request.name, target)
    return [
        f"species {request.name}: mask {target.name}, {100 * float(mask.mean()):.1f} % of the box; half-maps: "
        f"{before:.2f} A before, {after:.2f} A with it (FSC 0.143)",
        "  The next iteration uses it; finished ones stay as they are. The old mask lies beside it.",
    ]


def _new_mask(request: MaskRequest, species: Species, own_map: Path) -> F32:
    path = request.mask or request.source or own_map
    volume, pixel = read_volume(path)
    if pixel > 0 and abs(pixel / species.pixel_size_A - 1) > PIXEL_TOLERANCE:
        raise InputError(f"{path}: has pixels of {pixel:g} A, species {species.name} has {species.pixel_size_A:g} A")
    if len(set(volume.shape)) != 1 or len(volume) % 2:
        size = " x ".join(str(n) for n in volume.shape[::-1])
        raise InputError(f"{path}: expected a cube of even size, got {size} px")
    if request.threshold is not None:
        volume = threshold_mask(
            volume, species.pixel_size_A, request.threshold, request.extend_px, request.sphere_diameter_A
        )
    cut = crop_or_pad_real(volume, species.box_px)
    if np.count_nonzero(cut) < np.count_nonzero(volume):
        raise InputError(f"{path}: the mask reaches beyond the box of {species.name}, {species.box_px} px")
    try:
        return check_mask(cut, species.box_px)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _free_name(population: Population, name: str) -> Path:
    folder = population.path / "species" / name
    taken = {path.name for path in folder.glob("mask*.mrc")}
    return folder / next(each for n in range(2, len(taken) + 3) if (each := f"mask-{n:03d}.mrc") not in taken)
