"""What a simulated project is made of, and its random part: geometry, particles, and the errors planted in them.

Every random number has its own branch of one seed, so that settings which do not concern it do not change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.geometry import project_points
from mpr_dist.maths.rotations import euler_to_matrix, exp_rotation, matrix_to_euler
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, ImageWarp, StageAngles
from mpr_dist.storage.warp_project import WarpProject
from mpr_dist.units import A_PER_UM, F64

# branches of the seed below (0, series); imaging/simulate.py draws from (1, series, ...)
SETUP, WARP, STAGE, DEFOCUS, WEIGHTS, POSES, PERTURB, ORIGINS, HALF_MAPS = range(9)
DECIMALS = 4  # of planted values: short enough that the text of a float32 in Warp's files keeps them exactly


@dataclass(frozen=True)
class Plant:
    """Errors between what a project says and what happened; standard deviations, Gaussian.

    Attributes:
        image_warp: nodes (width, height) of the image warp per tilt.
        warp_A: per axis, at zero dose and at the highest dose, linear between; correlated over nodes and tilts.
        stage_angle_deg: per axis and tilt.
        position_A, orientation_deg: per axis of every particle.
        defocus_A: per tilt.
        bfactor_spread, scale_spread: relative, about -4 dose (at most -3 dose) and about cos(tilt).
    """

    image_warp: tuple[int, int] = (4, 4)
    warp_A: tuple[float, float] = (1.5, 4.0)
    stage_angle_deg: float = 1.0
    position_A: float = 3.0
    orientation_deg: float = 2.0
    defocus_A: float = 300.0
    bfactor_spread: float = 0.1
    scale_spread: float = 0.05

    @staticmethod
    def nothing() -> Plant:
        """The project already holds the truth."""
        return Plant((1, 1), (0.0, 0.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class SimulateSettings:
    """One ``simulate`` command.

    Attributes:
        image_px: (width, height); the volume has the same x and y, and ``thickness_A`` in z.
        box_px: of the maps.
        defocus_um: mean underfocus; series differ by 0.2 um.
        dose_per_tilt: e/A^2; the tilts are taken from 0 degrees outwards, alternating.
        contrast, solvent_rms, noise_only: see ``imaging.simulate.Exposure``.
    """

    n_series: int = 2
    particles_per_series: int = 30
    n_tilts: int = 25
    tilt_step_deg: float = 4.0
    pixel_A: float = 2.5
    image_px: tuple[int, int] = (512, 512)
    thickness_A: float = 350.0
    box_px: int = 72
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude: float = 0.07
    defocus_um: float = 2.0
    dose_per_tilt: float = 3.0
    contrast: float = 1.0
    solvent_rms: float = 0.0
    noise_only: bool = False
    seed: int = 0
    plant: Plant = field(default_factory=Plant)

    def __post_init__(self) -> None:
        if min(self.n_series, self.particles_per_series, self.n_tilts, *self.image_px) < 1:
            raise InputError("simulate: numbers of series, particles and tilts, and image sizes must be at least 1")
        if self.seed < 0:
            raise InputError(f"simulate: the seed must be 0 or more, got {self.seed}")
        if self.tilt_range_deg >= 80:
            raise InputError(
                f"simulate: {self.n_tilts} tilts of {self.tilt_step_deg:g} degrees reach {self.tilt_range_deg:g}; "
                "the limit is 80: use fewer or smaller steps"
            )

    @property
    def tilt_range_deg(self) -> float:
        """Largest tilt; the series goes from plus to minus this."""
        return 0.5 * (self.n_tilts - 1) * self.tilt_step_deg

    @staticmethod
    def demo() -> SimulateSettings:
        """Enough for a refinement that can be watched: two series, about twenty seconds to make on two cores."""
        return SimulateSettings()

    @staticmethod
    def fixture() -> SimulateSettings:
        """The smallest project in which everything happens: one series of eight particles, made in a second or two."""
        return SimulateSettings(
            n_series=1,
            particles_per_series=8,
            n_tilts=7,
            tilt_step_deg=10.0,
            pixel_A=4.0,
            image_px=(208, 192),
            box_px=40,
            defocus_um=1.5,
            contrast=3.0,
            plant=Plant(image_warp=(2, 2)),
        )


def random_branch(s: SimulateSettings, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(s.seed, spawn_key=(0, index, purpose)))


def _dose_symmetric(n: int, dose_per_tilt: float) -> F64:
    """(n,) dose before every tilt when they are taken from the middle of the file outwards, alternating."""
    distance = np.arange(n) - (n - 1) / 2
    order = np.lexsort((distance < 0, np.abs(distance)))
    dose = np.empty(n)
    dose[order] = dose_per_tilt * np.arange(n)
    return dose


def true_series(files: WarpProject, name: str, index: int, s: SimulateSettings) -> TiltSeries:
    n, rng = s.n_tilts, random_branch(s, index, SETUP)
    everything = np.ones(n, bool)
    image_A = np.array(s.image_px) * s.pixel_A
    angle = np.round(s.tilt_range_deg - s.tilt_step_deg * np.arange(n), DECIMALS)
    dose = _dose_symmetric(n, s.dose_per_tilt)
    defocus = s.defocus_um + 0.2 * rng.standard_normal() + 0.02 * rng.standard_normal(n)
    optics = Optics(
        s.voltage_kV,
        s.cs_mm,
        s.amplitude,
        _per_tilt(defocus),
        _per_tilt(np.full(n, rng.uniform(0.01, 0.05))),
        _per_tilt(np.full(n, rng.uniform(0, 180))),
        _per_tilt(np.zeros(n)),
    )
    return TiltSeries(
        name=name,
        angle_deg=angle,
        dose=dose,
        axis_angle_deg=np.full(n, np.round(-85 + rng.standard_normal(), DECIMALS)),
        axis_offset_A=np.round(10.0 * rng.standard_normal((n, 2)), DECIMALS),
        use_tilt=everything,
        active=everything,
        image_size_A=image_A,
        volume_size_A=np.array([*image_A, np.round(s.thickness_A / s.pixel_A) * s.pixel_A]),
        image_paths=files.averages(name, n),
        optics=optics,
        image_warp=_image_warp(dose, s.plant, random_branch(s, index, WARP)),
        stage_angles=_stage_angles(n, s.plant, random_branch(s, index, STAGE)),
        weights=_weights(angle, dose, s.plant, random_branch(s, index, WEIGHTS)),
    )


def _per_tilt(values: F64) -> CubicGrid:
    return CubicGrid.per_tilt(np.round(values, DECIMALS))


def _image_warp(dose: F64, plant: Plant, rng: np.random.Generator) -> ImageWarp:
    """White noise blurred over tilts and nodes, with the same standard deviation at every node of a tilt."""
    width, height = plant.image_warp
    low, high = plant.warp_A
    rms = low + (high - low) * dose / max(float(dose.max()), 1e-9)
    n = len(dose)
    blur = [_blur(n, 1.5), _blur(height, 0.5 * height), _blur(width, 0.5 * width)]
    white = rng.standard_normal((2, n, height, width))
    # without BLAS: the numbers must not depend on its version or threads
    smooth = np.einsum("at,by,cx,ityx->iabc", *blur, white)
    values = np.round(rms[:, None, None] * smooth, DECIMALS)
    return ImageWarp(CubicGrid(values[0]), CubicGrid(values[1]))


def _blur(n: int, length: float) -> F64:
    """(n, n) rows of Gaussian weights with unit norm: independent numbers stay of unit variance."""
    i = np.arange(n)
    rows = np.exp(-(((i[:, None] - i) / length) ** 2))
    return np.asarray(rows / np.sqrt((rows**2).sum(1, keepdims=True)))


def _stage_angles(n: int, plant: Plant, rng: np.random.Generator) -> StageAngles:
    return StageAngles(*(_per_tilt(plant.stage_angle_deg * rng.standard_normal(n)) for _ in range(3)))


def _weights(angle: F64, dose: F64, plant: Plant, rng: np.random.Generator) -> DoseWeights:
    spread = plant.bfactor_spread * rng.standard_normal(len(dose))
    # Warp refuses to believe in less than -3 dose: what is planted must be representable
    bfactor = np.minimum(-4.0 * dose * (1 + spread), -3.1 * dose)
    scale = np.cos(np.deg2rad(angle)) * np.exp(plant.scale_spread * rng.standard_normal(len(dose)))
    return DoseWeights(bfactor=_per_tilt(bfactor), weight=_per_tilt(scale))


def place_particles(
    series: TiltSeries, first_row: int, diameter_A: float, s: SimulateSettings, index: int
) -> Particles:
    """Random places inside every tilt image and the volume, no two closer than a diameter; random orientations."""
    rng, n = random_branch(s, index, POSES), s.particles_per_series
    # room for the planted errors, so that nominal and true positions both lie inside
    margin = diameter_A / 2 + 4 * s.plant.position_A + 3 * max(s.plant.warp_A)
    low = np.minimum(diameter_A / 2 + 4 * s.plant.position_A, series.volume_size_A / 2)
    found = np.zeros((0, 3))
    for _ in range(200):
        candidates = rng.uniform(low, series.volume_size_A - low, (256, 3))
        xy = project_points(series, candidates).xy_A
        inside = ((xy > margin) & (xy < series.image_size_A - margin)).all((1, 2))
        for candidate in candidates[inside]:
            if len(found) < n and (np.linalg.norm(found - candidate, axis=1) > 1.02 * diameter_A).all():
                found = np.concatenate([found, candidate[None]])
        if len(found) == n:
            break
    else:
        raise InputError(
            f"simulate: only {len(found)} of {n} particles of {diameter_A:g} A fit; use larger images or fewer"
        )
    angles = np.stack([*rng.uniform(-180, 180, (2, n)), np.rad2deg(np.arccos(rng.uniform(-1, 1, n)))], 1)[:, [0, 2, 1]]
    half = 1 + rng.permutation(np.arange(n) % 2)
    return Particles(
        np.round(found, DECIMALS), np.round(angles, DECIMALS), half.astype(np.int8), first_row + np.arange(n)
    )


def nominal_series(true: TiltSeries, s: SimulateSettings, index: int) -> TiltSeries:
    """What alignment and CTF estimation would have left: no warp, no stage angles, no weights, defocus a little off."""
    error = s.plant.defocus_A / A_PER_UM * random_branch(s, index, DEFOCUS).standard_normal(true.n_tilts)
    defocus = _per_tilt(true.optics.defocus_um.values.ravel() + error)
    return replace(
        true,
        optics=replace(true.optics, defocus_um=defocus),
        image_warp=ImageWarp(),
        stage_angles=StageAngles(),
        weights=DoseWeights(),
    )


def perturb(true: Particles, s: SimulateSettings, index: int) -> Particles:
    rng, n = random_branch(s, index, PERTURB), len(true)
    turn = np.deg2rad(s.plant.orientation_deg) * rng.standard_normal((n, 3))
    angles = matrix_to_euler(euler_to_matrix(true.angles_deg) @ exp_rotation(turn)[:, None])
    position = true.position_A + s.plant.position_A * rng.standard_normal((n, 1, 3))
    return replace(true, position_A=np.round(position, DECIMALS), angles_deg=np.round(angles, DECIMALS))
