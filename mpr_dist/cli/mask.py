"""mpr-dist mask"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli.options import examples, group, say

app = group("Masks: binary on disk, softened when they are used.")


@app.callback()
def mask() -> None:
    """Masks: binary on disk, softened when they are used."""


@app.command(
    epilog=examples(
        "mpr-dist mask create map.mrc mask.mrc --threshold 0.05 --extend-px 5",
        "mpr-dist mask create map.mrc mask.mrc --threshold 0.05 --extend-px 5 --sphere-diameter 160",
    )
)
def create(
    source: Annotated[Path, typer.Argument(metavar="MAP", help="The map (MRC).")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the mask is written.")],
    threshold: Annotated[float, typer.Option(help="Grey value from which a voxel belongs to the particle.")],
    extend_px: Annotated[float, typer.Option(help="Grow the mask by so many pixels.")] = 0.0,
    sphere_diameter: Annotated[
        float | None, typer.Option(help="Leave out what lies outside a centred sphere of this diameter in A.")
    ] = None,
) -> None:
    """Make a binary mask from a map.

    The threshold is the level at which the map in a viewer (at its contour level) shows the particle and no noise; the
    command prints the range of grey values, and a note when the mask hardly leaves anything out.
    """
    from mpr_dist.workflow.importing.make_mask import make_mask

    say(make_mask(source, target, threshold, extend_px, sphere_diameter).lines)
