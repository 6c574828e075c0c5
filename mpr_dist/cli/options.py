"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from mpr_dist.cli.grouped_help import ListedCommands

PopulationDir = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the population.")]
Engine = Annotated[
    str | None,
    typer.Option(
        help="Where to run; the maps are the same. local: processes on this machine. inline: this process alone. cuda: "
        "the cards of this machine. slurm, pbs, lsf, sge: jobs of that queueing system, described in [engine.job] of "
        "--settings. tcp://HOST:PORT or tls://HOST:PORT: a Dask scheduler that runs already. [default: local]"
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="cpu|gpu",
        help="What workers compute with; maps of both agree to rounding (FSC above 0.999). [default: gpu for cuda and "
        "for jobs with cards, cpu otherwise]",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")]
# of a species or source that is there: documented as an argument, taken as an option as well
ByName = Annotated[str | None, typer.Option("--name", hidden=True)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Workers = Annotated[
    int | None,
    typer.Option(help="Worker processes [default: local: one per usable core, at most one per series; jobs: one job]."),
]
Threads = Annotated[int | None, typer.Option(help="Threads of each worker [default: 1].")]


def group(text: str) -> typer.Typer:
    """A command of several verbs; without one it prints its help."""
    return typer.Typer(
        cls=ListedCommands, help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
    )


def examples(*lines: str) -> str:
    """Epilog of a command: the lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def named(argument: str | None, option: str | None, what: str) -> str:
    """The name given as an argument or as --name. InputError: none, or two that differ."""
    from mpr_dist.errors import InputError

    given = {each for each in (argument, option) if each is not None}
    if len(given) != 1:
        raise InputError(
            f"give the name of one {what}, after the directory; got {' and '.join(sorted(given)) or 'none'}"
        )
    return given.pop()


def say(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def progress() -> Callable[[str, int, int], None]:
    """Prints how far a simulation is: in place on a terminal, otherwise only when a part is finished."""
    import sys

    is_terminal = sys.stderr.isatty()

    def tell(what: str, done: int, total: int) -> None:
        if is_terminal:
            typer.echo(f"\r  {what}: {done} of {total}  ", err=True, nl=done == total)
        elif done == total:
            typer.echo(f"  {what}: {total} done", err=True)

    return tell


def tell_import(summary: Any, json: bool) -> None:
    """What an importer took, and how it understood it."""
    import json as writer

    say([writer.dumps(summary.record(), indent=1)] if json else summary.lines)
