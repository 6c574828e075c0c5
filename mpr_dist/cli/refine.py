"""mpr-dist refine, reconstruct, plan"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mpr_dist.cli import options as o

if TYPE_CHECKING:
    from mpr_dist.model.settings import RefineSettings
    from mpr_dist.workflow.launch import Outcome

Restart = Annotated[bool, typer.Option("--restart", help="Discard an unfinished iteration instead of continuing it.")]
_REFINE = "POP --iterations 4 --image-warp 6x4 --particles --stage-angles --defocus"
FAILED_SERIES = 3
# options that carry the name of a setting, and options that set a prior
GIVEN = (
    "iterations",
    "particles",
    "stage_angles",
    "defocus",
    "first_iteration_fraction",
    "max_passes",
    "min_particles",
)
PRIORS = {
    "prior_image_warp": "image_warp_A",
    "prior_stage_angles": "stage_angle_deg",
    "prior_positions": "position_A",
    "prior_orientations": "orientation_deg",
    "prior_defocus": "defocus_A",
}


def register(app: typer.Typer) -> None:
    app.command(epilog=o.examples(f"mpr-dist plan {_REFINE}"))(plan)
    app.command(
        epilog=o.examples(
            f"mpr-dist refine {_REFINE}",
            f"mpr-dist refine {_REFINE} --engine local --workers 8",
            "mpr-dist refine POP --settings refine.toml --iterations 2",
        )
    )(refine)
    app.command(epilog=o.examples("mpr-dist reconstruct POP"))(reconstruct)


def plan(
    context: typer.Context,
    directory: o.PopulationDir,
    iterations: o.Iterations = None,
    image_warp: o.ImageWarp = None,
    particles: o.PoseFlag = None,
    stage_angles: o.StageFlag = None,
    defocus: o.DefocusFlag = None,
    settings: o.SettingsFile = None,
    first_iteration_fraction: o.Fraction = None,
    max_passes: o.MaxPasses = None,
    min_particles: o.MinParticles = None,
    prior_image_warp: o.PriorWarp = None,
    prior_stage_angles: o.PriorStage = None,
    prior_positions: o.PriorPosition = None,
    prior_orientations: o.PriorOrientation = None,
    prior_defocus: o.PriorDefocus = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    threads: o.Threads = 1,
) -> None:
    """Show what refine would do with the same options: stages, batches, memory, files. Changes nothing."""
    from mpr_dist.workflow.launch import EngineChoice, plan_population
    from mpr_dist.workflow.resources import available_memory

    asked = _asked(context)
    planned = plan_population(directory, asked, EngineChoice(engine, workers, threads))
    o.say([str(planned)])
    planned.check(available_memory())


def refine(
    context: typer.Context,
    directory: o.PopulationDir,
    iterations: o.Iterations = None,
    image_warp: o.ImageWarp = None,
    particles: o.PoseFlag = None,
    stage_angles: o.StageFlag = None,
    defocus: o.DefocusFlag = None,
    settings: o.SettingsFile = None,
    first_iteration_fraction: o.Fraction = None,
    max_passes: o.MaxPasses = None,
    min_particles: o.MinParticles = None,
    prior_image_warp: o.PriorWarp = None,
    prior_stage_angles: o.PriorStage = None,
    prior_positions: o.PriorPosition = None,
    prior_orientations: o.PriorOrientation = None,
    prior_defocus: o.PriorDefocus = None,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    threads: o.Threads = 1,
    restart: Restart = False,
) -> None:
    """Refine: in every iteration new references, all tilt series against them, and new half-maps.

    Starts from the iteration in force and adds iterations to it; nothing is overwritten. Ctrl-C finishes the series at
    hand; the same command continues. Options win over --settings.
    """
    from mpr_dist.workflow.launch import EngineChoice, refine_population

    asked = _asked(context)
    _end(refine_population(directory, asked, EngineChoice(engine, workers, threads), restart))


def reconstruct(
    directory: o.PopulationDir,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    threads: o.Threads = 1,
    restart: Restart = False,
) -> None:
    """Make new half-maps from the parameters as they are, without refining any."""
    from mpr_dist.model.settings import RefineSettings
    from mpr_dist.workflow.launch import EngineChoice, refine_population

    settings = RefineSettings(iterations=1)
    _end(refine_population(directory, settings, EngineChoice(engine, workers, threads), restart))


def _asked(context: typer.Context) -> RefineSettings:
    """The settings that the options of refine and plan ask for; both commands name them alike."""
    from mpr_dist.workflow.run_options import parse_grid, refine_settings

    options = context.params
    given = {name: options[name] for name in GIVEN} | {"image_warp": parse_grid(options["image_warp"])}
    priors = {prior: options[name] for name, prior in PRIORS.items()}
    return refine_settings(options["settings"], given, priors)


def _end(outcome: Outcome) -> None:
    o.say(outcome.lines)
    if outcome.failed:
        raise typer.Exit(FAILED_SERIES)
