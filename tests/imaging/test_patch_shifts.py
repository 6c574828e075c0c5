"""Local alignments of AreTomo: its kernel written out, and image warps that do the same."""

from __future__ import annotations

import numpy as np

from mpr_dist.imaging.patch_shifts import patch_displacement_px, warp_of_patches
from mpr_dist.maths.splines import natural_weights
from mpr_dist.model.patch_shifts import PatchShifts

SIZE = np.array([1000.0, 800.0])
TILTS = 3


def smooth(at: np.ndarray, tilt: int) -> np.ndarray:
    """Pixels by which doming moves points at ``at`` (points, 2), from the middle of the image."""
    x, y = (at / SIZE).T
    return np.stack([6 * x + 3 * tilt * x * y - 2, 4 * np.sin(3 * y) + tilt * x], -1)


def patches_of(n: int = 5) -> PatchShifts:
    rng = np.random.default_rng(5)
    place = (np.arange(n) + 0.5) / n - 0.5
    grid = np.stack(np.meshgrid(place, place), -1).reshape(-1, 2) * SIZE
    at = np.stack([grid * (1, np.cos(0.3 * t)) + rng.normal(0, 5, grid.shape) for t in range(TILTS)])
    good = np.ones(at.shape[:2], bool)
    good[1, 7] = good[2, 3] = False
    shift = np.stack([smooth(each, t) for t, each in enumerate(at)])
    shift[~good] = 500.0
    return PatchShifts(at, shift, good, SIZE)


def by_hand(patches: PatchShifts, tilt: int, x: float, y: float) -> np.ndarray:
    """AreTomo's loop over patches."""
    total, weights = np.zeros(2), 0.0
    for p in range(patches.at_px.shape[1]):
        if patches.good[tilt, p]:
            dx, dy = (x - patches.at_px[tilt, p, 0]) / SIZE[0], (y - patches.at_px[tilt, p, 1]) / SIZE[1]
            weight = np.exp(-100 * (dx * dx + dy * dy))
            total, weights = total + weight * patches.shift_px[tilt, p], weights + weight
    return total / weights


def test_displacements_are_aretomos() -> None:
    patches = patches_of()
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (TILTS, 40, 2)) * SIZE
    found = patch_displacement_px(patches, points)
    for t in range(TILTS):
        expected = [by_hand(patches, t, *point) for point in points[t]]
        np.testing.assert_allclose(found[t], expected, rtol=1e-9)
    assert np.abs(found).max() < 20  # bad patches do not count


def test_without_a_good_patch_nothing_moves() -> None:
    patches = patches_of()
    none = PatchShifts(patches.at_px, patches.shift_px, np.zeros_like(patches.good), SIZE)
    assert not patch_displacement_px(none, np.zeros((TILTS, 4, 2))).any()
    far = patch_displacement_px(patches, np.full((TILTS, 1, 2), 1e5))
    assert np.isfinite(far).all()
    assert np.abs(far).max() < 20


def test_the_warp_moves_points_as_the_patches_do() -> None:
    """A point at u moves to u - warp(u): by AreTomo's displacement, seen from the middle of the tomogram."""
    patches, pixel, shift = patches_of(), 2.5, np.array([[30.0, -12.0], [0.0, 0.0], [-25.0, 40.0]])
    made = warp_of_patches(patches, shift, pixel)
    points = np.random.default_rng(2).uniform(0.05, 0.95, (200, 2))
    wanted = pixel * patch_displacement_px(patches, (points - 0.5) * SIZE - shift[:, None])
    moved = np.zeros_like(wanted)
    for axis, grid in enumerate((made.warp.x, made.warp.y)):
        along_y, along_x = (natural_weights(grid.values.shape[1 + i], points[:, 1 - i]) for i in (0, 1))
        moved[..., axis] = -np.einsum("py,px,tyx->tp", along_y, along_x, grid.values)
    error = np.linalg.norm(moved - wanted, axis=-1)
    rms = np.sqrt((error**2).mean())
    # what is told holds between its probes as well; a tenth of what the patches move is AreTomo's steps between them
    assert rms < 1.3 * made.rms_A
    assert error.max() < 1.3 * made.most_A
    assert rms < 0.1 * np.sqrt((wanted**2).sum(-1).mean())
