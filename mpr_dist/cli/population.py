"""mpr-dist population"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli.options import AsJson, PopulationDir, examples, group, say, tell_import

app = group("Make and look at a population: the directory of one project.")


@app.command(epilog=examples("mpr-dist population create pop --name hiv"))
def create(directory: PopulationDir, name: Annotated[str, typer.Option(help="What the project is called.")]) -> None:
    """Make an empty population. Input stays where it is and is only read; all results go below DIR."""
    from mpr_dist.workflow.create import create_population

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
    from mpr_dist.workflow.import_m import import_m

    tell_import(import_m(directory, m_population), json)


@app.command(epilog=examples("mpr-dist population show pop"))
def show(directory: PopulationDir) -> None:
    """Show the sources, the species and the iteration in force."""
    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.show import population_lines

    say(population_lines(load_population(directory)))
