"""The part of the check that concerns species: maps, masks, tables, poses, half-sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from mpr_dist.errors import MprError
from mpr_dist.imaging.map_symmetry import map_symmetry
from mpr_dist.imaging.masks import check_mask
from mpr_dist.imaging.reference import species_fsc
from mpr_dist.model.population import Population, SpeciesFiles, SpeciesResult
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.storage.mrc import PIXEL_TOLERANCE, read_header, read_volume
from mpr_dist.storage.poses import BLOCK, HALF, read_poses
from mpr_dist.storage.star import read_blocks
from mpr_dist.units import F64
from mpr_dist.workflow.changing.species_changes import PARENT
from mpr_dist.workflow.checking.findings import WARNING, Findings
from mpr_dist.workflow.state.reference_files import read_mask
from mpr_dist.workflow.state.span import Span
from mpr_dist.workflow.state.species_state import latest_input, latest_poses

# two particles nearer than this share of the diameter are taken for one
SAME = 0.1
# a half-set that has more than so many times the particles of the other
UNBALANCED = 2.0
RESTORE = "restore the file from a copy"
# of the images' pixel: maps of finer ones are rarely meant
FINEST = 0.7


def check_all_species(findings: Findings, population: Population) -> None:
    """Each species for itself, then whether particles are in several of them."""
    for files in population.species:
        _check_maps(findings, population, files)
        _check_particles(findings, population, files)
    _check_overlaps(findings, population)


def _check_maps(findings: Findings, population: Population, files: SpeciesFiles) -> None:
    subject, species = f"species {files.name}", files.species
    known = latest_input(population, files.name)
    if files.mask is not None:
        with findings.reading(subject, "mpr-dist species update-mask makes a new one"):
            volume, pixel = read_volume(files.mask)
            check_mask(volume, species.box_px)
            _check_pixel(findings, subject, files.mask, pixel, species.pixel_size_A)
    for result in dict.fromkeys((population.files(0).species(files.name), known.previous)):
        for path in (result.half1, result.half2, result.map):
            with findings.reading(subject):
                nx, ny, nz, pixel = read_header(path)
                findings.check(
                    {nx, ny, nz} == {species.box_px},
                    subject,
                    f"{path}: has {nx} x {ny} x {nz} px, its box is {species.box_px}",
                    RESTORE,
                )
                _check_pixel(findings, subject, path, pixel, species.pixel_size_A)
    mask = read_mask(known) if _is_there(known.mask) else None
    _check_halves(findings, subject, files, known.previous, population.files(0).species(files.name), mask)
    findings.check(
        species.box_px * species.pixel_size_A >= 1.5 * species.diameter_A,
        subject,
        f"its box of {species.box_px * species.pixel_size_A:g} A is less than 1.5 times the diameter of "
        f"{species.diameter_A:g} A",
        "signal that the CTF spreads is cut off; add it with the right diameter",
        WARNING,
    )
    images_A = min((source.pixel_size_A for source in population.sources), default=0.0)
    findings.check(
        species.pixel_size_A > FINEST * images_A,
        subject,
        f"its maps have pixels of {species.pixel_size_A:g} A, much finer than those of all images ({images_A:g} A)",
        "is the pixel size in the headers of the half-maps right? If so, --pixel-size of species add saves memory",
        WARNING,
    )


def _is_there(mask: Path | None) -> bool:
    return mask is None or mask.exists()


def _check_halves(
    findings: Findings,
    subject: str,
    files: SpeciesFiles,
    result: SpeciesResult,
    imported: SpeciesResult,
    mask: np.ndarray | None,
) -> None:
    """Half-maps are two, independent, and agree as far as was recorded."""
    with findings.reading(subject):
        first, second = read_volume(result.half1)[0], read_volume(result.half2)[0]
        findings.check(
            not np.array_equal(first, second),
            subject,
            f"{result.half1} and half2.mrc are the same map: the FSC says nothing",
            "add the species with its two independent half-maps",
        )
        if mask is None or first.shape != mask.shape or second.shape != mask.shape:
            return
        curves = species_fsc(first, second, mask, files.species)
        findings.check(
            bool(np.isfinite(curves.resolution_A)),
            subject,
            "its half-maps share nothing",
            "nothing can be refined against them; check poses, half-sets and the mask",
        )
        findings.check(
            curves.resolution_A > 2.0 * files.species.pixel_size_A * 1.02 or not np.isfinite(curves.resolution_A),
            subject,
            "its half-maps agree up to the last shell",
            "either its pixel is too large for the resolution, or the half-sets share particles or were filtered",
            WARNING,
        )
    with findings.reading(subject):
        _check_symmetry(findings, subject, files.species, result, imported)


def _check_symmetry(
    findings: Findings, subject: str, species: Species, result: SpeciesResult, imported: SpeciesResult
) -> None:
    """The map has the group it was given, and no higher one; copies of an expansion are meant to have a lower one."""
    halves = [read_volume(path)[0] for path in (result.half1, result.half2)]
    if any(half.shape != (species.box_px,) * 3 for half in halves):
        return  # told of above
    found = map_symmetry(halves[0], halves[1], species)
    is_meant = found.higher is not None and _is_expanded(imported)
    findings.check(found.is_right or is_meant, subject, found.sentence, found.advice, WARNING)


def _check_pixel(findings: Findings, subject: str, path: Path, pixel_A: float, expected_A: float) -> None:
    findings.check(
        pixel_A == 0 or abs(pixel_A / expected_A - 1) < PIXEL_TOLERANCE,
        subject,
        f"{path}: has pixels of {pixel_A:g} A, the species has {expected_A:g} A",
        RESTORE,
    )


def _check_particles(findings: Findings, population: Population, files: SpeciesFiles) -> None:
    """Counts, rows and half-sets of species.toml, the imported poses, those in force, and the table agree."""
    subject = f"species {files.name}"
    table = population.files(0).species(files.name).particles
    halves = Counter[int]()
    rows: list[int] = []
    places: list[F64] = []
    sizes = {e.name: np.array(s.volume_size_px) * s.pixel_size_A for s, e in population.series}
    outside, moved, total = 0, 0, 0
    for series, count in files.particles:
        with findings.reading(f"{subject} in {series}"):
            imported = read_poses(population.files(0).series(series).poses).get(files.name)
            now = latest_poses(population, series).get(files.name)
            found = 0 if imported is None else len(imported)
            if not findings.check(
                imported is not None and now is not None and found == count,
                f"{subject} in {series}",
                f"species.toml says {count} particles, the poses have {found}",
                RESTORE,
            ):
                continue
            assert imported is not None
            assert now is not None
            findings.check(
                np.array_equal(imported.row, now.row) and np.array_equal(imported.half, now.half),
                f"{subject} in {series}",
                "particles or half-sets are not those that were imported; half-sets are for ever",
                RESTORE,
            )
            halves.update(now.half.tolist())
            rows += imported.row.tolist()
            total += len(now)
            places.append(now.position_A[:, 0] / sizes[series])
            low, high = -files.species.diameter_A, sizes[series] + files.species.diameter_A
            outside += int(((now.position_A[:, 0] < low) | (now.position_A[:, 0] > high)).any(1).sum())
            away = np.linalg.norm(now.position_A.mean(1) - imported.position_A.mean(1), axis=1)
            moved += int((away > 0.5 * files.species.diameter_A).sum())
    _check_counts(findings, subject, halves, rows, (outside, moved, total))
    span = Span.of(places)
    findings.check(not span.is_odd, subject, span.sentence, span.ADVICE, WARNING)
    with findings.reading(subject):
        _check_table(findings, subject, table, population, files)


def _check_counts(
    findings: Findings, subject: str, halves: Counter[int], rows: list[int], counts: tuple[int, int, int]
) -> None:
    outside, moved, total = counts
    findings.check(
        halves[1] > 0 and halves[2] > 0,
        subject,
        f"half-sets of {halves[1]} and {halves[2]} particles: one is empty",
        "both are needed to know what is signal",
    )
    findings.check(
        max(halves[1], halves[2]) <= UNBALANCED * min(halves[1], halves[2]) or 0 in (halves[1], halves[2]),
        subject,
        f"half-sets of {halves[1]} and {halves[2]} particles are very different",
        "the FSC is that of the weaker one",
        WARNING,
    )
    findings.check(len(set(rows)) == len(rows), subject, "rows of its table are used twice", RESTORE)
    findings.check(
        outside == 0,
        subject,
        f"{outside} of {total} particles lie outside their tomogram",
        "are pixel size, origin or binning of the coordinates right?",
        WARNING,
    )
    findings.check(
        moved == 0,
        subject,
        f"{moved} of {total} particles moved by more than half a diameter since they were imported",
        "they may have left what they were; mpr-dist species select --min-score leaves out those without signal",
        WARNING,
    )


def _check_table(findings: Findings, subject: str, path: Path, population: Population, files: SpeciesFiles) -> None:
    """particles.star of the imported state has the rows that poses refer to, with the same half-sets."""
    table = read_blocks(path).get(BLOCK)
    if table is None or isinstance(table, dict):
        findings.check(False, subject, f"{path}: holds no table of particles", RESTORE)
        return
    half = table[HALF].to_numpy() if HALF in table else None
    for series, _ in files.particles:
        own = read_poses(population.files(0).series(series).poses).get(files.name)
        if own is None:
            continue
        fits = int(own.row.max(initial=0)) < len(table)
        if fits and half is not None:
            fits = np.array_equal(half[own.row].astype(int), own.half)
        findings.check(
            bool(fits), f"{subject} in {series}", f"rows or half-sets in {path} are not those of its poses", RESTORE
        )


def _check_overlaps(findings: Findings, population: Population) -> None:
    """Particles that are there twice: in one species, across half-sets, or in two species."""
    twice = Counter[str]()
    across = Counter[str]()
    between = Counter[tuple[str, str]]()
    diameter = {files.name: files.species.diameter_A for files in population.species}
    expanded = {files.name: _is_expanded(population.files(0).species(files.name)) for files in population.species}
    for _, entry in population.series:
        try:
            poses = {name: p for name, p in latest_poses(population, entry.name).items() if name in diameter}
        except MprError:
            continue  # told of above
        for name, particles in poses.items():
            pairs = [(a, b) for a, b in _near(particles, particles, SAME * diameter[name]) if a < b]
            if expanded[name]:  # copies of one particle lie together, in one half-set
                pairs = [(a, b) for a, b in pairs if particles.half[a] != particles.half[b]]
            twice[name] += len(pairs)
            across[name] += sum(int(particles.half[a] != particles.half[b]) for a, b in pairs)
        names = sorted(poses)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                reach = SAME * min(diameter[one], diameter[other])
                between[one, other] += len(_near(poses[one], poses[other], reach))
    for name in diameter:
        findings.check(
            twice[name] == 0,
            f"species {name}",
            f"{twice[name]} pairs of particles are nearer than {SAME * diameter[name]:.0f} A, {across[name]} of them "
            "in different half-sets, which makes the FSC too good",
            "mpr-dist species select --min-distance leaves them out",
            WARNING,
        )
    for (one, other), count in between.items():
        findings.check(
            count == 0,
            f"species {one} and {other}",
            f"{count} particles are in both, and count twice",
            "remove one of them: mpr-dist species remove",
            WARNING,
        )


def _is_expanded(imported: SpeciesResult) -> bool:
    """Whether a species was made by symmetry expansion; a table that cannot be read was told of before."""
    try:
        table = read_blocks(imported.particles).get(BLOCK)
    except MprError:
        return False
    return table is not None and PARENT in table


def _near(one: Particles, other: Particles, reach_A: float) -> list[tuple[int, int]]:
    if not len(one) or not len(other):
        return []
    found = cKDTree(one.position_A[:, 0]).query_ball_tree(cKDTree(other.position_A[:, 0]), reach_A)
    return [(a, b) for a, hits in enumerate(found) for b in hits]
