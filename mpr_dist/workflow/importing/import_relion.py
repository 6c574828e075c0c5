"""Tilt series of a RELION-5 (or 4) project become a source: in the same form as those of Warp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.errors import InputError, MprError, SeriesError
from mpr_dist.imaging.relion_series import RelionAsSeries, series_of
from mpr_dist.model.population import Population, SeriesEntry, Source
from mpr_dist.model.reading import Dropped, Reading
from mpr_dist.model.relion import RelionTilts
from mpr_dist.storage import population as storage
from mpr_dist.storage.image_file import in_stack
from mpr_dist.storage.mrc import read_header
from mpr_dist.storage.particle_columns import list_of, series_key
from mpr_dist.storage.publish import disk
from mpr_dist.storage.relion_aberrations import Aberrations, read_aberrations
from mpr_dist.storage.relion_paths import find_file, split_name
from mpr_dist.storage.relion_tilts import read_tilts
from mpr_dist.storage.relion_tomograms import TILTS_FILE, TomogramTable, read_tomograms, write_tomograms
from mpr_dist.workflow.importing.import_warp import PIXEL_TOLERANCE, SourceRequest, SourceSummary, chosen_tilts
from mpr_dist.workflow.state.create import opened, write_made
from mpr_dist.workflow.state.one_kind import Kind, of_one_kind
from mpr_dist.workflow.state.source_reading import SeriesFacts, source_reading

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A series that can be used. ``row``: in tomograms.star; ``kind``: image px, pixel, tomogram px."""

    row: int
    entry: SeriesEntry
    kind: Kind
    relion: RelionTilts
    made: RelionAsSeries
    tilts: pd.DataFrame
    header_A: float


def add_relion_source(path: Path, request: SourceRequest) -> SourceSummary:
    """Add the tilt series of a tomograms.star to the population at ``path``; the project's files are only read.

    Its iteration 000 holds a Warp XML of every series, made here; the tables themselves are kept beside the source, for
    an export to have all their columns. A series that cannot be used is left out, with the reason.

    Raises:
        InputError: the table cannot be read, a name of ``files`` is not there, or no series can be used.
        PopulationError: locked, or a name is in use already.
    """
    with opened(path) as population:
        table = read_tomograms(request.settings)
        aberrations, told_of = read_aberrations(request.settings)
        candidates: list[_Candidate] = []
        left_out: list[tuple[str, str]] = []
        for row in _chosen(table, request):
            try:
                candidates.append(_examine(table, row, request, aberrations))
            except MprError as error:
                left_out.append((series_key(table.names[row]), str(error)))
        kept, others = of_one_kind(candidates)
        left_out = sorted(left_out + others)
        if not kept:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
            raise InputError(
                f"{table.path}: none of {len(left_out)} tilt series can be used. The first reasons: {reasons}"
            )
        image_px, pixel, volume_px = kept[0].kind
        series = tuple(c.entry for c in kept)
        source = Source(request.name, table.path.absolute(), series, pixel, image_px, volume_px, request.max_tilts)
        _publish(population, source, table, kept)
    rows = {c.entry.name: c.relion.n_tilts for c in kept}
    return SourceSummary(source, rows, tuple(left_out), _reading(source, table, kept, len(left_out)).plus(*told_of))


def _chosen(table: TomogramTable, request: SourceRequest) -> list[int]:
    names = [series_key(name) for name in table.names]
    if request.files is None:
        return list(range(len(names)))
    wanted = {series_key(name) for name in request.files}
    missing = sorted(wanted - set(names))
    if missing or not wanted:
        raise InputError(f"{table.path}: has no tilt series named {list_of(missing)}; it has {list_of(names)}")
    return [row for row, name in enumerate(names) if name in wanted]


def _examine(
    table: TomogramTable, row: int, request: SourceRequest, aberrations: Mapping[str, Aberrations]
) -> _Candidate:
    relion, frame = read_tilts(table, row)
    file, _ = table.tilts(row)
    images = _images(table, relion, file)
    image_px, header_A = _image_header(images)
    name = series_key(relion.name)
    phases = aberrations.get(name, Aberrations())
    made = series_of(name, relion, image_px, images, phases.matrix)
    optics = replace(made.series.optics, zernike_odd=phases.odd, zernike_even=phases.even)
    made = replace(made, series=replace(made.series, optics=optics))
    active = chosen_tilts(made.series, request.max_tilts, request.include_deselected)
    if not active.any():
        raise SeriesError(f"all {relion.n_tilts} tilts have rlnCtfScalefactor 0; --include-deselected uses them")
    entry = SeriesEntry(name, file.absolute(), tuple(active.tolist()))
    return _Candidate(row, entry, (image_px, relion.pixel_A, relion.volume_px), relion, made, frame, header_A)


def _images(table: TomogramTable, relion: RelionTilts, tilts_file: Path) -> tuple[Path, ...]:
    if not relion.images:
        raise SeriesError(
            f"{tilts_file}: no column says where the images are (rlnMicrographName), nor is there a stack"
        )
    found: dict[str, Path | None] = {}
    out, missing = [], []
    for text in relion.images:
        name, number = split_name(text)
        if name not in found:
            found[name] = find_file(name, table.path) or find_file(name, tilts_file)
        file = found[name]
        if file is None:
            missing.append(name)
        else:
            out.append(file if number is None else in_stack(file, number))
    if missing:
        hint = ""
        if "dummy" in missing[0]:
            hint = "; Warp writes it for 2D particle stacks alone: add the Warp project itself (--warp-settings)"
        raise SeriesError(
            f"{len(missing)} of {len(relion.images)} images are missing, the first is {missing[0]}, looked for from "
            f"{table.path.absolute().parent} upwards{hint}"
        )
    return tuple(out)


def _image_header(images: Sequence[Path]) -> tuple[tuple[int, int], float]:
    """Size (x, y) that all images have, and the pixel of the first one's header (0 when it has none)."""
    headers = [read_header(path) for path in images]
    sizes = {header[:3] for header in headers}
    if len(sizes) > 1:
        raise SeriesError(f"its images differ in size: {', '.join(f'{x} x {y} x {z}' for x, y, z in sorted(sizes))}")
    nx, ny, nz = sizes.pop()
    if nz != 1:
        raise SeriesError(f"{images[0]}: expected one image, got {nz} slices; name them as 1@stack.mrc, 2@stack.mrc")
    return (nx, ny), headers[0][3]


def _publish(population: Population, source: Source, table: TomogramTable, kept: Sequence[_Candidate]) -> None:
    write_made(population, source, {c.entry.name: c.made.series for c in kept})
    folder = relion_tables(population, source.name)
    disk().mkdir(folder / "tilt_series")
    rows = table.rows.iloc[[c.row for c in kept]].copy()
    rows[TILTS_FILE] = [f"tilt_series/{c.entry.name}.star" for c in kept]
    tilts = {c.relion.name: (folder / "tilt_series" / f"{c.entry.name}.star", c.tilts) for c in kept}
    write_tomograms(folder / "tomograms.star", rows, tilts)
    storage.add_source(population, source)


def relion_tables(population: Population, source: str) -> Path:
    """Folder with the tables a source came from: tomograms.star and tilt_series/; only sources of RELION have one."""
    return population.path / "sources" / source / "relion"


def _reading(source: Source, table: TomogramTable, kept: Sequence[_Candidate], left_out: int) -> Reading:
    """How the project was understood."""
    one = kept[0].relion
    shifts = "rlnTomoX/YShiftAngst in A, added in the image; angles are rlnTomoXTilt, YTilt, ZRot, and YTilt is -angle."
    if one.projection is not None:
        shifts = (
            "those of RELION-4's matrices, in pixels; the pixel that RELION 4.0 itself added to coordinates is not "
            "added, refining particles takes it up."
        )
    hands = " and ".join(f"{hand:g}" for hand in sorted({c.relion.hand for c in kept}, reverse=True))
    names = f"rlnTomoName, such as '{one.name}'; images such as '{one.images[0]}'; rlnTomoHand is {hands}."
    facts = [SeriesFacts.of(c.made.series, np.array(c.entry.active)) for c in kept]
    notes = ([table.note] if table.note else []) + _about_numbers(kept) + _about_geometry(kept)
    reading = source_reading(source, facts, origins=shifts, names=names)
    return reading.plus(*notes, dropped=[Dropped("series", left_out, "listed below")])


def _about_numbers(kept: Sequence[_Candidate]) -> list[str]:
    """Sentences about doses, weights, odd sizes and headers."""
    sentences = []
    if min(float(c.relion.dose.min()) for c in kept) > 0:
        sentences.append("NOTE: no tilt has dose 0: does rlnMicrographPreExposure include the tilt itself?")
    if any(n % 2 for c in kept for n in (*c.kind[0], *c.kind[2])):
        sentences.append("Odd sizes: RELION turns about n // 2 and counts from n / 2; both are kept.")
    if any(not c.made.series.weights.weight.is_trivial for c in kept):
        sentences.append("Weights: rlnCtfScalefactor, which is not cos(YTilt); tilts where it is 0 are deselected.")
    if any(not c.made.series.weights.bfactor.is_trivial for c in kept):
        sentences.append("Damping: rlnCtfBfactor, and 4 A^2 (or rlnCtfBfactorPerElectronDose) per e/A^2.")
    off = [c for c in kept if c.header_A > 0 and abs(c.header_A / c.relion.pixel_A - 1) > PIXEL_TOLERANCE]
    if off:
        sentences.append(
            f"NOTE: headers of images of {len(off)} series say {off[0].header_A:g} A per pixel, which is ignored."
        )
    return sentences


def _about_geometry(kept: Sequence[_Candidate]) -> list[str]:
    sentences = []
    turned = [c.entry.name for c in kept if c.made.stage.is_transposed]
    if turned:
        sentences.append(
            f"ROTATIONS of {len(turned)} series ({list_of(turned)}) were TRANSPOSED, as some versions of Warp wrote "
            "them: XTilt carried the stage tilt; they were turned back."
        )
    levelled = [c.entry.name for c in kept if c.made.stage.stage_deg is not None]
    if levelled:
        sentences.append(
            f"XTilt differs from tilt to tilt in {len(levelled)} series: kept as angles of a rigid stage, which Warp "
            "and M do not know."
        )
    bent = [c.made.warp for c in kept if c.made.warp is not None]
    if bent:
        ny, nx = bent[0].warp.x.values.shape[1:]
        kinds = sorted({c.relion.deformation.kind for c in kept if c.relion.deformation is not None})
        what = f"Deformations ({', '.join(kinds)})" if kinds else "Anisotropic matrices"
        sentences.append(
            f"{what} of {len(bent)} series became image warps of {nx} x {ny} nodes per tilt, right to "
            f"{max(warp.rms_A for warp in bent):.3f} A rms, {max(warp.most_A for warp in bent):.3f} A at most."
        )
    return sentences


def read_relion_rows(population: Population, source: Source) -> dict[str, tuple[dict[str, Any], pd.DataFrame]]:
    """Rows of data_global and tables of tilts as they were imported, by name of the series; empty for other sources."""
    path = relion_tables(population, source.name) / "tomograms.star"
    if not path.exists():
        return {}
    table = read_tomograms(path)
    return {series_key(name): (table.about(row), table.tilts(row)[1]) for row, name in enumerate(table.names)}
