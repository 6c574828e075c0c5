"""What a simulated project is made of: its size, its specimen, and the errors to plant in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpr_dist.errors import InputError

PHANTOMS = {"octahedral": "O", "dihedral": "D2", "asymmetric": "C1", "filament": "C1"}


@dataclass(frozen=True)
class SpeciesPlan:
    """One species to simulate.

    Attributes:
        name: of its folder, where there are several.
        phantom: one of PHANTOMS, used unless there is a model.
        model: PDB or mmCIF file; symmetry: its point group, about RELION's axes.
        particles: per series; pixel_A, box_px: of its maps. None: as the project's settings say, or as fits.
    """

    name: str = "phantom"
    phantom: str = "octahedral"
    model: Path | None = None
    symmetry: str = "C1"
    particles: int | None = None
    pixel_A: float | None = None
    box_px: int | None = None

    def __post_init__(self) -> None:
        if self.phantom not in PHANTOMS:
            raise InputError(f"simulate: phantom {self.phantom!r} is not known; there are {', '.join(PHANTOMS)}")
        if self.particles is not None and self.particles < 1:
            raise InputError(f"simulate: species {self.name} needs at least 1 particle per series")
        if self.pixel_A is not None and not self.pixel_A > 0:
            raise InputError(f"simulate: species {self.name}: the pixel must be positive, got {self.pixel_A}")

    @property
    def point_group(self) -> str:
        return self.symmetry if self.model else PHANTOMS[self.phantom]


@dataclass(frozen=True)
class Plant:
    """Errors between what a project says and what happened; standard deviations, Gaussian.

    Attributes:
        image_warp: nodes (width, height) of the image warp per tilt.
        warp_A: per axis, at zero dose and at the highest dose, linear between; correlated over nodes and tilts.
        stage_angle_deg: per axis and tilt.
        position_A, orientation_deg: per axis of every particle.
        defocus_A: per tilt.
        bfactor_spread, scale_spread: relative, about -4 dose (at most -3 dose) and about cos(tilt).
        volume_warp: nodes x, y, z and along the dose; None plants none. The first node of the dose stays at zero.
        volume_warp_A: per axis, of a node at the last dose; it grows from the first like a random walk.
        temporal_samples: of the true trajectories; the project knows their mean only.
        drift_A, drift_deg: per axis, between the first and the last exposure of a particle.
        rigid_stage: the stage angles move the particles, too; M's only turn them.
        astigmatism_A: per tilt, of delta/2 (cos 2 angle, sin 2 angle).
        phase_shift_pi: mean of a phase plate, known to the project; phase_shift_error_pi: per tilt about it.
        cs_error_mm: per series.
        beam_tilt_mrad: per axis and series, axial coma. Other aberrations are given as the phase in rad that each term
            has at 4 A: trefoil_rad, odd5_rad (all terms of fifth order), even2_rad (astigmatism common to all tilts),
            even4_rad (fourth order but for the round one, which is Cs). No term brings lower powers of q with it.
        magnification: of each of the four elements of the matrix, per series.
        frame_motion_A: per axis, of the way from the first to the last frame of a movie; frame_track_A: of what the
            project takes that way for, about the truth.
        deselected_tilts: behind a bar of the grid, and deselected; bead_tilts: with a gold bead, and masked.
    """

    image_warp: tuple[int, int] = (4, 4)
    warp_A: tuple[float, float] = (1.5, 4.0)
    stage_angle_deg: float = 1.0
    position_A: float = 3.0
    orientation_deg: float = 2.0
    defocus_A: float = 300.0
    bfactor_spread: float = 0.1
    scale_spread: float = 0.05
    volume_warp: tuple[int, int, int, int] | None = None
    volume_warp_A: float = 3.0
    temporal_samples: int = 1
    drift_A: float = 3.0
    drift_deg: float = 1.0
    rigid_stage: bool = False
    astigmatism_A: float = 0.0
    phase_shift_pi: float = 0.0
    phase_shift_error_pi: float = 0.0
    cs_error_mm: float = 0.0
    beam_tilt_mrad: float = 0.0
    trefoil_rad: float = 0.0
    odd5_rad: float = 0.0
    even2_rad: float = 0.0
    even4_rad: float = 0.0
    magnification: float = 0.0
    frame_motion_A: float = 4.0
    frame_track_A: float = 3.0
    deselected_tilts: int = 0
    bead_tilts: int = 0

    def __post_init__(self) -> None:
        if self.volume_warp is not None and (min(self.volume_warp) < 1 or self.volume_warp[3] < 2):
            raise InputError(f"simulate: a volume warp needs nodes 1x1x1x2 or more, got {self.volume_warp}")
        if self.temporal_samples < 1:
            raise InputError(f"simulate: trajectories need at least 1 temporal sample, got {self.temporal_samples}")
        negative = [name for name, value in vars(self).items() if isinstance(value, float | int) and value < 0]
        if negative:
            raise InputError(f"simulate: {', '.join(negative)} must not be negative")

    @staticmethod
    def nothing() -> Plant:
        """The project already holds the truth."""
        return Plant((1, 1), (0.0, 0.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, frame_motion_A=0.0, frame_track_A=0.0)


@dataclass(frozen=True)
class SimulateSettings:
    """One ``simulate`` command.

    Attributes:
        image_px: (width, height); the volume has the same x and y, and ``thickness_A`` in z.
        box_px: of the maps.
        defocus_um: mean underfocus; series differ by 0.2 um.
        dose_per_tilt: e/A^2; the tilts are taken from 0 degrees outwards, alternating.
        contrast, solvent_rms, noise_only, ewald: see ``imaging.simulate.Exposure``.
        are_angles_inverted: the depth counts the other way (Warp's defocus hand).
        frames: of the movie of every tilt; 0: there are averages only. movie_format: "tif" (LZW) or "mrc".
        species: what is in the tomograms; the first one is the octahedral phantom by default.
    """

    n_series: int = 2
    particles_per_series: int = 30
    n_tilts: int = 25
    tilt_step_deg: float = 4.0
    pixel_A: float = 2.5
    image_px: tuple[int, int] = (512, 512)
    thickness_A: float = 350.0
    box_px: int = 72
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude: float = 0.07
    defocus_um: float = 2.0
    dose_per_tilt: float = 3.0
    contrast: float = 1.0
    solvent_rms: float = 0.0
    noise_only: bool = False
    ewald: int = 0
    are_angles_inverted: bool = False
    frames: int = 0
    movie_format: str = "tif"
    species: tuple[SpeciesPlan, ...] = (SpeciesPlan(),)
    seed: int = 0
    plant: Plant = field(default_factory=Plant)

    def __post_init__(self) -> None:
        if min(self.n_series, self.particles_per_series, self.n_tilts, *self.image_px) < 1:
            raise InputError("simulate: numbers of series, particles and tilts, and image sizes must be at least 1")
        if self.seed < 0:
            raise InputError(f"simulate: the seed must be 0 or more, got {self.seed}")
        if self.plant.deselected_tilts + self.plant.bead_tilts >= self.n_tilts:
            raise InputError(
                f"simulate: {self.plant.deselected_tilts} deselected and {self.plant.bead_tilts} masked tilts leave no "
                f"clean one of {self.n_tilts}"
            )
        if self.frames == 1 or self.frames < 0 or self.movie_format not in ("tif", "mrc"):
            raise InputError(
                f"simulate: movies need 2 frames or more, as tif or mrc; got {self.frames} as {self.movie_format}"
            )
        names = [plan.name for plan in self.species]
        if not names or len(set(names)) < len(names):
            raise InputError(f"simulate: species need names of their own, got {', '.join(names) or 'none'}")
        if self.tilt_range_deg >= 80:
            raise InputError(
                f"simulate: {self.n_tilts} tilts of {self.tilt_step_deg:g} degrees reach {self.tilt_range_deg:g}; "
                "the limit is 80: use fewer or smaller steps"
            )

    @property
    def tilt_range_deg(self) -> float:
        """Largest tilt; the series goes from plus to minus this."""
        return 0.5 * (self.n_tilts - 1) * self.tilt_step_deg

    @staticmethod
    def demo() -> SimulateSettings:
        """Enough for a refinement that can be watched: two series, about twenty seconds to make on two cores."""
        return SimulateSettings()

    @staticmethod
    def fixture() -> SimulateSettings:
        """The smallest project in which everything happens: one series of eight particles, made in a second or two."""
        return SimulateSettings(
            n_series=1,
            particles_per_series=8,
            n_tilts=7,
            tilt_step_deg=10.0,
            pixel_A=4.0,
            image_px=(208, 192),
            box_px=40,
            defocus_um=1.5,
            contrast=3.0,
            plant=Plant(image_warp=(2, 2)),
        )

    @staticmethod
    def everything() -> SimulateSettings:
        """Most of what can be wrong at once: warps of image and volume, drift, stage, and all of the optics."""
        plant = Plant(
            volume_warp=(2, 2, 1, 10),
            temporal_samples=2,
            astigmatism_A=200.0,
            cs_error_mm=0.05,
            beam_tilt_mrad=0.5,
            trefoil_rad=0.3,
            magnification=0.005,
        )
        return SimulateSettings(n_series=3, particles_per_series=40, image_px=(576, 576), plant=plant)


def settings_from(preset: str, given: Mapping[str, Any]) -> SimulateSettings:
    """A preset with other values by their names, of the project or of what is planted; None: "as in the preset".

    Raises:
        InputError: there is no such preset, or a value cannot be.
    """
    presets = {
        "demo": SimulateSettings.demo,
        "fixture": SimulateSettings.fixture,
        "everything": SimulateSettings.everything,
    }
    if preset not in presets:
        raise InputError(f"simulate: preset {preset!r} is not known; there are {', '.join(presets)}")
    base, known = presets[preset](), {name: value for name, value in given.items() if value is not None}
    planted = {name: known.pop(name) for name in list(known) if name in vars(base.plant)}
    # at once, because a check may concern both
    return replace(base, **known, plant=replace(base.plant, **planted))


def species_plan(text: str, symmetry: str = "C1") -> SpeciesPlan:
    """``KIND[:PARTICLES[:PIXEL[:BOX]]]`` -> a plan; KIND is a phantom, or a PDB or mmCIF file of this symmetry.

    Raises:
        InputError: a number cannot be read.
    """
    kind, *numbers = text.split(":")
    try:
        particles, pixel, box = (
            convert(value) if value else None
            for convert, value in zip((int, float, int), (*numbers, *[""] * 3), strict=False)
        )
    except ValueError:
        raise InputError(
            f"simulate: species {text!r} is not understood; expected KIND:PARTICLES:PIXEL:BOX, such as dihedral:20:3.2"
        ) from None
    if len(numbers) > 3:
        raise InputError(f"simulate: species {text!r} has more than KIND:PARTICLES:PIXEL:BOX")
    if kind in PHANTOMS:
        return SpeciesPlan(kind, kind, None, "C1", particles, pixel, box)
    stem = Path(kind).name.split(".")[0]
    return SpeciesPlan(stem, "octahedral", Path(kind), symmetry, particles, pixel, box)
