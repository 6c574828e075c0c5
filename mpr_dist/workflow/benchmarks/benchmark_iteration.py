"""A whole iteration on simulated series, and how its time divides among its phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numba as nb

from mpr_dist.arrays import open_device
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError
from mpr_dist.imaging.dirt import fill_masked
from mpr_dist.imaging.extract import extract_on, noise_of_rings, power_sums, prepare_tilt_image
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.particle_images import kernel_tables, load_particle_images
from mpr_dist.imaging.passes import compare_images, insert_images
from mpr_dist.imaging.reconstruct import fourier_sums, solve_map
from mpr_dist.imaging.reference import species_fsc
from mpr_dist.maths.solve import covariance, posterior, solve
from mpr_dist.model.settings import RefineSettings
from mpr_dist.refinement.jacobian import Jacobian
from mpr_dist.refinement.linearisation import Linearisation
from mpr_dist.refinement.objective import evaluate
from mpr_dist.refinement.step import refine_series
from mpr_dist.storage.accumulators import write_partial
from mpr_dist.storage.mrc import read_image, write_volume
from mpr_dist.storage.ome_zarr import write_ome_zarr
from mpr_dist.storage.read_ahead import read_ahead
from mpr_dist.workflow.reporting.iteration_report import write_report
from mpr_dist.workflow.running.merge import merge
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.phase_clock import PhaseClock
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.series.uncertainty_table import write_uncertainty
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import Plant, Progress, SimulateSettings, simulate_project
from mpr_dist.workflow.state.reference_files import load_references, make_reference
from mpr_dist.workflow.state.resources import Resources
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.series_io import read_state, write_sigmas, write_state

Phases = dict[str, Sequence[Callable[..., Any]]]
FUSED, INSERTION = "fused pass", "insertion"
# but for the two passes over all samples
MOST = 0.15
REFINE = RefineSettings(iterations=1, image_warp=(6, 4), particles=True, stage_angles=True, defocus=True)


def phases() -> Phases:
    """The phases of an iteration; time belongs to the innermost function on the stack."""
    return {
        "references": (make_reference, load_references),
        "read images": (read_image, read_ahead),
        "rescale and filter tilts": (prepare_tilt_image, fill_masked),
        "extract": (extract_on,),
        "whiten": (power_sums, noise_of_rings, load_particle_images),
        "geometry and tables": (project, views, kernel_tables),
        FUSED: (compare_images,),
        "Jacobian": (Jacobian.series, Jacobian.pose, Linearisation.of),
        "assembly": (evaluate,),
        "solve": (solve,),
        "covariance": (covariance, posterior),
        "rest of the refinement": (refine_series,),
        INSERTION: (insert_images,),
        "publish and merge sums": (Physics.settle, write_partial, merge),
        "symmetrise": (fourier_sums,),
        "Wiener filter, inversion": (solve_map,),
        "FSC": (species_fsc,),
        "read and write parameters": (read_state, write_state, write_sigmas),
        "write maps": (write_volume, write_ome_zarr),
        "report": (write_report, write_uncertainty),
    }


@dataclass(frozen=True)
class IterationTime:
    """Attributes:
    seconds: phase -> processor seconds of the thread that works; with what belongs to none.
    other_threads_s: processor seconds of helpers, such as the one that reads ahead. wall_s: by the clock on the wall.
    """

    box_px: int
    series: int
    tilts: int
    particles: int
    wall_s: float
    seconds: dict[str, float]
    other_threads_s: float

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values()) + self.other_threads_s

    @property
    def share(self) -> dict[str, float]:
        return {name: value / self.total_s for name, value in self.seconds.items()}

    @property
    def too_long(self) -> tuple[str, ...]:
        """Phases other than the two passes that take more than MOST of the time."""
        return tuple(name for name, value in self.share.items() if value > MOST and name not in (FUSED, INSERTION))


def measure_iteration(
    box_px: int,
    size: tuple[int, int, int],
    say: Callable[[str], None],
    folder: Path | None = None,
    progress: Progress | None = None,
    of_images: tuple[float | None, int | None] = (None, None),
    device: str = "cpu",
) -> IterationTime:
    """The second iteration of a run in this process with one thread; size: series, tilts, particles of a series.

    of_images: their pixel (A) and their edge (px), where those are not to follow from the box and the particles.
    device: "cpu", or "gpu"; then what the host waits for the card counts as its time.

    The first one loads or compiles what is needed, and makes maps as good as they are in the middle of a project.

    Raises:
        InputError: a size that cannot be, or no card.
    """
    n_series, tilts, particles = size
    if box_px % 2 or not 32 <= box_px <= 512:
        raise InputError(f"--box needs an even number from 32 to 512, got {box_px}")
    if min(n_series, particles) < 1 or not 3 <= tilts <= 61:
        raise InputError(f"--series and --particles must be 1 or more, --tilts from 3 to 61; got {size}")
    physics = Physics.on(Resources(device=device))
    open_device(device)  # before anything takes time
    threads = nb.get_num_threads()
    nb.set_num_threads(1)
    try:
        with TemporaryDirectory(dir=folder, prefix="mpr-dist-benchmark-") as directory:
            say(f"simulating {n_series} series of {particles} particles in {tilts} tilts")
            settings = _settings(box_px, n_series, tilts, particles, *of_images)
            clock, wall_s = _iterate(Path(directory), settings, physics, say, progress)
    finally:
        nb.set_num_threads(threads)
    return IterationTime(box_px, n_series, tilts, particles, wall_s, clock.seconds, clock.other_threads_s)


def _settings(
    box_px: int, n_series: int, tilts: int, particles: int, pixel_A: float | None, image_px: int | None
) -> SimulateSettings:
    """The phantom of 128 A in boxes of 256 A, as dense in the images as in the fixture's when they are full."""
    fixture, pixel_A = SimulateSettings.fixture(), pixel_A or 256.0 / box_px
    edge = image_px or 2 * round((200 + 160 * particles**0.5) / pixel_A / 2)
    return replace(
        fixture,
        n_series=n_series,
        n_tilts=tilts,
        tilt_step_deg=120 / (tilts - 1),
        particles_per_series=particles,
        pixel_A=pixel_A,
        box_px=box_px,
        image_px=(edge, edge),
        plant=Plant(image_warp=(4, 4)),
    )


def _iterate(
    folder: Path, settings: SimulateSettings, physics: Physics, say: Callable[[str], None], progress: Progress | None
) -> tuple[PhaseClock, float]:
    made = simulate_project(folder / "project", settings, progress)
    import_simulated(folder / "population", made, "benchmark")
    say("first iteration")
    run(folder / "population", physics, RunSettings(REFINE), InlineExecutor(), ())
    say("second iteration")
    start = time.monotonic()
    with PhaseClock(phases()) as clock:
        run(folder / "population", physics, RunSettings(REFINE), InlineExecutor(), ())
    return clock, time.monotonic() - start
