"""mpr-dist benchmark kernels, iteration, scaling, driver, schedule"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mpr_dist.cli.options import examples, group, progress, say
from mpr_dist.errors import InputError

app = group("Measure this program on this machine. Each benchmark makes its own data.")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for other programs.")]
Folder = Annotated[
    Path | None, typer.Option(help="Where to make the data, such as the shared disk [default: the temporary folder].")
]


Device = Annotated[str, typer.Option(metavar="cpu|gpu", help="What to measure: one core, or a card.")]


@app.command(
    epilog=examples(
        "mpr-dist benchmark kernels",
        "mpr-dist benchmark kernels --boxes 96 --json",
        "mpr-dist benchmark kernels --device gpu",
    )
)
def kernels(
    boxes: Annotated[
        str | None,
        typer.Option(metavar="N,N", help="Boxes, in px [default: 64,128,256, on a card 512 as well]."),
    ] = None,
    device: Device = "cpu",
    json: AsJson = False,
) -> None:
    """Time fused pass, insertion and extraction per Fourier sample and core, beside their bounds and plain loops.

    On a card fused pass and insertion, beside the floors of its memory and of its operations, which are measured, too.
    """
    from mpr_dist.workflow.benchmarks.benchmark_card import card_lines, card_record, measure_card
    from mpr_dist.workflow.benchmarks.benchmark_kernels import measure_kernels
    from mpr_dist.workflow.benchmarks.benchmark_tables import kernels_lines, kernels_record

    boxes = boxes or ("64,128,256,512" if device == "gpu" else "64,128,256")
    if device == "gpu":
        found = measure_card(_numbers(boxes, "--boxes"), _quietly)
        _print(json, card_record(found), card_lines(found))
        return
    measured = measure_kernels(_numbers(boxes, "--boxes"), _quietly, device)
    _print(json, kernels_record(measured), kernels_lines(measured))


@app.command(epilog=examples("mpr-dist benchmark iteration", "mpr-dist benchmark iteration --box 64 --json"))
def iteration(
    box: Annotated[int, typer.Option(help="Box of the maps, in px; the particles are half as wide.")] = 128,
    series: Annotated[int, typer.Option(help="Simulated tilt series.")] = 1,
    tilts: Annotated[int, typer.Option(help="Tilts of each, from -60 to 60 degrees.")] = 41,
    particles: Annotated[int, typer.Option(help="Particles of each.")] = 100,
    pixel_size: Annotated[
        float | None, typer.Option(metavar="A", help="Of images and maps [default: 256 A / box].")
    ] = None,
    image: Annotated[
        int | None, typer.Option(metavar="PX", help="Edge of the tilt images [default: as the particles need].")
    ] = None,
    device: Device = "cpu",
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Time the second iteration of a run with one thread, phase by phase, on simulated series.

    A series of ordinary size on a card: --device gpu --box 256 --particles 300 --pixel-size 1.6 --image 4096.
    """
    from mpr_dist.workflow.benchmarks.benchmark_iteration import measure_iteration
    from mpr_dist.workflow.benchmarks.benchmark_tables import iteration_lines, iteration_record

    of_images = pixel_size, image
    measured = measure_iteration(box, (series, tilts, particles), _quietly, folder, progress(), of_images, device)
    _print(json, iteration_record(measured), iteration_lines(measured))


@app.command(epilog=examples("mpr-dist benchmark scaling", "mpr-dist benchmark scaling --workers 1,2,4,8 --json"))
def scaling(
    workers: Annotated[str, typer.Option(metavar="N,N", help="Numbers of workers to compare, of one thread.")] = "1,2",
    series: Annotated[int, typer.Option(help="Simulated tilt series.")] = 16,
    particles: Annotated[int, typer.Option(help="Particles in each of them.")] = 400,
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Refine simulated series with different numbers of workers: speed, efficiency, and whether the bits agree."""
    from mpr_dist.workflow.benchmarks.benchmark_scaling import measure_scaling
    from mpr_dist.workflow.benchmarks.benchmark_tables import scaling_lines, scaling_record

    measured = measure_scaling(_numbers(workers), series, _quietly, particles, folder, progress())
    _print(json, scaling_record(measured), scaling_lines(measured))


@app.command(epilog=examples("mpr-dist benchmark driver", "mpr-dist benchmark driver --series 10000 --task-ms 10"))
def driver(
    series: Annotated[int, typer.Option(help="Synthetic series.")] = 10000,
    task_ms: Annotated[float, typer.Option(help="What takes the place of the refinement of one: a wait.")] = 10.0,
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 2,
    folder: Folder = None,
    json: AsJson = False,
) -> None:
    """Run an iteration in which the refinement is a short wait: what driver, scheduler and disk cost per series."""
    from mpr_dist.workflow.benchmarks.benchmark_driver import measure_driver
    from mpr_dist.workflow.benchmarks.benchmark_tables import driver_lines, driver_record

    if series < 1 or workers < 1 or not 0 <= task_ms <= 1e4:
        raise InputError("series and workers must be 1 or more, --task-ms from 0 to 10000")
    measured = measure_driver(series, task_ms, workers, _quietly, folder)
    _print(json, driver_record(measured), driver_lines(measured))


@app.command(epilog=examples("mpr-dist benchmark schedule --workers 200"))
def schedule(
    workers: Annotated[int, typer.Option(help="Simulated workers.")] = 200,
    series: Annotated[int, typer.Option(help="Series with a long-tailed (log-normal) distribution of costs.")] = 10000,
    spread: Annotated[float, typer.Option(help="Standard deviation of the logarithm of the costs.")] = 1.0,
    runs: Annotated[int, typer.Option(help="Simulations, each with costs of its own.")] = 20,
    json: AsJson = False,
) -> None:
    """Simulate many workers with the batches of a real run: how long they wait for the last one."""
    from mpr_dist.workflow.benchmarks.benchmark_schedule import simulate_schedule
    from mpr_dist.workflow.benchmarks.benchmark_tables import schedule_lines, schedule_record

    if workers < 1 or series < 1 or runs < 1 or not 0 <= spread <= 5:
        raise InputError("workers, series and runs must be 1 or more, --spread from 0 to 5")
    simulated = [simulate_schedule(workers, series, seed, spread) for seed in range(runs)]
    _print(json, schedule_record(simulated), schedule_lines(simulated))


def _print(json: bool, record: dict[str, Any], lines: list[str]) -> None:
    import json as writer

    say([writer.dumps(record, indent=1)] if json else lines)


def _quietly(text: str) -> None:
    typer.echo(text, err=True)


def _numbers(text: str, option: str = "--workers") -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} needs whole numbers with commas between them, such as 1,2; got {text!r}") from error
