"""mpr-dist source"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli.alignment_options import aligned_stacks, alignment_request
from mpr_dist.cli.grouped_help import GroupedHelp
from mpr_dist.cli.options import AsJson, ByName, DryRun, PopulationDir, examples, group, named, say, tell_import
from mpr_dist.cli.shared import with_options

app = group("Tilt series: add those of a Warp or RELION-5 project, list them, leave them out.")


@app.command(
    epilog=examples(
        "mpr-dist source add pop --name grid1 --warp-settings warp_tiltseries.settings",
        "mpr-dist source add pop --name grid1 --warp-settings warp_tiltseries.settings --max-tilts 15",
        "mpr-dist source add pop --name grid1 --warp-settings warp_tiltseries.settings \\",
        "    --tilt-movies warp_frameseries.settings",
        "mpr-dist source add pop --name grid2 --relion-tomograms relion/tomograms.star",
        "mpr-dist source add pop --name grid3 --imod etomo --stacks 'stacks/*.st' --ctf ctffind --mdoc mdocs",
        "mpr-dist source add pop --name grid4 --aretomo aligned --stacks stacks --ctf aligned --mdoc mdocs \\",
        "    --tomogram 4000x4000x1200",
    ),
    cls=GroupedHelp,
)
@with_options(aligned_stacks)
def add(
    context: typer.Context,
    directory: PopulationDir,
    name: Annotated[str, typer.Option(help="Name of the source.")],
    warp_settings: Annotated[
        Path | None, typer.Option(help="The .settings file of the tilt series (Warp or WarpTools).")
    ] = None,
    relion_tomograms: Annotated[
        Path | None, typer.Option(help="tomograms.star of RELION 5 or 4, or an optimisation set that names it.")
    ] = None,
    max_tilts: Annotated[
        int | None, typer.Option(help="Use only so many tilts of each series, those of lowest dose.")
    ] = None,
    include_deselected: Annotated[
        bool, typer.Option("--include-deselected", help="Use tilts and series that were deselected, too.")
    ] = False,
    files: Annotated[
        Path | None, typer.Option(help="Text file with the names of the series to take, one per line.")
    ] = None,
    tilt_movies: Annotated[
        Path | None,
        typer.Option(help=".settings of the frame series: where movies and gain are, for refine --tilt-movies."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Add the tilt series of a Warp or a RELION project, or stacks that IMOD or AreTomo aligned.

    Warp: reads the settings, the XML file of every tilt series, and the headers of its averages. RELION: reads the
    table of tomograms, the table of every tilt series, and the headers of its images, single or in stacks; deformations
    of tomo_align become image warps. IMOD and AreTomo: stacks as they were aligned, with a table of defocus. Lists what
    was taken and what was left out, with the reason.
    """
    from mpr_dist.errors import InputError
    from mpr_dist.workflow.importing.import_alignments import add_aligned_stacks
    from mpr_dist.workflow.importing.import_relion import add_relion_source
    from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source, read_names

    names = None if files is None else read_names(files)
    options = context.params
    given = [warp_settings, relion_tomograms, options["imod"], options["aretomo"] or None]
    if sum(each is not None for each in given) != 1:
        raise InputError("give one of --warp-settings, --relion-tomograms, --imod and --aretomo")
    if tilt_movies is not None and warp_settings is None:
        raise InputError("--tilt-movies goes with --warp-settings: only Warp's frame series are understood")
    if warp_settings is not None:
        request = SourceRequest(name, warp_settings, max_tilts, include_deselected, names, tilt_movies)
        added = add_warp_source(directory, request)
    elif relion_tomograms is not None:
        request = SourceRequest(name, relion_tomograms, max_tilts, include_deselected, names)
        added = add_relion_source(directory, request)
    else:
        stacks = alignment_request(options, name, max_tilts, include_deselected, names)
        added = add_aligned_stacks(directory, stacks)
    tell_import(added, json)


@app.command("list", epilog=examples("mpr-dist source list pop"))
def list_(directory: PopulationDir) -> None:
    """List the sources of a population."""
    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.reporting.show import source_lines

    say(source_lines(load_population(directory)))


Name = Annotated[str | None, typer.Argument(metavar="SOURCE", help="Name of the source.")]


@app.command(epilog=examples("mpr-dist source remove pop grid1"))
def remove(directory: PopulationDir, source: Name = None, dry_run: DryRun = False, name: ByName = None) -> None:
    """Leave a source, and the particles in its tilt series, out of everything that follows.

    No file is deleted, and finished iterations stay as they are; restore brings it back.
    """
    from mpr_dist.workflow.changing.remove import remove_source

    say(remove_source(directory, named(source, name, "source"), dry_run))


@app.command(epilog=examples("mpr-dist source restore pop grid1"))
def restore(directory: PopulationDir, source: Name = None, name: ByName = None) -> None:
    """Bring back a source that was removed, with the particles in it."""
    from mpr_dist.workflow.changing.remove import restore_source

    say(restore_source(directory, named(source, name, "source")))
