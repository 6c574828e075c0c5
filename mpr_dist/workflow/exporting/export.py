"""A population leaves for another program: one function per target, each in a file of its own."""

from __future__ import annotations

from collections.abc import Callable

from mpr_dist.errors import InputError, MprError
from mpr_dist.storage.publish import disk
from mpr_dist.workflow.exporting.export_m import export_m
from mpr_dist.workflow.exporting.export_relion import export_relion5
from mpr_dist.workflow.exporting.export_warp import export_warp
from mpr_dist.workflow.series.export_ome_zarr import export_04, export_05
from mpr_dist.workflow.state.export_request import ExportRequest, ExportSummary, chosen_iteration

TARGETS: dict[str, Callable[[ExportRequest], ExportSummary]] = {
    "relion5": export_relion5,
    "m": export_m,
    "warp": export_warp,
    "ome-zarr": export_05,
    "ome-zarr-0.4": export_04,
}


def export(request: ExportRequest, target: str) -> ExportSummary:
    """Write an iteration of a population as a project of another program; the population is only read.

    Nothing is left of an export that failed, so that the same command works when its reason is mended.

    Raises:
        InputError: the target is not known, the iteration is not finished, the folder is in use.
        MprError: what the targets raise.
    """
    if target not in TARGETS:
        raise InputError(f"--to: {target!r} is not known; there are {', '.join(TARGETS)}")
    chosen_iteration(request)  # the folder is free: what is in it after a failure is ours
    there = request.out.exists()
    try:
        return TARGETS[target](request)
    except MprError:
        if there:
            for path in request.out.iterdir():
                (disk().remove_tree if path.is_dir() else disk().unlink)(path)
        else:
            disk().remove_tree(request.out)
        raise
