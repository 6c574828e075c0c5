"""The population: sources, species and the iteration in force, and where each of their files lies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mpr_dist.errors import PopulationError
from mpr_dist.model.species import Species


@dataclass(frozen=True)
class SeriesEntry:
    """One tilt series of a source.

    Attributes:
        xml: the user's own file, only ever read: a Warp XML, or RELION's table of tilts.
        active: per tilt, in file order, whether this project works with it.
    """

    name: str
    xml: Path
    active: tuple[bool, ...]

    @property
    def tilts(self) -> int:
        return sum(self.active)


@dataclass(frozen=True)
class Source:
    """Tilt series that were acquired and processed alike.

    Attributes:
        settings: the file they were added from (Warp's .settings, or RELION's tomograms.star).
        image_size_px: (x, y); volume_size_px: (x, y, z), both in pixels of ``pixel_size_A``.
        max_tilts: the limit that was asked for when ``active`` was chosen; None = all.
        movies: Warp's .settings of the frame series, for what is refined within tilts; None = there are none.
    """

    name: str
    settings: Path
    series: tuple[SeriesEntry, ...]
    pixel_size_A: float
    image_size_px: tuple[int, int]
    volume_size_px: tuple[int, int, int]
    max_tilts: int | None = None
    movies: Path | None = None

    @property
    def is_relion(self) -> bool:
        """Whether the series came from a tomograms.star; otherwise they came from Warp."""
        return self.settings.suffix == ".star"

    def __post_init__(self) -> None:
        _unique(f"source {self.name}: tilt series", [entry.name for entry in self.series])
        if not self.pixel_size_A > 0:
            raise PopulationError(f"source {self.name}: the pixel size must be positive, got {self.pixel_size_A}")


@dataclass(frozen=True)
class SpeciesFiles:
    """A species and what its folder holds.

    Attributes:
        mask: file of the mask, or None (a sphere of the particle's diameter).
        particles: (series, number of particles), sorted; series without particles may be missing.
    """

    species: Species
    mask: Path | None
    particles: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return self.species.name

    @cached_property
    def _counts(self) -> dict[str, int]:
        return dict(self.particles)

    def particles_in(self, series: str) -> int:
        return self._counts.get(series, 0)


@dataclass(frozen=True)
class Population:
    """A project. ``iteration`` is the one in force: finished, and what the next starts from; 0 is what was imported.

    What was removed keeps its files and its name: finished iterations hold its results under it.
    """

    name: str
    path: Path
    sources: tuple[Source, ...] = ()
    species: tuple[SpeciesFiles, ...] = ()
    iteration: int = 0
    removed_sources: tuple[str, ...] = ()
    removed_species: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _unique(f"population {self.name}: sources", [source.name for source in self.sources])
        _unique(f"population {self.name}: species", [files.name for files in self.species])
        # Results are files named after the series, whatever source it comes from.
        _unique(f"population {self.name}: tilt series of all sources", [entry.name for _, entry in self.series])

    @property
    def series(self) -> tuple[tuple[Source, SeriesEntry], ...]:
        """Every tilt series with its source, in the order of the sources."""
        return tuple((source, entry) for source in self.sources for entry in source.series)

    def particles_in(self, series: str) -> int:
        return sum(files.particles_in(series) for files in self.species)

    def species_named(self, name: str) -> SpeciesFiles:
        """Raises PopulationError when there is none."""
        found = next((files for files in self.species if files.name == name), None)
        if found is None:
            names = [files.name for files in self.species]
            there = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "") if names else "none"
            hint = "; it was removed: mpr-dist species restore" if name in self.removed_species else ""
            raise PopulationError(f"{self.path} has no species {name!r}; it has {there}{hint}")
        return found

    def files(self, iteration: int) -> IterationFiles:
        return IterationFiles(self.path / "iterations" / f"{iteration:03d}", iteration)


@dataclass(frozen=True)
class SeriesFiles:
    """What one iteration says about one tilt series. ``summary`` is written last and vouches for the others."""

    directory: Path
    name: str

    @property
    def xml(self) -> Path:
        return self.directory / f"{self.name}.xml"

    @property
    def poses(self) -> Path:
        return self.directory / f"{self.name}.poses.star"

    @property
    def sigma(self) -> Path:
        return self.directory / f"{self.name}.sigma.star"

    @property
    def summary(self) -> Path:
        return self.directory / f"{self.name}.summary.json"


@dataclass(frozen=True)
class SpeciesResult:
    """The files of one species in one iteration."""

    directory: Path

    @property
    def half1(self) -> Path:
        return self.directory / "half1.mrc"

    @property
    def half2(self) -> Path:
        return self.directory / "half2.mrc"

    @property
    def map(self) -> Path:
        return self.directory / "map.mrc"

    @property
    def ome_zarr(self) -> Path:
        """Map and half-maps for viewers; not in the imported state."""
        return self.directory / "map.zarr"

    @property
    def fsc(self) -> Path:
        return self.directory / "fsc.star"

    @property
    def particles(self) -> Path:
        return self.directory / "particles.star"

    @property
    def accumulator(self) -> Path:
        return self.directory / "accumulator.zarr"

    @property
    def result(self) -> Path:
        """resolution_A and what else ``finish`` reports."""
        return self.directory / "result.json"


@dataclass(frozen=True)
class IterationFiles:
    """Where one iteration keeps what. Everything below ``scratch`` goes when the iteration is finished."""

    root: Path
    number: int

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def uncertainty(self) -> Path:
        """What became of every refined class; not there when nothing was refined."""
        return self.root / "uncertainty.star"

    @property
    def done(self) -> Path:
        return self.root / "DONE"

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    @property
    def partials(self) -> Path:
        return self.scratch / "partials"

    @property
    def references(self) -> Path:
        return self.scratch / "references"

    @property
    def stop(self) -> Path:
        """Tasks end after the series at hand once this file exists."""
        return self.scratch / "STOP"

    @property
    def is_finished(self) -> bool:
        return self.done.exists()

    @property
    def series_directory(self) -> Path:
        return self.root / "series"

    def series(self, name: str) -> SeriesFiles:
        return SeriesFiles(self.series_directory, name)

    def species(self, name: str) -> SpeciesResult:
        return SpeciesResult(self.root / "species" / name)


def _unique(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise PopulationError(f"{what}: names must differ, found twice: {', '.join(twice)}; rename one of them")
    for name in names:
        if not name or name.startswith(".") or "/" in name:
            raise PopulationError(f"{what}: {name!r} cannot be the name of a file; rename it")
