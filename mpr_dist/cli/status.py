"""mpr-dist status, report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli.options import PopulationDir, examples, say


def register(app: typer.Typer) -> None:
    shown = (
        "mpr-dist status pop",
        "mpr-dist status pop --follow",
        "mpr-dist status pop --json | jq .iterations[-1].counts",
    )
    app.command(epilog=examples(*shown))(status)
    app.command(epilog=examples("mpr-dist report pop", "mpr-dist report pop --iteration 2"))(report)


def status(
    directory: PopulationDir,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and show the run until it ends.")] = False,
) -> None:
    """Show where a population stands: iterations, resolutions, series that were left out. Works during a run.

    Only files are read: it works from any machine that sees them. --follow ends with the run; Ctrl-C ends it earlier,
    and does not touch the run.
    """
    import json as writer

    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.reporting.show import status_lines
    from mpr_dist.workflow.reporting.status import status as status_of

    if follow:
        _follow(directory, json)
        return
    found = status_of(load_population(directory))
    say([writer.dumps(found, indent=1)] if json else status_lines(found))


def _follow(directory: Path, json: bool) -> None:
    import sys

    from mpr_dist.errors import InputError
    from mpr_dist.workflow.reporting.follow import Follower

    if json:
        raise InputError("--follow shows lines for people, not JSON; read iterations/NNN/events.jsonl instead")
    try:
        if not sys.stdout.isatty():
            Follower(directory, lambda line: typer.echo(line)).follow()
            return
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(highlight=False)
        with Live(console=console, transient=True, auto_refresh=False) as live:
            Follower(
                directory,
                lambda line: console.print(line, markup=False),
                lambda lines: live.update(Text("\n".join(["", *lines])), refresh=True),
            ).follow()
    except KeyboardInterrupt:
        typer.echo("no longer following; the run goes on")


def report(
    directory: PopulationDir,
    iteration: Annotated[int | None, typer.Option(help="Which iteration [default: the one in force].")] = None,
) -> None:
    """Write the report of an iteration again and print where it is: one HTML page that needs nothing else."""
    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.reporting.iteration_report import write_report

    say([str(write_report(load_population(directory), iteration))])
