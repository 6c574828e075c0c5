"""mpr-dist refine, reconstruct, plan"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpr_dist.cli import options as o
from mpr_dist.cli.engine_options import certificates, engine_asked, memory, placement
from mpr_dist.cli.refine_options import refinement, settings_asked
from mpr_dist.cli.shared import with_options
from mpr_dist.errors import InputError

if TYPE_CHECKING:
    from mpr_dist.workflow.running.launch import Outcome

Restart = Annotated[bool, typer.Option("--restart", help="Discard an unfinished iteration instead of continuing it.")]
Ewald = Annotated[
    str | None,
    typer.Option(metavar="off|on|reversed", help="Curved Ewald sphere, and its hand. [default: as before]"),
]
MaxFailed = Annotated[
    float, typer.Option(metavar="FRACTION", help="Stop when more than this share of the tilt series failed, 0 to 1.")
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="SERIES", help="Leave this series out of the iteration in force; repeatable."),
]
Added = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="SERIES", help="Add this series to the iteration in force; repeatable."),
]
TiltMovies = Annotated[
    bool,
    typer.Option("--tilt-movies", help="First average the movies again, along the motion that is known of each."),
]
_REFINE = "POP --iterations 4 --image-warp 6x4 --particles --stage-angles --defocus"
Stacks = Annotated[
    Path | None,
    typer.Option("--relion-stacks", help="optimisation_set.star with 2D particle stacks, of RELION or Warp."),
]
EngineFile = Annotated[
    Path | None, typer.Option("--settings", help="TOML file with a table [engine] that says where to run.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print plan, batches and the job script, and end; nothing is submitted."),
]
FAILED_SERIES = 3


def register(app: typer.Typer) -> None:
    app.command(epilog=o.examples(f"mpr-dist plan {_REFINE}", "mpr-dist plan POP --protocol auto"))(plan)
    app.command(
        epilog=o.examples(
            f"mpr-dist refine {_REFINE}",
            "mpr-dist refine POP --iterations 4 --protocol auto",
            f"mpr-dist refine {_REFINE} --engine local --workers 8",
            "mpr-dist refine POP --iterations 1 --tilt-movies --image-warp 6x4 --particles",
            "mpr-dist refine POP --settings refine.toml --iterations 2",
            f"mpr-dist refine {_REFINE} --engine cuda --gpus 0,1",
            "mpr-dist refine POP --settings slurm.toml --workers 16 --dry-run",
            f"mpr-dist refine {_REFINE} --scheduler-file scheduler.json",
        )
    )(refine)
    lines = (
        "mpr-dist reconstruct POP",
        "mpr-dist reconstruct POP --without TS_07",
        "mpr-dist reconstruct --relion-stacks optimisation_set.star --out maps --symmetry C6",
    )
    app.command(epilog=o.examples(*lines))(reconstruct)
    app.command(epilog=o.examples("mpr-dist weights POP --by tilt", "mpr-dist weights POP --by position"))(weights)


@with_options(refinement, placement, memory, certificates)
def plan(
    context: typer.Context,
    directory: o.PopulationDir,
) -> None:
    """Show what refine would do with the same options: stages, batches, memory, files. Changes nothing."""
    from mpr_dist.workflow.running.launch import check_memory, idle_words, plan_population, refusal

    choice = engine_asked(context)
    asked = settings_asked(context)
    idle = idle_words(directory, asked)
    if idle:
        o.say([idle])
        return
    planned = plan_population(directory, asked, choice)
    o.say([str(planned), *refusal(directory, asked, choice, planned)])
    check_memory(planned, choice)


@with_options(refinement, placement, memory, certificates)
def refine(
    context: typer.Context,
    directory: o.PopulationDir,
    dry_run: DryRun = False,
    restart: Restart = False,
    max_failed: MaxFailed = 0.5,
) -> None:
    """Refine: in every iteration new references, all tilt series against them, and new half-maps.

    Starts from the iteration in force and adds iterations to it; nothing is overwritten. Ctrl-C finishes the series at
    hand; the same command continues. Options win over --settings. A prior is the standard deviation that is expected
    of a parameter around its imported value. A batch script that may be submitted again says --until N: it ends with
    iteration N, wherever it was interrupted.

    With --protocol auto nothing else need be chosen: a class is refined where its expected standard deviation, beside
    all others, is well below its prior. So are weights of tilts (--weights tilt), unless --weights says otherwise. The
    report says in a table what was released, and why.

    With --engine slurm every job holds [engine.job] gpus cards and runs a worker per card; jobs that die or are
    preempted are replaced. While it runs, mpr-dist worker POP adds a machine to it.
    """
    from mpr_dist.workflow.running.dry_run import dry_run as describe
    from mpr_dist.workflow.running.launch import refine_population

    asked, choice = settings_asked(context), engine_asked(context)
    if dry_run:
        o.say(describe(directory, asked, choice))
    else:
        _end(refine_population(directory, asked, choice, restart, max_failed))


@with_options(placement, memory, certificates)
def reconstruct(
    context: typer.Context,
    directory: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Directory of the population.")] = None,
    without: Without = None,
    added: Added = None,
    relion_stacks: Stacks = None,
    out: Annotated[Path | None, typer.Option(help="Of --relion-stacks: new or empty folder for the maps.")] = None,
    symmetry: Annotated[str, typer.Option(help="Of --relion-stacks: point group with RELION's names and axes.")] = "C1",
    json: o.AsJson = False,
    ewald: Ewald = None,
    tilt_movies: TiltMovies = False,
    settings: EngineFile = None,
    restart: Restart = False,
    max_failed: MaxFailed = 0.5,
) -> None:
    """Make new half-maps from the parameters as they are, without refining any.

    With --without or --with only these tilt series are back-projected, and taken out of or added to the sums of the
    iteration in force. That is exact: the maps have the bits of a run that never had, or always had, them. The next
    refine works on all tilt series again.

    With --relion-stacks no population is needed: half-maps are made straight from the 2D particle stacks of RELION 5 or
    Warp (premultiplied by CTFs or not; all tilts in a stack, or visible ones alone), to check an import beforehand.
    """
    from mpr_dist.model.settings import RefineSettings
    from mpr_dist.workflow.running.change import Change
    from mpr_dist.workflow.running.launch import change_population, refine_population
    from mpr_dist.workflow.state.run_settings import ewald_in_force

    if relion_stacks is not None:
        _stacks(relion_stacks, directory, out, symmetry, json)
        return
    if directory is None or out is not None or json:
        raise InputError("give a population, or --relion-stacks with --out; --out and --json belong to --relion-stacks")
    chosen = engine_asked(context)
    if without or added:
        if tilt_movies:
            raise InputError("--tilt-movies makes all averages again; leave --with and --without out")
        if ewald is not None:
            raise InputError("--with and --without take the Ewald sphere of the iteration in force; leave --ewald out")
        _end(change_population(directory, Change(tuple(without or ()), tuple(added or ())), chosen, restart))
    else:
        sphere = ewald or ewald_in_force(directory)
        settings_now = RefineSettings(iterations=1, ewald=sphere, tilt_movies=tilt_movies, movie_motion=None)
        _end(refine_population(directory, settings_now, chosen, restart, max_failed))


def _stacks(stacks: Path, population: Path | None, out: Path | None, symmetry: str, json: bool) -> None:
    from mpr_dist.workflow.importing.relion_stacks import reconstruct_stacks

    if population is not None or out is None:
        raise InputError("--relion-stacks makes maps in the folder --out; give that, and no population")
    o.tell_import(reconstruct_stacks(stacks, out, symmetry), json)


@with_options(placement, memory, certificates)
def weights(
    context: typer.Context,
    directory: o.PopulationDir,
    by: Annotated[
        str,
        typer.Option(
            metavar="series|tilt|position",
            help="One scale and B-factor for every series, tilts as they are; one of each for every tilt; or these, "
            "and a grid of them over the volume.",
        ),
    ],
    anisotropic: Annotated[
        bool, typer.Option("--anisotropic", help="B-factors of tilts depend on the direction; not by series.")
    ] = False,
    location_grid: Annotated[
        str, typer.Option("--location-grid", metavar="WxH", help="Nodes over the volume, by position.")
    ] = "3x3",
    settings: EngineFile = None,
    restart: Restart = False,
    max_failed: MaxFailed = 0.5,
) -> None:
    """Fit scales and B-factors of the images, and make new half-maps with them; nothing moves.

    A new iteration: every image is compared with the half-map that it is no part of, where all others place it, and
    what its uncertain place costs is taken out, so that a B-factor says what the image lost and not how well it is
    aligned. Neighbours in dose hold each other. The values stand in Warp's grids in series/NAME.xml, their standard
    deviations in NAME.sigma.star; refine and reconstruct go on with them. refine --weights does this in every
    iteration.
    """
    from mpr_dist.workflow.running.launch import refine_population
    from mpr_dist.workflow.running.run_options import weight_settings

    asked = weight_settings(directory, by, anisotropic, location_grid)
    _end(refine_population(directory, asked, engine_asked(context), restart, max_failed))


def _end(outcome: Outcome) -> None:
    o.say(outcome.lines)
    if outcome.failed:
        raise typer.Exit(FAILED_SERIES)
