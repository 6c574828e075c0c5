"""The table of a species, written from the poses of all its series."""

from __future__ import annotations

import numpy as np

from mpr_dist.model.population import IterationFiles
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.storage.star import read_blocks
from mpr_dist.workflow.series.maps import write_particles
from mpr_dist.workflow.state.science import SpeciesInput


def some(rows, samples: int) -> Particles:
    n = len(rows)
    rng = np.random.default_rng(n)
    place = rng.uniform(100, 900, (n, samples, 3))
    return Particles(place, rng.uniform(10, 170, (n, samples, 3)), np.ones(n, np.int8), np.array(rows))


def test_series_with_different_numbers_of_temporal_samples_share_a_table(tmp_path):
    """A series that was left as it came has one sample, a refined one three: the table has three, nothing moves."""
    refined, left = some([0, 2, 4], 3), some([1, 3], 1)
    species = SpeciesInput(Species("apo", 2.0, 32, 40.0), None, IterationFiles(tmp_path, 1).species("apo"))
    write_particles(tmp_path / "particles.star", species, {"TS_01": refined, "TS_02": left})
    table = read_blocks(tmp_path / "particles.star")["particles"]
    found = np.stack([table[[f"wrpCoordinate{a}{s}" for a in "XYZ"]].to_numpy(float) for s in (1, 2, 3)], 1)
    np.testing.assert_allclose(found[[0, 2, 4]], refined.position_A, atol=1e-4)
    np.testing.assert_allclose(found[[1, 3]], np.repeat(left.position_A, 3, axis=1), atol=1e-4)
