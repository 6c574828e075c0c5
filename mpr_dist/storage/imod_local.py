"""The file of local alignments that tiltalign of IMOD writes and tilt reads (LOCALFILE in tilt.com).

A line with the grid: areas along x and y, x and y of the first, steps along x and y; then may come whether there are x
tilts, the pixel size, and whether there are z factors. For every area, x fastest: tilts to be added in all views, x
tilts and pairs of z factors where there are any, and a line A11 A12 A21 A22 DX DY per view. Source: tilt itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.model.local_areas import LocalAreas
from mpr_dist.units import F64


def read_local(path: Path, n_views: int, full_px: tuple[int, int], stack_pixel_A: float = 0.0) -> LocalAreas:
    """Read the areas of all views.

    Args:
        full_px: size of the aligned images.
        stack_pixel_A: of their header, 0 where it is not known. Where the file says another pixel, its lengths are
            brought to this one, as tilt does.

    Raises:
        SeriesError: unreadable, not such a file, or not of so many views.
    """
    head, rest = _numbers(path)
    if len(head) < 6 or min(head[:2]) < 2 or min(head[4:6]) <= 0:
        raise SeriesError(f"{path}: the first line must say a grid of 2 x 2 areas or more, and its steps")
    nx, ny = round(head[0]), round(head[1])
    has_x_tilts, own_pixel_A, has_z = (head[i] if len(head) > i else 0.0 for i in (6, 7, 8))
    parts = [n_views] * (2 if has_x_tilts else 1) + ([2 * n_views] if has_z else []) + [6 * n_views]
    if len(rest) != nx * ny * sum(parts):
        raise SeriesError(
            f"{path}: {len(rest)} numbers, expected {nx * ny * sum(parts)} for {nx} x {ny} areas in {n_views} views"
        )
    areas = np.split(rest.reshape(nx * ny, -1), np.cumsum(parts)[:-1], axis=1)
    scale = own_pixel_A / stack_pixel_A if own_pixel_A > 0 and stack_pixel_A > 0 else 1.0
    rows = areas[-1].reshape(nx * ny, n_views, 6)
    transform = np.concatenate([rows[..., :4].reshape(nx * ny, n_views, 2, 2), scale * rows[..., 4:, None]], axis=-1)
    return LocalAreas(
        grid=(nx, ny),
        start_px=scale * head[2:4],
        step_px=scale * head[4:6],
        full_px=np.array(full_px, np.float64),
        tilt_deg=areas[0],
        x_tilt_deg=areas[1] if has_x_tilts else np.zeros((nx * ny, n_views)),
        transform=transform,
    )


def _numbers(path: Path) -> tuple[F64, F64]:
    """Of the first line, and of all others."""
    try:
        first, *others = Path(path).read_text("utf-8-sig").splitlines()
        return np.array(first.split(), np.float64), np.array(" ".join(others).split(), np.float64)
    except OSError as error:
        raise SeriesError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SeriesError(f"{path}: holds something that is no number ({error})") from error
