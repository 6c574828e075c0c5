"""M's particle table as M writes it: one block without a name, five decimals, no quotes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.model.pose import Particles
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.poses import HALF, angle_names, coordinate_names
from mpr_dist.units import F64

if TYPE_CHECKING:
    import pandas as pd

SOURCE_NAME, SOURCE_HASH = "wrpSourceName", "wrpSourceHash"
NOTHING = "null"
_POSE = re.compile(r"wrp(Coordinate[XYZ]|Angle(Rot|Tilt|Psi))\d+")


def continuous(angles_deg: F64) -> F64:
    """(..., samples, 3) Euler angles of the same rotations, without jumps from one sample to the next.

    M interpolates each angle for itself. Rotations have two sets of angles besides whole turns: (rot, tilt, psi) and
    (rot + 180, -tilt, psi + 180); the one nearer to the sample before is taken.
    """
    out = np.array(angles_deg, np.float64)
    for k in range(1, out.shape[-2]):
        before = out[..., k - 1, :]
        same = _near(out[..., k, :], before)
        other = _near(out[..., k, :] * (1, -1, 1) + (180, 0, 180), before)
        far = np.abs(other - before).sum(-1) < np.abs(same - before).sum(-1) - 1e-6
        out[..., k, :] = np.where(far[..., None], other, same)
    return out


def _near(angles: F64, before: F64) -> F64:
    return np.asarray(angles - 360.0 * np.rint((angles - before) / 360.0))


def write_m_table(
    path: Path, particles: Particles, names: Sequence[str], hashes: Sequence[str], others: pd.DataFrame
) -> tuple[str, ...]:
    """Write a table of M.

    Args:
        names, hashes: (particles,) of the series of each; an empty hash is written as "null".
        others: (particles, ...) columns to pass through; what is said by the other arguments is left out.

    Returns the names of columns that M's parser could not read, because they hold blanks; they are not written.

    Raises:
        InputError: a pose is not finite, or the file cannot be written.
    """
    if not (np.isfinite(particles.position_A).all() and np.isfinite(particles.angles_deg).all()):
        raise InputError(f"{path}: particles hold NaN or infinite values; not written")
    angles = continuous(particles.angles_deg)
    columns: dict[str, list[str]] = {}
    for of, values in ((coordinate_names, particles.position_A), (angle_names, angles)):
        for sample in range(particles.n_samples):
            columns |= {name: _fixed(values[:, sample, i]) for i, name in enumerate(of(sample + 1))}
    columns[HALF] = [str(int(half)) for half in particles.half]
    columns[SOURCE_NAME] = [f"{name}.tomostar" for name in names]
    columns[SOURCE_HASH] = [each or NOTHING for each in hashes]
    kept, unreadable = plain_columns(others, set(columns))
    write_plain_table(path, columns | kept)
    return unreadable


def plain_columns(others: pd.DataFrame, without: set[str]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Columns to pass through, as text, but for poses of M and those of ``without``; and the names of columns that
    Warp's parser could not read, because they hold blanks."""
    kept: dict[str, list[str]] = {}
    unreadable = []
    for name in others.columns:
        if name in without or _POSE.fullmatch(name) or name == HALF:
            continue
        texts = [_plain(value) for value in others[name].tolist()]
        if any(text.split() != [text] for text in texts):
            unreadable.append(str(name))
        else:
            kept[str(name)] = texts
    return kept, tuple(unreadable)


def write_plain_table(path: Path, columns: dict[str, list[str]]) -> None:
    """One block without a name, columns aligned: all that Warp's parser understands."""
    widths = [max((len(text) for text in texts), default=0) for texts in columns.values()]
    lines = ["", "data_", "", "loop_", *(f"_{name} #{i}" for i, name in enumerate(columns, 1))]
    for row in zip(*columns.values(), strict=True):
        lines.append("  " + "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))
    write_atomically(path, ["\n".join([*lines, ""]).encode()])


def _fixed(values: F64) -> list[str]:
    return [f"{value:.5f}" for value in values]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return repr(value)
    return str(value) or NOTHING
