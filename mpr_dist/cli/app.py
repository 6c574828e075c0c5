"""mpr-dist: the commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import mpr_dist
from mpr_dist.cli import benchmark, doctor, export, mask, population, refine, simulate, source, species, status, worker
from mpr_dist.cli.grouped_help import ListedCommands
from mpr_dist.errors import MprError

EPILOG = """\b
The flow:
  mpr-dist population create POP --name hiv
  mpr-dist source add POP --name grid1 --warp-settings warp_tiltseries.settings
  mpr-dist mask create map.mrc mask.mrc --threshold 0.05 --extend-px 5
  mpr-dist species add POP --name gag --half1 half1.mrc --half2 half2.mrc \\
      --mask mask.mrc --particles run_data.star --diameter 130 --symmetry C6
  mpr-dist plan POP --iterations 4 --image-warp 6x4 --particles --stage-angles --defocus
  mpr-dist refine POP --iterations 4 --image-warp 6x4 --particles --stage-angles --defocus
  mpr-dist status POP

Without data: mpr-dist demo.  Every command explains itself with --help.

\b
Exit codes: 0 done, 1 failed, 2 wrong input, 3 done but tilt series were left out,
130 stopped (the same command continues)."""

app = typer.Typer(
    name="mpr-dist",
    cls=ListedCommands,
    help="Distributed multi-particle refinement of cryo-EM tilt series.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]},
)
app.add_typer(population.app, name="population")
app.add_typer(source.app, name="source")
app.add_typer(species.app, name="species")
app.add_typer(mask.app, name="mask")
app.add_typer(benchmark.app, name="benchmark")
for module in (refine, worker, status, export, simulate, doctor):
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mpr-dist {mpr_dist.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """The help of the whole stands above: this only holds the options that come before a command."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. What the user can act upon is told in one line."""
    try:
        app(args=list(arguments), prog_name="mpr-dist")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except MprError as error:
        typer.echo(f"mpr-dist: {' '.join(str(error).split())}", err=True)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"mpr-dist: {where}{error.strerror or error}", err=True)
        return 1
    except MemoryError as error:
        typer.echo(f"mpr-dist: memory ran out ({error}); use a smaller box, fewer workers or another machine", err=True)
        return 1
    return 0


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
