"""The random part of a simulated project: geometry, and what is planted in every tilt series.

Every random number has its own branch of one seed, so that settings which do not concern it do not change it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpr_dist.imaging.spoiled import Bead, Spoiled
from mpr_dist.model.optics import Optics
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.storage.warp_project import WarpProject
from mpr_dist.units import F64
from mpr_dist.workflow.simulation.plant_optics import nominal_optics, planted_optics
from mpr_dist.workflow.simulation.random_branches import (
    DECIMALS,
    SETUP,
    STAGE,
    TILTS,
    VOLUME_WARP,
    WARP,
    WEIGHTS,
    per_tilt,
    random_branch,
)
from mpr_dist.workflow.simulation.simulate_settings import Plant, SimulateSettings

_BEAD_A = 50.0, 100.0  # radii of gold of 10 to 20 nm


def _dose_symmetric(n: int, dose_per_tilt: float) -> F64:
    """(n,) dose before every tilt when they are taken from the middle of the file outwards, alternating."""
    distance = np.arange(n) - (n - 1) / 2
    order = np.lexsort((distance < 0, np.abs(distance)))
    dose = np.empty(n)
    dose[order] = dose_per_tilt * np.arange(n)
    return dose


def true_series(files: WarpProject, name: str, index: int, s: SimulateSettings) -> TiltSeries:
    n, rng = s.n_tilts, random_branch(s, index, SETUP)
    image_A = np.array(s.image_px) * s.pixel_A
    angle = np.round(s.tilt_range_deg - s.tilt_step_deg * np.arange(n), DECIMALS)
    dose = _dose_symmetric(n, s.dose_per_tilt)
    in_use = np.ones(n, bool)
    in_use[spoiled_tilts(dose, s, index)[0]] = False
    defocus = s.defocus_um + 0.2 * rng.standard_normal() + 0.02 * rng.standard_normal(n)
    optics = Optics(
        s.voltage_kV,
        s.cs_mm,
        s.amplitude,
        per_tilt(defocus),
        per_tilt(np.full(n, rng.uniform(0.01, 0.05))),
        per_tilt(np.full(n, rng.uniform(0, 180))),
        per_tilt(np.zeros(n)),
    )
    return TiltSeries(
        name=name,
        angle_deg=angle,
        dose=dose,
        axis_angle_deg=np.full(n, np.round(-85 + rng.standard_normal(), DECIMALS)),
        axis_offset_A=np.round(10.0 * rng.standard_normal((n, 2)), DECIMALS),
        use_tilt=in_use,
        active=in_use,
        image_size_A=image_A,
        volume_size_A=np.array([*image_A, np.round(s.thickness_A / s.pixel_A) * s.pixel_A]),
        image_paths=files.averages(name, n),
        are_angles_inverted=s.are_angles_inverted,
        is_stage_rigid=s.plant.rigid_stage,
        optics=planted_optics(optics, n, s, index),
        image_warp=_image_warp(dose, s.plant, random_branch(s, index, WARP)),
        volume_warp=_volume_warp(s.plant, random_branch(s, index, VOLUME_WARP)),
        stage_angles=_stage_angles(n, s.plant, random_branch(s, index, STAGE)),
        weights=_weights(angle, dose, s.plant, random_branch(s, index, WEIGHTS)),
    )


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


def _volume_warp(plant: Plant, rng: np.random.Generator) -> VolumeWarp:
    """Independent nodes in space, random walks along the dose; nothing has moved at the first exposure."""
    if plant.volume_warp is None:
        return VolumeWarp()
    width, height, depth, duration = plant.volume_warp
    steps = rng.standard_normal((3, duration - 1, depth, height, width)) / np.sqrt(duration - 1)
    values = np.zeros((3, duration, depth, height, width))
    values[:, 1:] = np.round(plant.volume_warp_A * np.cumsum(steps, axis=1), DECIMALS)
    return VolumeWarp(*(LinearGrid4(axis) for axis in values))


def spoiled_tilts(dose: F64, s: SimulateSettings, index: int) -> tuple[list[int], list[int]]:
    """Tilts to deselect, and tilts with beads; never the first exposure."""
    later = np.flatnonzero(dose > dose.min())
    order = random_branch(s, index, TILTS).permutation(later).tolist()
    first = s.plant.deselected_tilts
    return order[:first], order[first : first + s.plant.bead_tilts]


def spoiled(series: TiltSeries, s: SimulateSettings, index: int) -> Spoiled:
    """Bars and beads of one series; beads lie at least two radii inside the image."""
    blocked, dirty = spoiled_tilts(series.dose, s, index)
    rng = random_branch(s, index, TILTS, 1)
    beads = []
    for tilt in dirty:
        radius = float(np.round(rng.uniform(*_BEAD_A), DECIMALS))
        place = 2 * radius + (series.image_size_A - 4 * radius) * rng.uniform(0, 1, 2)
        beads.append(Bead(tilt, np.round(place, DECIMALS), radius))
    return Spoiled(tuple(beads), tuple(blocked))


def _stage_angles(n: int, plant: Plant, rng: np.random.Generator) -> StageAngles:
    return StageAngles(*(per_tilt(plant.stage_angle_deg * rng.standard_normal(n)) for _ in range(3)))


def _weights(angle: F64, dose: F64, plant: Plant, rng: np.random.Generator) -> DoseWeights:
    spread = plant.bfactor_spread * rng.standard_normal(len(dose))
    # Warp refuses to believe in less than -3 dose: what is planted must be representable
    bfactor = np.minimum(-4.0 * dose * (1 + spread), -3.1 * dose)
    scale = np.cos(np.deg2rad(angle)) * np.exp(plant.scale_spread * rng.standard_normal(len(dose)))
    return DoseWeights(bfactor=per_tilt(bfactor), weight=per_tilt(scale))


def nominal_series(true: TiltSeries, s: SimulateSettings, index: int) -> TiltSeries:
    """What alignment and CTF estimation would have left: no warp, no stage angles, no weights, optics a little off."""
    return replace(
        true,
        optics=nominal_optics(true.optics, true.n_tilts, s, index),
        image_warp=ImageWarp(),
        volume_warp=VolumeWarp(),
        stage_angles=StageAngles(),
        weights=DoseWeights(),
    )
