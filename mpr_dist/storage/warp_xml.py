"""Tilt-series XML of Warp, WarpTools and M.

What is not understood here (fitting curves, options, whatever a later version adds) is never lost: a series is written
into a copy of the file it was read from, and only values that differ are changed. Changed numbers are written as the
shortest text of a float32, which is what Warp keeps: a geometry that is read back agrees to about 7 digits, not to the
last bit of a float64. Reading what was written and writing it again changes nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.model.optics import Optics
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid, DoseWeights, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.warp_values import (
    IMAGE_PATHS,
    UNSET,
    WarpFile,
    append,
    number_text,
    read_nodes,
    serialise,
    write_nodes,
)
from mpr_dist.units import F64, Bool


@dataclass(frozen=True)
class _Grid:
    tag: str
    get: Callable[[TiltSeries], CubicGrid | LinearGrid4]
    default: float = 0.0


_GRIDS = (
    _Grid("GridCTF", lambda s: s.optics.defocus_um),
    _Grid("GridCTFDefocusDelta", lambda s: s.optics.defocus_delta_um),
    _Grid("GridCTFDefocusAngle", lambda s: s.optics.defocus_angle_deg),
    _Grid("GridCTFPhase", lambda s: s.optics.phase_shift_pi),
    _Grid("GridMovementX", lambda s: s.image_warp.x),
    _Grid("GridMovementY", lambda s: s.image_warp.y),
    _Grid("GridVolumeWarpX", lambda s: s.volume_warp.x),
    _Grid("GridVolumeWarpY", lambda s: s.volume_warp.y),
    _Grid("GridVolumeWarpZ", lambda s: s.volume_warp.z),
    _Grid("GridAngleX", lambda s: s.stage_angles.x),
    _Grid("GridAngleY", lambda s: s.stage_angles.y),
    _Grid("GridAngleZ", lambda s: s.stage_angles.z),
    _Grid("GridDoseBfacs", lambda s: s.weights.bfactor),
    _Grid("GridDoseBfacsDelta", lambda s: s.weights.bfactor_delta),
    _Grid("GridDoseBfacsAngle", lambda s: s.weights.bfactor_angle),
    _Grid("GridDoseWeights", lambda s: s.weights.weight, 1.0),
    _Grid("GridLocationBfacs", lambda s: s.weights.location_bfactor),
    _Grid("GridLocationWeights", lambda s: s.weights.location_weight, 1.0),
)
_LISTS: tuple[tuple[str, Callable[[TiltSeries], F64]], ...] = (
    ("Angles", lambda s: s.angle_deg),
    ("Dose", lambda s: s.dose),
    ("AxisAngle", lambda s: s.axis_angle_deg),
    ("AxisOffsetX", lambda s: s.axis_offset_A[:, 0]),
    ("AxisOffsetY", lambda s: s.axis_offset_A[:, 1]),
)
_ATTRIBUTES: tuple[tuple[str, Callable[[TiltSeries], float]], ...] = (
    ("LevelAngleX", lambda s: s.level_angle_deg[0]),
    ("LevelAngleY", lambda s: s.level_angle_deg[1]),
    ("Bfactor", lambda s: s.weights.series_bfactor),
    ("Weight", lambda s: s.weights.series_weight),
)
# the second one is ours: Warp and M know no stage that moves particles
_FLAGS: tuple[tuple[str, Callable[[TiltSeries], bool]], ...] = (
    ("AreAnglesInverted", lambda s: s.are_angles_inverted),
    ("MprRigidStage", lambda s: s.is_stage_rigid),
)
_OPTICS: tuple[tuple[str, Callable[[Optics], float]], ...] = (
    ("Voltage", lambda o: o.voltage_kV),
    ("Cs", lambda o: o.cs_mm),
    ("Amplitude", lambda o: o.amplitude),
)
_ZERNIKE: tuple[tuple[str, Callable[[Optics], tuple[float, ...]]], ...] = (
    ("ZernikeCoeffsOdd", lambda o: o.zernike_odd),
    ("ZernikeCoeffsEven", lambda o: o.zernike_even),
)


def read_tilt_series(
    path: Path,
    *,
    volume_size_A: Sequence[float] | None,
    image_size_A: Sequence[float] | None = None,
    processing_folder: Path | None = None,
) -> TiltSeries:
    """One tilt series, with every tilt of the file; ``active`` is what the file says in UseTilt.

    Args:
        path: the XML; its name without extension names the series.
        volume_size_A: x, y, z of the tomogram, from the settings; None takes VolumeDimensionsAngstrom from the file.
        image_size_A: x, y, used where the file has no ImageDimensionsAngstrom; without either the size is (0, 0) and
            the caller takes it from an image.
        processing_folder: where relative paths in the file start; by default the folder the file lies in.

    Raises:
        SeriesError: the file is missing, is not a tilt series, or holds something that cannot be understood.
    """
    path = Path(path)
    return _series_of(_parse(path), volume_size_A, image_size_A, processing_folder or path.parent)


def write_tilt_series(path_out: Path, template_path: Path, series: TiltSeries, images: Sequence[Path] = ()) -> None:
    """Write a copy of ``template_path`` with the values of ``series`` in it, atomically.

    Sizes of images and volume, image paths and the subset ``active`` are not written: they are not the file's business;
    but ``images``, one per tilt, are: those that are to be used instead of the averages beside the movies.

    Raises:
        SeriesError: the template cannot be read, has another number of tilts, or a value is not finite.
        InputError: the file cannot be written.
    """
    file = _parse(Path(template_path))
    before = _series_of(file, (1.0, 1.0, 1.0), None, Path(template_path).parent)
    if before.n_tilts != series.n_tilts:
        raise SeriesError(
            f"{template_path}: has {before.n_tilts} tilts, series {series.name} has {series.n_tilts}; "
            "give the file that this series was read from"
        )
    _check_finite(series)
    _write_attributes(file, before, series)
    _write_lists(file, before, series)
    if images:
        found = file.find(IMAGE_PATHS)
        element = append(file.root, IMAGE_PATHS) if found is None else found
        element.text = "\n".join(str(path) for path in images)
    _write_optics(file, before.optics, series.optics)
    for grid in _GRIDS:
        old, new = grid.get(before), grid.get(series)
        margins = new.margins if isinstance(new, CubicGrid) else None
        old_margins = old.margins if isinstance(old, CubicGrid) else None
        if not np.array_equal(old.values, new.values) or old_margins != margins:
            write_nodes(file, grid.tag, "XYZ" if margins else "XYZW", new.values, margins)
    write_atomically(Path(path_out), serialise(file.root))


def _parse(path: Path) -> WarpFile:
    return WarpFile.parse(path, SeriesError, ("TiltSeries",))


def _series_of(
    file: WarpFile, volume_A: Sequence[float] | None, image_A: Sequence[float] | None, folder: Path
) -> TiltSeries:
    angles = _list(file, "Angles")
    if angles is None:
        raise file.fail("<Angles>", "is missing or empty; run ts_import or ts_aretomo / ts_etomo_patches first")
    n = len(angles)
    values = {tag: _numbers(file, tag, n) for tag, _ in _LISTS}
    use_tilt = _use_tilt(file, n)
    _numbers(file, "FOVFraction", n)
    return TiltSeries(
        name=file.path.stem,
        angle_deg=values["Angles"],
        dose=values["Dose"],
        axis_angle_deg=values["AxisAngle"],
        axis_offset_A=np.stack([values["AxisOffsetX"], values["AxisOffsetY"]], -1),
        use_tilt=use_tilt,
        active=use_tilt.copy(),
        image_size_A=_size(file, "ImageDimensionsAngstrom", image_A, prefer_file=True),
        volume_size_A=_size(file, "VolumeDimensionsAngstrom", volume_A, prefer_file=False),
        image_paths=_image_paths(file, n, folder),
        level_angle_deg=(_attribute(file, "LevelAngleX", 0.0), _attribute(file, "LevelAngleY", 0.0)),
        are_angles_inverted=_flag(file, "AreAnglesInverted"),
        is_stage_rigid=_flag(file, "MprRigidStage"),
        optics=_optics(file),
        image_warp=ImageWarp(_cubic(file, "GridMovementX"), _cubic(file, "GridMovementY")),
        volume_warp=VolumeWarp(*(_linear(file, f"GridVolumeWarp{axis}") for axis in "XYZ")),
        stage_angles=StageAngles(*(_cubic(file, f"GridAngle{axis}") for axis in "XYZ")),
        weights=_weights(file),
    )


def _attribute(file: WarpFile, name: str, default: float) -> float:
    text = file.root.get(name, "").strip()
    return default if text in UNSET else file.number(text, f"attribute {name}")


def _flag(file: WarpFile, name: str) -> bool:
    text = file.root.get(name, "").strip()
    return text not in UNSET and file.truth(text, f"attribute {name}")


def _list(file: WarpFile, tag: str) -> list[str] | None:
    """Lines of a per-tilt list, or None when it is absent or empty."""
    element = file.find(tag)
    text = "" if element is None or element.text is None else element.text.strip()
    return [line.strip() for line in text.splitlines()] if text else None


def _lines(file: WarpFile, tag: str, n: int) -> list[str] | None:
    lines = _list(file, tag)
    if lines is not None and len(lines) != n:
        raise file.fail(f"<{tag}>", f"expected {n} values, one per line of <Angles>, got {len(lines)}")
    return lines


def _numbers(file: WarpFile, tag: str, n: int, default: float = 0.0) -> F64:
    lines = _lines(file, tag, n)
    if lines is None:
        return np.full(n, default)
    return np.array([file.number(line, f"<{tag}>, line {i}") for i, line in enumerate(lines, 1)])


def _use_tilt(file: WarpFile, n: int) -> Bool:
    lines = _lines(file, "UseTilt", n) or ["True"] * n
    return np.array([file.truth(line, f"<UseTilt>, line {i}") for i, line in enumerate(lines, 1)])


def _size(file: WarpFile, name: str, given: Sequence[float] | None, *, prefer_file: bool) -> F64:
    """Size in A from the file's attribute or the argument; zeros mean unknown."""
    n = 2 if name.startswith("Image") else 3
    text = file.root.get(name, "").strip()
    stored = () if text in UNSET else file.vector(text, f"attribute {name}", (n,))
    is_stored = bool(stored) and min(stored) > 0
    if is_stored and (prefer_file or given is None):
        return np.array(stored)
    if given is None:
        if prefer_file:
            return np.zeros(n)
        raise file.fail(f"attribute {name}", "the size of the tomogram is unknown; give the .settings file")
    size = np.asarray(given, np.float64)
    if size.shape != (n,) or not np.isfinite(size).all() or size.min() < (0 if prefer_file else 1e-6):
        raise file.fail(name, f"expected {n} positive sizes in A, got {list(given)}")
    return size


def _image_paths(file: WarpFile, n: int, folder: Path) -> tuple[Path, ...]:
    """Motion-corrected averages beside the movies: <folder of movie>/average/<movie without extension>.mrc.

    Series that came from other programs name their images in a list of our own, which wins.
    """
    own = _lines(file, IMAGE_PATHS, n)
    if own is not None:
        return tuple(folder / line for line in own)
    lines = _lines(file, "MoviePath", n)
    if lines is None:
        return ()
    if "" in lines:
        raise file.fail(f"<MoviePath>, line {lines.index('') + 1}", "is empty")
    data = folder / file.root.get("DataDirectory", "").strip().replace("\\", "/")
    base = data if data.is_dir() else folder  # a path of another machine: projects keep both folders side by side
    movies = [PurePosixPath(line.replace("\\", "/")) for line in lines]
    return tuple(base / movie.parent / "average" / f"{movie.stem}.mrc" for movie in movies)


def _cubic(file: WarpFile, tag: str, default: float = 0.0) -> CubicGrid:
    nodes = read_nodes(file, tag, "XYZ")
    return CubicGrid.constant(default) if nodes is None else CubicGrid(*nodes)


def _linear(file: WarpFile, tag: str) -> LinearGrid4:
    nodes = read_nodes(file, tag, "XYZW")
    return LinearGrid4.constant(0.0) if nodes is None else LinearGrid4(nodes[0])


def _weights(file: WarpFile) -> DoseWeights:
    return DoseWeights(
        bfactor=_cubic(file, "GridDoseBfacs"),
        bfactor_delta=_cubic(file, "GridDoseBfacsDelta"),
        bfactor_angle=_cubic(file, "GridDoseBfacsAngle"),
        weight=_cubic(file, "GridDoseWeights", 1.0),
        location_bfactor=_cubic(file, "GridLocationBfacs"),
        location_weight=_cubic(file, "GridLocationWeights", 1.0),
        series_bfactor=_attribute(file, "Bfactor", 0.0),
        series_weight=_attribute(file, "Weight", 1.0),
    )


def _optics(file: WarpFile) -> Optics:
    ctf, options, default = file.find("CTF"), file.find("OptionsCTF"), Optics()

    def number(name: str, otherwise: float) -> float:
        text = file.param_text(ctf, name) or file.param_text(options, name)
        return otherwise if text is None else file.number(text, f"<CTF> {name}")

    def coefficients(name: str) -> tuple[float, ...]:
        text = file.param_text(ctf, name) or ""
        return tuple(file.number(field, f"<CTF> {name}") for field in text.split(";") if field.strip())

    optics = Optics(
        voltage_kV=number("Voltage", default.voltage_kV),
        cs_mm=number("Cs", default.cs_mm),
        amplitude=number("Amplitude", default.amplitude),
        defocus_um=_cubic(file, "GridCTF"),
        defocus_delta_um=_cubic(file, "GridCTFDefocusDelta"),
        defocus_angle_deg=_cubic(file, "GridCTFDefocusAngle"),
        phase_shift_pi=_cubic(file, "GridCTFPhase"),
        magnification=_magnification(file),
        zernike_odd=coefficients("ZernikeCoeffsOdd"),
        zernike_even=coefficients("ZernikeCoeffsEven"),
    )
    if not (optics.voltage_kV > 0 and abs(optics.amplitude) <= 1):
        raise file.fail(
            "<CTF>", f"expected a voltage above 0 and an amplitude up to 1, got {optics.voltage_kV}, {optics.amplitude}"
        )
    return optics


def _magnification(file: WarpFile) -> F64:
    """(2, 2) from 4 numbers in column order, or Warp 1's scale x, scale y, angle of the axes (turned by minus it)."""
    text = file.root.get("MagnificationCorrection", "").strip()
    if text in UNSET:
        return np.eye(2)
    numbers = file.vector(text, "attribute MagnificationCorrection", (3, 4))
    if len(numbers) == 4:
        return np.array(numbers).reshape(2, 2).T
    angle = np.deg2rad(-numbers[2])
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(axes @ np.diag(numbers[:2]) @ axes.T)


def _check_finite(series: TiltSeries) -> None:
    parts = {tag: get(series) for tag, get in _LISTS} | {grid.tag: grid.get(series).values for grid in _GRIDS}
    parts |= {name: np.array(get(series)) for name, get in _ATTRIBUTES}
    parts |= {name: np.array(get(series.optics)) for name, get in _OPTICS + _ZERNIKE}
    parts["MagnificationCorrection"] = series.optics.magnification
    for name, values in parts.items():
        if not (np.abs(values) <= float(np.finfo(np.float32).max)).all():  # NaN fails the comparison too
            raise SeriesError(f"series {series.name}: {name} holds NaN or infinite values; it was not written")


def _write_attributes(file: WarpFile, before: TiltSeries, series: TiltSeries) -> None:
    for name, get in _ATTRIBUTES:
        if get(before) != get(series):
            file.root.set(name, number_text(get(series)))
    for name, get_flag in _FLAGS:
        if get_flag(before) != get_flag(series):
            file.root.set(name, str(get_flag(series)))
    if not np.array_equal(before.optics.magnification, series.optics.magnification):
        columns = np.asarray(series.optics.magnification).T.ravel()
        file.root.set("MagnificationCorrection", ", ".join(number_text(value) for value in columns))


def _write_lists(file: WarpFile, before: TiltSeries, series: TiltSeries) -> None:
    for tag, get in _LISTS:
        changed = get(before) != get(series)
        _write_list(file, tag, changed, [number_text(value) for value in get(series)], get(before))
    _write_list(file, "UseTilt", before.use_tilt != series.use_tilt, [str(bool(u)) for u in series.use_tilt], None)


def _write_list(file: WarpFile, tag: str, changed: Bool, texts: list[str], default: F64 | None) -> None:
    if not changed.any():
        return
    lines = _list(file, tag)
    if lines is None:
        lines = [number_text(v) for v in default] if default is not None else ["True"] * len(texts)
    element = file.find(tag)
    if element is None:
        element = append(file.root, tag)
    element.text = "\n".join(new if c else old for new, c, old in zip(texts, changed, lines, strict=True))


def _write_optics(file: WarpFile, before: Optics, optics: Optics) -> None:
    changes = {name: number_text(get(optics)) for name, get in _OPTICS if get(before) != get(optics)}
    changes |= {
        name: ";".join(number_text(value) for value in get(optics))
        for name, get in _ZERNIKE
        if get(before) != get(optics)
    }
    if not changes:
        return
    group = file.find("CTF")
    if group is None:
        group = append(file.root, "CTF")
    for name, text in changes.items():
        param = file.param(group, name)
        if param is None:
            param = append(group, "Param", {"Name": name, "Value": ""})
        param.set("Value", text)
