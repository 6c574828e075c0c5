"""A project with a known answer: simulated tilt series, planted errors, and the truth beside them.

The project holds nominal values, as alignment and picking would leave them; ``truth/`` holds what refinement should
find. Its random part is drawn in ``plant.py``, ``plant_optics.py`` and ``plant_particles.py``.

One species has its table and maps in ``relion/`` and its truth in ``truth/``; several have folders of their own there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import fft

from mpr_dist.errors import InputError
from mpr_dist.imaging.helical import helical_map
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.imaging.phantom import Atoms, density
from mpr_dist.imaging.reconstruct import CellHelix, accumulator_shape, backproject, fourier_sums, solve_map
from mpr_dist.imaging.simulate import Exposure, image_shape, tilt_images
from mpr_dist.imaging.spoiled import dirt_mask
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.mrc import read_image, write_volume
from mpr_dist.storage.warp_project import (
    WarpProject,
    write_average,
    write_mask,
    write_run_data,
    write_settings,
    write_skeleton,
    write_tomostar,
)
from mpr_dist.units import F32, F64
from mpr_dist.workflow.simulation.plant import nominal_series, spoiled, true_series
from mpr_dist.workflow.simulation.plant_particles import perturb, place_particles
from mpr_dist.workflow.simulation.random_branches import DECIMALS, HALF_MAPS, ORIGINS, random_branch
from mpr_dist.workflow.simulation.simulate_movies import averages_of_movies, write_frame_settings
from mpr_dist.workflow.simulation.simulate_settings import (
    Plant,
    SimulateSettings,
    SpeciesPlan,
    settings_from,
    species_plan,
)
from mpr_dist.workflow.simulation.specimen import specimen
from mpr_dist.workflow.simulation.truth import write_truth

__all__ = [
    "Plant",
    "Progress",
    "SimulateSettings",
    "SimulatedProject",
    "SimulatedSpecies",
    "SpeciesPlan",
    "half_maps_from",
    "settings_from",
    "simulate_project",
    "species_plan",
]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class SimulatedSpecies:
    """One species of a project: particles by name of the series, and where its files lie.

    Attributes:
        number: place among the species; particles: nominal; folder: of the table and maps; truth: its folder.
    """

    number: int
    species: Species
    atoms: Atoms
    particles: dict[str, Particles]
    true_particles: dict[str, Particles]
    folder: Path
    truth: Path

    @property
    def half_maps(self) -> tuple[Path, Path]:
        return self.folder / "half1.mrc", self.folder / "half2.mrc"

    @property
    def mask(self) -> Path:
        return self.folder / "mask.mrc"

    @property
    def run_data(self) -> Path:
        return self.folder / "run_data.star"

    def density(self) -> F32:
        return density(self.atoms, self.species.box_px, self.species.pixel_size_A)


@dataclass(frozen=True, eq=False)
class SimulatedProject:
    """What was written: series by name, ``series`` nominal; particles and maps are those of the first species."""

    files: WarpProject
    settings: SimulateSettings
    every_species: tuple[SimulatedSpecies, ...]
    series: dict[str, TiltSeries]
    true_series: dict[str, TiltSeries]

    @property
    def species(self) -> Species:
        return self.every_species[0].species

    @property
    def atoms(self) -> Atoms:
        return self.every_species[0].atoms

    @property
    def particles(self) -> dict[str, Particles]:
        return self.every_species[0].particles

    @property
    def true_particles(self) -> dict[str, Particles]:
        return self.every_species[0].true_particles

    @property
    def truth(self) -> Path:
        return self.every_species[0].truth

    @property
    def half_maps(self) -> tuple[Path, Path]:
        return self.every_species[0].half_maps

    @property
    def mask(self) -> Path:
        return self.every_species[0].mask


def simulate_project(out: Path, settings: SimulateSettings, progress: Progress | None = None) -> SimulatedProject:
    """Write a project and its truth into the folder ``out`` (new or empty).

    ``progress(what, done, total)`` is called as tilt images and half-maps are finished. The same settings give the same
    bytes. Raises InputError when the folder is in use, the particles do not fit, or a model cannot be read.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not an empty folder; give a new one, nothing is overwritten")
    report = progress or (lambda what, done, total: None)
    exposure = _exposure(settings)
    made = _draw(WarpProject(out), settings)
    made.files.make_folders()
    if settings.frames:
        write_frame_settings(made.files, settings)
    _write_nominal(made)
    for each in made.every_species:
        write_truth(each.truth, made.true_series, each.true_particles, settings.pixel_A)
        write_volume(each.truth / "density.mrc", each.density(), each.species.pixel_size_A)
    _write_images(made, exposure, report)
    total = 2 * len(made.every_species)
    report("half-maps", 0, total)
    for each in made.every_species:
        halves = lowpassed_half_maps(made, each) if settings.noise_only else starting_half_maps(made, each)
        for path, half in zip(each.half_maps, halves, strict=True):
            write_volume(path, half, each.species.pixel_size_A)
        report("half-maps", 2 * (each.number + 1), total)
    return made


def _exposure(s: SimulateSettings) -> Exposure:
    return Exposure(s.pixel_A, s.dose_per_tilt, s.contrast, s.solvent_rms, s.noise_only, s.ewald)


def _draw(files: WarpProject, s: SimulateSettings) -> SimulatedProject:
    """Everything that is random, but for the images."""
    names = [f"TS_{i + 1:02d}" for i in range(s.n_series)]
    truth = {name: true_series(files, name, i, s) for i, name in enumerate(names)}
    series = {name: nominal_series(truth[name], s, i) for i, name in enumerate(names)}
    kinds: list[SimulatedSpecies] = []
    for number, plan in enumerate(s.species):
        species, atoms = specimen(s, number)
        count = plan.particles or s.particles_per_series
        poses = {
            name: place_particles(truth[name], i * count, species.diameter_A, s, i, count, _taken(kinds, name), number)
            for i, name in enumerate(names)
        }
        particles = {name: perturb(poses[name], s, i, number) for i, name in enumerate(names)}
        own = "." if len(s.species) == 1 else plan.name
        folders = files.root / "relion" / own, files.root / "truth" / own
        kinds.append(SimulatedSpecies(number, species, atoms, particles, poses, *folders))
    return SimulatedProject(files, s, tuple(kinds), series, truth)


def _taken(kinds: list[SimulatedSpecies], name: str) -> tuple[F64, F64] | None:
    """Positions and diameters of the particles that a series holds already."""
    if not kinds:
        return None
    positions = [each.true_particles[name].position_A.mean(axis=1) for each in kinds]
    widths = [np.full(len(p), each.species.diameter_A) for p, each in zip(positions, kinds, strict=True)]
    return np.concatenate(positions), np.concatenate(widths)


def _write_nominal(made: SimulatedProject) -> None:
    files, s = made.files, made.settings
    first = next(iter(made.series.values()))
    write_settings(files.settings, first, s.pixel_A, s.dose_per_tilt)
    for name, series in made.series.items():
        write_tomostar(files.tomostar(name), series)
        write_skeleton(files.xml(name), series, s.pixel_A)
    # another pixel size than the images', and origins, because real tables have both
    pixel = round(1.6 * s.pixel_A, 4)
    for each in made.every_species:
        each.folder.mkdir(parents=True, exist_ok=True)
        origins = {
            name: np.round(2.0 * random_branch(s, i, ORIGINS, each.number).standard_normal((len(p), 3)), DECIMALS)
            for i, (name, p) in enumerate(each.particles.items())
        }
        write_run_data(each.run_data, each.particles, first.optics, pixel, origins, 64)
        write_volume(each.mask, shell_mask(each), each.species.pixel_size_A)


def _write_images(made: SimulatedProject, exposure: Exposure, report: Progress) -> None:
    files, s = made.files, made.settings
    total = s.n_series * s.n_tilts
    for index, (name, series) in enumerate(made.true_series.items()):
        wrong = spoiled(series, s, index)
        content = [(each.true_particles[name], each.atoms) for each in made.every_species]
        images = tilt_images if not s.frames else partial(averages_of_movies, made.files, name, s)
        for t, image in enumerate(images(series, content, exposure, s.seed, index, wrong)):
            write_average(files.average(name, t), image, s.pixel_A)
            beads = tuple(bead for bead in wrong.beads if bead.tilt == t)
            if beads:
                write_mask(files.mask(name, t), dirt_mask(beads, image_shape(series, s.pixel_A), s.pixel_A))
            report("tilt images", index * s.n_tilts + t + 1, total)


def shell_mask(one: SimulatedSpecies) -> F32:
    """Binary: from 6 A inside the innermost atoms to 4 A outside the outermost."""
    n, pixel = one.species.box_px, one.species.pixel_size_A
    x = pixel * (np.arange(n) - n // 2)
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    inner = np.linalg.norm(one.atoms.position_A, axis=1).min() - 6.0
    return np.asarray((radius > inner) & (radius < one.atoms.radius_A + 4.0), np.float32)


def starting_half_maps(made: SimulatedProject, one: SimulatedSpecies) -> tuple[F32, F32]:
    """Half-maps from the written images with the nominal geometry, as a refinement of subtomograms leaves them."""
    return half_maps_from(made, made.series, one.particles, one.species)


def half_maps_from(
    made: SimulatedProject,
    series: Mapping[str, TiltSeries],
    particles: Mapping[str, Particles],
    species: Species | None = None,
) -> tuple[F32, F32]:
    """Unfiltered half-maps (box, box, box) of a species (the first) from the written images with the given geometry.

    With ``true_series`` and the true particles this is the best that a refinement can reach.
    """
    species, pixel_A = species or made.species, made.settings.pixel_A
    q_max = 0.5 / max(pixel_A, species.pixel_size_A)
    sums = np.zeros(accumulator_shape(species), np.int64)
    for name, one in series.items():

        def read_tilt(t: int, paths: tuple[Path, ...] = one.image_paths) -> tuple[F32, float]:
            return read_image(paths[t]), pixel_A

        images = load_particle_images(one, species, particles[name], read_tilt, q_max, 0.05)
        backproject(sums, one, species, particles[name], images)
    helix = CellHelix.of(species)
    first, second = (
        helical_map(solve_map(fourier_sums(half, species.symmetry, helix=helix), species), species) for half in sums
    )
    return first, second


def lowpassed_half_maps(made: SimulatedProject, one: SimulatedSpecies, resolution_A: float = 15.0) -> tuple[F32, F32]:
    """The true density, faded out beyond a resolution, with independent noise per half.

    For images without signal: a reference that looks like a particle, to see that nothing is refined towards it.
    """
    n, pixel = one.species.box_px, one.species.pixel_size_A
    k = np.fft.fftfreq(n, pixel)
    q = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.fft.rfftfreq(n, pixel) ** 2)
    spectrum = fft.rfftn(one.density().astype(np.float64)) * np.exp(-((q * resolution_A) ** 2))
    smooth: F64 = fft.irfftn(spectrum, s=(n, n, n))
    rng = random_branch(made.settings, 0, HALF_MAPS, one.number)
    noise = 0.2 * smooth.std() * rng.standard_normal((2, n, n, n))
    return (smooth + noise[0]).astype(np.float32), (smooth + noise[1]).astype(np.float32)
