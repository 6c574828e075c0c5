"""mpr-dist simulate, demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli import options as o


def register(app: typer.Typer) -> None:
    app.command(epilog=o.examples("mpr-dist simulate project", "mpr-dist simulate small --preset fixture"))(simulate)
    app.command(epilog=o.examples("mpr-dist demo", "mpr-dist demo my-demo --iterations 2"))(demo)


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New or empty folder.")],
    preset: Annotated[str, typer.Option(help="demo: two series; fixture: one small series in seconds.")] = "demo",
    series: Annotated[int | None, typer.Option(help="Number of tilt series.")] = None,
    particles: Annotated[int | None, typer.Option(help="Particles in each series.")] = None,
    tilts: Annotated[int | None, typer.Option(help="Tilts of each series.")] = None,
    tilt_step: Annotated[float | None, typer.Option(help="Degrees between tilts.")] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Pixel of the images in A.")] = None,
    box: Annotated[int | None, typer.Option(help="Box of the half-maps in pixels.")] = None,
    contrast: Annotated[float | None, typer.Option(help="Strength of the particles; 1 is physical.")] = None,
    noise_only: Annotated[bool, typer.Option("--noise-only", help="Images without any particle.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same bytes.")] = None,
) -> None:
    """Make a WarpTools-style project with planted errors, and the truth beside it.

    A procedural, octahedral, ferritin-like phantom, projected exactly from its atoms: image warp, stage angles, pose
    noise, defocus errors, CTF, dose damage and shot noise. Nothing is downloaded.
    """
    from mpr_dist.workflow.simulate import settings_from, simulate_project

    given = {"n_series": series, "particles_per_series": particles, "n_tilts": tilts, "tilt_step_deg": tilt_step}
    given |= {"pixel_A": pixel_size, "box_px": box, "contrast": contrast, "seed": seed}
    made = simulate_project(out, settings_from(preset, {**given, "noise_only": noise_only or None}), o.progress())
    o.say([f"settings  {made.files.settings}", f"particles {made.files.run_data}", f"truth     {made.truth}"])


def demo(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="New or empty folder.")] = Path("mpr-dist-demo"),
    iterations: Annotated[int, typer.Option(help="Iterations of refinement.")] = 3,
    engine: o.Engine = "local",
    workers: o.Workers = None,
    threads: o.Threads = 1,
) -> None:
    """Simulate a project, refine it, and compare with the truth: a few minutes on two cores."""
    from mpr_dist.workflow.demo import demo_settings, run_demo
    from mpr_dist.workflow.launch import EngineChoice

    choice = EngineChoice(engine, workers, threads)
    o.say(run_demo(directory, demo_settings(iterations), engine=choice, say=typer.echo, progress=o.progress()).lines)
