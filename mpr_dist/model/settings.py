"""What the user asks for: settings are values, read once at the rim, stored beside every result."""

from __future__ import annotations

from dataclasses import dataclass, field

from mpr_dist.errors import InputError

# scores and standard deviations take five, the search for a step the others
LEAST_PASSES = 10


@dataclass(frozen=True)
class Priors:
    """Standard deviations of the Gaussian priors, on offsets from the imported values."""

    image_warp_A: float = 5.0
    stage_angle_deg: float = 1.0
    position_A: float = 5.0
    orientation_deg: float = 3.0
    defocus_A: float = 300.0


@dataclass(frozen=True)
class RefineSettings:
    """One ``refine`` command.

    Attributes:
        iterations: outer iterations (references, refinement of all series, new half-maps).
        image_warp: nodes (width, height) of the image warp per tilt, or None to leave it as it is.
        particles, stage_angles, defocus: classes to refine besides; amplitude scales are always refined.
        first_iteration_fraction: share of the resolution range used in the first iteration.
        weight_threshold: a tilt is used up to the frequency where its dose envelope falls below this.
        share_below_A: frequencies below 1/share_below_A are averaged over both half-maps in the reference, as M does at
            40 A; 0 shares nothing, so that the cross-half score stays a test by images the reference never saw.
        max_passes: passes over the images of a series per iteration, at most.
        min_particles: a series with fewer is left out.
    """

    iterations: int = 4
    image_warp: tuple[int, int] | None = None
    particles: bool = False
    stage_angles: bool = False
    defocus: bool = False
    first_iteration_fraction: float = 1.0
    weight_threshold: float = 0.05
    share_below_A: float = 0.0
    max_passes: int = 40
    min_particles: int = 1
    priors: Priors = field(default_factory=Priors)

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise InputError(f"iterations must be 0 or more, got {self.iterations}")
        if self.image_warp is not None and min(self.image_warp) < 1:
            raise InputError(f"an image warp needs at least 1 x 1 nodes, got {self.image_warp}")
        if not 0 < self.first_iteration_fraction <= 1:
            raise InputError(f"first_iteration_fraction must lie in 0..1, got {self.first_iteration_fraction}")
        if not 0 < self.weight_threshold < 1:
            raise InputError(f"weight_threshold must lie between 0 and 1, got {self.weight_threshold}")
        if not self.share_below_A >= 0:
            raise InputError(f"share_below_A must be 0 or more, got {self.share_below_A}")
        if self.max_passes < LEAST_PASSES:
            raise InputError(f"max_passes must be {LEAST_PASSES} or more, got {self.max_passes}: fewer allow no step")

    @property
    def refines_anything(self) -> bool:
        return self.image_warp is not None or self.particles or self.stage_angles or self.defocus
