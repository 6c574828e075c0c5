"""Poses come back to the last bit, species by species."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.model.pose import Particles
from mpr_dist.storage.poses import read_poses, write_poses


def _particles(n: int, seed: int) -> Particles:
    rng = np.random.default_rng(seed)
    half = rng.integers(1, 3, n).astype(np.int8)
    return Particles(rng.uniform(0, 4000, (n, 3)), rng.uniform(-180, 180, (n, 3)), half, 3 * np.arange(n))


def test_round_trip_is_exact(tmp_path: Path) -> None:
    written = {"apo": _particles(7, 1), "15": _particles(4, 2)}
    write_poses(tmp_path / "a.poses.star", written)
    found = read_poses(tmp_path / "a.poses.star")
    assert list(found) == ["apo", "15"]
    for name, particles in written.items():
        for attribute in ("position_A", "angles_deg", "half", "row"):
            np.testing.assert_array_equal(getattr(found[name], attribute), getattr(particles, attribute))
        assert found[name].half.dtype == np.int8


def test_nothing_is_no_particles(tmp_path: Path) -> None:
    assert read_poses(tmp_path / "none.star") == {}
    write_poses(tmp_path / "a.star", {"apo": _particles(0, 1)})
    assert read_poses(tmp_path / "a.star") == {}


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    write_poses(path, {"apo": _particles(2, 1)})
    path.write_text(path.read_text().replace("mprSpeciesName", "other"))
    with pytest.raises(SeriesError, match="mprSpeciesName"):
        read_poses(path)
    with pytest.raises(InputError, match="not a finite number"):
        write_poses(
            path, {"apo": Particles(np.full((1, 3), np.nan), np.zeros((1, 3)), np.ones(1, np.int8), np.zeros(1))}
        )
