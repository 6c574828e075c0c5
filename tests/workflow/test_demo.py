"""The demonstration, at the size of the fixture."""

from __future__ import annotations

import pytest

from mpr_dist.errors import InputError
from mpr_dist.workflow.running.launch import EngineChoice
from mpr_dist.workflow.simulation.demo import demo_settings, run_demo
from mpr_dist.workflow.simulation.simulate import SimulateSettings


def test_demo_improves_and_tells(tmp_path):
    said: list[str] = []
    directory = tmp_path / "demo"
    result = run_demo(directory, demo_settings(1), SimulateSettings.fixture(), EngineChoice("inline"), said.append)
    start, end = result.maps
    assert end.mean_truth_fsc > start.mean_truth_fsc
    before, after = result.errors
    assert after.position_A[0] < before.position_A[0]
    text = "\n".join(result.lines)
    for words in ("resolution", "position error", "view error", "defocus error", "report.html", "map.mrc"):
        assert words in text
    assert any("Coordinates" in line for line in said)
    with pytest.raises(InputError, match="not an empty folder"):
        run_demo(directory, demo_settings(1))


def test_workers():
    """No more workers than series, never fewer than one; nothing else than one inline."""
    assert EngineChoice("inline").workers_for(9) == 1
    assert EngineChoice("local", 3).workers_for(1) == 3
    assert EngineChoice("local").workers_for(1) == 1
    with pytest.raises(InputError):
        EngineChoice("inline", 2)
