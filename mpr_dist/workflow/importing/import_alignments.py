"""Stacks that IMOD or AreTomo aligned become a source, with a table of defocus, for users without Warp or RELION."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError, MprError, SeriesError
from mpr_dist.imaging.relion_series import RelionAsSeries, series_of
from mpr_dist.model.population import Population, SeriesEntry, Source
from mpr_dist.model.reading import Dropped, Reading
from mpr_dist.model.relion import RelionTilts
from mpr_dist.storage import population as storage
from mpr_dist.storage.alignments import Alignment, find_imod, read_aln, read_imod
from mpr_dist.storage.ctf_table import CtfTable, read_ctf_table
from mpr_dist.storage.image_file import in_stack
from mpr_dist.storage.mrc import read_header
from mpr_dist.storage.particle_columns import list_of, series_key
from mpr_dist.units import F64, I64
from mpr_dist.workflow.importing.import_local import LocalBends, local_bends, told_of_bends
from mpr_dist.workflow.importing.import_warp import SourceSummary, chosen_tilts
from mpr_dist.workflow.state.create import check_name, opened, write_made
from mpr_dist.workflow.state.exposures import Exposures, doses_of
from mpr_dist.workflow.state.one_kind import Kind, of_one_kind
from mpr_dist.workflow.state.source_reading import SeriesFacts, source_reading

_OF_CTFFIND = ("_CTF.txt", "_ctf.txt", "_ctffind.txt", "_ctffind4.txt", "_st_CTF.txt", ".txt")
CTF_ENDS = (*_OF_CTFFIND, ".defocus", "_st.defocus", "_ctf.star", "_ctf.csv", ".star", ".csv")
LEAST_DEFOCUS_A = 100.0  # less, on average, means that a table has um


@dataclass(frozen=True)
class AlignmentRequest:
    """One ``source add`` command for stacks.

    Attributes:
        stacks: one per series, which its file names; imod: folder with what etomo left, or
        aretomo: .aln files, or folders of them.
        ctf: table for all series, or folder with one for each.
        exposures: where doses come from.
        pixel_A: of the stacks; None takes that of their headers.
        alignment_pixel_A: of the stack that was aligned, if it was a binned one; None: the same stack.
        tomogram_px: x, y, z in pixels of the stacks; None takes tilt.com's.
        hand: 1 where greater z is more underfocus, else -1.
        use_excluded: take tilts that were excluded in etomo, too.
    """

    name: str
    stacks: tuple[Path, ...]
    ctf: Path
    exposures: Exposures
    imod: Path | None = None
    aretomo: tuple[Path, ...] = ()
    pixel_A: float | None = None
    alignment_pixel_A: float | None = None
    tomogram_px: tuple[int, int, int] | None = None
    hand: int = -1
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude: float = 0.07
    max_tilts: int | None = None
    use_excluded: bool = False
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_name("source", self.name)
        if (self.imod is None) == (not self.aretomo):
            raise InputError("give the alignments of one program: --imod FOLDER or --aretomo FILES")
        if not self.stacks:
            raise InputError("--stacks: give the stacks that were aligned, one per tilt series")
        if self.hand not in (-1, 1):
            raise InputError(f"--hand must be 1 or -1, got {self.hand}")
        if self.max_tilts is not None and self.max_tilts < 1:
            raise InputError(f"at least 1 tilt must be used, got a limit of {self.max_tilts}")
        for what, value in (("--pixel-size", self.pixel_A), ("--alignment-pixel", self.alignment_pixel_A)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise InputError(f"{what} must be positive, got {value}")


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A series that can be used. ``kind``: image px, pixel, tomogram px."""

    entry: SeriesEntry
    kind: Kind
    alignment: Alignment
    made: RelionAsSeries
    ctf: str
    doses: str
    bends: LocalBends


def add_aligned_stacks(path: Path, request: AlignmentRequest) -> SourceSummary:
    """Add tilt series to the population at ``path``; files are only read. What cannot be used is left out, with reason.

    Raises:
        InputError: no series can be used, or a table cannot be read.
        PopulationError: locked, or a name is in use already.
    """
    with opened(path) as population:
        candidates: list[_Candidate] = []
        left_out: list[tuple[str, str]] = []
        shared = read_ctf_table(request.ctf) if request.ctf.is_file() else None
        for stack in _chosen(request):
            try:
                candidates.append(_examine(stack, request, shared))
            except MprError as error:
                left_out.append((series_key(stack.name), str(error)))
        kept, others = of_one_kind(candidates)
        left_out = sorted(left_out + others)
        if not kept:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
            raise InputError(f"none of {len(left_out)} tilt series can be used. The first reasons: {reasons}")
        image_px, pixel, volume_px = kept[0].kind
        settings = (request.imod or request.aretomo[0]).absolute()
        series = tuple(c.entry for c in kept)
        source = Source(request.name, settings, series, pixel, image_px, volume_px, request.max_tilts)
        _publish(population, source, kept)
    rows = {c.entry.name: c.made.series.n_tilts for c in kept}
    return SourceSummary(source, rows, tuple(left_out), _reading(source, request, kept, len(left_out)))


def _chosen(request: AlignmentRequest) -> list[Path]:
    """Stacks in order of their names, those of ``files`` alone if there are any."""
    named = {series_key(path.name): path for path in request.stacks}
    if len(named) < len(request.stacks):
        raise InputError("--stacks: two stacks are of the same name; every tilt series has one")
    if request.files is None:
        return [named[name] for name in sorted(named)]
    wanted = {series_key(name) for name in request.files}
    missing = sorted(wanted - set(named))
    if missing:
        raise InputError(f"--files: there is no stack of {list_of(missing)}; there are {list_of(sorted(named))}")
    return [named[name] for name in sorted(wanted)]


def _examine(stack: Path, request: AlignmentRequest, shared: CtfTable | None) -> _Candidate:
    name = series_key(stack.name)
    nx, ny, n_images, header_A = read_header(stack)
    pixel_A = request.pixel_A or float(f"{header_A:.6g}")
    if pixel_A <= 0:
        raise SeriesError(f"{stack}: its header has no pixel size; give it (--pixel-size)")
    alignment = _alignment(name, request, n_images)
    if alignment.n_images != n_images:
        raise SeriesError(f"{alignment.path}: is of {alignment.n_images} images, but {stack} has {n_images}")
    volume = request.tomogram_px or alignment.tomogram_px
    if volume is None:
        raise SeriesError(
            f"{alignment.path}: does not say the size of the tomogram; give it in pixels of the stack "
            "(--tomogram XxYxZ)"
        )
    table = _table_of(name, request, shared)
    rows = _rows(table, alignment)
    dose, how = doses_of(name, request.exposures, alignment, None if table.dose is None else table.dose[rows])
    relion = RelionTilts(
        name=name,
        pixel_A=pixel_A,
        volume_px=volume,
        hand=request.hand,
        voltage_kV=request.voltage_kV,
        cs_mm=request.cs_mm,
        amplitude=request.amplitude,
        dose=dose,
        defocus_u_A=table.u_A[rows],
        defocus_v_A=table.v_A[rows],
        defocus_angle_deg=table.angle_deg[rows],
        phase_deg=table.phase_deg[rows],
        angles_deg=np.stack([alignment.x_tilt_deg, alignment.tilt_deg, alignment.axis_deg], -1),
        shift_A=alignment.shift_px * pixel_A,
        images=(str(stack),),
    )
    images = tuple(in_stack(stack.absolute(), int(image) + 1) for image in alignment.image)
    made = series_of(name, relion, (nx, ny), images)
    bends = local_bends(alignment, np.array([nx, ny]), pixel_A, header_A, request.alignment_pixel_A or pixel_A)
    if bends.warp is not None:
        made = replace(made, series=replace(made.series, image_warp=bends.warp.warp), warp=bends.warp)
    series = replace(
        made.series,
        axis_offset_A=_offset_A(alignment, request, pixel_A),
        use_tilt=alignment.use,
        active=alignment.use,
    )
    active = chosen_tilts(series, request.max_tilts, request.use_excluded)
    if not active.any():
        raise SeriesError("all of its tilts were excluded; --include-deselected uses them all the same")
    entry = SeriesEntry(name, alignment.path.absolute(), tuple(active.tolist()))
    made = replace(made, series=series)
    return _Candidate(entry, ((nx, ny), pixel_A, volume), alignment, made, table.note, how, bends)


def _offset_A(alignment: Alignment, request: AlignmentRequest, pixel_A: float) -> F64:
    """(tilts, 2) from n / 2 of the image; IMOD turns about (n - 1) / 2, half a pixel lower."""
    offset = alignment.shift_px * (request.alignment_pixel_A or pixel_A)
    return np.asarray(offset - pixel_A / 2 if request.imod is not None else offset)


def _alignment(name: str, request: AlignmentRequest, n_images: int) -> Alignment:
    if request.imod is not None:
        return read_imod(find_imod(request.imod, name), n_images)
    files = [file for path in request.aretomo for file in (sorted(path.glob("*.aln")) if path.is_dir() else [path])]
    found = [file for file in files if series_key(file.stem) in (name, f"{name}_st")]
    if len(found) != 1:
        raise SeriesError(f"{len(found)} of {len(files)} .aln files are named after it; one is needed")
    return read_aln(found[0])


def _table_of(name: str, request: AlignmentRequest, shared: CtfTable | None) -> CtfTable:
    if shared is not None:
        if shared.series is None and len(request.stacks) > 1:
            raise InputError(
                f"{shared.path}: has no column with the series, but there are {len(request.stacks)} stacks"
            )
        return shared.of(name)
    tried = [request.ctf / f"{name}{end}" for end in CTF_ENDS]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise InputError(f"{request.ctf}: has no table of defocus for it, such as {tried[0].name}")
    return read_ctf_table(found).of(name)


def _rows(table: CtfTable, alignment: Alignment) -> I64:
    """Row of every tilt: by its place in the stack when all images have one, else in the order of the tilts."""
    n = len(alignment.image)
    if len(table) not in (n, alignment.n_images):
        raise InputError(
            f"{table.path}: {len(table)} rows, but the stack has {alignment.n_images} images, and {n} were aligned"
        )
    mean = float(np.abs(table.u_A).mean())
    if mean < LEAST_DEFOCUS_A:
        raise InputError(f"{table.path}: defocus is {mean:g} on average; it must be in A, not in um or nm")
    order = np.arange(len(table)) if table.image is None else np.argsort(table.image, kind="stable")
    if len(table) < alignment.n_images:
        return np.asarray(order[np.argsort(np.argsort(alignment.image))])
    if table.image is not None and not np.array_equal(table.image[order], np.arange(alignment.n_images)):
        raise InputError(f"{table.path}: its rows are not of images 1 to {alignment.n_images}, each once")
    return np.asarray(order[alignment.image])


def _publish(population: Population, source: Source, kept: Sequence[_Candidate]) -> None:
    write_made(population, source, {c.entry.name: c.made.series for c in kept})
    storage.add_source(population, source)


def _gathered(notes: Sequence[str]) -> list[str]:
    """Notes "SERIES: text", those of one text together."""
    names: dict[str, list[str]] = {}
    for note in notes:
        name, _, text = note.partition(": ")
        names.setdefault(text, []).append(name)
    return [f"{list_of(of)}: {text}" for text, of in names.items()]


def _reading(source: Source, request: AlignmentRequest, kept: Sequence[_Candidate], left_out: int) -> Reading:
    program = "IMOD" if request.imod is not None else "AreTomo"
    shifts = (
        f"those of {program} in pixels of {request.alignment_pixel_A or source.pixel_size_A:g} A, added in the image"
    )
    if request.imod is not None:
        shifts += "; half a pixel less, because IMOD turns about (n-1)/2"
    facts = [SeriesFacts.of(c.made.series, np.array(c.entry.active)) for c in kept]
    names = f"stacks, such as '{kept[0].made.series.image_paths[0].name}' of '{kept[0].entry.name}'."
    reading = source_reading(source, facts, origins=f"{shifts}.", names=names)
    notes = [
        f"The tomogram is that of {program} with z along the beam (trimvol -rx, never -yz); its tilt angles are stored "
        "with the other sign, as Warp's geometry needs them.",
        f"CTF: {kept[0].ctf}.",
        f"Doses: {kept[0].doses}.",
    ]
    unaligned = sum(c.alignment.n_images - len(c.alignment.image) for c in kept)
    levelled = [c.entry.name for c in kept if c.made.stage.stage_deg is not None]
    if levelled:
        notes.append(f"X tilts differ from tilt to tilt in {len(levelled)} series: kept as angles of a rigid stage.")
    notes += told_of_bends([c.bends for c in kept])
    notes += _gathered([note for c in kept for note in (*c.alignment.notes, *c.bends.notes)])
    dropped = [Dropped("tilts", unaligned, "not aligned"), Dropped("series", left_out, "listed below")]
    return reading.plus(*notes, dropped=dropped)
