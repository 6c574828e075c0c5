"""Every link, count, box, pixel size, unit and half-set of a population checked, and what to do about what is wrong.

Nothing is changed. A population that passes can be refined, and what it says of itself is what its files hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpr_dist.errors import MprError
from mpr_dist.model.population import IterationFiles, Population, SeriesEntry, Source
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.accumulators import read_manifest
from mpr_dist.storage.accumulators import verify as verify_accumulator
from mpr_dist.storage.image_file import file_and_slice
from mpr_dist.storage.lock import read_holder
from mpr_dist.storage.mrc import read_header
from mpr_dist.storage.population import last_iteration_with, load_population
from mpr_dist.storage.tiff import mask_path, read_mask
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.changing.same_images import same_images, told_twice
from mpr_dist.workflow.checking.findings import WARNING, Findings
from mpr_dist.workflow.checking.verify_species import check_all_species
from mpr_dist.workflow.state.done import read_done
from mpr_dist.workflow.state.series_io import moved_with
from mpr_dist.workflow.state.series_results import published_hash

SIZE_TOLERANCE = 0.01  # Warp rounds binned image sizes to even numbers
PIXEL_TOLERANCE = 5e-3  # headers hold rounded pixel sizes
# what is measured on microscopes; beyond it a number most likely has another unit
PLAUSIBLE: dict[str, tuple[float, float]] = {
    "pixel size (A)": (0.2, 30.0),
    "defocus (um)": (0.05, 20.0),
    "highest dose (e/A^2)": (1.0, 500.0),
    "largest tilt (degrees)": (5.0, 85.0),
    "voltage (kV)": (80.0, 1000.0),
    "Cs (mm)": (0.0, 8.0),
    "amplitude contrast": (0.0, 0.5),
    "thickness of the tomogram (A)": (100.0, 20000.0),
}


def verify_population(path: Path, deep: bool = False) -> Findings:
    """Check a population; ``deep``: read every byte of the sums, too. Raises only when it cannot be loaded at all."""
    population, findings = load_population(path), Findings()
    findings.check(bool(population.sources), "population", "it has no source", "mpr-dist source add")
    findings.check(bool(population.species), "population", "it has no species", "mpr-dist species add")
    for source in population.sources:
        _check_source(findings, source)
        for entry in source.series:
            _check_series(findings, population, source, entry)
    twice = same_images(population)
    advice = "mpr-dist source remove leaves one of their sources out"
    findings.check(not twice, "population", told_twice(twice) if twice else "", advice, WARNING)
    check_all_species(findings, population)
    for number in range(1, population.iteration + 1):
        _check_iteration(findings, population, population.files(number), deep)
    _check_run(findings, population)
    return findings


def _check_source(findings: Findings, source: Source) -> None:
    subject = f"source {source.name}"
    findings.check(
        source.settings.exists(),
        subject,
        f"{source.settings}, which it was added from, is gone",
        "nothing but an export needs it; if the project was moved, add the source again",
        WARNING,
    )
    _plausible(findings, subject, "pixel size (A)", source.pixel_size_A)
    _plausible(findings, subject, "thickness of the tomogram (A)", source.volume_size_px[2] * source.pixel_size_A)
    image, volume = np.array(source.image_size_px), np.array(source.volume_size_px[:2])
    findings.check(
        bool((volume < 3 * image.max()).all()),
        subject,
        f"tomograms of {' x '.join(map(str, source.volume_size_px))} px are far larger than its images of "
        f"{source.image_size_px[0]} x {source.image_size_px[1]} px",
        "are the sizes in the settings those of unbinned pixels?",
        WARNING,
    )


def _check_series(findings: Findings, population: Population, source: Source, entry: SeriesEntry) -> None:
    subject = f"series {entry.name}"
    imported = population.files(0).series(entry.name)
    if findings.check(
        entry.xml.exists(), subject, f"{entry.xml}, which it was added from, is gone", "exports miss it", WARNING
    ):
        findings.check(
            not imported.xml.exists() or entry.xml.suffix != ".xml" or _same(entry.xml, imported.xml),
            subject,
            f"{entry.xml} is not what was imported: changed since, or refined in a population that was merged",
            "the population goes on with its own copy; add the series to a new population to use the new one",
            WARNING,
        )
    last = last_iteration_with(population, entry.name, population.iteration + 1)
    with findings.reading(subject):
        series = _read(source, entry, imported.xml)
        findings.check(
            series.n_tilts == len(entry.active),
            subject,
            f"{imported.xml} has {series.n_tilts} tilts, source.toml expects {len(entry.active)}",
            "restore the file from a copy",
        )
        _check_units(findings, subject, series)
    files = population.files(last).series(entry.name)
    with findings.reading(subject):
        images = _read(source, entry, files.xml).image_paths
        used = [moved_with(path, population.path) for path, use in zip(images, entry.active, strict=False) if use]
        _check_images(findings, subject, source, used)
    findings.check(
        not last or published_hash(files) is not None,
        subject,
        f"its files in {files.directory} are not those that were published there",
        "restore them from a copy; parameters of finished iterations never change",
    )


def _read(source: Source, entry: SeriesEntry, xml: Path) -> TiltSeries:
    size = [n * source.pixel_size_A for n in source.volume_size_px]
    return read_tilt_series(xml, volume_size_A=size, processing_folder=entry.xml.parent)


def _check_units(findings: Findings, subject: str, series: TiltSeries) -> None:
    optics = series.optics
    numbers = {
        "defocus (um)": optics.defocus_um.values,
        "highest dose (e/A^2)": np.atleast_1d(series.dose.max()),
        "largest tilt (degrees)": np.atleast_1d(np.abs(series.angle_deg).max()),
        "voltage (kV)": np.atleast_1d(optics.voltage_kV),
        "Cs (mm)": np.atleast_1d(optics.cs_mm),
        "amplitude contrast": np.atleast_1d(optics.amplitude),
    }
    for what, values in numbers.items():
        _plausible(findings, subject, what, float(values.min()), float(values.max()))
    findings.check(
        series.n_tilts < 2 or float(np.ptp(series.dose)) > 0,
        subject,
        "all of its tilts have the same dose",
        "weights by dose and motion along the dose need them; check the import of the mdoc files",
        WARNING,
    )
    findings.check(bool((series.dose >= 0).all()), subject, "it has tilts of negative dose", "correct the tomostar")


def _plausible(findings: Findings, subject: str, what: str, low: float, high: float | None = None) -> None:
    least, most = PLAUSIBLE[what]
    high = low if high is None else high
    text = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    findings.check(
        least <= low and high <= most,
        subject,
        f"{what} is {text}, expected {least:g} to {most:g}",
        "is it in another unit?",
        WARNING,
    )


def _check_images(findings: Findings, subject: str, source: Source, paths: Sequence[Path]) -> None:
    if not findings.check(bool(paths), subject, "its XML does not say where its images are", "add its source again"):
        return
    missing = [path for path in paths if not file_and_slice(path)[0].is_file()]
    findings.check(
        not missing,
        subject,
        f"{len(missing)} of {len(paths)} images are gone, the first is {missing[0] if missing else ''}",
        "bring them back to where they were: images are never copied",
    )
    for path in (path for path in paths if path not in missing):
        with findings.reading(subject, "make the image again"):
            nx, ny, _, pixel = read_header(path)
            expected = np.array(source.image_size_px)
            findings.check(
                bool((np.abs(np.array([nx, ny]) - expected) <= np.maximum(2, SIZE_TOLERANCE * expected)).all()),
                subject,
                f"{path}: has {nx} x {ny} px, source {source.name} has images of {expected[0]} x {expected[1]}",
                "series of other sizes or binning need a source of their own",
            )
            findings.check(
                pixel == 0 or abs(pixel / source.pixel_size_A - 1) < PIXEL_TOLERANCE,
                subject,
                f"{path}: has pixels of {pixel:g} A, source {source.name} has {source.pixel_size_A:g} A",
                "check the binning in the settings",
            )
            if mask_path(path).exists():
                height, width = read_mask(mask_path(path)).shape
                findings.check(
                    abs(width / height / (nx / ny) - 1) < SIZE_TOLERANCE,
                    subject,
                    f"{mask_path(path)}: a mask of {width} x {height} px is of another field than the image",
                    "make the mask again or remove it",
                )


def _check_iteration(findings: Findings, population: Population, files: IterationFiles, deep: bool) -> None:
    subject = f"iteration {files.number:03d}"
    done = None
    with findings.reading(subject):
        done = read_done(files)
    if not findings.check(done is not None, subject, "DONE cannot be read", "restore it from a copy"):
        return
    series = sorted((done or {}).get("series", ()))
    for files_of in (files.series(name) for name in series):
        findings.check(files_of.xml.exists(), subject, f"{files_of.xml} is gone", "restore it from a copy")
    for one in population.species:
        path = files.species(one.name).accumulator
        if not files.species(one.name).half1.exists():
            continue  # a species that was made later
        try:
            manifest = verify_accumulator(path) if deep else read_manifest(path)
            right, why = sorted(manifest.series) == series, "holds other series than DONE says"
        except MprError as error:
            right, why = False, " ".join(str(error).split())
        findings.check(
            right,
            subject,
            f"sums of {one.name}: {why}",
            "half-maps are not concerned, but reconstruct --without and --with need the sums: restore them",
            WARNING if files.number < population.iteration else "error",
        )


def _check_run(findings: Findings, population: Population) -> None:
    holder = read_holder(population.path / "LOCK")
    findings.check(
        holder is None or not holder.is_dead,
        "population",
        "a process that has died left its lock",
        "nothing to do: the next command takes it over",
        WARNING,
    )
    begun = population.files(population.iteration + 1)
    findings.check(
        not begun.settings.exists(),
        "population",
        f"iteration {begun.number:03d} was begun and is not finished",
        "the command that began it continues it; --restart discards it",
        WARNING,
    )


def _same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()
