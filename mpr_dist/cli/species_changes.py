"""mpr-dist species rotate, shift, expand-symmetry, merge, split, select, resample-trajectories, update-mask, remove"""

from __future__ import annotations

from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import typer

from mpr_dist.cli.options import AsJson, ByName, DryRun, PopulationDir, examples, named, say

Name = Annotated[str | None, typer.Argument(metavar="SPECIES", help="Name of the species.")]
FirstName = Annotated[str, typer.Argument(metavar="SPECIES", help="Name of the species.")]
NewName = Annotated[
    str | None, typer.Option("--new-name", help="What the new species is called [default: the old name and a suffix].")
]
Keep = Annotated[
    bool,
    typer.Option("--keep", help="Go on refining the old species as well; particles that are in both count twice."),
]
MinDistance = Annotated[
    float | None, typer.Option(help="Leave out particles nearer than this, in A, to one that stays.")
]

STATE = """

The change is a new species, because finished iterations never change. It begins with the maps, poses and half-sets in
force; the priors of the next refinement centre on them. The old species is removed from what is refined (its files
stay: species restore). Sums (accumulator.zarr) belong to the species they were made for: the new one gets its own with
the next refine or reconstruct, and reconstruct --without works from then on.
"""


def register(app: typer.Typer) -> None:
    """Every command with the paragraph about states, which they share."""
    for name, command, lines in (
        ("rotate", rotate, ("mpr-dist species rotate pop gag --tilt 90",)),
        ("shift", shift, ("mpr-dist species shift pop ribosome -x 85 -z -40 --diameter 120 --new-name exit-tunnel",)),
        (
            "expand-symmetry",
            expand_symmetry,
            ("mpr-dist species expand-symmetry pop apo", "mpr-dist species expand-symmetry pop apo --to C4"),
        ),
        ("merge", merge, ("mpr-dist species merge pop class1 class3 --new-name good",)),
        (
            "split",
            split,
            ("mpr-dist species split pop gag --by rlnClassNumber", "mpr-dist species split pop gag --by source"),
        ),
        (
            "select",
            select,
            (
                "mpr-dist species select pop gag --best 0.8 --dry-run",
                "mpr-dist species select pop gag --series TS_01 --series TS_03 --region z=400:900",
                "mpr-dist species select pop gag --where 'rlnMaxValueProbDistribution>=0.1'",
            ),
        ),
        ("resample-trajectories", resample_trajectories, ("mpr-dist species resample-trajectories pop gag 3",)),
    ):
        app.command(name, help=f"{getdoc(command)}{STATE}", epilog=examples(*lines))(command)
    masks = "mpr-dist species update-mask pop gag --threshold 0.05 --extend-px 5"
    app.command(epilog=examples(masks, "mpr-dist species update-mask pop gag --mask mask.mrc"))(update_mask)
    app.command(epilog=examples("mpr-dist species remove pop gag"))(remove)
    app.command(epilog=examples("mpr-dist species restore pop gag"))(restore)


def rotate(
    directory: PopulationDir,
    species: Name = None,
    rot: Annotated[float, typer.Option(help="Degrees.")] = 0.0,
    tilt: Annotated[float, typer.Option(help="Degrees.")] = 0.0,
    psi: Annotated[float, typer.Option(help="Degrees.")] = 0.0,
    new_name: NewName = None,
    keep: Keep = False,
    dry_run: DryRun = False,
    json: AsJson = False,
    name: ByName = None,
) -> None:
    """Turn the map of a species: half-maps, mask and all poses, so that every density stays where it is.

    The angles turn the map as a particle with these angles is turned (RELION's and Warp's rot, tilt, psi). A species
    with symmetry can only be turned so that its axes stay, or are those of another setting (I1, I2, ...).
    """
    species = named(species, name, "species")
    from mpr_dist.workflow.changing.species_changes import ChangeRequest, rotate_species

    _tell(rotate_species(ChangeRequest(directory, species, new_name, keep, dry_run), (rot, tilt, psi)), json)


def shift(
    directory: PopulationDir,
    species: Name = None,
    x: Annotated[float, typer.Option("-x", help="A from the centre of the map.")] = 0.0,
    y: Annotated[float, typer.Option("-y", help="A from the centre of the map.")] = 0.0,
    z: Annotated[float, typer.Option("-z", help="A from the centre of the map.")] = 0.0,
    diameter: Annotated[
        float | None,
        typer.Option(help="Diameter of the new species in A; the box is twice of it [default: as it was]."),
    ] = None,
    new_name: NewName = None,
    keep: Keep = False,
    dry_run: DryRun = False,
    json: AsJson = False,
    name: ByName = None,
) -> None:
    """Make another point of the map the centre of the species: half-maps, mask and all poses follow.

    Positions move at every temporal sample by the point as it is turned there. A species with symmetry can only move
    along an axis that all its rotations leave in place (z for C2, C3 ...): expand its symmetry first.
    """
    species = named(species, name, "species")
    from mpr_dist.workflow.changing.species_changes import ChangeRequest, shift_species

    _tell(shift_species(ChangeRequest(directory, species, new_name, keep, dry_run), (x, y, z), diameter), json)


def expand_symmetry(
    directory: PopulationDir,
    species: Name = None,
    to: Annotated[str, typer.Option(help="Symmetry of the new species, contained in the old one.")] = "C1",
    from_: Annotated[
        str | None, typer.Option("--from", help="Symmetry to expand, if it is not the species' own.")
    ] = None,
    new_name: NewName = None,
    keep: Keep = False,
    dry_run: DryRun = False,
    json: AsJson = False,
    name: ByName = None,
) -> None:
    """Make every particle one for each of its symmetry-related copies, to look at their differences.

    All copies stay in the half-set of their particle. The maps are the same until the next refine or reconstruct.
    """
    species = named(species, name, "species")
    from mpr_dist.workflow.changing.species_changes import ChangeRequest
    from mpr_dist.workflow.changing.species_changes import expand_symmetry as expand

    _tell(expand(ChangeRequest(directory, species, new_name, keep, dry_run), to, from_), json)


def merge(
    directory: PopulationDir,
    species: FirstName,
    others: Annotated[list[str], typer.Argument(metavar="OTHERS...", help="Species to put together with it.")],
    min_distance: MinDistance = None,
    new_name: NewName = None,
    keep: Keep = False,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Put the particles of several species together. Box, pixel and symmetry must be the same.

    Half-map 1 becomes the average of all half-maps 1, weighted by particles, and so for half-map 2. Maps that do not
    agree are refused: bring one onto the other first, with rotate and shift.
    """
    from mpr_dist.workflow.changing.species_changes import ChangeRequest
    from mpr_dist.workflow.changing.species_selection import merge_species

    _tell(merge_species(ChangeRequest(directory, species, new_name, keep, dry_run), others, min_distance), json)


def split(
    directory: PopulationDir,
    by: Annotated[str, typer.Option(help="A column of the particle table, or series, or source.")],
    species: Name = None,
    new_name: Annotated[
        str | None,
        typer.Option("--new-name", help="First part of the new names, before the value [default: the old one]."),
    ] = None,
    keep: Keep = False,
    dry_run: DryRun = False,
    json: AsJson = False,
    name: ByName = None,
) -> None:
    """Split a species into one for every value of a column, such as the classes of a classification."""
    species = named(species, name, "species")
    from mpr_dist.workflow.changing.species_changes import ChangeRequest
    from mpr_dist.workflow.changing.species_selection import split_species

    _tell(split_species(ChangeRequest(directory, species, new_name, keep, dry_run), by), json)


def select(
    directory: PopulationDir,
    species: Name = None,
    series: Annotated[
        list[str] | None, typer.Option(help="Only particles of this tilt series; may be repeated.")
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(help="x=FROM:TO, y=... or z=..., A from the corner of the tomogram; an end may be left open."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="COLUMN=VALUE (or != > >= < <=), on a column of the table, RELION or Warp."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Only particles of at least this score: 1 is as good as the others, 0 noise.")
    ] = None,
    best: Annotated[
        float | None, typer.Option(help="Only this share of the particles, those of the best scores.")
    ] = None,
    min_distance: MinDistance = None,
    invert: Annotated[bool, typer.Option("--invert", help="Keep the others instead.")] = False,
    new_name: NewName = None,
    keep: Keep = False,
    dry_run: DryRun = False,
    json: AsJson = False,
    name: ByName = None,
) -> None:
    """Make a species of some of the particles: by score, series, region, or a column of the table. All must be met.

    The score is how strong a particle is in the half-map that it is no part of, in all its images, compared with the
    others of its series. Computing it reads all images once; it ends up in the column mprScore.
    """
    species = named(species, name, "species")
    from mpr_dist.workflow.changing.species_changes import ChangeRequest
    from mpr_dist.workflow.changing.species_selection import Selection, select_particles

    asked = Selection(
        tuple(series or ()), tuple(region or ()), tuple(where or ()), min_score, best, min_distance, invert
    )
    _tell(select_particles(ChangeRequest(directory, species, new_name, keep, dry_run), asked), json)


def resample_trajectories(
    directory: PopulationDir,
    species: FirstName,
    samples: Annotated[int, typer.Argument(metavar="SAMPLES", help="Temporal samples of every particle.")],
    new_name: NewName = None,
    keep: Keep = False,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Give the trajectories of all particles another number of temporal samples.

    refine --temporal-samples does the same for all species at once.
    """
    from mpr_dist.workflow.changing.species_changes import ChangeRequest
    from mpr_dist.workflow.changing.species_changes import resample_trajectories as resample

    _tell(resample(ChangeRequest(directory, species, new_name, keep, dry_run), samples), json)


def update_mask(
    directory: PopulationDir,
    species: Name = None,
    mask: Annotated[Path | None, typer.Option(help="Binary mask (MRC) with the pixel of the species.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Density from which on a voxel is inside.")] = None,
    source: Annotated[
        Path | None, typer.Option("--map", help="Map for the threshold [default: the species' map in force].")
    ] = None,
    extend_px: Annotated[float, typer.Option(help="Grow the mask by so many pixels.")] = 0.0,
    sphere_diameter: Annotated[float | None, typer.Option(help="Only what lies in this sphere, in A.")] = None,
    name: ByName = None,
) -> None:
    """Give a species another mask, from the next iteration on; finished iterations stay as they are."""
    species = named(species, name, "species")
    from mpr_dist.workflow.changing.update_mask import MaskRequest
    from mpr_dist.workflow.changing.update_mask import update_mask as update

    say(update(MaskRequest(directory, species, mask, source, threshold, extend_px, sphere_diameter)))


def remove(directory: PopulationDir, species: Name = None, dry_run: DryRun = False, name: ByName = None) -> None:
    """Leave a species out of everything that follows. No file is deleted; restore brings it back."""
    from mpr_dist.workflow.changing.remove import remove_species

    say(remove_species(directory, named(species, name, "species"), dry_run))


def restore(directory: PopulationDir, species: Name = None, new_name: NewName = None, name: ByName = None) -> None:
    """Bring back a species that was removed, or replaced by one made of it.

    If iterations were finished without it, it comes back under another name, with the maps and poses that it had last.
    """
    from mpr_dist.workflow.changing.remove import restore_species

    say(restore_species(directory, named(species, name, "species"), new_name))


def _tell(changed: Any, json: bool) -> None:
    import json as writer

    say([writer.dumps(changed.table, indent=1)] if json else changed.lines)
