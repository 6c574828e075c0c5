"""How far a population is from a known truth: every particle image's position, view and defocus, and the density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.ctf import astigmatism_A, per_tilt
from mpr_dist.imaging.fsc import fsc, resolution_A
from mpr_dist.imaging.geometry import project, views
from mpr_dist.imaging.reference import use_mask
from mpr_dist.maths.fourier import crop_or_pad_real
from mpr_dist.maths.symmetry import rotations
from mpr_dist.maths.zernike import even_gamma_rad, odd_phase_rad
from mpr_dist.model.population import Population, SeriesEntry, Source, SpeciesFiles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.population import last_iteration_with
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.units import A_PER_UM, F32, F64, I64
from mpr_dist.workflow.simulation.simulate import SimulatedProject, half_maps_from
from mpr_dist.workflow.state.fsc_table import read_fsc

_PUPIL_Q = 0.25  # 1/A
PARTS = ("lowest third of the dose", "middle third", "highest third", "all tilts")


@dataclass(frozen=True)
class ParameterErrors:
    """Root mean squares, one per entry of ``PARTS``, pooled over all series.

    Attributes:
        position_A: per axis of the image, each particle's mean over its tilts removed.
        view_deg: rotation between the true and the found view, up to the symmetry.
        defocus_A: of every particle image.
    """

    position_A: tuple[float, ...]
    view_deg: tuple[float, ...]
    defocus_A: tuple[float, ...]


@dataclass(frozen=True)
class OpticsErrors:
    """Root mean squares over all series, and over the tilts in use where there is one value per tilt.

    Attributes:
        astigmatism_A: of each component of delta/2 (cos 2 angle, sin 2 angle).
        magnification_percent: of each element of the matrix.
        odd_rad, even_rad: phase on the disc of frequencies up to 1/4 A, without what a shift of the image or another
            defocus and a constant phase can take up.
    """

    astigmatism_A: float
    phase_shift_pi: float
    cs_mm: float
    magnification_percent: float
    odd_rad: float
    even_rad: float


@dataclass(frozen=True)
class MapQuality:
    """Where the half-maps agree (FSC 0.143), where their mean agrees with the truth (FSC 0.5), its mean FSC with it."""

    half_maps_A: float
    truth_A: float
    mean_truth_fsc: float


def parameter_errors(population: Population, iteration: int, truth: Path, species: str) -> ParameterErrors:
    """Compare with ``truth``/NAME_projections.npz of every series that has particles of the species.

    Raises:
        InputError: the truth of a series is missing or has another shape.
    """
    files = next(each for each in population.species if each.name == species)
    parts: list[list[tuple[F64, F64, F64]]] = [[] for _ in PARTS]
    for source, entry in population.series:
        if files.particles_in(entry.name):
            series, errors = _of_series(population, iteration, truth, files, source, entry)
            for part, tilts in zip(parts, _tilts(series, entry), strict=True):
                part.append((errors[0][:, tilts].ravel(), errors[1][:, tilts].ravel(), errors[2][:, tilts].ravel()))
    rms = [[_rms([one[kind] for one in part]) for part in parts] for kind in range(3)]
    return ParameterErrors(tuple(rms[0]), tuple(rms[1]), tuple(rms[2]))


def optics_errors(population: Population, iteration: int, truth: Path) -> OpticsErrors:
    """Compare the optics of every series with ``truth``/NAME.xml.

    Raises:
        SeriesError: the truth of a series is missing or cannot be read.
    """
    differences: list[list[F64]] = []
    for source, entry in population.series:
        state = population.files(last_iteration_with(population, entry.name, iteration + 1)).series(entry.name)
        found = load_series(source, entry, state.xml)
        true = load_series(source, entry, truth / f"{entry.name}.xml")
        differences.append(_of_optics(found, true, list(entry.active)))
    return OpticsErrors(*(_rms(each) for each in zip(*differences, strict=True)))


def _of_optics(found: TiltSeries, true: TiltSeries, active: list[bool]) -> list[F64]:
    """Differences in the order of ``OpticsErrors``, each of any length."""
    a, b, n = found.optics, true.optics, true.n_tilts
    phases = [per_tilt(each.phase_shift_pi.values, n)[active] for each in (a, b)]
    q = np.linspace(-_PUPIL_Q, _PUPIL_Q, 81)
    qx, qy = (axis.ravel() for axis in np.meshgrid(q, q))
    inside = np.hypot(qx, qy) <= _PUPIL_Q
    qx, qy = qx[inside], qy[inside]
    odd = odd_phase_rad(a.zernike_odd, qx, qy) - odd_phase_rad(b.zernike_odd, qx, qy)
    even = even_gamma_rad(a.zernike_even, qx, qy) - even_gamma_rad(b.zernike_even, qx, qy)
    return [
        (astigmatism_A(found) - astigmatism_A(true))[active].ravel(),
        phases[0] - phases[1],
        np.array([a.cs_mm - b.cs_mm]),
        100 * (a.magnification - b.magnification).ravel(),
        _without(odd, np.stack([qx, qy], 1)),
        _without(even, np.stack([np.ones_like(qx), qx**2 + qy**2], 1)),
    ]


def _without(values: F64, functions: F64) -> F64:
    """What is left of values (samples,) after the best sum of functions (samples, k) is taken away."""
    return np.asarray(values - functions @ np.linalg.lstsq(functions, values)[0])


def map_quality(population: Population, iteration: int, density: Path, species: str) -> MapQuality:
    """Quality of a species' map in one iteration, against a true density in a file with the same pixel.

    Raises:
        InputError: the pixels differ, or the species has no mask.
    """
    files = next(each for each in population.species if each.name == species)
    result, pixel = population.files(iteration).species(species), files.species.pixel_size_A
    half1, half2 = (read_volume(path)[0] for path in (result.half1, result.half2))
    true, true_pixel = read_volume(density)
    if abs(true_pixel / pixel - 1) > 1e-3 or files.mask is None:
        raise InputError(f"{density}: has pixels of {true_pixel:g} A, the species has {pixel:g} A")
    curve = truth_fsc(half1, half2, true, read_volume(files.mask)[0], pixel)
    return MapQuality(
        read_fsc(result.fsc).resolution_A, resolution_A(curve, pixel, len(half1), 0.5), _mean_to_nyquist(curve)
    )


def truth_fsc(half1: F32, half2: F32, true: F32, mask: F32, pixel_A: float) -> F64:
    """(shells,) FSC of the mean of two half-maps (box, box, box) with a true density, under a binary mask in use."""
    soft = use_mask(mask, pixel_A)
    return fsc((half1 + half2) * soft, crop_or_pad_real(true, len(half1)) * soft)


def ceiling(made: SimulatedProject, number: int = 0) -> float:
    """Mean truth FSC of the map that the images of a simulated project give with the planted geometry.

    number: of the species, in the order of the project.
    """
    one = made.every_species[number]
    half1, half2 = half_maps_from(made, made.true_series, one.true_particles, one.species)
    true, mask = read_volume(one.truth / "density.mrc")[0], read_volume(one.mask)[0]
    return _mean_to_nyquist(truth_fsc(half1, half2, true, mask, one.species.pixel_size_A))


def _mean_to_nyquist(curve: F64) -> float:
    # the zero frequency says nothing, and the curve ends at Nyquist
    return float(curve[1:-1].mean())


def load_series(source: Source, entry: SeriesEntry, xml: Path) -> TiltSeries:
    """The state that one iteration's XML holds, with sizes and paths of its source."""
    return read_tilt_series(
        xml,
        volume_size_A=[n * source.pixel_size_A for n in source.volume_size_px],
        image_size_A=[n * source.pixel_size_A for n in source.image_size_px],
        processing_folder=entry.xml.parent,
    )


def _of_series(
    population: Population, iteration: int, truth: Path, files: SpeciesFiles, source: Source, entry: SeriesEntry
) -> tuple[TiltSeries, tuple[F64, F64, F64]]:
    """(particles, tilts, axes) position error in A; (particles, tilts) angle in degrees and defocus error in A."""
    state = population.files(last_iteration_with(population, entry.name, iteration + 1)).series(entry.name)
    series = load_series(source, entry, state.xml)
    particles = read_poses(state.poses)[files.name]
    path = truth / f"{entry.name}_projections.npz"
    try:
        with np.load(path) as stored:
            true_xy, true_defocus, true_view = (
                stored[key].astype(np.float64) for key in ("xy_A", "defocus_um", "view")
            )
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    found = project(series, particles)
    if true_xy.shape != found.xy_A.shape:
        raise InputError(f"{path}: holds particles and tilts {true_xy.shape[:2]}, found were {found.xy_A.shape[:2]}")
    shift = found.xy_A - true_xy
    shift = shift - shift[:, list(entry.active)].mean(axis=1, keepdims=True)
    view = views(series, particles)
    defocus = A_PER_UM * (found.defocus_um - true_defocus)
    return series, (shift, angle_between(view, true_view, files.species.symmetry), defocus)


def angle_between(a: F64, b: F64, symmetry: str) -> F64:
    """(...) smallest angle in degrees between rotations (..., 3, 3), over all symmetric copies of the particle."""
    relative = np.einsum("...ji,...jk->...ik", b, a)  # B' A; its trace with every operator tells the angle
    traces = np.einsum("...ij,sij->...s", relative, rotations(symmetry))
    return np.asarray(np.rad2deg(np.arccos(np.clip((traces.max(-1) - 1.0) / 2.0, -1.0, 1.0))))


def _tilts(series: TiltSeries, entry: SeriesEntry) -> list[I64]:
    """Indices of the tilts in use in each of ``PARTS``."""
    order = np.argsort(series.dose, kind="stable")
    order = order[np.array(entry.active)[order]]
    return [*np.array_split(order, 3), order]


def _rms(values: Sequence[F64]) -> float:
    return float(np.sqrt(np.mean(np.square(np.concatenate(values)))))
