"""mpr-dist population"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli.options import AsJson, PopulationDir, examples, group, progress, say, tell_import

app = group("Make and look at a population: the directory of one project.")


@app.command(epilog=examples("mpr-dist population create pop --name hiv"))
def create(directory: PopulationDir, name: Annotated[str, typer.Option(help="What the project is called.")]) -> None:
    """Make an empty population. Input stays where it is and is only read; all results go below DIR."""
    from mpr_dist.workflow.state.create import create_population

    made = create_population(directory, name)
    say([f"population {made.name} in {made.path}; next: mpr-dist source add {directory}"])


@app.command("import", epilog=examples("mpr-dist population import pop m/apo.population"))
def import_(
    directory: PopulationDir,
    m_population: Annotated[Path, typer.Argument(metavar="M", help="M's .population file.")],
    json: AsJson = False,
) -> None:
    """Make a population from a project of M; its files are only read.

    Takes sources with their XML files, hashes and weights, and species with half-maps, mask, symmetry, and particles
    with their trajectories. Says how each of them was understood, and what was left out.
    """
    from mpr_dist.workflow.importing.import_m import import_m

    tell_import(import_m(directory, m_population), json)


@app.command(epilog=examples("mpr-dist population show pop"))
def show(directory: PopulationDir) -> None:
    """Show the sources, the species and the iteration in force."""
    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.reporting.show import population_lines

    say(population_lines(load_population(directory)))


@app.command(
    epilog=examples("mpr-dist population verify pop", "mpr-dist population verify pop --hand --series TS_01 --json")
)
def verify(
    directory: PopulationDir,
    hand: Annotated[bool, typer.Option("--hand", help="Test which way the depth counts, on the images.")] = False,
    series: Annotated[
        list[str] | None, typer.Option(help="Look at images of this tilt series only; may be repeated [default: all].")
    ] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Compare some particles with the maps.")] = True,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte of the sums as well.")] = False,
    json: AsJson = False,
) -> None:
    """Check every link, count, box, pixel size, unit and half-set, and say what to do about what is wrong.

    Changes nothing. Exit code 0: no errors (there may be warnings); 1: there are errors.

    Up to 300 particles of the fullest tilt series are compared with both half-maps in up to 15 tilts: whether they are
    where the coordinates say, whether every half-map is that of its half-set, and whether the map is as large as the
    particles, by its pixel size (maps of 15 A or better, errors of 0.5 % or more); if that is not clear, two more
    series. Exchanged half-maps are an error. --no-images leaves that out.

    --hand compares all images with the half-maps for both signs of the depth (Warp's AreAnglesInverted, RELION's
    rlnTomoHand), each with the defocus that fits it best, and tells which is right, by how much, and how sure that is.
    Particles are compared with the half-map that they are no part of. It reads every image once; a few series suffice.
    """
    import json as writer

    from mpr_dist.workflow.checking.verify import verify_population
    from mpr_dist.workflow.checking.verify_hand import verify_hand
    from mpr_dist.workflow.checking.verify_images import table, tell_findings, verify_images

    findings = verify_population(directory, deep)
    looked = verify_images(directory, series, progress()) if images else ()
    tell_findings(findings, looked)
    tested = verify_hand(directory, series, progress()) if hand else None
    is_wrong = bool(findings.of("error")) or (tested is not None and tested.verdict == "wrong")
    if json:
        more = {"images": table(looked)} | ({} if tested is None else {"hand": tested.table()})
        say([writer.dumps({"format_version": 1, "is_right": not is_wrong, **findings.table(), **more}, indent=1)])
    else:
        say([*(one.line for one in looked), *findings.lines, *([] if tested is None else tested.lines)])
    if is_wrong:
        raise typer.Exit(1)


@app.command(epilog=examples("mpr-dist population merge both session1 session2 --name both"))
def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory of the new population.")],
    parts: Annotated[list[Path], typer.Argument(metavar="DIRS...", help="Populations to put together.")],
    name: Annotated[str, typer.Option(help="What the new project is called.")],
    keep_apart: Annotated[
        bool, typer.Option("--keep-apart", help="Species of the same name stay different species.")
    ] = False,
    min_distance: Annotated[
        float | None, typer.Option(help="Leave out particles nearer than this, in A, to one of an earlier population.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Put several projects together in a new population; they are only read.

    Series and sources whose names clash (TS_01 ...) get the name of their population in front. Species of the same name
    become one, with all particles in their half-sets and the average of the half-maps; they need the same box, pixel
    and symmetry. The new population begins at the states in force: refined parameters and poses are what it imports.
    """
    import json as writer

    from mpr_dist.workflow.changing.merge_populations import MergeRequest, merge_populations

    done = merge_populations(MergeRequest(out, tuple(parts), name, keep_apart, min_distance))
    say([writer.dumps(done.table, indent=1)] if json else [f"population {name} in {out}", *done.lines])
