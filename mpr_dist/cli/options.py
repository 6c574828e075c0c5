"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

PopulationDir = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the population.")]
Engine = Annotated[
    str, typer.Option(help="local: processes on this machine; inline: this process alone. The maps are the same.")
]
Workers = Annotated[
    int | None, typer.Option(help="Worker processes [default: one per usable core, at most one per series].")
]
Threads = Annotated[int, typer.Option(help="Threads of each worker.")]
Iterations = Annotated[
    int | None, typer.Option(help="Outer iterations: reference, refinement, new half-maps [default: 4].")
]
ImageWarp = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="Nodes of the image warp per tilt, such as 6x4. Existing grids are resampled."),
]
PoseFlag = Annotated[
    bool | None, typer.Option("--particles/--no-particles", help="Refine positions and orientations of particles.")
]
StageFlag = Annotated[
    bool | None, typer.Option("--stage-angles/--no-stage-angles", help="Refine three angles of the stage per tilt.")
]
DefocusFlag = Annotated[bool | None, typer.Option("--defocus/--no-defocus", help="Refine one defocus per tilt.")]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="TOML file with these settings (settings.toml of an iteration is one)."),
]
Fraction = Annotated[
    float | None,
    typer.Option(help="Share of the resolution range used in the first iteration, 0 to 1 [default: 1]."),
]
MaxPasses = Annotated[
    int | None, typer.Option(help="Passes over the images of a series per iteration, at most [default: 40].")
]
MinParticles = Annotated[int | None, typer.Option(help="Leave out series with fewer particles [default: 1].")]


PriorWarp = Annotated[float | None, typer.Option(help="Prior of the image warp, standard deviation in A [default: 5].")]
PriorStage = Annotated[float | None, typer.Option(help="Prior of stage angles, degrees [default: 1].")]
PriorPosition = Annotated[float | None, typer.Option(help="Prior of particle positions, A [default: 5].")]
PriorOrientation = Annotated[float | None, typer.Option(help="Prior of particle orientations, degrees [default: 3].")]
PriorDefocus = Annotated[float | None, typer.Option(help="Prior of the defocus, A [default: 300].")]


def group(text: str) -> typer.Typer:
    """A command of several verbs; without one it prints its help."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def examples(*lines: str) -> str:
    """Epilog of a command: the lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


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
