"""A map whose pixel size is wrong is told to be too large or too small, by how much, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.cli.app import run as command
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.workflow.checking.image_scale import ScaleOfSeries, together
from mpr_dist.workflow.checking.verify_images import SpeciesImages, verify_images
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project
from mpr_dist.workflow.simulation.simulate_settings import Plant
from mpr_dist.workflow.state.create import create_population


def imported(path: Path, settings: Path, relion: Path, diameter_A: float, symmetry: str, factor: float) -> Path:
    """A population whose maps have pixels of so many times their true size in their headers."""
    create_population(path, "sizes")
    add_warp_source(path, SourceRequest("grid", settings))
    maps = path / "maps"
    maps.mkdir()
    for name in ("half1.mrc", "half2.mrc", "mask.mrc"):
        volume, pixel_A = read_volume(relion / name)
        write_volume(maps / name, volume, factor * pixel_A)
    files = maps / "half1.mrc", maps / "half2.mrc", maps / "mask.mrc", relion / "run_data.star"
    add_species(path, SpeciesRequest("particle", *files, diameter_A, symmetry))
    return path


def of_simulated(path: Path, made, factor: float) -> Path:
    return imported(path, made.files.settings, made.files.root / "relion", 128.0, made.species.symmetry, factor)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory):
    """A project that already holds the truth, so that its maps reach Nyquist."""
    settings = replace(SimulateSettings.fixture(), particles_per_series=12, plant=Plant.nothing())
    return simulate_project(tmp_path_factory.mktemp("sharp") / "p", settings)


@pytest.mark.parametrize("percent", [0.0, 1.0, -1.0])
def test_the_size_of_a_sharp_map_is_found(sharp, tmp_path, capsys, percent):
    """1 % is told with its sign and the true pixel; nothing is told where nothing is wrong."""
    pop = of_simulated(tmp_path / "pop", sharp, 1 + percent / 100)
    assert command(["population", "verify", str(pop), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (looked,) = answer["images"]
    assert looked["size"] == {0.0: "right", 1.0: "too large", -1.0: "too small"}[percent]
    assert abs(100 * looked["excess"] - percent) < max(3 * 100 * looked["excess_sigma"], 0.1)
    assert looked["better_pixel_A"] == pytest.approx(sharp.species.pixel_size_A, rel=2e-3)
    told = [one["text"] for one in answer["warnings"] if "seems to be" in one["text"]]
    assert len(told) == bool(percent)
    assert all("too large by 1." in text or "too small by 1." in text or "by 0.9 %" in text for text in told)


@pytest.mark.parametrize("percent", [0.0, 2.0, -2.0])
def test_before_refinement_errors_of_poses_are_no_scale(project, tmp_path, percent):
    """Eight particles with everything wrong that the fixture plants, and a map as blurred as that makes it."""
    (looked,) = verify_images(of_simulated(tmp_path / "pop", project, 1 + percent / 100))
    assert looked.size.startswith("too") == bool(percent)
    assert looked.excess is not None
    assert looked.excess_sigma is not None
    assert np.sign(looked.excess) == np.sign(percent) or not percent
    assert abs(looked.excess - percent / 100) < 3 * looked.excess_sigma < 0.012


@pytest.mark.slow
@pytest.mark.parametrize("percent", [0.0, 1.0, -2.0])
def test_images_of_somebody_else(shared, tmp_path, percent):
    """Maps of 12 A that another program made at poses off by 3 A and 2 degrees, with images off by up to 4 A."""
    data = shared / "data" / "apoferritin"
    pop = imported(tmp_path / "pop", data / "warp_tiltseries.settings", data / "relion", 130.0, "O", 1 + percent / 100)
    (looked,) = verify_images(pop)
    assert looked.excess is not None
    assert abs(100 * looked.excess - percent) < 0.3
    assert looked.size == {0.0: "right", 1.0: "too large", -2.0: "too small"}[percent]


def test_series_count_for_what_they_know():
    """Weights by information; the spread over the particles, or the likelihood where that is wider."""
    one = ScaleOfSeries(0.02, 1e6, np.array([1e-3, -1e-3]))
    other = ScaleOfSeries(-0.01, 2e6, np.array([0.0, 0.0]))
    found = together([one, other])
    assert found is not None
    assert found.excess == pytest.approx(0.0)
    # two pulls of 1e-3 / 3 among four particles
    assert found.sigma == pytest.approx(max(np.sqrt(2 * (1e-3 / 3) ** 2 * 4 / 3), 3e6**-0.5))
    assert together([]) is None


def test_words_of_sizes():
    """Both limits count; what cannot be told is no error."""
    seen = SpeciesImages("phantom", ("TS_01",), 20, 9.0, 5.0, pixel_A=2.0, excess=0.01, excess_sigma=0.001)
    assert seen.size == "too large"
    assert seen.better_pixel_A == pytest.approx(2.0 / 1.01)
    assert replace(seen, excess=-0.01).size == "too small"
    assert replace(seen, excess=0.004).size == "right"
    assert replace(seen, excess_sigma=0.003).size == "undecided"
    assert replace(seen, excess=None, excess_sigma=None).size == "undecided"
    assert replace(seen, particles=5).size == "undecided"
    assert "size of the map +1.00 +- 0.10 %" in seen.line
    assert "cannot be told" in replace(seen, excess=None).line
