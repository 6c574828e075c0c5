"""Settings from a file and from options."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpr_dist.errors import InputError
from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.storage.population import write_table
from mpr_dist.workflow.running.run_options import parse_grid, refine_settings
from mpr_dist.workflow.state.run_settings import RunSettings


def test_options_win_over_the_file(tmp_path):
    file = tmp_path / "refine.toml"
    file.write_text('iterations = 7\nimage_warp = "6x4"\ndefocus = true\n[priors]\nposition_A = 2\n')
    found = refine_settings(file, {"iterations": 2, "particles": None}, {"defocus_A": 100.0})
    expected = RefineSettings(2, image_warp=(6, 4), defocus=True, priors=Priors(position_A=2.0, defocus_A=100.0))
    assert replace(found, priors_by_hand=()) == expected
    assert set(found.priors_by_hand) == {"position_A", "defocus_A"}


def test_settings_of_an_iteration_can_be_used_again(tmp_path):
    asked = RefineSettings(4, image_warp=(3, 2), particles=True, priors=Priors(position_A=1.5))
    write_table(tmp_path / "settings.toml", RunSettings(asked).table("science", is_first=True))
    assert refine_settings(tmp_path / "settings.toml", {}, {}) == asked


@pytest.mark.parametrize(
    "text",
    ["itrations = 3", "iterations = 2.5", "particles = 1", "image_warp = [6]", "priors = 3", "a = ", "refine = 1"],
)
def test_mistakes_in_a_file(text, tmp_path):
    (tmp_path / "refine.toml").write_text(text)
    with pytest.raises(InputError, match=r"refine\.toml"):
        refine_settings(tmp_path / "refine.toml", {"defocus": True}, {})


def test_grids() -> None:
    assert parse_grid("6x4", "image_warp", 2) == (6, 4)
    assert parse_grid(" 3 × 2x1X10", "volume_warp", 4) == (3, 2, 1, 10)
    for bad in ("6", "6x", "ax4", "6x4x2", "-6x4"):
        with pytest.raises(InputError, match="6x4"):
            parse_grid(bad, "image_warp", 2)


def test_texts_of_options_become_values() -> None:
    asked = refine_settings(None, {"volume_warp": "2x2x1x10", "aberrations": "3, 2", "cs": True}, {"cs_mm": 0.2})
    assert (asked.volume_warp, asked.aberrations, asked.cs, asked.priors.cs_mm) == ((2, 2, 1, 10), (2, 3), True, 0.2)
    for bad in ({"volume_warp": "2x2x1x1"}, {"aberrations": "6"}, {"aberrations": "x"}, {"ewald": "up", "cs": True}):
        with pytest.raises(InputError):
            refine_settings(None, bad, {})
