"""mpr-dist species"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpr_dist.cli import species_changes
from mpr_dist.cli.options import AsJson, PopulationDir, examples, group, progress, say, tell_import

if TYPE_CHECKING:
    from mpr_dist.workflow.importing.import_species import SpeciesSummary

app = group("Kinds of particles: add one with its half-maps, mask and particle table, change it, list all.")


@app.command(
    epilog=examples(
        "mpr-dist species add pop --name apo --half1 half1.mrc --half2 half2.mrc --mask mask.mrc \\",
        "    --particles run_data.star --diameter 130 --symmetry O",
    )
)
def add(
    directory: PopulationDir,
    name: Annotated[str, typer.Option(help="Name of the species.")],
    half1: Annotated[Path, typer.Option(help="Unfiltered half-map (MRC) of half-set 1 (rlnRandomSubset).")],
    half2: Annotated[Path, typer.Option(help="Unfiltered half-map (MRC) of half-set 2; not the other way round.")],
    mask: Annotated[Path, typer.Option(help="Binary mask on the box of the half-maps; see mpr-dist mask create.")],
    particles: Annotated[
        Path,
        typer.Option(
            help="Particle table: RELION 3.0 to 5, an optimisation set, Warp's export, M's; or a list of Dynamo "
            "(.tbl), STOPGAP (.star), AV3 or TOM (.em)."
        ),
    ],
    diameter: Annotated[float, typer.Option(help="Diameter of the particle in A; the box will be twice of it.")],
    symmetry: Annotated[str, typer.Option(help="Point group with RELION's names and axes: C1, C4, D2, O ...")] = "C1",
    pixel_size: Annotated[
        float | None, typer.Option(help="Resample the maps to this pixel, in A [default: keep theirs].")
    ] = None,
    ignore_unmatched: Annotated[
        bool, typer.Option("--ignore-unmatched", help="Leave out particles of series that the population lacks.")
    ] = False,
    coordinate_pixel: Annotated[
        float | None, typer.Option(help="Pixel of the table's coordinates in A, instead of what it says.")
    ] = None,
    shift_pixel: Annotated[
        float | None, typer.Option(help="Pixel of the table's origins in A, instead of what it says.")
    ] = None,
    helical_rise: Annotated[float | None, typer.Option(help="Rise of a helix about z, in A.")] = None,
    helical_twist: Annotated[
        float, typer.Option(help="Twist of the helix, degrees; above 0 for a right-handed one.")
    ] = 0.0,
    helical_units: Annotated[
        int, typer.Option(help="Asymmetric units of the helix that each particle stands for.")
    ] = 1,
    temporal_samples: Annotated[
        int | None, typer.Option(help="Samples of every particle's trajectory along the dose [default: the table's].")
    ] = None,
    tomogram_names: Annotated[
        Path | None,
        typer.Option(
            help="For lists that number their tomograms: a file with number and name in each line, such as Dynamo's "
            ".doc [default: by the last number in the names of the series]."
        ),
    ] = None,
    voxel_origin: Annotated[
        float,
        typer.Option(
            help="For such lists, the coordinate of the tomogram's corner, which is subtracted: 0 for tomograms of "
            "Warp; in tomograms of IMOD and AreTomo 0.5 where voxels count from 1, -0.5 where they count from 0."
        ),
    ] = 0.0,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Compare some particles of one series with the maps.")
    ] = True,
    json: AsJson = False,
) -> None:
    """Add a species, and tell how its coordinates, origins, angles, names and half-sets were understood.

    Refuses when particles match no tilt series or lie outside their tomogram: the usual reason is a wrong pixel size.
    Warns when images say that particles are elsewhere, or that half1 is the half-map of half-set 2 and half2 that of 1.
    """
    from mpr_dist.model.species import Helix
    from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species

    helix = None if helical_rise is None else Helix(helical_rise, helical_twist, helical_units)
    request = SpeciesRequest(
        name, half1, half2, mask, particles, diameter, symmetry, pixel_size, ignore_unmatched, coordinate_pixel,
        shift_pixel, temporal_samples, helix, tomogram_names, voxel_origin,
    )  # fmt: skip
    added = add_species(directory, request)
    if images:
        _tell_with_images(directory, added, json)
    else:
        tell_import(added, json)


def _tell_with_images(directory: Path, added: SpeciesSummary, json: bool) -> None:
    import json as writer

    from mpr_dist.workflow.checking.verify_images import look_at_added, table, warnings_of

    if not json:
        say(added.lines)
    looked = look_at_added(directory, added.files.name, progress())
    warnings = [one.line for one in warnings_of(looked)]
    if json:
        say([writer.dumps(added.record() | {"images": table((looked,)), "warnings": warnings}, indent=1)])
    else:
        say([f"  {looked.line}", *warnings])


@app.command("list", epilog=examples("mpr-dist species list pop"))
def list_(directory: PopulationDir) -> None:
    """List the species of a population."""
    from mpr_dist.storage.population import load_population
    from mpr_dist.workflow.reporting.show import species_lines

    say(species_lines(load_population(directory)))


species_changes.register(app)
