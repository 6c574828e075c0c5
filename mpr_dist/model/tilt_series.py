"""A tilt series: where the stage stood, what each tilt had suffered, and how images and volume deformed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.model.optics import Optics
from mpr_dist.model.warp import DoseWeights, ImageWarp, StageAngles, VolumeWarp
from mpr_dist.units import F64, Bool


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """One tilt series in Warp's conventions; index t is the row in its file, whatever the order of exposure.

    Attributes:
        name: file name without extension ("TS_01"); the key to particles and files.
        angle_deg, dose, axis_angle_deg: (tilts,) float64; dose in e/A^2 before the tilt was exposed.
        axis_offset_A: (tilts, 2) float64, x and y in the image.
        use_tilt: (tilts,) what the file says (UseTilt).
        active: (tilts,) the tilts this project works with (subset chosen by dose limit and selection).
        level_angle_deg: (x, y) sample levelling.
        are_angles_inverted: flips the sign of the depth in the defocus, nothing else.
        is_stage_rigid: stage angles move the particles as well as turning them; M's only turn them.
        image_size_A: (2,) x, y; volume_size_A: (3,) x, y, z.
        image_paths: one motion-corrected average per tilt.
    """

    name: str
    angle_deg: F64
    dose: F64
    axis_angle_deg: F64
    axis_offset_A: F64
    use_tilt: Bool
    active: Bool
    image_size_A: F64
    volume_size_A: F64
    image_paths: tuple[Path, ...] = ()
    level_angle_deg: tuple[float, float] = (0.0, 0.0)
    are_angles_inverted: bool = False
    is_stage_rigid: bool = False
    optics: Optics = field(default_factory=Optics)
    image_warp: ImageWarp = field(default_factory=ImageWarp)
    volume_warp: VolumeWarp = field(default_factory=VolumeWarp)
    stage_angles: StageAngles = field(default_factory=StageAngles)
    weights: DoseWeights = field(default_factory=DoseWeights)

    def __post_init__(self) -> None:
        n = len(self.angle_deg)
        lists: dict[str, F64 | Bool] = {
            "dose": self.dose,
            "axis angle": self.axis_angle_deg,
            "axis offset": self.axis_offset_A,
        }
        lists |= {"use tilt": self.use_tilt, "active": self.active}
        for what, values in lists.items():
            if len(values) != n:
                raise SeriesError(f"series {self.name}: {n} angles but {len(values)} values of {what}")
        if self.image_paths and len(self.image_paths) != n:
            raise SeriesError(f"series {self.name}: {n} angles but {len(self.image_paths)} image paths")

    @property
    def n_tilts(self) -> int:
        return len(self.angle_deg)

    @property
    def tilt_position(self) -> F64:
        """(tilts,) place of every tilt on the tilt axis of grids, 0..1 in file order; 0 for a single tilt."""
        n = self.n_tilts
        return np.arange(n) / (n - 1) if n > 1 else np.zeros(1)

    @property
    def dose_position(self) -> F64:
        """(tilts,) place of every tilt on the dose axis of grids, 0..1; 0 when all doses are equal."""
        span = float(np.ptp(self.dose))
        return (self.dose - self.dose.min()) / span if span > 0 else np.zeros(self.n_tilts)
