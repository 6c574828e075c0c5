"""mpr-dist simulate, demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mpr_dist.cli import options as o
from mpr_dist.cli.engine_options import engine_asked
from mpr_dist.cli.grouped_help import GroupedHelp
from mpr_dist.errors import InputError
from mpr_dist.model.settings import EWALD_SIGNS

_SPECIMEN, _IMAGES = "What is in the tomograms", "How images are taken"
_MOTION, _OPTICS, _TILTS = "Planted motion (standard deviations)", "Planted optics (standard deviations)", "Bad tilts"


def register(app: typer.Typer) -> None:
    lines = (
        "mpr-dist simulate project",
        "mpr-dist simulate small --preset fixture",
        "mpr-dist simulate hard --preset everything --ewald on",
        "mpr-dist simulate two --species octahedral:20 --species dihedral:15:3.2",
        "mpr-dist simulate cage --model 6z6u.pdb.gz --model-symmetry O",
    )
    app.command(epilog=o.examples(*lines), cls=GroupedHelp)(simulate)
    app.command(epilog=o.examples("mpr-dist demo", "mpr-dist demo my-demo --iterations 2"))(demo)


def _number(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder.")],
    preset: Annotated[
        str,
        typer.Option(
            help="demo: two series; fixture: one small series in seconds; everything: three series with warps of image "
            "and volume, drift, stage angles, defocus, astigmatism, Cs, beam tilt, trefoil and magnification."
        ),
    ] = "demo",
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same bytes.")] = None,
    series: Annotated[int | None, _number(_SPECIMEN, "Number of tilt series.")] = None,
    particles: Annotated[int | None, _number(_SPECIMEN, "Particles in each series.")] = None,
    species: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[:PARTICLES[:PIXEL[:BOX]]]",
            help="A species: octahedral, dihedral (D2), asymmetric (C1), filament (a helix), or a PDB or mmCIF file. "
            "Repeat it for several; each gets its own table, half-maps, mask and truth.",
            rich_help_panel=_SPECIMEN,
        ),
    ] = None,
    model: Annotated[
        Path | None, _number(_SPECIMEN, "PDB or mmCIF file (.gz, too) instead of a phantom; needs mpr_dist[models].")
    ] = None,
    model_symmetry: Annotated[
        str, _number(_SPECIMEN, "Point group of models; C and D are turned to RELION's axes, others must stand there.")
    ] = "C1",
    box: Annotated[int | None, _number(_SPECIMEN, "Box of the half-maps in pixels.")] = None,
    tilts: Annotated[int | None, _number(_IMAGES, "Tilts of each series.")] = None,
    tilt_step: Annotated[float | None, _number(_IMAGES, "Degrees between tilts.")] = None,
    pixel_size: Annotated[float | None, _number(_IMAGES, "Pixel of the images in A.")] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Of the images, pixels.", rich_help_panel=_IMAGES)
    ] = None,
    contrast: Annotated[float | None, _number(_IMAGES, "Strength of the particles; 1 is physical.")] = None,
    noise_only: Annotated[bool, _number(_IMAGES, "Images without any particle.", "--noise-only")] = False,
    phase_shift: Annotated[float | None, _number(_IMAGES, "Phase plate, in units of pi; the project knows it.")] = None,
    ewald: Annotated[
        str | None, _number(_IMAGES, "Ewald sphere: off (flat, the default), on (curved), reversed (the other hand).")
    ] = None,
    frames: Annotated[int | None, _number(_IMAGES, "Frames of a movie of every tilt, behind a gain; 0: none.")] = None,
    movie_format: Annotated[str | None, _number(_IMAGES, "Of movies: tif (LZW, the default) or mrc.")] = None,
    angles_inverted: Annotated[
        bool, _number(_IMAGES, "The other defocus hand (AreAnglesInverted).", "--angles-inverted")
    ] = False,
    image_warp: Annotated[
        str | None, typer.Option(metavar="WxH", help="Nodes of the image warp per tilt.", rich_help_panel=_MOTION)
    ] = None,
    volume_warp: Annotated[
        str | None,
        typer.Option(
            metavar="XxYxZxT",
            help="Nodes of a volume warp, such as 2x2x1x10; T: dose.",
            rich_help_panel=_MOTION,
        ),
    ] = None,
    volume_warp_rms: Annotated[float | None, _number(_MOTION, "Of its nodes at the last dose, A [default: 3].")] = None,
    temporal_samples: Annotated[int | None, _number(_MOTION, "Samples of true trajectories; 1 does not move.")] = None,
    drift: Annotated[float | None, _number(_MOTION, "Of particles over the dose per axis, A [default: 3].")] = None,
    drift_angle: Annotated[
        float | None, _number(_MOTION, "Of particles over the dose per axis, degrees [default: 1].")
    ] = None,
    frame_motion: Annotated[
        float | None, _number(_MOTION, "From the first to the last frame of a movie per axis, A [default: 4].")
    ] = None,
    frame_track_error: Annotated[
        float | None, _number(_MOTION, "Of what the project knows of that motion, A [default: 3].")
    ] = None,
    stage_angles: Annotated[float | None, _number(_MOTION, "Of the stage per axis and tilt, degrees.")] = None,
    rigid_stage: Annotated[
        bool, _number(_MOTION, "Stage angles move the particles, too; M's only turn them.", "--rigid-stage")
    ] = False,
    position_error: Annotated[float | None, _number(_MOTION, "Of every particle per axis, A.")] = None,
    orientation_error: Annotated[float | None, _number(_MOTION, "Of every particle per axis, degrees.")] = None,
    defocus_error: Annotated[float | None, _number(_OPTICS, "Per tilt, A.")] = None,
    astigmatism_error: Annotated[float | None, _number(_OPTICS, "Per tilt and Cartesian component, A.")] = None,
    phase_shift_error: Annotated[float | None, _number(_OPTICS, "Per tilt, units of pi.")] = None,
    cs_error: Annotated[float | None, _number(_OPTICS, "Per series, mm.")] = None,
    beam_tilt: Annotated[float | None, _number(_OPTICS, "Per series and axis, mrad: axial coma.")] = None,
    trefoil: Annotated[float | None, _number(_OPTICS, "Per series, rad at 4 A.")] = None,
    aberrations_5: Annotated[float | None, _number(_OPTICS, "Odd terms of order 5, rad at 4 A.")] = None,
    aberrations_2: Annotated[float | None, _number(_OPTICS, "Even terms of order 2, rad at 4 A.")] = None,
    aberrations_4: Annotated[float | None, _number(_OPTICS, "Even terms of order 4, rad at 4 A.")] = None,
    magnification: Annotated[float | None, _number(_OPTICS, "Of each element of the 2 x 2 matrix.")] = None,
    deselected_tilts: Annotated[int | None, _number(_TILTS, "Blocked and deselected (UseTilt) in each series.")] = None,
    masked_tilts: Annotated[int | None, _number(_TILTS, "With a gold bead and its mask/*.tif in each series.")] = None,
) -> None:
    """Make a WarpTools-style project with planted errors, and the truth beside it.

    Procedural phantoms or a model, projected exactly from their atoms: motion, optics, dose damage and shot noise. An
    option that is not given is as in the preset; presets demo and fixture plant an image warp, stage angles, and errors
    of poses and defocus. Nothing is downloaded.
    """
    from mpr_dist.workflow.simulation.simulate import settings_from, simulate_project, species_plan

    given: dict[str, object] = {"n_series": series, "particles_per_series": particles, "n_tilts": tilts}
    given |= {"tilt_step_deg": tilt_step, "pixel_A": pixel_size, "box_px": box, "contrast": contrast, "seed": seed}
    given |= {"noise_only": noise_only or None, "ewald": _ewald(ewald), "are_angles_inverted": angles_inverted or None}
    given |= {"image_px": _nodes("--image-size", image_size, 2), "image_warp": _nodes("--image-warp", image_warp, 2)}
    given |= {"volume_warp": _nodes("--volume-warp", volume_warp, 4), "volume_warp_A": volume_warp_rms}
    given |= {"temporal_samples": temporal_samples, "drift_A": drift, "drift_deg": drift_angle}
    given |= {"stage_angle_deg": stage_angles, "rigid_stage": rigid_stage or None}
    given |= {"position_A": position_error, "orientation_deg": orientation_error, "defocus_A": defocus_error}
    given |= {"astigmatism_A": astigmatism_error, "phase_shift_pi": phase_shift, "cs_error_mm": cs_error}
    given |= {"phase_shift_error_pi": phase_shift_error, "beam_tilt_mrad": beam_tilt, "trefoil_rad": trefoil}
    given |= {"odd5_rad": aberrations_5, "even2_rad": aberrations_2, "even4_rad": aberrations_4}
    given |= {"magnification": magnification, "deselected_tilts": deselected_tilts, "bead_tilts": masked_tilts}
    given |= {"frames": frames, "movie_format": movie_format}
    given |= {"frame_motion_A": frame_motion, "frame_track_A": frame_track_error}
    kinds = [*(species or []), *([str(model)] if model else [])]
    if kinds:
        given["species"] = tuple(species_plan(kind, model_symmetry) for kind in kinds)
    made = simulate_project(out, settings_from(preset, given), o.progress())
    tables = [f"particles {each.run_data}" for each in made.every_species]
    helices = [each.species for each in made.every_species if each.species.helix is not None]
    tables += [f"symmetry  {species.name}: {species.symmetry_text}" for species in helices]
    o.say([f"settings  {made.files.settings}", *tables, f"truth     {made.files.root / 'truth'}"])


def _ewald(word: str | None) -> int | None:
    if word is not None and word not in EWALD_SIGNS:
        raise InputError(f"--ewald: {word!r} is not known; there are {', '.join(EWALD_SIGNS)}")
    return None if word is None else EWALD_SIGNS[word]


def _nodes(option: str, text: str | None, count: int) -> tuple[int, ...] | None:
    """ "4x3" -> (4, 3)."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != count or not all(part.isdigit() for part in parts):
        raise InputError(f"{option}: {text!r} is not understood; expected {count} numbers joined by x")
    return tuple(int(part) for part in parts)


def demo(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="New or empty folder.")] = Path("mpr-dist-demo"),
    iterations: Annotated[int, typer.Option(help="Iterations of refinement.")] = 3,
    engine: o.Engine = None,
    workers: o.Workers = None,
    threads: o.Threads = None,
) -> None:
    """Simulate a project, refine it, and compare with the truth: a few minutes on two cores."""
    from mpr_dist.workflow.simulation.demo import demo_settings, run_demo

    choice = engine_asked(context)
    o.say(run_demo(directory, demo_settings(iterations), engine=choice, say=typer.echo, progress=o.progress()).lines)
