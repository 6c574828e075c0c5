"""mpr-dist status, report"""

from __future__ import annotations

from typing import Annotated

import typer

from mpr_dist.cli.options import PopulationDir, examples, say


def register(app: typer.Typer) -> None:
    app.command(epilog=examples("mpr-dist status pop", "mpr-dist status pop --json | jq .iterations[-1].counts"))(
        status
    )
    app.command(epilog=examples("mpr-dist report pop", "mpr-dist report pop --iteration 2"))(report)


def status(
    directory: PopulationDir,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """Show where a population stands: iterations, resolutions, series that were left out. Works during a run."""
    import json as writer

    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.show import status_lines
    from mpr_dist.workflow.status import status as status_of

    found = status_of(load_population(directory))
    say([writer.dumps(found, indent=1)] if json else status_lines(found))


def report(
    directory: PopulationDir,
    iteration: Annotated[int | None, typer.Option(help="Which iteration [default: the one in force].")] = None,
) -> None:
    """Write the report of an iteration again and print where it is: one HTML page that needs nothing else."""
    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.iteration_report import write_report

    say([str(write_report(load_population(directory), iteration))])
