"""What every tilt had suffered before it was exposed, for alignments that do not say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.storage.alignments import Alignment
from mpr_dist.storage.mdoc import MdocImage, read_mdoc
from mpr_dist.storage.particle_columns import series_key
from mpr_dist.units import F64, I64

ORDERS = ("symmetric", "ascending", "descending", "stack")
ANGLE_TOLERANCE_DEG = 1.0  # between angles that belong together; less than half of what tilts differ by
SPREAD_TOLERANCE_DEG = 1.5  # an alignment may turn all tilts, by as much, but not each in another way


@dataclass(frozen=True)
class Exposures:
    """Where doses come from; a column of the table of defocus comes first.

    Attributes:
        mdoc: a file, or a folder with one for every series or every image.
        dose_per_tilt: e/A^2, where files do not say.
        order: in which tilts were exposed, one of ``ORDERS``; not needed with .mdoc.
    """

    mdoc: Path | None = None
    dose_per_tilt: float | None = None
    order: str | None = None

    def __post_init__(self) -> None:
        if self.order is not None and self.order not in ORDERS:
            raise InputError(f"--order: {self.order!r} is not known; there are {', '.join(ORDERS)}")
        if self.dose_per_tilt is not None and not (np.isfinite(self.dose_per_tilt) and self.dose_per_tilt > 0):
            raise InputError(f"--dose-per-tilt must be positive, got {self.dose_per_tilt}")


def doses_of(name: str, exposures: Exposures, alignment: Alignment, known: F64 | None) -> tuple[F64, str]:
    """(tilts,) dose in e/A^2 before every tilt, and how it was found.

    Args:
        known: what the table of defocus says, if it has such a column.

    Raises:
        SeriesError: an .mdoc is missing or does not fit.
        InputError: nothing says it.
    """
    if known is not None:
        return known, "of the table of defocus"
    if exposures.mdoc is not None:
        return _of_mdoc(name, exposures, exposures.mdoc, alignment)
    if exposures.dose_per_tilt is None or exposures.order is None:
        raise InputError(
            "nothing says in which order tilts were exposed, and with which dose: give --mdoc, a column dose in the "
            f"table of defocus, or --dose-per-tilt with --order ({', '.join(ORDERS)})"
        )
    rank = _rank(alignment, exposures.order)
    return rank * exposures.dose_per_tilt, f"{exposures.dose_per_tilt:g} e/A^2 per tilt, order {exposures.order}"


def _rank(alignment: Alignment, order: str) -> F64:
    """Place in time of every tilt among those that were aligned. Symmetric: by distance from 0, positive first."""
    angle = alignment.stage_deg
    keys = {"ascending": angle, "descending": -angle, "stack": alignment.image.astype(np.float64)}
    if order == "symmetric":
        first = np.lexsort((-angle, np.round(np.abs(angle))))
    else:
        first = np.argsort(keys[order], kind="stable")
    rank = np.empty(len(angle))
    rank[first] = np.arange(len(angle))
    return rank


def _of_mdoc(name: str, exposures: Exposures, path: Path, alignment: Alignment) -> tuple[F64, str]:
    images = _mdoc_images(name, path)
    own = np.array([image.dose for image in images])
    recorded = bool((own > 0).all())
    if not recorded:
        if exposures.dose_per_tilt is None:
            raise InputError(f"{path}: ExposureDose of {name} is 0, it was not recorded; give --dose-per-tilt")
        own = np.full(len(images), exposures.dose_per_tilt)
    times = [image.time for image in images]
    if any(time is None for time in times):
        raise SeriesError(f"{path}: images of {name} have no DateTime, which says their order")
    order = np.argsort(np.array(times, "datetime64[s]"), kind="stable")
    before = np.empty(len(images))
    before[order] = np.cumsum(own[order]) - own[order]
    how = "ExposureDose" if recorded else f"{exposures.dose_per_tilt:g} e/A^2 per tilt (ExposureDose is 0)"
    return before[_matched(name, path, images, alignment)], f"{how} and times of the .mdoc"


def _mdoc_images(name: str, path: Path) -> list[MdocImage]:
    files = [path] if path.is_file() else sorted(path.glob("*.mdoc"))
    own = [file for file in files if series_key(file.stem) == name] or ([path] if path.is_file() else [])
    if not own:
        own = [file for file in files if file.name.startswith(f"{name}_")]
    if not own:
        raise SeriesError(f"{path}: has no .mdoc of {name}, nor of images whose names begin with {name}_")
    return [image for file in own for image in read_mdoc(file).images]


def _matched(name: str, path: Path, images: list[MdocImage], alignment: Alignment) -> I64:
    """Image of every tilt: by its number in the stack where that fits, else by the nearest angle."""
    angle = np.array([image.angle_deg for image in images])
    by_number = {image.number: place for place, image in enumerate(images)}
    if len(by_number) == len(images) == alignment.n_images and set(by_number) == set(range(len(images))):
        place = np.array([by_number[int(image)] for image in alignment.image])
        if float(np.ptp(angle[place] - alignment.stage_deg)) < SPREAD_TOLERANCE_DEG:
            return np.asarray(place)
    place = np.argmin(np.abs(angle[None] - alignment.stage_deg[:, None]), axis=1)
    off = float(np.abs(angle[place] - alignment.stage_deg).max())
    if len(set(place.tolist())) < len(place) or off > ANGLE_TOLERANCE_DEG:
        raise SeriesError(
            f"{path}: the tilt angles of {name} do not fit those of {alignment.path} (up to {off:.1f} degrees off); "
            "keep the .rawtlt beside the .tlt, or give the doses in the table of defocus"
        )
    return np.asarray(place)
