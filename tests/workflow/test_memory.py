"""A worker needs what the plan says, and with less its images are streamed: to the same bits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_population import build_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.engine.local import LocalExecutor
from mpr_dist.errors import MprError
from mpr_dist.imaging import image_store
from mpr_dist.imaging.image_store import StreamedValues
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.storage.population import load_population
from mpr_dist.workflow.running.plan import conditions
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.state.resources import Resources
from mpr_dist.workflow.state.run_settings import RunSettings

EVERYTHING = RefineSettings(iterations=1, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)
SMALL = SimulateSettings.fixture()
# small: programs and maps; many: images and solver; large: the box
SIZES = {
    "small": SMALL,
    "many": replace(
        SMALL,
        n_series=2,
        particles_per_series=260,
        n_tilts=31,
        tilt_step_deg=3.5,
        pixel_A=3.0,
        image_px=(1200, 1200),
        box_px=64,
    ),
    "large": replace(
        SMALL, particles_per_series=100, n_tilts=31, tilt_step_deg=3.5, pixel_A=2.0, image_px=(640, 640), box_px=120
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> SimulatedProject:
    return simulate_project(tmp_path_factory.mktemp("made") / "sim", replace(SMALL, n_series=2))


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory, project: SimulatedProject) -> Population:
    return _run(build_population(tmp_path_factory.mktemp("oracle") / "pop", project), Physics())


def _run(population: Population, science: Physics, executor=None) -> Population:
    run(population.path, science, RunSettings(EVERYTHING), executor or InlineExecutor())
    return load_population(population.path)


def _results(population: Population) -> dict[str, str]:
    """Hash of every result: maps, curves, parameters, poses, standard deviations, and the sums themselves."""
    root = population.files(1).root
    paths = [p for p in sorted(root.rglob("*")) if p.suffix in (".xml", ".star", ".mrc") or ".zarr/" in str(p)]
    return {str(p.relative_to(root)): sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}


@pytest.mark.parametrize("particles_per_block", [1, 3])
def test_streamed_has_the_same_bits(
    tmp_path: Path,
    project: SimulatedProject,
    in_memory: Population,
    monkeypatch: pytest.MonkeyPatch,
    particles_per_block: int,
) -> None:
    made: list[StreamedValues] = []

    class Counted(StreamedValues):
        def __init__(self, shape: image_store.Shape, directory: Path | None = None) -> None:
            monkeypatch.setattr(
                image_store, "STREAM_BYTES", particles_per_block * image_store.values_bytes((1, *shape[1:]))
            )
            super().__init__(shape, directory)
            made.append(self)

    monkeypatch.setattr(image_store, "StreamedValues", Counted)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    streamed = _run(build_population(tmp_path / "pop", project), Physics(resources=Resources(1, scratch)))
    assert [each.shape[:2] for each in made] == [(8, 7)] * 4  # to refine and to back-project, two series
    assert _results(streamed) == _results(in_memory)
    assert "species/phantom/half1.mrc" in _results(streamed)
    assert list(scratch.iterdir()) == []


def test_workers_stream_too(tmp_path: Path, project: SimulatedProject, in_memory: Population) -> None:
    executor = LocalExecutor(2)
    try:
        science = Physics(resources=Resources(1, tmp_path))
        population = _run(build_population(tmp_path / "pop", project), science, executor)
    finally:
        executor.close()
    assert _results(population) == _results(in_memory)


def test_a_scratch_directory_that_cannot_be_used_is_named(tmp_path: Path, project: SimulatedProject) -> None:
    science = Physics(resources=Resources(1, tmp_path / "nowhere"))
    with pytest.raises(MprError, match=r"nowhere cannot be used .* give another one with --scratch"):
        _run(build_population(tmp_path / "pop", project), science)


def test_resources_are_no_part_of_what_was_asked(tmp_path: Path, project: SimulatedProject) -> None:
    """A run that was begun with plenty of memory is finished with little."""
    population = build_population(tmp_path / "pop", project)
    text = _run(population, Physics(resources=Resources(1, tmp_path))).files(1).settings.read_text()
    assert "memory" not in text
    assert "scratch" not in text


def test_the_plan_reads_the_defocus(in_memory: Population) -> None:
    known = conditions(in_memory)
    assert known.defocus_um == pytest.approx(SMALL.defocus_um, abs=0.5)
    assert known.image_px == SMALL.image_px


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_peak_of_a_worker_is_what_the_plan_says(tmp_path: Path, name: str) -> None:
    """Within 20 %, with images in memory and, where they are most of it, in scratch files."""
    population = build_population(tmp_path / "pop", simulate_project(tmp_path / "sim", SIZES[name]))
    # the plan counts images up to Nyquist, which the first reference is far from
    predicted, peak, streamed = _measure(population, 0, iterations=2 if name == "many" else 1)
    assert streamed == 0
    assert abs(peak / predicted - 1) < 0.2, f"{name}: predicted {predicted >> 20} MiB, needed {peak >> 20} MiB"
    if name == "many":
        limit = int(0.9 * predicted)
        less, peak, streamed = _measure(population, limit)
        assert streamed == 2
        assert less <= limit
        assert abs(peak / less - 1) < 0.2, f"streamed: predicted {less >> 20} MiB, needed {peak >> 20} MiB"


def _measure(population: Population, limit: int, iterations: int = 1) -> tuple[int, int, int]:
    script = Path(__file__).with_name("memory_run.py")
    command = [sys.executable, str(script), str(population.path), str(limit), str(iterations)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    predicted, peak, streamed, _ = (int(word) for word in result.stdout.split()[-4:])
    print(f"predicted {predicted >> 20} MiB, peak {peak >> 20} MiB, streamed {streamed}")  # pytest -s shows it
    return predicted, peak, streamed
