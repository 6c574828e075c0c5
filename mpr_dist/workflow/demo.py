"""The demonstration: a simulated project, refined by the same functions that a user's commands call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpr_dist.errors import InputError
from mpr_dist.model.settings import RefineSettings
from mpr_dist.workflow.create import create_population
from mpr_dist.workflow.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.launch import EngineChoice, Outcome, refine_population
from mpr_dist.workflow.recovery import PARTS, MapQuality, ParameterErrors, map_quality, parameter_errors
from mpr_dist.workflow.simulate import Progress, SimulatedProject, SimulateSettings, simulate_project

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
    _import(path, made, say)
    outcome = refine_population(path, refine, engine)
    return _compare(path, outcome, made, start)


def _import(path: Path, made: SimulatedProject, say: Say) -> None:
    create_population(path, "demo")
    source = add_warp_source(path, SourceRequest("simulated", made.files.settings))
    half1, half2 = made.half_maps
    species = made.species
    request = SpeciesRequest(
        SPECIES, half1, half2, made.mask, made.files.run_data, float(species.diameter_A), species.symmetry
    )
    for line in [*source.lines, *add_species(path, request).lines]:
        say(line)


def _compare(path: Path, outcome: Outcome, made: SimulatedProject, start: float) -> DemoResult:
    population = outcome.population
    density, last = made.truth / "density.mrc", population.iteration
    first, final = (map_quality(population, number, density, SPECIES) for number in (0, last))
    before, after = (parameter_errors(population, number, made.truth, SPECIES) for number in (0, last))
    return DemoResult(path, last, (first, final), (before, after), time.monotonic() - start)
