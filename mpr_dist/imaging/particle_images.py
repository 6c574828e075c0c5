"""All particle images of one species in one tilt series: whitened samples and the tables that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mpr_dist.arrays import HOST, Device
from mpr_dist.errors import NotSeen, SeriesError
from mpr_dist.imaging.ctf import (
    ctf_terms,
    delocalisation_A,
    envelope,
    ewald_height,
    least_damped_A2,
    location_levels,
    sideband_overlap,
)
from mpr_dist.imaging.dirt import LARGEST_SHARE, fill_masked, masked_share
from mpr_dist.imaging.extract import extract_on, noise_of_rings, power_sums, prepare_tilt_image
from mpr_dist.imaging.geometry import contained, project
from mpr_dist.imaging.image_store import ImageRoom, Values, blocks, device_of
from mpr_dist.imaging.samples import Samples, box_samples
from mpr_dist.maths.kernels.compare import A2, COS2, EWALD, KX, KY, N_TABLES, ODD, OVERLAP, Q2_4, QX, QY, SIN2
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import F32, F64, I64, Bool


class TiltImage(NamedTuple):
    """The average of a tilt (height, width), its pixel (A), and where it is dirty (height, width), if anywhere."""

    image: F32
    pixel_A: float
    mask: Bool | None = None


# particles that are cut at a time
GROUP = 32

TiltReader = Callable[[int], TiltImage | tuple[F32, float]]


@dataclass(frozen=True, eq=False)
class ParticleImages:
    """Attributes:
    samples: which Fourier samples, of which box.
    values: (particles, tilts, samples, 2) float32, divided by the noise amplitude; zero where not active. An array, or
        a scratch file, or either on a card: ``blocks`` goes through all of them.
    active: (particles, tilts) images that exist: contained in the tilt, the tilt is in use, and at most half of the
        disc of the particle is masked.
    xy_A: (particles, tilts, 2) the position to which the phases are referred.
    noise: (tilts, rings) float64 noise power before whitening.
    n_samples: (tilts,) leading samples worth using: the dose leaves nothing beyond.
    """

    samples: Samples
    values: Values
    active: Bool
    xy_A: F64
    noise: F64
    n_samples: I64

    @property
    def device(self) -> Device:
        """Where they are computed with."""
        return device_of(self.values)

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """Which particles, and their values: sums over all of them need no more than one block in memory."""
        return blocks(self.values)


def working_box(series: TiltSeries, species: Species, q_max: float) -> int:
    """Edge (px, even, easy to transform) of a box that holds a particle and all its delocalised signal up to q_max.

    The CTF moves information of frequency q by up to |d gamma/dq| / 2 pi; beyond the last defocus every particle adds
    its height, which the margin of a tenth covers.
    """
    from scipy.fft import next_fast_len

    defocus = float(np.abs(series.optics.defocus_um.values).max())
    spread = 1.1 * delocalisation_A(series.optics, defocus, q_max)
    edge = max(2 * species.diameter_A, species.diameter_A + 2 * spread) / species.pixel_size_A
    half = int(np.ceil(edge / 2))
    return 2 * int(next_fast_len(half, real=True))


def load_particle_images(
    series: TiltSeries,
    species: Species,
    particles: Particles,
    read_tilt: TiltReader,
    q_max: float,
    weight_threshold: float,
    room: ImageRoom | None = None,
) -> ParticleImages:
    """Cut, transform and whiten the images of all particles up to spatial frequency q_max (1/A).

    read_tilt(t) returns the average of tilt t (height, width), its pixel size in A, and its mask of dirt if it has
    one: what is masked is filled with its surroundings. room: where the values go, by default into memory; they are the
    same wherever the host has them. With a card everything from the tilt image on happens there, in float32. Raises
    NotSeen when no particle lies inside any tilt or all that do are masked, SeriesError for images that are not finite.
    """
    room = room or ImageRoom()
    samples = box_samples(working_box(series, species, q_max), species.pixel_size_A, q_max)
    xy_A = project(series, particles).xy_A
    active = contained(series, xy_A, species.diameter_A)
    if not active.any():
        raise NotSeen(f"series {series.name}: no particle of {species.name} lies inside any tilt")
    values = room.place((len(particles), series.n_tilts, len(samples.kx), 2))
    # a card goes from tilt to tilt without the host, which reads the next one
    noise = room.device.xp.ones((series.n_tilts, samples.n_rings))
    for t in np.flatnonzero(active.any(0)):
        tilt = TiltImage(*read_tilt(int(t)))
        image, active[:, t] = _without_dirt(tilt, xy_A[:, t], active[:, t], species.diameter_A)
        if not active[:, t].any():
            continue
        pixels = tilt.pixel_A, species.pixel_size_A
        prepared, growth = _prepared(image, *pixels, 4 * species.diameter_A, room.device)
        xy_px = xy_A[:, t] * growth / species.pixel_size_A
        noise[t] = cut_and_whiten(values, int(t), prepared, xy_px, active[:, t], samples, room.device)
    if not active.any():
        raise NotSeen(f"series {series.name}: all particles of {species.name} are masked in every tilt")
    power = room.device.take(noise)
    if not np.isfinite(power).all():
        raise SeriesError(f"series {series.name}: an image of {species.name} holds NaN or infinite values")
    return ParticleImages(samples, values, active, xy_A, power, sample_limits(series, samples, weight_threshold))


def _prepared(image: F32, pixel_in_A: float, pixel_out_A: float, highpass_A: float, device: Device) -> tuple[Any, F64]:
    """The tilt image as particles are cut from it, on the device; one too large for a card is prepared on the host."""
    try:
        return prepare_tilt_image(image, pixel_in_A, pixel_out_A, highpass_A, device)
    except MemoryError:
        if not device.is_card:
            raise
        device.release()
        prepared, growth = prepare_tilt_image(image, pixel_in_A, pixel_out_A, highpass_A, HOST)
        return device.put(prepared), growth


def cut_and_whiten(
    values: Values, t: int, image: Any, xy_px: F64, active: Bool, samples: Samples, device: Device
) -> Any:
    """Fill the values of one tilt; its noise power (rings,) float64 on the device.

    The noise is summed in groups of fixed size, so that it does not depend on where the values are.
    """
    kept = np.flatnonzero(active)
    groups = [kept[start : start + GROUP] for start in range(0, len(kept), GROUP)]
    power = device.xp.zeros(len(samples.kx))
    for rows in groups:
        cut = extract_on(device, image, xy_px[rows], samples)
        power += power_sums(cut)
        values[rows, t] = cut
    noise = noise_of_rings(device, power, len(kept), samples)
    gain = device.put((1 / device.xp.sqrt(noise))[device.put(samples.ring)], np.float32)[:, None]
    for rows in groups:
        cut = values[rows, t]
        cut *= gain
        values[rows, t] = cut
    return noise


def _without_dirt(tilt: TiltImage, xy_A: F64, active: Bool, diameter_A: float) -> tuple[F32, Bool]:
    """The image with what is masked filled in, and which particles (particles,) still count."""
    if tilt.mask is None:
        return tilt.image, active
    share = masked_share(tilt.mask, xy_A / tilt.pixel_A, active, diameter_A / tilt.pixel_A)
    return fill_masked(tilt.image, tilt.mask, tilt.pixel_A), active & (share <= LARGEST_SHARE)


def sample_limits(series: TiltSeries, samples: Samples, weight_threshold: float) -> I64:
    """(tilts,) leading samples inside the frequency where the dose envelope, relative to the best tilt, falls below
    the threshold (M's "relevant size")."""
    b = least_damped_A2(series)
    relative = np.maximum(b[series.active].max() - b, 1e-9) if series.active.any() else np.full(len(b), 1e-9)
    q = np.sqrt(-4 * np.log(weight_threshold) / relative)
    return np.asarray(samples.ring_end[samples.ring_of(q)], np.int64)


@dataclass(frozen=True, eq=False)
class KernelTables:
    """What the kernels need besides images and poses, in float32, on the device that made it.

    Attributes:
        tables: (11, samples): the rows named in maths/kernels/compare.py.
        fixed: (tilts, samples) turns; astig: (tilts, 2) A.
        weight: (rows, samples) dose envelope / noise amplitude, at amplitude scale 1; a row per tilt, or several where
            the envelope depends on the place in the tilt.
        weight_row: (particles, tilts) the row of each image; tilt_of_row: (rows,) the tilt it belongs to, on the host.
        is_curved: whether both sidebands of the Ewald sphere count.
    """

    tables: F32
    fixed: F32
    astig: F32
    weight: F32
    weight_row: I64
    tilt_of_row: I64
    is_curved: bool


def kernel_tables(
    series: TiltSeries,
    species: Species,
    images: ParticleImages,
    grid_px: int,
    particles: Particles,
    device: Device = HOST,
) -> KernelTables:
    """Tables for a reference or an accumulator whose real-space box has grid_px pixels.

    The weight carries box_px / (edge of the image box), so that amplitudes do not depend on the box that was cut. It is
    zero for samples that magnification or curvature take out of the grid; their coordinates stay at its edge.
    """
    s, xp = images.samples, device.xp
    qx, qy = s.frequencies(device)
    terms = ctf_terms(series, qx, qy, device)
    to_grid = grid_px * species.pixel_size_A
    tables = xp.zeros((N_TABLES, len(s.kx)), np.float32)
    q2 = qx**2 + qy**2
    slice_q = device.put(series.optics.magnification) @ xp.stack([qx, qy])
    entries = {QX: qx, QY: qy, KX: slice_q[0] * to_grid, KY: slice_q[1] * to_grid, A2: terms.a2}
    entries |= {COS2: terms.cos2, SIN2: terms.sin2, Q2_4: q2 / 4, ODD: terms.odd}
    if species.ewald:
        height = ewald_height(series, q2)
        overlap = sideband_overlap(height, species.diameter_A, device)
        entries |= {EWALD: species.ewald * height * to_grid, OVERLAP: overlap}
    is_inside = _kept_inside(entries, grid_px / 2, device)
    for i, row in entries.items():
        tables[i] = row
    noise = xp.sqrt(device.kept(images.noise))[:, device.kept(s.ring)]
    amplitude = envelope(series, qx, qy, device) / noise * (species.box_px / s.box_px) * is_inside
    damping, level = location_levels(series, particles.position_A.mean(axis=1), q2, device)
    fixed, astig = terms.fixed.astype(np.float32), terms.astig_A.astype(np.float32)
    weight = xp.empty((series.n_tilts, len(damping), len(q2)), np.float32)
    for i in range(len(damping)):
        weight[:, i] = amplitude * damping[i]
    rows = len(damping) * xp.arange(series.n_tilts) + device.put(level)[:, None]
    tilt_of_row = np.repeat(np.arange(series.n_tilts), len(damping))
    return KernelTables(tables, fixed, astig, weight.reshape(-1, len(q2)), rows, tilt_of_row, bool(species.ewald))


def _kept_inside(rows: dict[int, F64], radius: float, device: Device) -> Bool:
    """(samples,) whether the place in the grid lies within a radius; those beyond are moved onto it (in place)."""
    place = [row for row in (KX, KY, EWALD) if row in rows]
    reach = device.xp.sqrt(sum(rows[row] ** 2 for row in place))
    for row in place:
        rows[row] = rows[row] * device.xp.minimum(1.0, radius / device.xp.maximum(reach, 1e-9))
    inside: Bool = reach <= radius
    return inside
