"""``reconstruct --relion-stacks``: half-maps from 2D particle stacks, to check an import before a refinement."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.imaging.fsc import FscCurves
from mpr_dist.imaging.reconstruct import accumulator_shape, fourier_sums, solve_map
from mpr_dist.imaging.reference import half_map_fsc
from mpr_dist.imaging.relion_geometry import stage_of
from mpr_dist.imaging.relion_stacks import StackOptics, add_particle, model_of, samples_of, slices_of
from mpr_dist.maths.rotations import euler_to_matrix, rotation_x, rotation_y, rotation_z
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.reading import Dropped, Reading
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import read_header, read_stack, write_volume
from mpr_dist.storage.particle_columns import Columns, list_of, series_key
from mpr_dist.storage.publish import disk
from mpr_dist.storage.relion import ORIGIN_A, SUBTOMOGRAM, ParticleTable, is_warp_export, read_particles
from mpr_dist.storage.relion_aberrations import aberrations_of
from mpr_dist.storage.relion_paths import find_file
from mpr_dist.storage.relion_tilts import read_tilts
from mpr_dist.storage.relion_tomograms import read_tomograms
from mpr_dist.units import F32, F64, I64, Bool
from mpr_dist.workflow.series.maps import weighted_average
from mpr_dist.workflow.state.create import told
from mpr_dist.workflow.state.fsc_table import write_fsc

IMAGE, VISIBLE, PREMULTIPLIED = "rlnImageName", "rlnTomoVisibleFrames", "rlnCtfDataAreCtfPremultiplied"
SPHERE = 0.8  # of the box: where half-maps are compared
EDGE_PX = 3


@dataclass(frozen=True)
class StackSummary:
    """What was reconstructed, and how the project was understood."""

    out: Path
    particles: int
    images: int
    resolution_A: float
    reading: Reading

    @property
    def lines(self) -> list[str]:
        reached = f"{self.resolution_A:.2f} A" if np.isfinite(self.resolution_A) else "nothing in common"
        headline = f"half-maps of {self.particles} particles, {self.images} images: {reached} (FSC 0.143)"
        return [headline, *told(self.reading), f"  {self.out / 'half1.mrc'}  half2.mrc  map.mrc  fsc.star"]

    def record(self) -> dict[str, Any]:
        """The same for scripts."""
        return {
            "out": str(self.out),
            "particles": self.particles,
            "images": self.images,
            "resolution_A": self.resolution_A if np.isfinite(self.resolution_A) else None,
            "reading": self.reading.record(),
        }


def reconstruct_stacks(path: Path, out: Path, symmetry: str = "C1") -> StackSummary:
    """Half-maps from the stacks that an optimisation set of RELION 5 or Warp names, into a new folder.

    Raises:
        InputError: not an optimisation set with 2D stacks, none of them can be used, or the folder is in use.
    """
    rotations(symmetry)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose another")
    table = read_particles(path)
    stacks = _Stacks.of(table)
    optics, is_warp = _optics(path, table)
    species = Species(
        "stacks", stacks.pixel_A, stacks.box_px, SPHERE * stacks.box_px * stacks.pixel_A, symmetry.upper()
    )
    sums = np.zeros(accumulator_shape(species), np.int64)
    counts: Counter[str] = Counter()
    layouts: Counter[str] = Counter()
    images = sum(_add(sums, species, table, row, stacks, optics, counts, layouts) for row in range(len(table)))
    used = len(table) - sum(counts.values())
    if not used:
        raise InputError(f"{table.path}: none of {len(table)} particles can be used: {'; '.join(counts)}")
    if not all(sums[half].any() for half in (0, 1)):
        raise InputError(f"{table.path}: one half-set has no stack; both are needed to know what is signal")
    curves = _write(out, species, sums)
    return StackSummary(out, used, images, curves.resolution_A, _reading(table, stacks, is_warp, counts, layouts))


@dataclass(frozen=True, eq=False)
class _Stacks:
    """What the table says of the stacks.

    Attributes:
        files: of every particle, None where it is missing; visible: a flag per tilt of the series.
        shift_A: (particles, 3) from the centre of the stack to the particle, in the tomogram.
        premultiplied: (particles,); scale: makes the first stack's standard deviation 1.
    """

    files: tuple[Path | None, ...]
    visible: tuple[Bool, ...]
    shift_A: F64
    premultiplied: Bool
    pixel_A: float
    box_px: int
    scale: float

    @staticmethod
    def of(table: ParticleTable) -> _Stacks:
        columns = Columns(table.path, table.columns)
        if not columns.has(IMAGE, VISIBLE):
            raise InputError(
                f"{table.path}: no 2D stacks ({IMAGE} and {VISIBLE}); extract particles as 2D stacks first"
            )
        files = tuple(find_file(name, table.path) for name in columns.text(IMAGE))
        found = [file for file in files if file is not None]
        if not found:
            raise InputError(
                f"{table.path}: none of {len(files)} stacks is there, the first is {columns.text(IMAGE)[0]}"
            )
        pixels = np.unique(columns.numbers("rlnImagePixelSize"))
        if len(pixels) > 1:
            raise InputError(
                f"{table.path}: stacks have pixels of {pixels[0]:g} to {pixels[-1]:g} A; give those of one"
            )
        nx, ny, _, _ = read_header(found[0])
        if nx != ny or nx % 2:
            raise InputError(f"{found[0]}: images of stacks must be square and even in size, got {nx} x {ny} px")
        shifts = -columns.numbers(*ORIGIN_A) if columns.has_any(*ORIGIN_A) else np.zeros((len(table), 3))
        if columns.has_any(*SUBTOMOGRAM):
            shifts = np.einsum("nij,nj->ni", euler_to_matrix(columns.numbers(*SUBTOMOGRAM)), shifts)
        done = columns.numbers(PREMULTIPLIED)[:, 0] != 0 if columns.has(PREMULTIPLIED) else np.zeros(len(table), bool)
        spread = float(read_stack(found[0]).std())
        if not spread > 0:
            raise InputError(f"{found[0]}: the stack is empty, all its pixels are equal")
        flags = tuple(_flags(columns, row, str(text)) for row, text in enumerate(table.columns[VISIBLE]))
        return _Stacks(files, flags, shifts, done, float(pixels[0]), nx, 1 / spread)


def _flags(columns: Columns, row: int, text: str) -> Bool:
    parts = text.strip().strip("[]").split(",")
    if not all(part.strip() in ("0", "1") for part in parts):
        raise InputError(f"{columns.path}: column {VISIBLE}, row {row + 1}: expected [0,1,...], got '{text[:40]}'")
    return np.array([part.strip() == "1" for part in parts])


def _optics(path: Path, table: ParticleTable) -> tuple[dict[str, StackOptics], bool]:
    """By series: its tilts, rotations and the hand. The hand that Warp's exports give is the opposite of RELION's."""
    tomograms = read_tomograms(path)
    is_warp = is_warp_export(Columns(table.path, table.columns))
    wanted, found = set(table.series), {}
    for index, name in enumerate(tomograms.names):
        if series_key(name) not in wanted:
            continue
        try:
            relion, _ = read_tilts(tomograms, index)
        except SeriesError as error:
            raise InputError(str(error)) from error
        stage = stage_of(relion, (0, 0))
        rotation = rotation_z(stage.axis_angle_deg) @ rotation_y(-stage.angle_deg) @ rotation_x(stage.level_x_deg)
        if stage.stage_deg is not None:
            x, y, z = stage.stage_deg.T
            rotation = rotation_z(z) @ rotation_y(y) @ rotation_x(x) @ rotation
        found[series_key(name)] = StackOptics(relion, rotation, is_warp, -relion.hand if is_warp else relion.hand)
    missing = sorted(wanted - set(found))
    if missing:
        raise InputError(f"{tomograms.path}: has no tomogram {list_of(missing)}, in which particles lie")
    return found, is_warp


def _add(
    sums: I64,
    species: Species,
    table: ParticleTable,
    row: int,
    stacks: _Stacks,
    optics: dict[str, StackOptics],
    counts: Counter[str],
    layouts: Counter[str],
) -> int:
    """Add one particle; returns the number of its images, or counts why it was left out."""
    file, visible, one = stacks.files[row], stacks.visible[row], optics[table.series[row]]
    if file is None:
        counts["their stacks are missing"] += 1
        return 0
    if len(visible) != one.relion.n_tilts:
        raise InputError(
            f"{table.path}: row {row + 1}: {VISIBLE} has {len(visible)} flags, the series {one.relion.n_tilts} tilts"
        )
    stack = read_stack(file)
    slices = slices_of(visible, len(stack))
    if slices is None or stack.shape[1:] != (stacks.box_px, stacks.box_px):
        raise InputError(
            f"{file}: has {len(stack)} images of {stack.shape[2]} x {stack.shape[1]} px; expected {int(visible.sum())} "
            f"(the visible tilts) or {len(visible)} (all) of {stacks.box_px} x {stacks.box_px}"
        )
    tilts = np.flatnonzero(visible)
    if not len(tilts):
        counts["no tilt shows them"] += 1
        return 0
    layouts["all tilts" if len(stack) == len(visible) > len(tilts) else "visible tilts"] += 1
    images: F32 = stack[slices] * np.float32(stacks.scale)
    samples, rotation = samples_of(species), one.rotation[tilts]
    model = model_of(one, tilts, _centred(table, row, one), samples)
    views = rotation @ euler_to_matrix(table.angles_deg[row])
    shift = rotation[:, :2] @ stacks.shift_A[row]
    try:
        add_particle(
            sums, species, samples, images, model, views, shift, int(table.half[row]), bool(stacks.premultiplied[row])
        )
    except SeriesError as error:
        raise InputError(f"{file}: {error}") from error
    return len(tilts)


def _centred(table: ParticleTable, row: int, one: StackOptics) -> F64:
    half = np.array(one.relion.volume_px) * one.relion.pixel_A / 2
    return np.asarray(table.position_A[row] - (0.0 if table.centred else half))


def _write(out: Path, species: Species, sums: I64) -> FscCurves:
    disk().mkdir(out)
    halves: list[F32] = [solve_map(fourier_sums(half, species.symmetry), species) for half in sums]
    n, pixel = species.box_px, species.pixel_size_A
    axis = np.arange(n) - n // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2.0)
    sphere = (radius <= SPHERE * n / 2 - EDGE_PX).astype(np.float32)
    curves = half_map_fsc(halves[0], halves[1], sphere, pixel, species.symmetry)
    for name, volume in (("half1", halves[0]), ("half2", halves[1])):
        write_volume(out / f"{name}.mrc", volume, pixel)
    write_volume(out / "map.mrc", weighted_average(halves[0], halves[1], curves), pixel)
    write_fsc(out / "fsc.star", curves)
    return curves


def _reading(
    table: ParticleTable, stacks: _Stacks, is_warp: bool, counts: Counter[str], layouts: Counter[str]
) -> Reading:
    done = int(stacks.premultiplied.sum())
    filters = "exp(-dose q^2) and the scale of the tilt (Warp)" if is_warp else "Grant and Grigorieff's filter (RELION)"
    notes: tuple[str, ...] = (
        f"Stacks: {stacks.box_px} px of {stacks.pixel_A:g} A, centre at half the box; "
        + " and ".join(f"{count} with {what}" for what, count in layouts.items())
        + f"; {done} of {len(table)} premultiplied by their CTF and {filters}; protein is taken as bright.",
        *(
            ["Hand: the opposite of rlnTomoHand, as Warp writes it."]
            if is_warp
            else ["Hand: the sign of rlnTomoHand times the depth is added to the defocus."]
        ),
    )
    if any(each.is_any for each in set(aberrations_of(Columns(table.path, table.columns)))):
        notes += ("NOT APPLIED: aberrations, beam tilt and magnification of the particles' optics groups.",)
    dropped = [Dropped("particles", count, why) for why, count in counts.items()]
    return replace(table.reading, origins=f"{table.reading.origins} They shift the images.").plus(
        *notes, dropped=dropped
    )
