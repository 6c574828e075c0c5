"""Particles of a simulated series: where they are, how they move along the dose, and what the project believes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.geometry import project_points
from mpr_dist.maths.rotations import euler_to_matrix, exp_rotation, matrix_to_euler
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.units import F64
from mpr_dist.workflow.simulation.random_branches import DECIMALS, PERTURB, POSES, TRAJECTORY, random_branch
from mpr_dist.workflow.simulation.simulate_settings import SimulateSettings


def place_particles(
    series: TiltSeries,
    first_row: int,
    diameter_A: float,
    s: SimulateSettings,
    index: int,
    count: int | None = None,
    others: tuple[F64, F64] | None = None,
    number: int = 0,
) -> Particles:
    """Random places inside every tilt image and the volume, no two closer than a diameter; random orientations.

    count: how many, by default as the settings say; others: positions (particles, 3) and diameters (particles,) of
    species that are there already; number: of the species. Raises InputError when they do not fit.
    """
    rng, n = random_branch(s, index, POSES, number), count or s.particles_per_series
    margin = diameter_A / 2 + _room_A(series, s)
    low = np.minimum(diameter_A / 2 + 4 * s.plant.position_A, series.volume_size_A / 2)
    taken, width = others or (np.zeros((0, 3)), np.zeros(0))
    n_others = len(taken)
    for _ in range(200):
        candidates = rng.uniform(low, series.volume_size_A - low, (256, 3))
        xy = project_points(series, candidates).xy_A
        inside = ((xy > margin) & (xy < series.image_size_A - margin)).all((1, 2))
        for candidate in candidates[inside]:
            apart = np.linalg.norm(taken - candidate, axis=1) > 1.02 * (diameter_A + width) / 2
            if len(taken) < n + n_others and apart.all():
                taken, width = np.concatenate([taken, candidate[None]]), np.append(width, diameter_A)
        if len(taken) == n + n_others:
            break
    else:
        raise InputError(
            f"simulate: only {len(taken) - n_others} of {n} particles of {diameter_A:g} A fit; "
            "use larger images or fewer"
        )
    found = taken[n_others:]
    angles = np.stack([*rng.uniform(-180, 180, (2, n)), np.rad2deg(np.arccos(rng.uniform(-1, 1, n)))], 1)[:, [0, 2, 1]]
    half = 1 + rng.permutation(np.arange(n) % 2)
    still = Particles(
        np.round(found, DECIMALS), np.round(angles, DECIMALS), half.astype(np.int8), first_row + np.arange(n)
    )
    return _moving(still, s, index, number)


def _room_A(series: TiltSeries, s: SimulateSettings) -> float:
    """Room for the planted errors, so that nominal and true positions both lie inside every image."""
    plant = s.plant
    room = 4 * plant.position_A + 3 * max(plant.warp_A)
    room += 2 * plant.drift_A if plant.temporal_samples > 1 else 0.0
    room += 3 * plant.volume_warp_A if plant.volume_warp else 0.0
    if plant.rigid_stage:
        room += 3 * np.deg2rad(plant.stage_angle_deg) * float(np.linalg.norm(series.volume_size_A)) / 2
    return room


def _moving(still: Particles, s: SimulateSettings, index: int, number: int) -> Particles:
    """Random walks along the dose whose mean is the particle that does not move."""
    plant, n = s.plant, s.plant.temporal_samples
    if n == 1:
        return still
    steps = random_branch(s, index, TRAJECTORY, number).standard_normal((2, len(still), n - 1, 3)) / np.sqrt(n - 1)
    walk = np.concatenate([np.zeros((2, len(still), 1, 3)), np.cumsum(steps, axis=2)], axis=2)
    walk -= walk.mean(axis=2, keepdims=True)
    turn = exp_rotation(np.deg2rad(plant.drift_deg) * walk[1])
    angles = matrix_to_euler(turn @ euler_to_matrix(still.angles_deg))
    position = still.position_A + plant.drift_A * walk[0]
    return replace(still, position_A=np.round(position, DECIMALS), angles_deg=np.round(angles, DECIMALS))


def perturb(true: Particles, s: SimulateSettings, index: int, number: int = 0) -> Particles:
    """What picking and averaging would have left: one pose per particle, about the mean of its trajectory."""
    rng, n = random_branch(s, index, PERTURB, number), len(true)
    turn = np.deg2rad(s.plant.orientation_deg) * rng.standard_normal((n, 3))
    middle = true.resampled(1)
    angles = matrix_to_euler(euler_to_matrix(middle.angles_deg) @ exp_rotation(turn)[:, None])
    position = true.position_A.mean(axis=1, keepdims=True) + s.plant.position_A * rng.standard_normal((n, 1, 3))
    return replace(true, position_A=np.round(position, DECIMALS), angles_deg=np.round(angles, DECIMALS))
