"""A small tilt series with everything in it that can move, and images and references to compare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.geometry import project
from mpr_dist.imaging.particle_images import ParticleImages
from mpr_dist.imaging.reference import Reference
from mpr_dist.imaging.samples import box_samples
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.state import State

N_TILTS, PIXEL_A, BOX = 4, 4.0, 24
IMAGE_A, VOLUME_A = np.array([800.0, 600.0]), np.array([800.0, 600.0, 240.0])
SAMPLES = 3
EVERYTHING = RefineSettings(
    image_warp=(3, 2),
    volume_warp=(2, 2, 1, 3),
    particles=True,
    stage_angles=True,
    defocus=True,
    astigmatism=True,
    phase_shift=True,
    cs=True,
    aberrations=(2, 3, 4, 5),
    magnification=True,
)


def a_grid(rng, shape, size, offset=0.0) -> CubicGrid:
    return CubicGrid(offset + size * rng.standard_normal(shape))


def a_series(seed: int = 0, **changes) -> TiltSeries:
    """Exposures out of order, grids of other shapes than the layout's, a volume warp, every aberration."""
    rng, n = np.random.default_rng(seed), N_TILTS
    drift = [LinearGrid4(2.0 * rng.standard_normal((3, 1, 1, 1))) for _ in range(3)]
    optics = Optics(
        defocus_um=a_grid(rng, (n, 1, 1), 0.1, 1.5),
        defocus_delta_um=a_grid(rng, (n, 1, 1), 0.05, 0.1),
        defocus_angle_deg=a_grid(rng, (n, 1, 1), 20.0, 30.0),
        phase_shift_pi=a_grid(rng, (n, 1, 1), 0.05, 0.1),
        magnification=np.array([[1.01, 0.004], [-0.003, 0.99]]),
        zernike_odd=tuple(rng.standard_normal(12)),
        zernike_even=tuple(rng.standard_normal(8)),
    )
    series = TiltSeries(
        name="TS_01",
        angle_deg=np.array([-40.0, -10.0, 15.0, 45.0]),
        dose=np.array([9.0, 0.0, 3.0, 6.0]),
        axis_angle_deg=np.full(n, 84.0) + rng.uniform(-1, 1, n),
        axis_offset_A=rng.uniform(-10, 10, (n, 2)),
        use_tilt=np.ones(n, bool),
        active=np.ones(n, bool),
        image_size_A=IMAGE_A,
        volume_size_A=VOLUME_A,
        level_angle_deg=(3.0, -2.0),
        optics=optics,
        image_warp=ImageWarp(a_grid(rng, (n, 3, 4), 5.0), a_grid(rng, (n, 3, 4), 5.0)),
        volume_warp=VolumeWarp(*drift),
        stage_angles=StageAngles(*(a_grid(rng, (n, 1, 1), 2.0) for _ in range(3))),
        weights=DoseWeights(),
    )
    return replace(series, **changes)


def layout_of(**settings) -> Layout:
    """A layout of the small series for chosen settings."""
    return Layout.of(RefineSettings(**settings), a_series())


def some_particles(count: int = 5, seed: int = 1, samples: int = 1) -> Particles:
    """Particles that move by some A and degrees when they have several temporal samples."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(0.3, 0.7, (count, 1, 3)) * VOLUME_A
    angles = np.stack([rng.uniform(-180, 180, count), rng.uniform(20, 160, count), rng.uniform(-180, 180, count)], 1)
    # always onwards: a monotone cubic has a kink in its derivatives where it turns round
    moved = (
        rng.choice([-1, 1], (2, count, 1, 3)) * rng.uniform(0.7, 1.3, (2, count, samples, 3)).cumsum(2) * (samples > 1)
    )
    return Particles(
        position + 3.0 * moved[0],
        angles[:, None] + 5.0 * moved[1],
        (1 + np.arange(count) % 2).astype(np.int8),
        np.arange(count),
    )


def a_state(layout: Layout, series: TiltSeries | None = None, particles: tuple[Particles, ...] | None = None) -> State:
    series = a_series() if series is None else series
    particles = (some_particles(),) if particles is None else particles
    return layout.shaped(State(series, particles, np.log(tilt_scales(series))))


def random_step(layout: Layout, state: State, seed: int, size: float = 1.0):
    """A step in everything: of order A, degrees, 100 A, A^2 and tenths for the series, A and hundredths for poses."""
    rng = np.random.default_rng(seed)
    sizes = {"image_warp_x": 1.0, "image_warp_y": 1.0, "volume_warp": 1.0, "stage_angles": 1.0, "magnification": 0.5}
    sizes |= {
        "defocus": 100.0,
        "astigmatism": 50.0,
        "bfactor": 20.0,
        "species_bfactor": 20.0,
        "phase_shift": 0.05,
        "cs": 40.0,
    }
    step = np.zeros(layout.n_series)
    for name, part in layout.slices.items():
        # species are drawn apart, so that all else is the same with and without them
        source = np.random.default_rng((seed, part.start)) if name.startswith("species_") else rng
        step[part] = sizes.get(name, 0.1) * source.standard_normal(part.stop - part.start)
    scale = np.tile(np.r_[np.full(3, 1.0), np.full(3, 0.01)], layout.samples)
    poses = [scale * rng.standard_normal((len(p), layout.pose_size)) for p in state.particles]
    for p, step_of in zip(state.particles, poses, strict=True):
        step_of[:, 6 * p.n_samples :] = 0.0  # samples that this species does not have
    return size * step, [size * p for p in poses]


def data_of(series: TiltSeries, particles: Particles, volumes, grid_px: int, seed: int = 2) -> SpeciesData:
    """Random images, cut a little beside where the particles are, to compare with given transforms."""
    rng = np.random.default_rng(seed)
    species = Species("small", PIXEL_A, BOX, 60.0)
    samples = box_samples(2 * BOX, PIXEL_A, 0.4 / PIXEL_A)
    shape = (len(particles), series.n_tilts)
    xy_A = project(series, particles).xy_A + rng.uniform(-1, 1, (*shape, 2))
    values = rng.standard_normal((*shape, len(samples.kx), 2)).astype(np.float32)
    active = np.ones(shape, bool)
    active[0, 1] = False
    values[~active] = 0
    noise = rng.uniform(0.5, 2.0, (series.n_tilts, samples.n_rings))
    n_samples = np.full(series.n_tilts, len(samples.kx))
    n_samples[0] = len(samples.kx) // 2
    images = ParticleImages(samples, values, active, xy_A, noise, n_samples)
    return SpeciesData(species, images, Reference(volumes, grid_px, 0.5 / PIXEL_A, 2 * PIXEL_A))


def smooth_volumes(grid: int, seed: int = 3):
    """Transforms linear in each coordinate, for which trilinear interpolation is exact: no cells, no kinks.

    F = a + i (b . k + c x y z) fulfils F(-k) = conj F(k), so mirrored samples join smoothly as well.
    """
    rng = np.random.default_rng(seed)
    n = grid + 3
    z, y, x = np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, np.arange(grid // 2 + 2), indexing="ij")
    out = np.zeros((2, n, n, grid // 2 + 2, 2), np.float32)
    for half in range(2):
        b, c = rng.uniform(-1, 1, 3) / grid, rng.uniform(-1, 1) * (3.0 / grid) ** 3
        out[half, ..., 0] = rng.uniform(1.0, 2.0)
        out[half, ..., 1] = 3 * (b[0] * x + b[1] * y + b[2] * z + c * x * y * z)
    return out


FULL = Layout.of(EVERYTHING, a_series(), SAMPLES)
