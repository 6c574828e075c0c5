"""The demonstration: a simulated project, refined by the same functions that a user's commands call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpr_dist.errors import InputError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.running.launch import EngineChoice, Outcome, refine_population
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import PARTS, MapQuality, ParameterErrors, map_quality, parameter_errors
from mpr_dist.workflow.simulation.simulate import Progress, SimulatedProject, SimulateSettings, simulate_project

SPECIES = "phantom"
Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """Start and end, against the truth that the simulation planted."""

    population: Path
    iteration: int
    maps: tuple[MapQuality, MapQuality]
    errors: tuple[ParameterErrors, ParameterErrors]
    seconds: float

    @property
    def lines(self) -> list[str]:
        start, end = self.maps
        rows = [
            ("", "start", "end"),
            ("resolution, half-maps (FSC 0.143), A", f"{start.half_maps_A:.2f}", f"{end.half_maps_A:.2f}"),
            ("resolution, map and truth (FSC 0.5), A", f"{start.truth_A:.2f}", f"{end.truth_A:.2f}"),
            ("mean FSC of map and truth", f"{start.mean_truth_fsc:.3f}", f"{end.mean_truth_fsc:.3f}"),
        ]
        for what, name, digits in (
            ("position error per axis, A", "position_A", 2),
            ("view error, degrees", "view_deg", 2),
            ("defocus error, A", "defocus_A", 0),
        ):
            before, after = (getattr(errors, name) for errors in self.errors)
            rows += [
                (f"{what}, {part}", f"{b:.{digits}f}", f"{a:.{digits}f}")
                for part, b, a in zip(PARTS, before, after, strict=True)
            ]
        directory = self.population / "iterations" / f"{self.iteration:03d}"
        table = [f"  {what:<58}{b:>8}{a:>8}" for what, b, a in rows]
        return [
            *table,
            f"report  {directory / 'report.html'}",
            f"map     {directory / 'species' / SPECIES / 'map.mrc'}",
            f"all of it took {self.seconds:.0f} s",
        ]


def demo_settings(iterations: int) -> RefineSettings:
    """A warp as coarse as 30 particles per series can support, and everything else."""
    return RefineSettings(iterations, image_warp=(3, 3), particles=True, stage_angles=True, defocus=True)


def everything_settings(iterations: int) -> RefineSettings:
    """What the preset "everything" of the simulation plants, in grids that its 40 particles per series can support."""
    return RefineSettings(
        iterations,
        image_warp=(4, 4),
        volume_warp=(2, 2, 1, 4),
        particles=True,
        temporal_samples=2,
        stage_angles=True,
        defocus=True,
        astigmatism=True,
        cs=True,
        aberrations=(3,),
        magnification=True,
    )


def run_demo(
    directory: Path,
    refine: RefineSettings,
    simulated: SimulateSettings | None = None,
    engine: EngineChoice | None = None,
    say: Say = print,
    progress: Progress | None = None,
) -> DemoResult:
    """Simulate, import, refine and compare, all below ``directory`` (new or empty).

    Raises:
        InputError: the directory is in use.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: is not an empty folder; give a new one: mpr-dist demo DIR")
    start = time.monotonic()
    made = simulate_project(directory / "project", simulated or SimulateSettings.demo(), progress)
    say(f"simulated {len(made.series)} tilt series in {made.files.root}, with the truth in {made.truth}")
    path = directory / "population"
    for line in import_simulated(path, made, "demo"):
        say(line)
    outcome = refine_population(path, refine, engine)
    return _compare(path, outcome, made, start)


def _compare(path: Path, outcome: Outcome, made: SimulatedProject, start: float) -> DemoResult:
    population = outcome.population
    density, last = made.truth / "density.mrc", population.iteration
    first, final = (map_quality(population, number, density, SPECIES) for number in (0, last))
    before, after = (parameter_errors(population, number, made.truth, SPECIES) for number in (0, last))
    return DemoResult(path, last, (first, final), (before, after), time.monotonic() - start)
