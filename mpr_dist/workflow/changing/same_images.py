"""Tilt series that are there twice: of one set of images, under two names."""

from __future__ import annotations

from pathlib import Path

from mpr_dist.errors import MprError
from mpr_dist.model.population import Population
from mpr_dist.storage.image_file import file_and_slice
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.state.series_io import moved_with


def same_images(population: Population) -> list[tuple[str, str]]:
    """Pairs of series with the same file as first image, each with the one that was there before; by their names.

    Series that cannot be read are passed over.
    """
    seen: dict[tuple[Path, int | None], str] = {}
    pairs = []
    for _, entry in population.series:
        try:
            xml = population.files(0).series(entry.name).xml
            images = read_tilt_series(
                xml, volume_size_A=(1.0, 1.0, 1.0), processing_folder=entry.xml.parent
            ).image_paths
        except MprError:
            continue
        if images:
            file, index = file_and_slice(moved_with(images[0], population.path))
            before = seen.setdefault((file.resolve(), index), entry.name)
            if before != entry.name:
                pairs.append((before, entry.name))
    return pairs


def told_twice(pairs: list[tuple[str, str]]) -> str:
    """A sentence about such pairs, of which there is at least one."""
    one, other = pairs[0]
    more = f", and {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
    return (
        f"{one} and {other} are of the same images{more}: particles in both count twice, and half-sets that share them "
        "make the FSC too good"
    )
