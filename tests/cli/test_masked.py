"""Dirt that is masked has no part in a refinement."""

from __future__ import annotations

import numpy as np
import tifffile

from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses

NAME, MASKED, SHAPE = "TS_01", 2, (192, 208)


def test_what_a_mask_covers_does_not_matter(own_project, mpr, add_source, add_species, tmp_path):
    """Two projects that differ only under the mask of one tilt are refined to the same bits, from masks of Warp."""
    average = own_project / "warp_frameseries" / "average" / f"{NAME}_{MASKED:03d}.mrc"
    mask = average.parent.parent / "mask" / f"{NAME}_{MASKED:03d}.tif"
    mask.parent.mkdir()
    image = read_volume(average)[0]
    rows, _ = np.indices(SHAPE)
    covered = rows >= 120
    tifffile.imwrite(mask, covered[::-1].astype("f4"))  # last row first
    found = []
    for dirt in (0.0, 3e4):
        write_volume(average, np.where(covered & (dirt > 0), dirt, image).astype(np.float32), 4.0)
        pop = tmp_path / "pop"
        added = add_source(own_project)
        assert "Masks: 1 tilt of 1 series have dirt masked" in added.out
        assert add_species(own_project).code == 0
        done = mpr("refine", pop, "--iterations", 1, "--particles", "--defocus", "--engine", "inline")
        assert done.code == 0, done.err
        files = load_population(pop).files(1)
        found.append((files.series(NAME).poses.read_bytes(), files.species("phantom").half1.read_bytes()))
        poses = read_poses(files.series(NAME).poses)["phantom"]
        pop.rename(tmp_path / f"pop_{dirt:g}")
    assert found[0] == found[1]
    assert len(poses) == 8
