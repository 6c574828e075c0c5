"""Local alignments of IMOD: tilt's formula written out point by point, its file, and image warps that do the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.local_areas import Stage, local_displacement_px, off_plane_A, warp_of_areas
from mpr_dist.maths.splines import natural_weights
from mpr_dist.model.local_areas import LocalAreas
from mpr_dist.storage.imod_local import read_local

NX, NY, FULL, STEP, START = 3, 2, (900, 700), (300, 400), (150, 160)
TILT, X_TILT, AXIS = np.array([-40.0, 5.0, 50.0]), np.array([1.0, 1.2, 0.8]), np.array([85.0, 85.2, 84.9])
OFFSET = np.array([[12.0, -7.0], [0.0, 3.0], [-20.0, 10.0]])
STAGE = Stage(TILT, X_TILT, AXIS, OFFSET)
RNG = np.random.default_rng(9)
D_TILT, D_X = RNG.normal(0, 0.3, (NX * NY, 3)), RNG.normal(0, 0.1, (NX * NY, 3))
MATRIX = np.eye(2) + RNG.normal(0, 2e-3, (NX * NY, 3, 2, 2))
SHIFT = RNG.normal(0, 3, (NX * NY, 3, 2))


def write(path: Path, x_tilts: bool = True, pixel: float | None = 2.5, z_factors: bool = True) -> Path:
    """As tiltalign writes it: ten numbers a line, transforms a view a line."""
    head = [NX, NY, *START, *STEP]
    if x_tilts or pixel or z_factors:
        head += [int(x_tilts), pixel or 0.0, int(z_factors)]
    lines = [" ".join(str(n) for n in head)]
    for area in range(NX * NY):
        lines.append(" ".join(f"{v:.5f}" for v in D_TILT[area]))
        if x_tilts:
            lines += [f"{v:.5f}" for v in D_X[area]]
        if z_factors:
            lines.append(" ".join("0.01 0.02" for _ in TILT))
        for t in range(len(TILT)):
            row = (*MATRIX[area, t].ravel(), *SHIFT[area, t])
            lines.append(" ".join(f"{v:12.7f}" for v in row))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def areas(tmp_path: Path) -> LocalAreas:
    return read_local(write(tmp_path / "alocal.xf"), 3, FULL, 2.5)


def tilt_sees(view: int, x: float, y: float, z: float, area: int | None) -> np.ndarray:
    """Where tilt projects a point, from the middle of the aligned image; in its own signs, with z upside down."""
    b, a = TILT[view], X_TILT[view]
    if area is not None:
        b, a = b + D_TILT[area, view], a + D_X[area, view]
    cos_b, sin_b = np.cos(np.deg2rad(b)), -np.sin(np.deg2rad(b))
    cos_a, sin_a, zz = np.cos(np.deg2rad(a)), -np.sin(np.deg2rad(a)), -z
    px, py = x * cos_b + y * sin_a * sin_b + zz * cos_a * sin_b, y * cos_a - zz * sin_a
    if area is None:
        return np.array([px, py])
    (a11, a12), (a21, a22) = MATRIX[area, view]
    dx, dy = SHIFT[area, view]
    return np.array([a11 * px + a12 * py + dx, a21 * px + a22 * py + dy])


def by_hand(view: int, x: float, y: float, z: float) -> np.ndarray:
    """tilt's four areas around a point, at pixels that count from 1."""
    ix = min(max(x + FULL[0] / 2 + 0.5 - START[0], 0), (NX - 1) * STEP[0])
    iy = min(max(y + FULL[1] / 2 + 0.5 - START[1], 0), (NY - 1) * STEP[1])
    column, row = min(int(ix / STEP[0]), NX - 2), min(int(iy / STEP[1]), NY - 2)
    fx, fy = ix / STEP[0] - column, iy / STEP[1] - row
    first = NX * row + column
    found = np.zeros(2)
    parts = ((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy)
    for area, f in zip((first, first + 1, first + NX, first + NX + 1), parts, strict=True):
        found = found + f * tilt_sees(view, x, y, z, area)
    return found - tilt_sees(view, x, y, z, None)


def test_displacements_are_those_of_tilt(areas: LocalAreas) -> None:
    points = np.random.default_rng(1).uniform(-0.6, 0.6, (3, 30, 3)) * [*FULL, 300]
    found = local_displacement_px(areas, STAGE, points)
    for view in range(3):
        expected = [by_hand(view, *point) for point in points[view]]
        np.testing.assert_allclose(found[view], expected, atol=2e-3)  # the file has five decimals of degrees
    assert np.abs(found).max() > 3


@pytest.mark.parametrize(("x_tilts", "z_factors"), [(False, False), (True, False), (False, True)])
def test_what_the_file_may_leave_out(x_tilts: bool, z_factors: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.xf", x_tilts, None, z_factors)
    found = read_local(path, 3, FULL, 2.5)
    np.testing.assert_allclose(found.x_tilt_deg, D_X if x_tilts else 0, atol=1e-5)
    np.testing.assert_allclose(found.transform[..., :2], MATRIX, atol=1e-7)
    np.testing.assert_allclose(found.transform[..., 2], SHIFT, atol=1e-7)


def test_lengths_are_in_the_pixels_of_the_file(tmp_path: Path) -> None:
    """Solved with pixels of 5 A, applied to images of 2.5 A: everything is twice as long."""
    path = write(tmp_path / "a.xf", pixel=5.0)
    found = read_local(path, 3, FULL, 2.5)
    np.testing.assert_allclose(found.transform[..., 2], 2 * SHIFT, atol=1e-6)
    assert found.step_px.tolist() == [600, 800]


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xf")
    with pytest.raises(SeriesError, match=r"expected .* in 4 views"):
        read_local(path, 4, FULL)
    path.write_text(path.read_text().rsplit("\n", 2)[0])
    with pytest.raises(SeriesError, match="numbers, expected"):
        read_local(path, 3, FULL)
    for text in ("1 0 0 1 0 0\n", "3 2 x\n"):
        path.write_text(text)
        with pytest.raises(SeriesError, match=r"a\.xf"):
            read_local(path, 3, FULL)
    with pytest.raises(SeriesError, match="cannot be read"):
        read_local(tmp_path / "gone", 3, FULL)


def test_the_warp_moves_the_middle_plane_as_the_areas_do(areas: LocalAreas) -> None:
    """A point of the plane, seen in the image at u, moves by the turned displacement: u - warp(u)."""
    pixel, image = 2.5, np.array([720.0, 960.0])
    made = warp_of_areas(areas, STAGE, image, pixel)
    points = np.random.default_rng(2).uniform(-0.4, 0.4, (100, 3)) * [*FULL, 0]
    for view in range(3):
        a = np.deg2rad(AXIS[view])
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        seen = np.array([turn @ tilt_sees(view, *point, None) for point in points]) + OFFSET[view] + image / 2
        wanted = pixel * np.array([turn @ by_hand(view, *point) for point in points])
        u = seen / image
        inside = ((u > 0) & (u < 1)).all(1)
        moved = np.zeros_like(wanted)
        for axis, grid in enumerate((made.warp.x, made.warp.y)):
            along_y, along_x = (natural_weights(grid.values.shape[1 + i], u[:, 1 - i]) for i in (0, 1))
            moved[:, axis] = -np.einsum("py,px,yx->p", along_y, along_x, grid.values[view])
        error = np.linalg.norm(moved - wanted, axis=1)[inside]
        assert inside.sum() > 50
        # what was told of the fit, and the file's decimals
        assert error.max() < 1.2 * made.most_A + 0.01
        assert np.linalg.norm(wanted, axis=1).max() > 5 * made.most_A


def test_what_depends_on_the_depth_is_told(areas: LocalAreas) -> None:
    """Without tilts of their own areas move all depths alike."""
    assert off_plane_A(areas, STAGE, 200.0, 2.5) > 0.1
    flat = LocalAreas(
        areas.grid, areas.start_px, areas.step_px, areas.full_px, 0 * areas.tilt_deg, 0 * areas.x_tilt_deg,
        np.concatenate([np.broadcast_to(np.eye(2), (NX * NY, 3, 2, 2)), areas.transform[..., 2:]], -1),
    )  # fmt: skip
    assert off_plane_A(flat, STAGE, 200.0, 2.5) < 1e-9
