"""One tilt series on the disk: its parameters, the poses of its particles, its images, and its standard deviations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.imaging.dirt import scaled_mask
from mpr_dist.imaging.particle_images import TiltImage, TiltReader
from mpr_dist.model.population import SeriesFiles
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.state import State
from mpr_dist.refinement.uncertainty import Sigmas
from mpr_dist.storage.mrc import read_header, read_image
from mpr_dist.storage.poses import ROW, SPECIES, read_poses, write_poses
from mpr_dist.storage.star import write_table
from mpr_dist.storage.tiff import mask_path, read_mask
from mpr_dist.storage.warp_xml import read_tilt_series, write_tilt_series
from mpr_dist.units import F32, F64, Bool
from mpr_dist.workflow.state.science import SeriesJob

if TYPE_CHECKING:
    import pandas as pd

# averages are even in size and may be trimmed a little
SIZE_TOLERANCE = 0.01
SIZE_TOLERANCE_PX = 2.0


@dataclass(frozen=True, eq=False)
class SeriesState:
    """A series and the particles in it, by species; species without particles here are missing."""

    series: TiltSeries
    particles: dict[str, Particles]

    @property
    def n_particles(self) -> int:
        return sum(len(particles) for particles in self.particles.values())


def read_state(job: SeriesJob, files: SeriesFiles) -> SeriesState:
    """What ``files`` (imported, previous or output of the job) say; a species they do not know is as imported.

    Raises:
        SeriesError, InputError: a file is missing, damaged, or contradicts the source.
    """
    source, entry = job.source, job.entry
    series = read_tilt_series(
        files.xml,
        volume_size_A=[n * source.pixel_size_A for n in source.volume_size_px],
        processing_folder=entry.xml.parent,
    )
    if len(entry.active) != series.n_tilts:
        raise SeriesError(
            f"series {job.name}: {files.xml} has {series.n_tilts} tilts, source {source.name} expects "
            f"{len(entry.active)}; was the file changed after the source was added?"
        )
    root = job.output.directory.parents[2]
    images = tuple(moved_with(path, root) for path in series.image_paths)
    series = replace(series, active=np.array(entry.active, bool), image_paths=images)
    if not series.image_size_A.all():
        series = replace(series, image_size_A=_size_of_average(series, source.pixel_size_A))
    known = read_poses(job.imported.poses) | (read_poses(files.poses) if files != job.imported else {})
    names = [species.name for species in job.context.species]
    return SeriesState(series, {name: known[name] for name in names if len(known.get(name, ()))})


def in_population(path: Path) -> bool:
    """Whether an average was made by an iteration of a population: iterations/NNN/movies/SERIES/average/NAME.mrc."""
    return "iterations" in path.parts[-6:-5] and "movies" in path.parts[-4:-3]


def moved_with(path: Path, root: Path) -> Path:
    """An average of this population where it is now: the population may have been moved, or merged into this one."""
    if not in_population(path):
        return path
    here = root.joinpath(*path.parts[-6:])
    return here if here.exists() or not path.exists() else path


def _size_of_average(series: TiltSeries, pixel_A: float) -> F64:
    """(2,) x, y in A, from the first image in use; zeros when there is none."""
    for t in np.flatnonzero(series.active):
        if series.image_paths:
            width, height, _, _ = read_header(series.image_paths[t])
            return np.array([width, height]) * pixel_A
    return np.zeros(2)


def tilt_reader(series: TiltSeries, pixel_A: float) -> TiltReader:
    """Reads the average of a tilt, compares its size with what the series says, and adds its mask if it has one.

    The reader raises SeriesError for an image or a mask that is damaged or of another size, and for a missing image.
    """

    def read(t: int) -> TiltImage:
        if not series.image_paths:
            raise SeriesError(f"series {series.name}: its XML has no <MoviePath>, so its images cannot be found")
        path = series.image_paths[t]
        image = read_image(path)
        expected = series.image_size_A / pixel_A
        found = np.array(image.shape[::-1], np.float64)
        if (np.abs(found - expected) > np.maximum(SIZE_TOLERANCE_PX, SIZE_TOLERANCE * expected)).any():
            raise SeriesError(
                f"{path}: has {found[0]:.0f} x {found[1]:.0f} px, expected {expected[0]:.0f} x {expected[1]:.0f} px "
                f"of {pixel_A:g} A; check the pixel size and binning in the settings of the source"
            )
        return TiltImage(image, pixel_A, _mask_of(path, image))

    return read


def _mask_of(image_path: Path, image: F32) -> Bool | None:
    path = mask_path(image_path)
    if not path.exists():
        return None
    mask = read_mask(path)
    try:
        return scaled_mask(mask, (image.shape[0], image.shape[1]))
    except SeriesError as error:
        raise SeriesError(f"{path}: {error}") from error


def with_scales(series: TiltSeries, scale: F64) -> TiltSeries:
    """The series with amplitude scales (tilts,) as Warp keeps them: relative weights and a weight of the series."""
    top = float(scale.max())
    weights = replace(series.weights, weight=CubicGrid.per_tilt(scale / top), series_weight=top)
    return replace(series, weights=weights)


def write_state(job: SeriesJob, state: SeriesState) -> None:
    """Write the XML, into a copy of the imported one, and the poses. Nothing vouches for them before the summary."""
    images = state.series.image_paths
    own = images if any(in_population(path) for path in images) else ()
    write_tilt_series(job.output.xml, job.imported.xml, state.series, own)
    write_poses(job.output.poses, state.particles)


def write_sigmas(
    path: Path,
    state: SeriesState,
    sigmas: Sigmas | None,
    species: tuple[str, ...],
    end: State | None = None,
    others: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> None:
    """Values and standard deviations of what was refined, a table per class, in its own unit; -1 where unknown.

    The values are those the series ends with. ``species`` are those that were refined, in the order of ``sigmas.pose``;
    end: the state that holds their amplitudes, where there are several. Without sigmas only the tilts are listed.
    others: tables of what is no parameter class, by name.
    """
    import pandas as pd

    n = state.series.n_tilts
    tilts = pd.DataFrame({"mprTilt": np.arange(n), "wrpAngleTilt": state.series.angle_deg})
    blocks: dict[str, pd.DataFrame | Mapping[str, object]] = {"tilts": tilts}
    if sigmas is not None:
        log_scale = np.log(np.maximum(tilt_scales(state.series), 1e-12))
        end = replace(end or State(state.series, (), log_scale), series=state.series, log_scale=log_scale)
        end = sigmas.layout.shaped(end)
        for each in sigmas.layout.classes:
            unit = {"mprUnit": [each.unit or "1"] * each.size(n)}
            numbers = {"mprValue": np.asarray(each.values(end), np.float64), "mprSigma": sigmas.series[each.name]}
            blocks[each.name] = pd.DataFrame(dict(each.labels(n)) | _finite(numbers) | unit)
        if sigmas.pose:
            blocks["poses"] = _pose_sigmas(state, sigmas.pose, species)
    blocks |= {name: pd.DataFrame(dict(table)) for name, table in (others or {}).items()}
    write_table(path, blocks)


def _pose_sigmas(state: SeriesState, pose: tuple[F64, ...], species: tuple[str, ...]) -> pd.DataFrame:
    """A row per particle and temporal sample: A, and degrees about the axes of the tomogram."""
    import pandas as pd

    names = [f"mprSigma{axis}Angst" for axis in "XYZ"] + [f"mprSigmaRotation{axis}Deg" for axis in "XYZ"]
    tables = []
    for name, sigma in zip(species, pose, strict=True):
        n_p, samples, _ = sigma.shape
        flat = sigma.reshape(-1, len(names))
        place = {
            SPECIES: [name] * len(flat),
            ROW: np.repeat(state.particles[name].row, samples),
            "mprSample": np.tile(np.arange(1, samples + 1), n_p),
        }
        tables.append(pd.DataFrame(place | _finite({column: flat[:, i] for i, column in enumerate(names)})))
    return pd.concat(tables, ignore_index=True)


def _finite(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.where(np.isfinite(values), values, -1) for name, values in columns.items()}
