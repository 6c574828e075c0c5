"""A population becomes a project of WarpTools: settings, tomostar, XML files, and tables of particles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import MprError, SeriesError
from mpr_dist.maths.rotations import euler_to_matrix, matrix_to_euler
from mpr_dist.model.population import Source
from mpr_dist.model.pose import Particles
from mpr_dist.storage.m_table import plain_columns, write_plain_table
from mpr_dist.storage.publish import disk
from mpr_dist.storage.warp_project import write_settings
from mpr_dist.storage.warp_settings import move_settings, read_settings
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.units import F64
from mpr_dist.workflow.exporting.export_series import ExportedSeries, export_series, series_notes
from mpr_dist.workflow.state.export_request import ExportRequest, ExportSummary, chosen_iteration
from mpr_dist.workflow.state.export_state import SpeciesAt, species_at

COORDINATES = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
SERIES, TOMOGRAM, HALF = "rlnMicrographName", "rlnTomoName", "rlnRandomSubset"
DETECTOR, MAGNIFICATION, IMAGE_PIXEL = "rlnDetectorPixelSize", "rlnMagnification", "rlnImagePixelSize"


@dataclass(frozen=True)
class _Table:
    path: Path
    particles: int
    notes: tuple[str, ...]


def export_warp(request: ExportRequest) -> ExportSummary:
    """Write an iteration as a project of WarpTools; particles that move along the dose are written at their mean.

    Raises:
        InputError: the iteration is not finished, the folder is in use or cannot be written.
        PopulationError: files of the population are missing or contradict one another.
    """
    population, files = chosen_iteration(request)
    out, number = request.out, files.number
    species = [species_at(population, each, number) for each in population.species]
    disk().mkdir(out)
    series: list[ExportedSeries] = []
    for source in population.sources:
        written = export_series(population, source, number, out / source.name)
        _settings(out, source, written)
        series += written
    tables = [_particles(out / f"{each.files.name}_particles.star", each) for each in species]
    lines = [f"iteration {number:03d} of {population.name} for WarpTools: {len(series)} tilt series in {out}"]
    lines += [f"  {table.path}: {table.particles} particles" for table in tables]
    notes = [note for table in tables for note in table.notes] + series_notes(series)
    record = {
        "iteration": number,
        "settings": [str(out / f"{source.name}.settings") for source in population.sources],
        "series": [one.name for one in series],
        "particles": {str(table.path): table.particles for table in tables},
        "notes": notes,
    }
    return ExportSummary((*lines, *(f"  {note}" for note in notes)), record)


def _settings(out: Path, source: Source, series: Sequence[ExportedSeries]) -> None:
    """Of the project that the source came from, with other folders; made anew where there was none."""
    path = out / f"{source.name}.settings"
    folder = series[0].data
    if not all((one.data / f"{one.name}.tomostar").exists() and one.data == folder for one in series):
        folder = out / f"{source.name}_tomostar"
        disk().mkdir(folder)
        for one in series:
            _tomostar(folder / f"{one.name}.tomostar", one, out / source.name / f"{one.name}.xml")
    data = os.path.relpath(folder, out) if folder.is_relative_to(out) else str(folder.resolve())
    try:
        read_settings(source.settings)
    except MprError:
        first = read_tilt_series(
            out / source.name / f"{series[0].name}.xml",
            volume_size_A=[n * source.pixel_size_A for n in source.volume_size_px],
        )
        dose = float(np.ptp(first.dose)) / max(first.n_tilts - 1, 1)
        write_settings(path, first, source.pixel_size_A, dose)
        move_settings(path, path, data, source.name)
    else:
        move_settings(source.settings, path, data, source.name)


def _tomostar(path: Path, series: ExportedSeries, xml: Path) -> None:
    """From the XML, for a series whose own is not there; movies by their absolute paths."""
    made = read_tilt_series(xml, volume_size_A=(1.0, 1.0, 1.0))
    if not series.movies:
        raise SeriesError(f"{xml}: names no movies, which a .tomostar must")
    columns = {"wrpMovieName": [str(movie) for movie in series.movies]}
    numbers = {"wrpAngleTilt": made.angle_deg, "wrpAxisAngle": made.axis_angle_deg, "wrpDose": made.dose}
    numbers |= {"wrpAverageIntensity": np.ones(made.n_tilts), "wrpMaskedFraction": np.zeros(made.n_tilts)}
    write_plain_table(path, columns | {name: [f"{v:.5f}" for v in values] for name, values in numbers.items()})


def _particles(path: Path, species: SpeciesAt) -> _Table:
    """One block in the form of RELION 3.0, which Warp reads and writes: coordinates in pixels, no origins."""
    p, others = species.particles, species.columns
    position = p.position_A.mean(axis=1)
    pixel = _pixel(species)
    columns = {name: _texts(position[:, i] / pixel) for i, name in enumerate(COORDINATES)}
    columns |= {name: _texts(_mean_angles(p)[:, i]) for i, name in enumerate(ANGLES)}
    names = [f"{name}.tomostar" for name in species.names]
    columns[SERIES] = names
    columns[HALF] = [str(int(half)) for half in p.half]
    if not {DETECTOR, MAGNIFICATION} <= set(others.columns) or IMAGE_PIXEL in others:
        columns |= {MAGNIFICATION: ["10000.000000"] * len(p), DETECTOR: _texts(pixel)}
    if TOMOGRAM in others:
        columns[TOMOGRAM] = names
    kept, unreadable = plain_columns(others, {*columns, "wrpSourceName"})
    write_plain_table(path, columns | kept)
    notes = []
    if unreadable:
        notes.append(f"{path.name}: columns with blanks, which Warp cannot read, are left out: {', '.join(unreadable)}")
    if p.n_samples > 1:
        off = float(np.sqrt(((p.position_A - position[:, None]) ** 2).sum(-1).mean()))
        notes.append(f"{path.name}: trajectories are written at their mean, {off:.2f} A rms from where particles are")
    return _Table(path, len(p), tuple(notes))


def _pixel(species: SpeciesAt) -> F64:
    """(particles,) pixel in A of the coordinates: that of the table they came from, else that of the maps."""
    others = species.columns
    if IMAGE_PIXEL in others:
        return np.asarray(others[IMAGE_PIXEL], np.float64)
    if {DETECTOR, MAGNIFICATION} <= set(others.columns):
        return np.asarray(others[DETECTOR], np.float64) * 1e4 / np.asarray(others[MAGNIFICATION], np.float64)
    return np.full(len(others), species.files.species.pixel_size_A)


def _mean_angles(particles: Particles) -> F64:
    """(particles, 3): of the rotation nearest to all samples in the least-squares sense."""
    if particles.n_samples == 1:
        return particles.angles_deg[:, 0]
    u, _, v = np.linalg.svd(euler_to_matrix(particles.angles_deg).mean(axis=1))
    sign = np.ones((len(u), 3))
    sign[:, 2] = np.linalg.det(u @ v)
    return matrix_to_euler((u * sign[:, None, :]) @ v)


def _texts(values: F64) -> list[str]:
    return [f"{value:.6f}" for value in values]
