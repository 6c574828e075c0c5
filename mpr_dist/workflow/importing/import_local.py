"""Local alignments of AreTomo and IMOD become image warps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.local_areas import Stage, off_plane_A, warp_of_areas
from mpr_dist.imaging.patch_shifts import warp_of_patches
from mpr_dist.imaging.relion_deformation import FittedWarp
from mpr_dist.storage.alignments import Alignment
from mpr_dist.storage.imod_local import read_local
from mpr_dist.units import I64


@dataclass(frozen=True, eq=False)
class LocalBends:
    """The warp, if there are local alignments; ``off_plane_A``: what it misses at top and bottom of the tomogram."""

    warp: FittedWarp | None = None
    off_plane_A: float = 0.0
    notes: tuple[str, ...] = ()


def local_bends(
    alignment: Alignment, image_px: I64, pixel_A: float, header_A: float, alignment_pixel_A: float
) -> LocalBends:
    """What the local alignments of a series become; a note where they cannot be used.

    Args:
        image_px: (2,) of the stack; pixel_A: its pixel; header_A: that of its header, 0 where it has none.
        alignment_pixel_A: of the stack that was aligned.
    """
    if alignment.patches is not None:
        return LocalBends(warp_of_patches(alignment.patches, alignment.shift_px, alignment_pixel_A))
    file, name = alignment.local_file, alignment.path.stem
    if file is None:
        return LocalBends()
    if alignment.tomogram_px is None:
        note = f"{name}: local alignments ({file.name}) are NOT APPLIED: tilt.com does not say FULLIMAGE and THICKNESS."
        return LocalBends(notes=(note,))
    binned = alignment_pixel_A / pixel_A
    width, height, depth = alignment.tomogram_px
    try:
        areas = read_local(file, len(alignment.image), (width, height), header_A * binned)
    except SeriesError as error:
        return LocalBends(notes=(f"{name}: local alignments are NOT APPLIED: {error}.",))
    stage = Stage(alignment.tilt_deg, alignment.x_tilt_deg, alignment.axis_deg, alignment.shift_px - 0.5)
    warp = warp_of_areas(areas, stage, image_px / binned, alignment_pixel_A)
    return LocalBends(warp, off_plane_A(areas, stage, depth, alignment_pixel_A))


def told_of_bends(bends: Sequence[LocalBends]) -> list[str]:
    """A sentence about all series that have any."""
    warps = [each.warp for each in bends if each.warp is not None]
    if not warps:
        return []
    ny, nx = warps[0].warp.x.values.shape[1:]
    off = max(each.off_plane_A for each in bends)
    depth = f" in the middle plane; {off:.2f} A rms are missed at the top and bottom of the tomogram" if off else ""
    return [
        f"Local alignments of {len(warps)} series became image warps of {nx} x {ny} nodes per tilt, right to "
        f"{max(warp.rms_A for warp in warps):.2f} A rms, {max(warp.most_A for warp in warps):.2f} A at most{depth}."
    ]
