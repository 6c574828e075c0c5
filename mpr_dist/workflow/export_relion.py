"""A population becomes a RELION-5 project."""

from __future__ import annotations

from mpr_dist.errors import InputError
from mpr_dist.workflow.export_request import ExportRequest, ExportSummary, chosen_iteration


def export_relion5(request: ExportRequest) -> ExportSummary:
    """Write an iteration as a RELION-5 project."""
    chosen_iteration(request)
    raise InputError("--to relion5: is not written yet")
