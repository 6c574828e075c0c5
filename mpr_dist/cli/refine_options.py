"""What to refine, how, and how freely: the options of refine and plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mpr_dist.model.settings import RefineSettings

# options that set a prior, and the field of ``Priors``
PRIORS = {
    "prior_image_warp": "image_warp_A",
    "prior_volume_warp": "volume_warp_A",
    "prior_stage_angles": "stage_angle_deg",
    "prior_rigid_stage": "rigid_stage_deg",
    "prior_positions": "position_A",
    "prior_orientations": "orientation_deg",
    "prior_trajectory_positions": "trajectory_A",
    "prior_trajectory_orientations": "trajectory_deg",
    "prior_defocus": "defocus_A",
    "prior_astigmatism": "astigmatism_A",
    "prior_phase_shift": "phase_shift_pi",
    "prior_cs": "cs_mm",
    "prior_aberrations": "aberration_rad",
    "prior_magnification": "magnification_percent",
}
# options whose text is understood here
_TEXTS = ("image_warp", "volume_warp", "aberrations", "movie_motion", "location_grid")


def _switch(name: str, text: str) -> Any:
    return typer.Option(f"--{name}/--no-{name}", help=text)


def refinement(
    settings: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with these settings (settings.toml of an iteration is one), and a table [engine] that "
            "says where to run (deploy/slurm.toml is an example)."
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="So many more outer iterations: reference, refinement, new half-maps [default: 4]."),
    ] = None,
    until: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Instead: end with iteration N, however many that takes. Nothing is done, with exit code 0, when it "
            "is finished: for jobs that are submitted again.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="auto|m|manual",
            help="Who decides what is refined. manual: the options below. auto: in every iteration and series also "
            "what its images determine well enough, in grids as fine as they can carry; what is asked for is always "
            "refined. m: M's published order, a step per iteration: image warp and particles, defocus, stage angles, "
            "magnification with Cs and aberrations, temporal samples; options say how, such as --image-warp 8x6 "
            "[default: manual].",
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(
            metavar="CLASSES",
            help="Classes that no protocol may release, such as volume-warp,cs; --no-cs and its like do the same.",
        ),
    ] = None,
    image_warp: Annotated[
        str | None,
        typer.Option(metavar="WxH", help="Nodes of the image warp per tilt, such as 6x4. What exists is resampled."),
    ] = None,
    volume_warp: Annotated[
        str | None,
        typer.Option(metavar="WxHxDxT", help="Nodes of the volume warp in x, y, z, dose (2 or more): 2x2x1x10."),
    ] = None,
    particles: Annotated[bool | None, _switch("particles", "Refine positions and orientations of particles.")] = None,
    temporal_samples: Annotated[
        int | None,
        typer.Option(metavar="N", help="N positions and orientations of a particle along the dose; with --particles."),
    ] = None,
    stage_angles: Annotated[bool | None, _switch("stage-angles", "Refine three angles of the stage per tilt.")] = None,
    rigid_stage: Annotated[
        bool | None,
        typer.Option(
            "--rigid-stage",
            help="From now on stage angles move the particles too, as a stage does; M's only turn them. With "
            "--stage-angles, and from a start without any.",
        ),
    ] = None,
    defocus: Annotated[bool | None, _switch("defocus", "Refine one defocus per tilt.")] = None,
    defocus_search: Annotated[
        bool | None,
        _switch("defocus-search", "First try defoci up to 0.3 um away: 21 more passes, once; with --defocus."),
    ] = None,
    astigmatism: Annotated[bool | None, _switch("astigmatism", "Refine the astigmatism of every tilt.")] = None,
    phase_shift: Annotated[bool | None, _switch("phase-shift", "Refine the phase shift of every tilt.")] = None,
    cs: Annotated[bool | None, _switch("cs", "Refine the spherical aberration of the series.")] = None,
    aberrations: Annotated[
        str | None,
        typer.Option(
            metavar="ORDERS",
            help="Refine Zernikes of these orders per series, such as 3 or 2,3,4: odd ones are beam tilt (with "
            "the shift, order 1) and trefoil, even ones part of the CTF.",
        ),
    ] = None,
    magnification: Annotated[
        bool | None, _switch("magnification", "Refine the anisotropic magnification of the series, a 2 x 2 matrix.")
    ] = None,
    tilt_movies: Annotated[
        bool | None,
        _switch(
            "tilt-movies",
            "First refine the motion within tilts from their movies, and average them again, beside the old averages. "
            "Best in a run of its own with --iterations 1; the source must know its movies (source add --tilt-movies).",
        ),
    ] = None,
    movie_motion: Annotated[
        str | None,
        typer.Option(metavar="WxHxT", help="Nodes of that motion over the image and the frames [default: 1x1x4]."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="series|tilt|position|none",
            help="Fit scales and B-factors to the agreement of images with the opposite half-map: of every series; of "
            "every tilt; of every tilt and over the volume; none: those of tilts come from the fit of the geometry "
            "[default: none; with --protocol auto tilt, where the images determine them].",
        ),
    ] = None,
    anisotropic: Annotated[
        bool | None, typer.Option("--anisotropic", help="With --weights: B-factors of tilts depend on the direction.")
    ] = None,
    location_grid: Annotated[
        str | None, typer.Option(metavar="WxH", help="Nodes of the weights by position [default: 3x3].")
    ] = None,
    ewald: Annotated[
        str | None,
        typer.Option(
            metavar="off|on|reversed",
            help="Curved Ewald sphere; on: of the hand that the defocus of the series assumes. [default: as before]",
        ),
    ] = None,
    ctf_min_resolution: Annotated[
        float | None,
        typer.Option(metavar="A", help="Only species resolved better than this refine the CTF [default: all do]."),
    ] = None,
    first_iteration_fraction: Annotated[
        float | None,
        typer.Option(help="Share of the resolution range used in the first iteration [default: 1]."),
    ] = None,
    max_passes: Annotated[
        int | None,
        typer.Option(
            help="Passes over the images of a series per iteration, at most, besides the one in which --protocol auto "
            "decides; 10 or more [default: 40]."
        ),
    ] = None,
    min_particles: Annotated[
        int | None, typer.Option(help="Leave out series with fewer particles [default: 1].")
    ] = None,
    priors: Annotated[
        str | None,
        typer.Option(
            metavar="data|fixed",
            help="Widths of the priors: fixed, as below; data: from what all series of the last iteration say, except "
            "those given here [default: data with --protocol auto, else fixed].",
        ),
    ] = None,
    prior_image_warp: Annotated[float | None, typer.Option(help="Prior of the image warp, A [default: 5].")] = None,
    prior_volume_warp: Annotated[float | None, typer.Option(help="Prior of the volume warp, A [default: 3].")] = None,
    prior_stage_angles: Annotated[
        float | None, typer.Option(help="Prior of stage angles, degrees [default: 1].")
    ] = None,
    prior_rigid_stage: Annotated[
        float | None, typer.Option(help="Prior of stage angles that move particles, degrees [default: 0.2].")
    ] = None,
    prior_positions: Annotated[float | None, typer.Option(help="Prior of particle positions, A [default: 5].")] = None,
    prior_orientations: Annotated[
        float | None, typer.Option(help="Prior of particle orientations, degrees [default: 3].")
    ] = None,
    prior_trajectory_positions: Annotated[
        float | None, typer.Option(help="Prior of a particle's way from first to last dose, A [default: 3].")
    ] = None,
    prior_trajectory_orientations: Annotated[
        float | None, typer.Option(help="Prior of a particle's turn from first to last dose, degrees [default: 1].")
    ] = None,
    prior_defocus: Annotated[float | None, typer.Option(help="Prior of the defocus, A [default: 300].")] = None,
    prior_astigmatism: Annotated[float | None, typer.Option(help="Prior of the astigmatism, A [default: 200].")] = None,
    prior_phase_shift: Annotated[
        float | None, typer.Option(help="Prior of the phase shift, units of pi [default: 0.05].")
    ] = None,
    prior_cs: Annotated[float | None, typer.Option(help="Prior of Cs, mm [default: 0.1].")] = None,
    prior_aberrations: Annotated[
        float | None, typer.Option(help="Prior of each Zernike, rad at its largest within 4 A [default: 0.5].")
    ] = None,
    prior_magnification: Annotated[
        float | None, typer.Option(help="Prior of the magnification matrix, percent [default: 1].")
    ] = None,
) -> None:
    """Priors are standard deviations of Gaussians around the imported values."""


def settings_asked(context: typer.Context) -> RefineSettings:
    """The settings that the options of a command with these options ask for.

    Raises:
        InputError: a value is not understood, or nothing is to be refined.
    """
    from mpr_dist.workflow.running.run_options import refine_settings
    from mpr_dist.workflow.state.run_settings import ewald_in_force

    options = dict(context.params)
    priors = {field: options.pop(name) for name, field in PRIORS.items()}
    renamed = {name: options.pop(option) for name, option in _RENAMED.items()}
    known = (*_TEXTS, *_SETTINGS)
    given = {name: options[name] for name in known} | renamed
    return refine_settings(options["settings"], given, priors, ewald_in_force(options["directory"]))


_RENAMED = {
    "ctf_min_resolution_A": "ctf_min_resolution",
    "excluded": "exclude",
    "priors_from": "priors",
    "anisotropic_weights": "anisotropic",
}
_SETTINGS = (
    "iterations",
    "until",
    "protocol",
    "particles",
    "temporal_samples",
    "stage_angles",
    "rigid_stage",
    "defocus",
    "defocus_search",
    "astigmatism",
    "phase_shift",
    "cs",
    "magnification",
    "tilt_movies",
    "weights",
    "ewald",
    "first_iteration_fraction",
    "max_passes",
    "min_particles",
)
