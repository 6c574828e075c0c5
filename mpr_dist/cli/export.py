"""mpr-dist export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli.options import PopulationDir, examples, say


def register(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "mpr-dist export pop --to relion5 relion-project",
            "mpr-dist export pop --to m m-project",
            "mpr-dist export pop --to ome-zarr maps",
        )
    )(export)


def export(
    directory: PopulationDir,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder.")],
    to: Annotated[str, typer.Option(help="What shall read it: relion5, m, warp, ome-zarr, ome-zarr-0.4.")],
    iteration: Annotated[int | None, typer.Option(help="Which iteration [default: the one in force].")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")] = False,
) -> None:
    """Write the state of a population as a project of another program.

    The population is only read, and images are not copied: the project names them where they lie. Only for Warp and M,
    which know no stacks, images of stacks become averages beside the XML files.

    m links particles to series by a hash of the raw movies: hashes that came from M are carried over, others are made
    from the movies, and where there are none it says what M will need. warp writes settings, XML files, and a particle
    table for ts_export_particles.

    ome-zarr writes the maps alone, OUT/SPECIES.zarr for napari, neuroglancer or Fiji: map and half-maps as channels, in
    several resolutions, with angstrom as unit. Version 0.5, or 0.4 for older readers. Finished iterations hold the same
    as species/NAME/map.zarr.
    """
    import json as writer

    from mpr_dist.workflow.exporting.export import export as export_to
    from mpr_dist.workflow.state.export_request import ExportRequest

    done = export_to(ExportRequest(directory, out, iteration), to)
    say([writer.dumps(dict(done.table), indent=1)] if json else done.lines)
