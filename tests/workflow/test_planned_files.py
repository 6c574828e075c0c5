"""The number of files that a plan names is the number of files that a run leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.engine.choice import EngineChoice
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.accumulators import Manifest, file_count, write_partial
from mpr_dist.storage.ome_zarr import file_count as zarr_files
from mpr_dist.storage.ome_zarr import write_ome_zarr
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.running.launch import plan_population
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project
from mpr_dist.workflow.state.run_settings import RunSettings

FIXTURE = SimulateSettings.fixture()


def files_below(path: Path) -> int:
    return sum(each.is_file() for each in path.rglob("*"))


def test_a_plan_names_as_many_files_as_a_run_leaves(project, tmp_path):
    """After a refinement, and after one of nothing, which leaves no uncertainty.star."""
    import_simulated(tmp_path / "pop", project, "plan")
    counts = []
    for number, asked in enumerate((RefineSettings(1, image_warp=(1, 1), particles=True), RefineSettings(1)), start=1):
        planned = plan_population(tmp_path / "pop", asked, EngineChoice("inline"))
        run(tmp_path / "pop", Physics(), RunSettings(asked), InlineExecutor())
        counts.append(files_below(load_population(tmp_path / "pop").files(number).root))
        assert planned.files_per_iteration == counts[-1]
        assert f"files        {counts[-1]} per iteration" in str(planned)
    assert counts[0] == counts[1] + 1


def test_new_averages_are_files_too(tmp_path):
    """An average and its XML per tilt."""
    project = simulate_project(tmp_path / "project", replace(FIXTURE, frames=2, particles_per_series=4))
    import_simulated(tmp_path / "pop", project, "movies")
    asked = RefineSettings(1, tilt_movies=True, movie_motion=None)
    planned = plan_population(tmp_path / "pop", asked, EngineChoice("inline"))
    run(tmp_path / "pop", Physics(), RunSettings(asked), InlineExecutor())
    root = load_population(tmp_path / "pop").files(1).root
    assert files_below(root / "movies") > 0
    assert planned.files_per_iteration == files_below(root)


@pytest.mark.parametrize("shape", [(64, 64, 64), (130, 130, 130), (300, 70, 130)])
def test_files_of_maps(shape, tmp_path):
    """Counted from the shape, for boxes of one chunk and of more, of one level and of more."""
    rng = np.random.default_rng(1)
    maps = {name: rng.normal(size=shape).astype(np.float32) for name in "ab"}
    write_ome_zarr(tmp_path / "map.zarr", "map", maps, 2.0)
    assert files_below(tmp_path / "map.zarr") == zarr_files(shape, 2)


def test_files_of_accumulators(tmp_path):
    """Several slabs."""
    shape = (60, 128, 128)
    sums = {"a": np.random.default_rng(1).integers(1, 9, (2, *shape, 3))}
    name, _ = write_partial(tmp_path, Manifest({}, 28, "x", "1", {"a": shape}), sums)
    assert files_below(tmp_path / name) == file_count(shape) > 4
