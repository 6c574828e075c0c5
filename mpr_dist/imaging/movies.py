"""Averages of movies, and images of particles frame by frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import map_coordinates

from mpr_dist.arrays import HOST
from mpr_dist.errors import NotSeen
from mpr_dist.imaging.dirt import LARGEST_SHARE, fill_masked, masked_share
from mpr_dist.imaging.extract import prepare_tilt_image
from mpr_dist.imaging.geometry import contained, project
from mpr_dist.imaging.image_store import ImageRoom
from mpr_dist.imaging.particle_images import ParticleImages, cut_and_whiten, sample_limits, working_box
from mpr_dist.imaging.samples import box_samples
from mpr_dist.model.movie import Motion
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import F32, F64, I64, Bool

# B-factor of what an exposure destroys, A^2 per e/A^2: that of the tilts
DAMAGE_A2 = 4.0
# nodes of a motion that differs from place to place; between them it is interpolated
FIELD_NODES = 17


def average_frames(
    frames: Iterable[F32], motion: Motion, doses: F64, pixel_A: float, shape: tuple[int, int] | None = None
) -> F32:
    """Average (height, width) of the frames of a movie along its motion, weighted by what the dose has left of each.

    Weights exp(-dose q^2) over the root of their mean square: signal is added up as is best for it, and white noise
    stays white. Motion that is the same everywhere is taken out exactly, in Fourier space; otherwise by cubic splines.

    Args:
        doses: (frames,) e/A^2 before the middle of every frame, relative to one another.
        pixel_A: of the frames; shape: (height, width) of the average if it is to be coarser.
    """
    total, weight, size = np.zeros(()), np.zeros(()), (0, 0)
    for f, frame in enumerate(frames):
        size = height, width = frame.shape[0], frame.shape[1]
        qy, qx = fft.fftfreq(height, pixel_A)[:, None], fft.rfftfreq(width, pixel_A)[None]
        if motion.is_local:
            shifts = _field(motion, len(doses), f, (height, width)) / pixel_A
            transform = fft.rfft2(_moved(frame, shifts))
        else:
            x, y = motion.at(np.full((1, 2), 0.5), len(doses))[f, 0]
            transform = fft.rfft2(frame) * np.exp(-2j * np.pi * (qx * x + qy * y))
        damage = np.exp(-DAMAGE_A2 / 4 * (doses[f] - doses[0]) * (qx**2 + qy**2))
        total, weight = total + damage * transform, weight + damage**2
    return _resized(total / np.sqrt(len(doses) * weight), size, shape or size)


def _field(motion: Motion, n_frames: int, f: int, shape: tuple[int, int]) -> F64:
    """(2, height, width) A, x and y, of one frame; from splines on a coarse grid."""
    u = np.linspace(0, 1, FIELD_NODES)
    places = np.stack([axis.ravel() for axis in np.meshgrid(u, u)], -1)
    coarse = motion.at(places, n_frames)[f].T.reshape(2, FIELD_NODES, FIELD_NODES)
    rows, columns = (np.arange(n) / n * (FIELD_NODES - 1) for n in shape)
    at = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    return np.stack([map_coordinates(one, at, order=3, mode="nearest") for one in coarse])


def _moved(frame: F32, shifts_px: F64) -> F32:
    y, x = np.indices(frame.shape, np.float64)
    return np.asarray(map_coordinates(frame, [y - shifts_px[1], x - shifts_px[0]], order=3, mode="nearest"), np.float32)


def _resized(transform: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> F32:
    """Back in real space, cut in Fourier space to another size."""
    if new != old:
        rows = np.r_[0 : (new[0] + 1) // 2, old[0] - new[0] // 2 : old[0]]
        transform = transform[rows][:, : new[1] // 2 + 1] * (new[0] * new[1] / (old[0] * old[1]))
    return np.asarray(fft.irfft2(transform, s=new), np.float32)


@dataclass(frozen=True, eq=False)
class FrameImages:
    """Images of the particles of one species in every frame of a tilt.

    Attributes:
        images: (particles, frames, ...), as those of the tilts of a series are.
        place: (particles, 2) A in the average; size_A: (2,) of it.
        doses: (frames,) e/A^2 relative to the first frame.
    """

    images: ParticleImages
    place: F64
    size_A: F64
    doses: F64


def frame_images(
    series: TiltSeries,
    tilt: int,
    wanted: Sequence[tuple[Species, Particles, float]],
    frames: Iterable[F32],
    motion: Motion,
    doses: F64,
    pixel_A: float,
    threshold: float,
    room: ImageRoom | None = None,
    mask: Bool | None = None,
) -> tuple[FrameImages, ...]:
    """Cut, transform and whiten the particles of every species (with the highest frequency, 1/A) in all frames.

    room: where the images go, by default into memory. mask (height, width): where the tilt is dirty, which is filled
    with its surroundings; particles that are masked by more than half do not count.

    Raises:
        NotSeen: this tilt shows none of them.
    """
    cuts = [_cut(series, tilt, *each, len(doses), threshold, room or ImageRoom()) for each in wanted]
    if mask is not None:
        for one, (species, _, _) in zip(cuts, wanted, strict=True):
            share = masked_share(mask, one.place / pixel_A, one.images.active[:, 0], species.diameter_A / pixel_A)
            one.images.active[share > LARGEST_SHARE] = False
    if not any(each.images.active.any() for each in cuts):
        raise NotSeen(f"series {series.name}: tilt {tilt + 1} shows no particle")
    shifts = [motion.at(each.place / each.size_A, len(doses)) for each in cuts]
    for f, raw in enumerate(frames):
        frame = raw if mask is None else fill_masked(raw, mask, pixel_A)
        for one, (species, _, _), moved in zip(cuts, wanted, shifts, strict=True):
            active = one.images.active[:, f]
            one.images.xy_A[:, f] = one.place - moved[f]
            if active.any():
                image, growth = prepare_tilt_image(frame, pixel_A, species.pixel_size_A, 4 * species.diameter_A)
                xy_px = one.images.xy_A[:, f] * growth / species.pixel_size_A
                one.images.noise[f] = cut_and_whiten(
                    one.images.values, f, image, xy_px, active, one.images.samples, HOST
                )
            one.doses[f] = doses[f] - doses[0]
    return tuple(cuts)


def _cut(
    series: TiltSeries,
    tilt: int,
    species: Species,
    particles: Particles,
    q_max: float,
    n_frames: int,
    threshold: float,
    room: ImageRoom,
) -> FrameImages:
    """Room for the images, still empty."""
    samples = box_samples(working_box(series, species, q_max), species.pixel_size_A, q_max)
    place = project(series, particles).xy_A
    active = np.repeat(contained(series, place, species.diameter_A)[:, tilt, None], n_frames, axis=1)
    limit: I64 = np.repeat(sample_limits(series, samples, threshold)[tilt], n_frames)
    values = room.place((len(particles), n_frames, len(samples.kx), 2))
    noise = np.ones((n_frames, samples.n_rings))
    xy_A: F64 = np.zeros((len(particles), n_frames, 2))
    flags: Bool = active
    images = ParticleImages(samples, values, flags, xy_A, noise, limit)
    return FrameImages(images, place[:, tilt], series.image_size_A, np.zeros(n_frames))
