"""A project with a known answer: simulated tilt series, planted errors, and the truth beside them.

The project holds nominal values, as alignment and picking would leave them; ``truth/`` holds what refinement should
find. Its random part is drawn in ``plant.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from mpr_dist.errors import InputError
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.imaging.phantom import Atoms, density, octahedral_phantom
from mpr_dist.imaging.reconstruct import accumulator_shape, backproject, fourier_sums, solve_map
from mpr_dist.imaging.simulate import Exposure, tilt_images
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.mrc import read_image, write_volume
from mpr_dist.storage.star import write_table
from mpr_dist.storage.warp_project import (
    WarpProject,
    write_average,
    write_run_data,
    write_settings,
    write_skeleton,
    write_tomostar,
)
from mpr_dist.units import F32, F64
from mpr_dist.workflow.plant import (
    DECIMALS,
    HALF_MAPS,
    ORIGINS,
    Plant,
    SimulateSettings,
    nominal_series,
    perturb,
    place_particles,
    random_branch,
    true_series,
)

__all__ = ["Plant", "Progress", "SimulateSettings", "SimulatedProject", "half_maps_from", "simulate_project"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class SimulatedProject:
    """What was written. Series and particles by name of the series; ``series`` and ``particles`` are nominal."""

    files: WarpProject
    settings: SimulateSettings
    species: Species
    atoms: Atoms
    series: dict[str, TiltSeries]
    particles: dict[str, Particles]
    true_series: dict[str, TiltSeries]
    true_particles: dict[str, Particles]

    @property
    def truth(self) -> Path:
        return self.files.root / "truth"

    @property
    def half_maps(self) -> tuple[Path, Path]:
        return self.files.root / "relion" / "half1.mrc", self.files.root / "relion" / "half2.mrc"

    @property
    def mask(self) -> Path:
        return self.files.root / "relion" / "mask.mrc"


def settings_from(preset: str, given: Mapping[str, Any]) -> SimulateSettings:
    """A preset ("demo" or "fixture") with other values by their names; None means "as in the preset"."""
    presets = {"demo": SimulateSettings.demo, "fixture": SimulateSettings.fixture}
    if preset not in presets:
        raise InputError(f"simulate: preset {preset!r} is not known; there are {' and '.join(presets)}")
    return replace(presets[preset](), **{name: value for name, value in given.items() if value is not None})


def simulate_project(out: Path, settings: SimulateSettings, progress: Progress | None = None) -> SimulatedProject:
    """Write a project and its truth into the folder ``out`` (new or empty).

    ``progress(what, done, total)`` is called as tilt images and half-maps are finished. The same settings give the same
    bytes. Raises InputError when the folder is in use, or the particles do not fit.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not an empty folder; give a new one, nothing is overwritten")
    report = progress or (lambda what, done, total: None)
    exposure = _exposure(settings)
    made = _draw(WarpProject(out), settings)
    made.files.make_folders()
    _write_nominal(made)
    _write_truth(made)
    total = settings.n_series * settings.n_tilts
    for index, (name, series) in enumerate(made.true_series.items()):
        images = tilt_images(series, [(made.true_particles[name], made.atoms)], exposure, settings.seed, index)
        for t, image in enumerate(images):
            write_average(made.files.average(name, t), image, settings.pixel_A)
            report("tilt images", index * settings.n_tilts + t + 1, total)
    report("half-maps", 0, 2)
    halves = lowpassed_half_maps(made) if settings.noise_only else starting_half_maps(made)
    for path, half in zip(made.half_maps, halves, strict=True):
        write_volume(path, half, settings.pixel_A)
    report("half-maps", 2, 2)
    return made


def _exposure(s: SimulateSettings) -> Exposure:
    return Exposure(s.pixel_A, s.dose_per_tilt, s.contrast, s.solvent_rms, s.noise_only)


def _draw(files: WarpProject, s: SimulateSettings) -> SimulatedProject:
    """Everything that is random, but for the images."""
    atoms = octahedral_phantom(s.seed)
    diameter = 2.0 * np.ceil(atoms.radius_A + 1.5)
    species = Species("phantom", s.pixel_A, s.box_px, diameter, "O")
    names = [f"TS_{i + 1:02d}" for i in range(s.n_series)]
    truth = {name: true_series(files, name, i, s) for i, name in enumerate(names)}
    poses = {
        name: place_particles(truth[name], i * s.particles_per_series, diameter, s, i) for i, name in enumerate(names)
    }
    series = {name: nominal_series(truth[name], s, i) for i, name in enumerate(names)}
    particles = {name: perturb(poses[name], s, i) for i, name in enumerate(names)}
    return SimulatedProject(files, s, species, atoms, series, particles, truth, poses)


def _write_nominal(made: SimulatedProject) -> None:
    files, s = made.files, made.settings
    first = next(iter(made.series.values()))
    write_settings(files.settings, first, s.pixel_A, s.dose_per_tilt)
    for name, series in made.series.items():
        write_tomostar(files.tomostar(name), series)
        write_skeleton(files.xml(name), series, s.pixel_A)
    # another pixel size than the images', and origins, because real tables have both
    pixel = round(1.6 * s.pixel_A, 4)
    origins = {
        name: np.round(2.0 * random_branch(s, i, ORIGINS).standard_normal((len(p), 3)), DECIMALS)
        for i, (name, p) in enumerate(made.particles.items())
    }
    write_run_data(files.run_data, made.particles, first.optics, pixel, origins, 64)
    write_volume(made.mask, shell_mask(made), s.pixel_A)


def _write_truth(made: SimulatedProject) -> None:
    import pandas as pd

    made.truth.mkdir()
    for name, series in made.true_series.items():
        particles = made.true_particles[name]
        write_skeleton(made.truth / f"{name}.xml", series, made.settings.pixel_A)
        numbers = np.concatenate([particles.position_A[:, 0], particles.angles_deg[:, 0]], 1)
        table = pd.DataFrame(numbers, columns=["x_A", "y_A", "z_A", "rot", "tilt", "psi"])
        write_table(made.truth / f"{name}_particles.star", {"": table.assign(half=particles.half)})
        seen = project(series, particles)
        view = views(series, particles)
        np.savez(
            made.truth / f"{name}_projections.npz",
            xy_A=seen.xy_A.astype(np.float32),
            defocus_um=seen.defocus_um.astype(np.float32),
            view=view.astype(np.float32),
        )
    write_volume(
        made.truth / "density.mrc",
        density(made.atoms, made.settings.box_px, made.settings.pixel_A),
        made.settings.pixel_A,
    )


def shell_mask(made: SimulatedProject) -> F32:
    """Binary: from 6 A inside the innermost atoms to 4 A outside the outermost."""
    n, pixel = made.settings.box_px, made.settings.pixel_A
    x = pixel * (np.arange(n) - n // 2)
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    inner = np.linalg.norm(made.atoms.position_A, axis=1).min() - 6.0
    return np.asarray((radius > inner) & (radius < made.atoms.radius_A + 4.0), np.float32)


def starting_half_maps(made: SimulatedProject) -> tuple[F32, F32]:
    """Half-maps from the written images with the nominal geometry, as a refinement of subtomograms leaves them."""
    return half_maps_from(made, made.series, made.particles)


def half_maps_from(
    made: SimulatedProject, series: dict[str, TiltSeries], particles: dict[str, Particles]
) -> tuple[F32, F32]:
    """Unfiltered half-maps (box, box, box) from the written images with the given geometry.

    With ``true_series`` and ``true_particles`` this is the best that a refinement can reach.
    """
    species, pixel_A = made.species, made.settings.pixel_A
    sums = np.zeros(accumulator_shape(species), np.int64)
    for name, one in series.items():

        def read_tilt(t: int, paths: tuple[Path, ...] = one.image_paths) -> tuple[F32, float]:
            return read_image(paths[t]), pixel_A

        images = load_particle_images(one, species, particles[name], read_tilt, 0.5 / pixel_A, 0.05)
        backproject(sums, one, species, particles[name], images)
    first, second = (solve_map(fourier_sums(half, species.symmetry), species) for half in sums)
    return first, second


def lowpassed_half_maps(made: SimulatedProject, resolution_A: float = 15.0) -> tuple[F32, F32]:
    """The true density, faded out beyond a resolution, with independent noise per half.

    For images without signal: a reference that looks like a particle, to see that nothing is refined towards it.
    """
    n, pixel = made.settings.box_px, made.settings.pixel_A
    k = np.fft.fftfreq(n, pixel)
    q = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + np.fft.rfftfreq(n, pixel) ** 2)
    spectrum = fft.rfftn(density(made.atoms, n, pixel).astype(np.float64)) * np.exp(-((q * resolution_A) ** 2))
    smooth: F64 = fft.irfftn(spectrum, s=(n, n, n))
    rng = random_branch(made.settings, 0, HALF_MAPS)
    noise = 0.2 * smooth.std() * rng.standard_normal((2, n, n, n))
    return (smooth + noise[0]).astype(np.float32), (smooth + noise[1]).astype(np.float32)
