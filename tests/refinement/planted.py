"""Series with a known answer: parameters drawn from their priors, images from a plain double-precision model.

The images are sums over point atoms at exact frequencies: nothing is interpolated and no kernel of ours is used. Noise
is white with unit variance per complex sample, as whitening leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from small_problem import EVERYTHING

from mpr_dist.imaging.ctf import anisotropy_A2, ctf_terms, location_terms, tilt_bfactors_A2
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.particle_images import ParticleImages
from mpr_dist.imaging.phantom import Atoms, density
from mpr_dist.imaging.reference import Reference, projector_volume
from mpr_dist.imaging.samples import Samples, box_samples
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights
from mpr_dist.refinement.layout import Layout
from mpr_dist.refinement.priors import pose_covariance
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.state import State
from mpr_dist.refinement.step import SeriesResult, refine_series

PIXEL_A, BOX, GRID, DIAMETER_A, SIGMA_A = 2.0, 48, 144, 50.0, 0.9
IMAGE_A, VOLUME_A = np.array([2000.0, 1800.0]), np.array([2000.0, 1800.0, 500.0])
SPECIES = Species("planted", PIXEL_A, BOX, DIAMETER_A)
ATOMS, STRENGTH = 40, 40.0  # signal of an undamaged image, sum |m|^2


@dataclass(frozen=True, eq=False)
class Drawn:
    """A problem with its answer: what refinement starts from, and what it should find."""

    start: State
    truth: State
    data: SpeciesData
    settings: RefineSettings

    def refined(self) -> SeriesResult:
        """The series refined from its start, with priors around it."""
        series, particles = self.start.series, self.start.particles
        return refine_series(series, particles, series, particles, (self.data,), self.settings)


def a_series(n_tilts: int, **changes) -> TiltSeries:
    """An ordinary dose-symmetric series."""
    distance = np.arange(n_tilts) - (n_tilts - 1) / 2
    order = np.lexsort((distance < 0, np.abs(distance)))
    dose = np.empty(n_tilts)
    dose[order] = 4.0 * np.arange(n_tilts)
    optics = Optics(
        defocus_um=CubicGrid.per_tilt(np.full(n_tilts, 1.2)),
        defocus_delta_um=CubicGrid.per_tilt(np.full(n_tilts, 0.03)),
        defocus_angle_deg=CubicGrid.per_tilt(np.full(n_tilts, 25.0)),
        phase_shift_pi=CubicGrid.per_tilt(np.full(n_tilts, 0.1)),
    )
    series = TiltSeries(
        name="TS_01",
        angle_deg=100.0 / n_tilts * distance,
        dose=dose,
        axis_angle_deg=np.full(n_tilts, 85.0),
        axis_offset_A=np.zeros((n_tilts, 2)),
        use_tilt=np.ones(n_tilts, bool),
        active=np.ones(n_tilts, bool),
        image_size_A=IMAGE_A,
        volume_size_A=VOLUME_A,
        optics=optics,
    )
    return replace(series, **changes)


def some_particles(count: int, samples: int, rng: np.random.Generator) -> Particles:
    """Spread over the volume, turned at random."""
    position = rng.uniform(0.15, 0.85, (count, 3)) * VOLUME_A
    angles = np.stack([*rng.uniform(-180, 180, (2, count)), np.rad2deg(np.arccos(rng.uniform(-1, 1, count)))], 1)
    half = (1 + np.arange(count) % 2).astype(np.int8)
    return Particles(position, angles[:, [0, 2, 1]], half, np.arange(count)).resampled(samples)


def draw(
    settings: RefineSettings,
    seed: int,
    *,
    n_tilts: int = 11,
    count: int = 40,
    samples: int = 1,
    rigid: bool = False,
    weights: DoseWeights | None = None,
) -> Drawn:
    """Plant every class of the settings from its own prior; what is not refined is at the truth, but for weights."""
    rng = np.random.default_rng(seed)
    series, particles = a_series(n_tilts, is_stage_rigid=rigid), some_particles(count, samples, rng)
    layout = Layout.of(settings, series, samples)
    start = layout.shaped(State(series, (particles,), np.zeros(n_tilts)))
    step = np.zeros(layout.n_series)
    for each in layout.classes:
        if not each.is_amplitude:
            covariance = each.covariance(series, settings.priors)
            step[layout.slices[each.name]] = rng.multivariate_normal(np.zeros(len(covariance)), covariance)
    poses = np.zeros((count, layout.pose_size))
    if layout.poses:
        poses = rng.multivariate_normal(np.zeros(layout.pose_size), pose_covariance(samples, settings.priors), count)
    truth = layout.advanced(start, step, [poses])
    # amplitudes from their prior too, but for the factor that all tilts share
    truth = replace(truth, log_scale=truth.log_scale + 0.1 * rng.standard_normal(n_tilts))
    if weights is not None:
        truth = truth.with_series(weights=weights)
    return Drawn(start, truth, _images(truth, start, rng), settings)


def _images(truth: State, start: State, rng: np.random.Generator) -> SpeciesData:
    atoms = Atoms(_ball(rng), np.full(ATOMS, 75.0), SIGMA_A)
    reach = 1 / (2.1 * PIXEL_A)
    samples = box_samples(BOX, PIXEL_A, reach)
    model = _model(truth, atoms, samples)
    power = np.mean(np.sum(np.abs(model) ** 2, axis=2) * np.exp(-2 * truth.log_scale))
    model *= np.sqrt(STRENGTH / power)
    noise = rng.standard_normal((*model.shape, 2)) / np.sqrt(2)
    values = (np.stack([model.real, model.imag], -1) + noise).astype(np.float32)
    n_tilts = truth.series.n_tilts
    images = ParticleImages(
        samples,
        values,
        np.ones(model.shape[:2], bool),
        project(start.series, start.particles[0]).xy_A,
        np.ones((n_tilts, samples.n_rings)),
        np.full(n_tilts, len(samples.kx)),
    )
    volume = projector_volume(density(atoms, BOX, PIXEL_A), GRID)
    return SpeciesData(
        SPECIES, _recentred(images, truth), Reference(np.stack([volume, volume]), GRID, reach, 1 / reach)
    )


def _recentred(images: ParticleImages, truth: State) -> ParticleImages:
    """Data were made with the phases of the true positions: refer them to those where the images are cut."""
    shift = project(truth.series, truth.particles[0]).xy_A - images.xy_A
    s = images.samples
    turn = np.exp(-2j * np.pi * (shift[..., :1] * s.qx + shift[..., 1:] * s.qy))
    data = (images.values[..., 0] + 1j * images.values[..., 1]) * turn
    return replace(images, values=np.stack([data.real, data.imag], -1).astype(np.float32))


def _ball(rng: np.random.Generator) -> np.ndarray:
    points = rng.uniform(-1, 1, (20 * ATOMS, 3))
    return 0.42 * DIAMETER_A * points[np.linalg.norm(points, axis=1) < 1][:ATOMS]


def _model(state: State, atoms: Atoms, samples: Samples) -> np.ndarray:
    """(particles, tilts, samples) complex images around the particles' own positions."""
    series, particles = state.series, state.particles[0]
    seen, view = project(series, particles), views(series, particles)
    qx, qy = samples.qx, samples.qy
    terms, q2 = ctf_terms(series, qx, qy), qx**2 + qy**2
    astig = terms.astig_A @ np.stack([terms.cos2, terms.sin2])
    turns = (1e4 * seen.defocus_um[..., None] + astig) * terms.a2 + terms.fixed
    damping = tilt_bfactors_A2(series)[:, None] + anisotropy_A2(series, np.arctan2(qy, qx))
    scale = np.exp(state.log_scale[:, None] + 0.25 * damping * q2)
    weight, b = location_terms(series, particles.position_A.mean(axis=1))
    scale = scale * (weight[:, None] * np.exp(0.25 * b[:, None] * q2))[:, None]
    u, v = series.optics.magnification @ np.stack([qx, qy])
    width = np.exp(-2 * np.pi**2 * SIGMA_A**2 * (u**2 + v**2))
    xy = np.einsum("ptij,aj->ptai", view[:, :, :2], atoms.position_A)
    out = np.zeros((*seen.depth_A.shape, len(qx)), np.complex128)
    for a in range(len(atoms.weight)):
        out += np.exp(-2j * np.pi * (xy[:, :, a, :1] * u + xy[:, :, a, 1:] * v))
    return out * width * np.exp(-2j * np.pi * terms.odd) * -np.sin(2 * np.pi * turns) * scale


# at the frequencies compared here (4.2 A) larger errors would lie beyond the nearest optimum
NEAR = Priors(
    image_warp_A=1.0,
    volume_warp_A=2.0,
    position_A=1.0,
    trajectory_A=1.0,
    orientation_deg=1.5,
    stage_angle_deg=1.0,
    rigid_stage_deg=0.05,
    cs_mm=0.5,
    aberration_rad=0.2,
)
ALONE: dict[str, tuple[RefineSettings, dict[str, object]]] = {
    "image_warp": (RefineSettings(image_warp=(3, 2), priors=NEAR), {}),
    "volume_warp": (RefineSettings(volume_warp=(2, 2, 1, 4), priors=NEAR), {}),
    "poses": (RefineSettings(particles=True, priors=NEAR), {}),
    "trajectories": (RefineSettings(particles=True, priors=NEAR), {"samples": 3}),
    "stage_angles": (RefineSettings(stage_angles=True, priors=NEAR), {}),
    "rigid_stage": (RefineSettings(stage_angles=True, priors=NEAR), {"rigid": True}),
    "defocus": (RefineSettings(defocus=True, priors=NEAR), {}),
    "astigmatism": (RefineSettings(astigmatism=True, priors=NEAR), {}),
    "phase_shift": (RefineSettings(phase_shift=True, priors=NEAR), {}),
    "cs": (RefineSettings(cs=True, priors=NEAR), {}),
    "aberrations_odd": (RefineSettings(aberrations=(3, 5), priors=NEAR), {}),
    "aberrations_even": (RefineSettings(aberrations=(2, 4), priors=NEAR), {}),
    "magnification": (RefineSettings(magnification=True, priors=NEAR), {}),
}
TOGETHER = replace(
    EVERYTHING,
    priors=replace(NEAR, image_warp_A=0.7, position_A=0.7, volume_warp_A=1.0, orientation_deg=1.0, stage_angle_deg=0.7),
)
