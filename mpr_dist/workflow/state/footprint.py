"""Bytes of a worker at each of its tasks, from sizes alone: for the plan, and for a worker that has to keep to them.

The factors count arrays that live at the same time; ``tests/workflow/test_memory.py`` compares with real processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len

from mpr_dist.imaging.ctf import delocalisation_A
from mpr_dist.imaging.particle_images import GROUP
from mpr_dist.imaging.reconstruct import accumulator_shape
from mpr_dist.imaging.reference import GRID_OVERSAMPLING
from mpr_dist.model.optics import Optics
from mpr_dist.model.species import Species

# Python with the libraries and the kernels: 370 MiB, and 520 where a first run compiles them, with Dask's worker
BASE_BYTES = 430 << 20
# the box of an image depends on its defocus: what is assumed where no XML was read
PLANNED_DEFOCUS_UM = 3.0
# 93 and 52 with motion that is local or global, and gain and defects; measured with tracemalloc
MOVIE_BYTES_PER_PX = 100


@dataclass(frozen=True)
class Conditions:
    """What a plan knows of the series.

    Attributes:
        defocus_um: the largest; image_px: (x, y) of the largest tilt image; pixel_A: its pixel.
    """

    defocus_um: float = PLANNED_DEFOCUS_UM
    image_px: tuple[int, int] = (0, 0)
    pixel_A: float = 1.0


def samples_per_image(species: Species, defocus_um: float, q_max: float | None = None) -> int:
    """Fourier samples up to q_max (1/A), by default Nyquist, in the box that holds the delocalised signal."""
    q = min(q_max or 1.0, 0.5 / species.pixel_size_A)
    spread = 1.1 * delocalisation_A(Optics(), defocus_um, q)
    edge = max(2 * species.diameter_A, species.diameter_A + 2 * spread) / species.pixel_size_A
    box = 2 * int(next_fast_len(int(np.ceil(edge / 2)), real=True))
    return int(np.pi / 2 * min(box * species.pixel_size_A * q, box / 2 - 1) ** 2)


def accumulator_bytes(species: Species) -> int:
    """Both half-sets: real, imaginary and weight, int64."""
    return 8 * int(np.prod(accumulator_shape(species)))


def reference_bytes(species: Species) -> int:
    """Transforms of both half-maps, float32."""
    n = GRID_OVERSAMPLING * species.box_px
    return 16 * (n + 3) * (n + 3) * (n // 2 + 2)


def prepare_bytes(species: Species) -> int:
    """While a reference is made: half-maps, mask and their transforms, and the reference thrice as it is written."""
    return 4 * 16 * species.box_px**3 + 3 * reference_bytes(species)


def finish_bytes(species: Species) -> int:
    """While maps are made: the accumulator, and of one half-set its sums before and after symmetry; of a helix the sum
    over its units besides."""
    return (2 + (species.helix is not None)) * accumulator_bytes(species) + 4 * 16 * species.box_px**3


def tilt_bytes(species: Species, image_px: tuple[int, int], pixel_A: float, samples: int) -> int:
    """While one tilt image is brought to the pixel of the species, and boxes are cut from it group by group."""
    pixels = image_px[0] * image_px[1]
    growth = (pixel_A / species.pixel_size_A) ** 2
    return int(pixels * (6 + max(24, 8 + 24 * growth))) + 40 * GROUP * samples


def table_bytes(tilts: int, samples: int, levels: int = 1) -> int:
    """Tables of the kernels over tilts and samples, float32, and the float64 they are made of.

    levels: rows of weights in a tilt, more than one where they depend on the place.
    """
    return (48 + 4 * (levels - 1)) * tilts * samples


def movie_bytes(shape: tuple[int, int]) -> int:
    """While frames (height, width) of a movie are corrected, moved and added up; most where motion is local."""
    return MOVIE_BYTES_PER_PX * shape[0] * shape[1]


def series_bytes(
    species: tuple[Species, ...],
    image_px: tuple[int, int],
    pixel_A: float,
    tilts: int,
    samples: int,
    solver: int,
    levels: int = 1,
) -> int:
    """What a worker needs for a series besides its images: everything that does not depend on how they are kept."""
    sums = sum(accumulator_bytes(each) for each in species)
    references = sum(reference_bytes(each) for each in species)
    tilt = max((tilt_bytes(each, image_px, pixel_A, samples) for each in species), default=0)
    return BASE_BYTES + sums + references + max(tilt, solver + table_bytes(tilts, samples, levels))
