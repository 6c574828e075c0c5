"""mpr-dist doctor"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mpr_dist.cli import options as o

UNWELL = 1


def register(app: typer.Typer) -> None:
    app.command(epilog=o.examples("mpr-dist doctor", "srun --gres=gpu:1 mpr-dist doctor --device gpu --json"))(doctor)


def doctor(
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory for scratch files [default: the system's temporary directory]."),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="cpu|gpu", help="With gpu a machine without a working card has failed.")
    ] = "cpu",
    json: o.AsJson = False,
) -> None:
    """Look at this machine: versions, threads, scratch space, extras, driver, toolkit and cards; test the kernels.

    Ends with 1 when something failed. Run it where workers run: in a job, or on a node with cards.
    """
    import json as writer

    from mpr_dist.arrays import DEVICES
    from mpr_dist.errors import InputError
    from mpr_dist.workflow.checking.doctor import examine, is_well

    if device not in DEVICES:
        raise InputError(f"--device is one of {', '.join(DEVICES)}; got {device!r}")
    findings = examine(scratch, device == "gpu")
    if json:
        record = {"well": is_well(findings), "findings": [asdict(each) for each in findings]}
        o.say([writer.dumps(record, indent=1)])
    else:
        wide = max(len(each.name) for each in findings)
        o.say(f"{each.name:{wide}}  {each.state:7}  {each.text}" for each in findings)
    if not is_well(findings):
        raise typer.Exit(UNWELL)
