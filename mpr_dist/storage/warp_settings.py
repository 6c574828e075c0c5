"""WarpTools projects: the .settings file, the series it stands for, and .tomostar tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_roots import is_tilt_series
from mpr_dist.storage.warp_values import WarpFile, append, serialise
from mpr_dist.units import F64


@dataclass(frozen=True)
class WarpSettings:
    """What a project of tilt series needs from its .settings.

    Attributes:
        path: the settings file.
        data_folder: where the .tomostar files are; processing_folder: where the XML files are.
        pixel_size_A: unbinned; bin_times: log2 of the binning.
        volume_px: x, y, z of a tomogram in unbinned pixels.
        extension: pattern of the items, "*.tomostar".
    """

    path: Path
    data_folder: Path
    processing_folder: Path
    pixel_size_A: float
    bin_times: float
    volume_px: tuple[int, int, int]
    extension: str

    @property
    def binned_pixel_size_A(self) -> float:
        return float(self.pixel_size_A * 2.0**self.bin_times)

    @property
    def volume_size_A(self) -> tuple[float, float, float]:
        x, y, z = (n * self.pixel_size_A for n in self.volume_px)
        return x, y, z


@dataclass(frozen=True, eq=False)
class Tomostar:
    """One .tomostar: how a series was collected. Once there is an XML with angles, the XML wins.

    Attributes:
        movies: paths as written, relative to the file.
        angle_deg, dose, axis_angle_deg: (tilts,) float64; dose in e/A^2 before the tilt.
        axis_offset_A: (tilts, 2) float64.
    """

    path: Path
    movies: tuple[str, ...]
    angle_deg: F64
    dose: F64
    axis_angle_deg: F64
    axis_offset_A: F64


def read_settings(path: Path) -> WarpSettings:
    """Read a .settings file; folders are resolved against its own folder, and need not exist.

    Raises:
        InputError: missing, not a settings file, not a project of tilt series, no pixel size, no tomogram dimensions.
    """
    path = Path(path)
    file = WarpFile.parse(path, InputError, ("Settings",))
    imports, tomo = file.find("Import"), file.find("Tomo")

    def number(name: str, group_name: str, default: float | None = None) -> float:
        text = file.param_text(imports if group_name == "Import" else tomo, name)
        if text is None and default is None:
            raise file.fail(
                f"<{group_name}> {name}", "is missing; is this the .settings file of a tilt-series project?"
            )
        return file.number(text, f"<{group_name}> {name}") if text is not None else float(default or 0.0)

    extension = file.param_text(imports, "Extension") or ""
    if not extension.endswith(".tomostar"):
        raise file.fail(
            "<Import> Extension",
            f"expected *.tomostar, got '{extension}'; give the settings of the tilt series, not of the frame series",
        )
    legacy = file.param_text(file.root, "PixelSizeX")  # where old versions kept it
    pixel = number("PixelSize", "Import", file.number(legacy, "PixelSizeX") if legacy else None)
    if pixel <= 0:
        raise file.fail("<Import> PixelSize", f"expected a positive pixel size in A, got {pixel:g}")
    dimensions = [number(f"Dimensions{axis}", "Tomo") for axis in "XYZ"]
    if min(dimensions) < 1 or any(n != int(n) for n in dimensions):
        raise file.fail(
            "<Tomo> Dimensions",
            f"expected tomogram sizes in whole unbinned pixels, got {'x'.join(f'{n:g}' for n in dimensions)}; "
            "create the settings with --tomo_dimensions",
        )
    data = _folder(path, file.param_text(imports, "DataFolder"))
    processing = file.param_text(imports, "ProcessingFolder")
    return WarpSettings(
        path=path,
        data_folder=data,
        processing_folder=_folder(path, processing) if processing else data,
        pixel_size_A=pixel,
        bin_times=number("BinTimes", "Import", 0.0),
        volume_px=(int(dimensions[0]), int(dimensions[1]), int(dimensions[2])),
        extension=extension,
    )


def move_settings(template: Path, path: Path, data_folder: str, processing_folder: str) -> None:
    """Write a copy of a .settings file with other folders; all else stays as it is.

    Raises:
        InputError: the template cannot be read, or the copy cannot be written.
    """
    file = WarpFile.parse(template, InputError, ("Settings",))
    group = file.find("Import")
    if group is None:
        raise file.fail("<Import>", "is missing; is this a .settings file?")
    for name, value in (("DataFolder", data_folder), ("ProcessingFolder", processing_folder)):
        param = file.param(group, name)
        if param is None:
            param = append(group, "Param", {"Name": name, "Value": ""})
        param.set("Value", value)
    write_atomically(path, serialise(file.root))


def _folder(settings: Path, text: str | None) -> Path:
    return settings.parent / (text or "").replace("\\", "/")


def find_series(settings: WarpSettings) -> tuple[Path, ...]:
    """XML files of all tilt series in the processing folder, sorted by name; other XML files are passed over.

    Raises:
        InputError: no such folder, or no tilt series in it.
    """
    folder = settings.processing_folder
    if not folder.is_dir():
        raise InputError(f"{settings.path}: its processing folder {folder} does not exist; copy it here as well")
    found = tuple(path for path in sorted(folder.glob("*.xml")) if is_tilt_series(path))
    if not found:
        raise InputError(f"{folder}: holds no tilt-series XML; has the project been processed (ts_import, alignment)?")
    return found


def find_unprocessed(settings: WarpSettings) -> tuple[str, ...]:
    """Names of .tomostar files that have no XML in the processing folder, sorted."""
    names = {path.stem for path in settings.data_folder.glob("*.tomostar")}
    return tuple(sorted(names - {path.stem for path in settings.processing_folder.glob("*.xml")}))


def read_tomostar(path: Path) -> Tomostar:
    """Read a .tomostar.

    Raises:
        InputError: not a STAR file.
        SeriesError: columns are missing, there are no rows, or a number is not finite.
    """
    path = Path(path)
    tables = [block for block in read_blocks(path).values() if not isinstance(block, dict)]
    if not tables:
        raise SeriesError(f"{path}: has no table; expected one with wrpMovieName, wrpAngleTilt and wrpDose")
    table = tables[0]
    missing = [name for name in ("wrpMovieName", "wrpAngleTilt", "wrpDose") if name not in table]
    if missing or not len(table):
        raise SeriesError(f"{path}: " + (f"column {missing[0]} is missing" if missing else "has no tilts"))

    def column(name: str) -> F64:
        if name not in table:
            return np.zeros(len(table))
        values = table[name].to_numpy()
        if values.dtype.kind not in "if" or not np.isfinite(values).all():
            raise SeriesError(f"{path}: column {name}: expected finite numbers, got '{_first_bad(values)}'")
        return np.asarray(values, np.float64)

    return Tomostar(
        path=path,
        movies=tuple(str(name) for name in table["wrpMovieName"]),
        angle_deg=column("wrpAngleTilt"),
        dose=column("wrpDose"),
        axis_angle_deg=column("wrpAxisAngle"),
        axis_offset_A=np.stack([column("wrpAxisOffsetX"), column("wrpAxisOffsetY")], -1),
    )


def _first_bad(values: np.ndarray[tuple[int], np.dtype[np.object_]]) -> str:
    for value in values:
        try:
            if np.isfinite(float(value)):
                continue
        except ValueError:
            pass
        return str(value)
    return ""
