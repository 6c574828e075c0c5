"""A population becomes a RELION-5 project: tomograms, tilt series, particles, trajectories, optimisation sets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.errors import InputError
from mpr_dist.imaging.relion_export import ParticlesForRelion, SeriesForRelion, particles_for, series_for
from mpr_dist.model.population import IterationFiles, Population, SeriesEntry, Source, SpeciesFiles
from mpr_dist.model.pose_changes import selected
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.particle_columns import series_key
from mpr_dist.storage.publish import disk
from mpr_dist.storage.relion_motion import write_motion
from mpr_dist.storage.relion_tilts import DEFORMATION, DEFORMATION_TYPE
from mpr_dist.storage.relion_tomograms import NAME, TILTS_FILE, write_tomograms
from mpr_dist.storage.star import write_table
from mpr_dist.units import F64
from mpr_dist.workflow.exporting import export_relion_tables as tables
from mpr_dist.workflow.exporting.export_relion_images import found_from
from mpr_dist.workflow.exporting.export_relion_particles import IMAGE, PARTICLE, particle_rows, split_optics
from mpr_dist.workflow.exporting.nominal_tilts import nominal_tilts_deg
from mpr_dist.workflow.importing.import_relion import read_relion_rows
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.state.export_request import ExportRequest, ExportSummary, chosen_iteration
from mpr_dist.workflow.state.export_state import SpeciesAt, series_at, species_at

if TYPE_CHECKING:
    import pandas as pd

LEAST_A = 1e-3


@dataclass(frozen=True, eq=False)
class ExportedSeries:
    """One series in both worlds. ``tomogram``: its rlnTomoName; ``has_matrix``: it leaves with an rlnMagMat."""

    source: Source
    tomogram: str
    series: TiltSeries
    of: SeriesForRelion
    row: dict[str, Any]
    tilts: pd.DataFrame
    has_matrix: bool

    @property
    def lost_stretch(self) -> float:
        """Largest element of the magnification that is not written."""
        return 0.0 if self.has_matrix else float(np.abs(self.series.optics.magnification - np.eye(2)).max())


def export_relion5(request: ExportRequest) -> ExportSummary:
    """Write an iteration as a RELION-5 project; programs of RELION are run in its folder.

    What the project had when it came from RELION stays as it was unless it was refined. Images and maps are named where
    they are.

    Raises:
        InputError: the iteration is not finished, the folder is in use, or files cannot be written.
        PopulationError, SeriesError: the population's files are missing or damaged.
    """
    population, files = chosen_iteration(request)
    exported = [
        _series(population, source, entry, files.number, base)
        for source in population.sources
        for base in [read_relion_rows(population, source)]
        for entry in source.series
    ]
    if not exported:
        raise InputError(f"{population.path}: has no tilt series to export; add a source first")
    disk().mkdir(request.out / "tilt_series")
    _write_tomograms(request.out, exported)
    rows = [_species(population, files, species, exported, request.out) for species in population.species]
    lines = [
        f"RELION-5 project of iteration {files.number:03d} in {request.out}: {len(exported)} tilt series, "
        f"{sum(len(each.tilts) for each in exported)} tilts; run RELION there",
        *(line for told in rows for line in told["lines"]),
    ]
    plain = [{key: value for key, value in told.items() if key != "lines"} for told in rows]
    return ExportSummary(
        tuple(lines), {"iteration": files.number, "out": str(request.out), "series": len(exported), "species": plain}
    )


def _series(
    population: Population,
    source: Source,
    entry: SeriesEntry,
    iteration: int,
    base: dict[str, tuple[dict[str, Any], pd.DataFrame]],
) -> ExportedSeries:
    files = series_at(population, entry.name, iteration)
    imported = population.files(0).series(entry.name)
    active = np.array(entry.active, bool)
    now = replace(load_series(source, entry, files.xml), active=active)
    then = replace(load_series(source, entry, imported.xml), active=active)
    of, of_then = series_for(now, source.pixel_size_A), series_for(then, source.pixel_size_A)
    about, frame = base.get(series_key(entry.name), (None, None))
    keeps = frame is not None and DEFORMATION in frame and _same_warp(now, then)
    has_matrix = source.is_relion and not np.array_equal(then.optics.magnification, np.eye(2))
    columns = None if frame is None else tables.tilt_columns(then, of_then, has_matrix)
    nominal = nominal_tilts_deg(entry, imported, then)
    tilts = tables.tilt_table(now, of, columns, frame, keeps, has_matrix, nominal)
    row = tables.tomogram_row(now, source, of, about, f"tilt_series/{entry.name}.star", keeps)
    return ExportedSeries(source, str(row[NAME]), now, of, row, tilts, has_matrix)


def _same_warp(now: TiltSeries, then: TiltSeries) -> bool:
    pairs = ((now.image_warp.x, then.image_warp.x), (now.image_warp.y, then.image_warp.y))
    return all(np.array_equal(a.values, b.values) for a, b in pairs)


def _write_tomograms(out: Path, exported: list[ExportedSeries]) -> None:
    bends = any(DEFORMATION in each.tilts for each in exported)
    rows, tilts = [], {}
    for each in exported:
        row, frame = each.row, found_from(out, each.tilts, each.series)
        if bends and DEFORMATION not in frame:
            frame = tables.no_deformation(frame)
            row = row | dict(zip(tables.BENDS, (2, 2), strict=True)) | {DEFORMATION_TYPE: "spline"}
        rows.append(row)
        tilts[each.tomogram] = (out / each.row[TILTS_FILE], frame)
    write_tomograms(out / "tomograms.star", tables.aligned(rows), tilts)


def _species(
    population: Population, files: IterationFiles, species: SpeciesFiles, exported: list[ExportedSeries], out: Path
) -> dict[str, Any]:
    """Write the particles of one species; returns what there is to say."""
    suffix = "" if len(population.species) == 1 else f"_{species.name}"
    at = species_at(population, species, files.number)
    of_series = np.array(at.names, dtype=object)
    frames: list[pd.DataFrame] = []
    of_relion: list[ParticlesForRelion] = []
    motion: dict[str, F64] = {}
    for each in exported:
        rows = np.flatnonzero(of_series == each.series.name)
        if not len(rows):
            continue
        own = selected(at.particles, rows)
        made = particles_for(each.series, own, each.source.pixel_size_A, each.of)
        columns = at.columns.iloc[rows]
        frame = particle_rows(
            columns, own, made, each.series, each.source, each.tomogram, species.species, each.has_matrix
        )
        frames.append(frame.set_index(own.row))
        of_relion.append(made)
        moved = np.zeros((len(own), each.series.n_tilts, 3)) if made.motion_A is None else made.motion_A
        motion |= dict(zip(frame[PARTICLE], moved[:, each.series.active], strict=True))
    general, optics, particles = split_optics(frames)
    write_table(out / f"particles{suffix}.star", {"general": general, "optics": optics, "particles": particles})
    moves = any(made.motion_A is not None for made in of_relion)
    if moves:
        write_motion(out / f"motion{suffix}.star", motion)
    _write_set(out, suffix, moves, at)
    stretch = max(each.lost_stretch for each in exported)
    told = _numbers(species, of_relion, moves, suffix, stretch * species.species.diameter_A / 2)
    if IMAGE in particles:
        told["lines"].append(f"  {species.name}: images in {IMAGE} were extracted before; extract them again in RELION")
    return told


def _write_set(out: Path, suffix: str, moves: bool, at: SpeciesAt) -> None:
    named = {"rlnTomoParticlesFile": f"particles{suffix}.star", "rlnTomoTomogramsFile": "tomograms.star"}
    if moves:
        named["rlnTomoTrajectoriesFile"] = f"motion{suffix}.star"
    named |= {"rlnTomoReferenceMap1File": str(at.maps.half1), "rlnTomoReferenceMap2File": str(at.maps.half2)}
    if at.files.mask is not None:
        named["rlnTomoReferenceMaskFile"] = str(at.files.mask)
    write_table(out / f"optimisation_set{suffix}.star", {"": named})


def _numbers(
    species: SpeciesFiles, made: list[ParticlesForRelion], moves: bool, suffix: str, stretch_A: float
) -> dict[str, Any]:
    def rms(name: str) -> float:
        return float(np.sqrt(np.mean(np.concatenate([np.square(getattr(m, name)).ravel() for m in made]))))

    def most(name: str) -> float:
        values: list[F64] = [getattr(m, name) for m in made]
        return max(float(np.abs(v).max(initial=0.0)) for v in values)

    count = sum(len(m.centred_A) for m in made)
    edge_A = float(np.deg2rad(rms("view_deg")) * species.species.diameter_A / 2)
    how = f"with motion{suffix}.star, {rms('without_motion_A'):.3f} A rms without it" if moves else "nothing moves"
    line = (
        f"  {species.name}: {count} particles; remaining error of positions {rms('error_A'):.3f} A rms, "
        f"{most('error_A'):.3f} A at most ({how}); of views {rms('view_deg'):.3f} degrees rms, {edge_A:.3f} A at the "
        f"edge of the particle; of defocus {rms('defocus_A'):.1f} A rms"
    )
    if stretch_A > LEAST_A:
        line += f"; magnification is not written, {stretch_A:.3f} A at the edge of the particle"
    return {
        "name": species.name,
        "particles": count,
        "error_A": {"rms": rms("error_A"), "most": most("error_A"), "rms_without_motion": rms("without_motion_A")},
        "view_error_deg": {"rms": rms("view_deg"), "most": most("view_deg"), "rms_A_at_edge": edge_A},
        "magnification_error_A": stretch_A,
        "defocus_error_A": {"rms": rms("defocus_A"), "most": most("defocus_A")},
        "lines": [line],
    }
