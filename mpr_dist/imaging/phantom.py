"""Particles to simulate with: pseudo-atoms of bundles of four helices, made from a seed; no real molecule is used.

The octahedral one is a hollow cage, much like ferritin's: twenty-four bundles form a rhombic dodecahedron, two of them,
antiparallel about the two-fold axis, on each of its twelve faces. Others have bundles at random places of a shell, or
along a helix.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import fft
from scipy.spatial import cKDTree

from mpr_dist.errors import InputError, MprError
from mpr_dist.maths.kernels.gaussians import draw_map
from mpr_dist.maths.rotations import exp_rotation, rotation_z
from mpr_dist.maths.symmetry import rotations
from mpr_dist.units import C128, F32, F64

# An ideal alpha helix, and where four of them sit in a bundle (A, degrees).
_RISE_A, _TURN_DEG, _BACKBONE_RADIUS_A = 1.5, 100.0, 2.0
_RESIDUES_PER_HELIX, _LOOP_RESIDUES = 27, 4
_HALF_SPACING_A, _CROSSING_DEG = 4.9, 18.0
# Where the bundle lies on its face: chosen so that copies come as close as neighbours in a protein do, not closer.
_SHELL_A, _SIDE_A, _IN_FACE_DEG = 47.0, 13.0, 130.0
# Net potential over the solvent: about half of the 120 V A^3 of a carbon atom is displaced water.
_WEIGHT_PER_HEAVY_ATOM_VA3 = 75.0
# Bundles at random places: no two blobs of neighbours come closer than van der Waals radii allow; the shell to place
# them in grows a little with every attempt that fails.
_RANDOM_SHELL_A, _GROWTH_A, _CONTACT_A = (15.0, 36.0), 0.01, 4.5
# A filament: a bundle every 24 A along z, a little more than the bundle is wide.
FILAMENT_RISE_A, FILAMENT_TWIST_DEG, _FILAMENT_UNITS = 24.0, 80.0, 7
_FILAMENT_RADIUS_A = (18.0, 24.0)
_SIDE_CHAIN_SIZES = (0, 1, 1, 2, 3, 3, 4, 4, 4, 5, 5, 6, 7, 7, 8, 10)


@dataclass(frozen=True, eq=False)
class Atoms:
    """Gaussian blobs of one width.

    Attributes:
        position_A: (atoms, 3) float64 x, y, z from the particle's centre.
        weight: (atoms,) float64, integral of each blob's electrostatic potential in V A^3, net of the solvent.
        sigma_A: standard deviation of every blob (B = 8 pi^2 sigma^2).
    """

    position_A: F64
    weight: F64
    sigma_A: float

    def __post_init__(self) -> None:
        if self.position_A.shape != (len(self.weight), 3) or not self.sigma_A > 0:
            raise InputError(f"atoms: {len(self.weight)} weights, positions {self.position_A.shape}, {self.sigma_A} A")

    @property
    def radius_A(self) -> float:
        """Distance of the outermost atom from the centre."""
        return float(np.linalg.norm(self.position_A, axis=1).max(initial=0.0))


def octahedral_phantom(seed: int = 0, sigma_A: float = 1.1) -> Atoms:
    """A cage of symmetry O, outer radius about 62 A, inner about 38 A, with a few hundred blobs per unit.

    The default width corresponds to a B-factor of 96 A^2: at 4.5 A a quarter of the amplitude is left.
    """
    position, weight = _unit(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))))
    copies = np.einsum("rij,aj->rai", rotations("O"), position).reshape(-1, 3)
    return Atoms(copies, np.tile(weight, 24), sigma_A)


def dihedral_phantom(seed: int = 0, sigma_A: float = 1.1) -> Atoms:
    """Eight bundles with symmetry D2, outer radius 55 to 75 A."""
    return _scattered(seed, "D2", 2, sigma_A)


def asymmetric_phantom(seed: int = 0, sigma_A: float = 1.1) -> Atoms:
    """Seven bundles without any symmetry, outer radius 55 to 75 A, centred on the mean of the weights."""
    return _scattered(seed, "C1", 7, sigma_A)


def filament_phantom(seed: int = 0, sigma_A: float = 1.1) -> Atoms:
    """A piece of a right-handed helix about z: seven bundles, each from the one below by 24 A and 80 degrees."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    shape, weight = _bundle(rng)
    shape = shape - shape.mean(0)
    steps = np.arange(_FILAMENT_UNITS) - _FILAMENT_UNITS // 2
    turns = np.stack([rotation_z(FILAMENT_TWIST_DEG * step) for step in steps])
    for attempt in range(10_000):
        away = [rng.uniform(_FILAMENT_RADIUS_A[0], _FILAMENT_RADIUS_A[1] + _GROWTH_A * attempt), 0.0, 0.0]
        one = shape @ exp_rotation(np.pi * rng.uniform(-1, 1, 3)).T + away
        copies = np.einsum("rij,aj->rai", turns, one) + np.outer(steps, [0.0, 0.0, FILAMENT_RISE_A])[:, None]
        if _is_free(np.roll(copies, -(_FILAMENT_UNITS // 2), axis=0), np.zeros((0, 3))):
            return Atoms(copies.reshape(-1, 3), np.tile(weight, _FILAMENT_UNITS), sigma_A)
    raise MprError(f"phantom: the bundles of a filament of seed {seed} touch; take another seed")


def _scattered(seed: int, symmetry: str, bundles: int, sigma_A: float) -> Atoms:
    """Bundles of the asymmetric unit one after the other, each where it touches none, nor its own copies."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, bundles)))
    operators = rotations(symmetry)
    placed, weights = np.zeros((0, 3)), np.zeros(0)
    for _ in range(bundles):
        shape, weight = _bundle(rng)
        shape = shape - shape.mean(0)
        for attempt in range(10_000):
            turn = exp_rotation(np.pi * rng.uniform(-1, 1, 3))
            direction = rng.standard_normal(3)
            radius = rng.uniform(_RANDOM_SHELL_A[0], _RANDOM_SHELL_A[1] + _GROWTH_A * attempt)
            shift = radius * direction / np.linalg.norm(direction)
            copies = np.einsum("rij,aj->rai", operators, shape @ turn.T + shift)
            if _is_free(copies, placed):
                break
        else:
            raise MprError(f"phantom: no room for {bundles} bundles of seed {seed}; take another seed")
        placed = np.concatenate([placed, copies.reshape(-1, 3)])
        weights = np.concatenate([weights, np.tile(weight, len(operators))])
    if len(operators) == 1:
        placed = placed - weights @ placed / weights.sum()
    return Atoms(placed, weights, sigma_A)


def _is_free(copies: F64, placed: F64) -> bool:
    """Whether the first of the copies (operators, atoms, 3) touches neither the other copies nor what is placed."""
    others = np.concatenate([copies[1:].reshape(-1, 3), placed])
    if not len(others):
        return True
    distance, _ = cKDTree(others).query(copies[0], distance_upper_bound=_CONTACT_A)
    return bool(np.isinf(distance).all())


def _unit(rng: np.random.Generator) -> tuple[F64, F64]:
    """Positions and weights of one bundle, in place on the face around the two-fold axis (1, 1, 0)."""
    normal = np.array([1.0, 1.0, 0.0]) / np.sqrt(2)
    long_axis, short_axis = np.array([1.0, -1.0, 0.0]) / np.sqrt(2), np.array([0.0, 0.0, -1.0])
    turn = np.deg2rad(_IN_FACE_DEG)
    along = np.cos(turn) * long_axis + np.sin(turn) * short_axis
    # right-handed: along x side = normal, or the helices would become left-handed
    frame = np.stack([along, np.cross(normal, along), normal], 1)
    position, weight = _bundle(rng)
    return (position + np.array([0.0, _SIDE_A, _SHELL_A])) @ frame.T, weight


def _bundle(rng: np.random.Generator) -> tuple[F64, F64]:
    """Positions and weights of four helices and their loops, long axis along x."""
    parts = [_residues(trace, outward, rng) for trace, outward in _chain(rng)]
    return np.concatenate([p for p, _ in parts]), np.concatenate([w for _, w in parts])


def _chain(rng: np.random.Generator) -> list[tuple[F64, F64]]:
    """Backbone and outward directions (residues, 3) of four helices, up and down in turn, and the loops between."""
    corners = _HALF_SPACING_A * np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    helices = [_helix(corner, 1 - 2 * (i % 2), float(rng.uniform(0, 360))) for i, corner in enumerate(corners)]
    out = [helices[0]]
    for (before, _), after in pairwise(helices):
        out += [_loop(before[-1], after[0][0]), after]
    return out


def _helix(corner: F64, direction: int, phase_deg: float) -> tuple[F64, F64]:
    """A right-handed helix along +-x through (0, corner), tilted about the bundle's axis as in a coiled coil."""
    i = np.arange(_RESIDUES_PER_HELIX)
    angle = np.deg2rad(phase_deg + _TURN_DEG * i)
    rise = _RISE_A * (i - i.mean())
    outward = np.stack([np.zeros(len(i)), np.cos(angle), np.sin(angle)], 1)
    trace = _BACKBONE_RADIUS_A * outward
    trace[:, 0] = rise
    if direction < 0:  # half a turn about z keeps the hand
        trace, outward = trace * [-1.0, -1.0, 1.0], outward * [-1.0, -1.0, 1.0]
    away = np.array([0.0, *corner]) / np.linalg.norm(corner)
    tilt = exp_rotation(np.deg2rad(_CROSSING_DEG / 2) * away)
    return trace @ tilt.T + np.array([0.0, *corner]), outward @ tilt.T


def _loop(start: F64, end: F64) -> tuple[F64, F64]:
    """A few residues on an arc that bulges away from the bundle's middle."""
    t = np.linspace(0, 1, _LOOP_RESIDUES + 2)[1:-1, None]
    away = np.array([np.sign(start[0] + end[0]), 0.0, 0.0])
    trace = (1 - t) * start + t * end + 4 * t * (1 - t) * 4.0 * away
    return trace, np.tile(away, (_LOOP_RESIDUES, 1))


def _residues(trace: F64, outward: F64, rng: np.random.Generator) -> tuple[F64, F64]:
    """One blob per backbone residue (four heavy atoms) and up to four along each side chain."""
    positions, weights = [trace], [np.full(len(trace), 4 * _WEIGHT_PER_HEAVY_ATOM_VA3)]
    for at, away in zip(trace, outward, strict=True):
        size = int(rng.choice(_SIDE_CHAIN_SIZES))
        direction = away + 0.35 * rng.standard_normal(3)
        n = -(-size // 3)
        steps = 2.4 + 1.8 * np.arange(n)
        positions.append(at + steps[:, None] * direction / np.linalg.norm(direction))
        weights.append(np.full(n, _WEIGHT_PER_HEAVY_ATOM_VA3 * size / max(n, 1)))
    return np.concatenate(positions), np.concatenate(weights)


def oversampling(sigma_A: float, pixel_A: float) -> int:
    """How many times finer a grid must be for samples of the Gaussians to be exact inside the band of the pixel.

    Sampling folds frequency (s - 1/2) / pixel onto the band's edge; the ratio of the Gaussian's transforms there,
    exp(-2 pi^2 (sigma / pixel)^2 (s^2 - s)), is to be below e^-7.
    """
    s, unit = 1, 2 * (np.pi * sigma_A / pixel_A) ** 2
    while unit * (s * s - s) < 7:
        s += 1
    return s


def density(atoms: Atoms, box_px: int, pixel_A: float) -> F32:
    """Potential in V, [z, y, x], centre at index n // 2: the exact Gaussians, limited to the band of the grid.

    The limit (|k| < n / 2 on every axis) is what makes the map equal to one reconstructed from images: plain samples
    of blobs finer than the pixel would be aliased.
    """
    s = oversampling(atoms.sigma_A, pixel_A)
    fine_A = pixel_A / s
    grid = np.zeros((s * box_px,) * 3)
    draw_map(atoms.position_A / fine_A + s * (box_px // 2), atoms.weight / fine_A**3, atoms.sigma_A / fine_A, grid)
    spectrum = fft.rfftn(grid, workers=-1)
    del grid
    cropped: C128 = np.zeros((box_px, box_px, box_px // 2 + 1), np.complex128)
    k = np.arange(-((box_px - 1) // 2), (box_px - 1) // 2 + 1)
    half = k[k >= 0]
    cropped[np.ix_(k, k, half)] = spectrum[np.ix_(k, k, half)]
    return np.asarray(fft.irfftn(cropped / s**3, s=(box_px,) * 3, workers=-1), np.float32)
