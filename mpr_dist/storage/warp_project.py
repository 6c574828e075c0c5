"""A WarpTools project written from nouns: settings, tomostar, tilt-series XML, averages, and a RELION-3.1 table.

It looks as WarpTools leaves it after ts_import, alignment and ts_ctf, without movies and without fitting curves. The
same content gives the same bytes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.model.optics import Optics
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.star import write_table
from mpr_dist.storage.warp_values import IMAGE_PATHS, WarpFile, number_text, serialise, write_nodes
from mpr_dist.units import F32, F64

_LABEL = b"mpr_dist"


@dataclass(frozen=True)
class WarpProject:
    """Where the files of a project lie."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "warp_tiltseries.settings"

    @property
    def run_data(self) -> Path:
        return self.root / "relion" / "run_data.star"

    def tomostar(self, series: str) -> Path:
        return self.root / "tomostar" / f"{series}.tomostar"

    def xml(self, series: str) -> Path:
        return self.root / "warp_tiltseries" / f"{series}.xml"

    def average(self, series: str, tilt: int) -> Path:
        return self.root / "warp_frameseries" / "average" / f"{series}_{tilt:03d}.mrc"

    def mask(self, series: str, tilt: int) -> Path:
        """Beside the averages, where Warp looks for it; most tilts have none."""
        return self.root / "warp_frameseries" / "mask" / f"{series}_{tilt:03d}.tif"

    @property
    def frame_settings(self) -> Path:
        return self.root / "warp_frameseries.settings"

    @property
    def gain(self) -> Path:
        return self.root / "frames" / "gain.mrc"

    def movie(self, series: str, tilt: int, suffix: str) -> Path:
        return self.root / "frames" / f"{series}_{tilt:03d}.{suffix}"

    def movie_xml(self, series: str, tilt: int) -> Path:
        return self.root / "warp_frameseries" / f"{series}_{tilt:03d}.xml"

    def averages(self, series: str, n_tilts: int) -> tuple[Path, ...]:
        return tuple(self.average(series, tilt) for tilt in range(n_tilts))

    def make_folders(self) -> None:
        """Raises InputError when a folder cannot be made."""
        for folder in ("tomostar", "warp_tiltseries", "warp_frameseries/average", "relion"):
            try:
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{self.root / folder}: cannot be made ({error.strerror}); choose another") from error


def write_settings(path: Path, series: TiltSeries, pixel_A: float, dose_per_tilt: float) -> None:
    """Write the .settings of a project of series like this one."""
    volume = np.rint(series.volume_size_A / pixel_A).astype(int)
    o = series.optics
    groups: dict[str, dict[str, object]] = {
        "Import": {
            "DataFolder": "tomostar",
            "ProcessingFolder": "warp_tiltseries",
            "Extension": "*.tomostar",
            "DoRecursiveSearch": False,
            "PixelSize": number_text(pixel_A),
            "BinTimes": 0,
            "CorrectGain": False,
            "GainPath": "",
            "GainFlipX": False,
            "GainFlipY": False,
            "GainTranspose": False,
            "CorrectDefects": False,
            "DefectsPath": "",
            "DosePerAngstromFrame": number_text(-dose_per_tilt),  # negative: of all frames together
            "EERGroupFrames": 40,
        },
        "CTF": {
            "Window": 512,
            "RangeMin": 30,
            "RangeMax": number_text(2 * pixel_A),
            "Voltage": number_text(o.voltage_kV),
            "Cs": number_text(o.cs_mm),
            "Cc": 2.7,
            "Amplitude": number_text(o.amplitude),
            "DoPhase": False,
            "ZMin": 0,
            "ZMax": 8,
        },
        "Movement": {"RangeMin": 500, "RangeMax": 10, "Bfactor": -500},
        "Grids": {"CTFX": 1, "CTFY": 1, "CTFZ": 1, "MovementX": 1, "MovementY": 1, "MovementZ": 1},
        "Tomo": {f"Dimensions{axis}": int(n) for axis, n in zip("XYZ", volume, strict=True)},
    }
    root = ET.Element("Settings")
    _params(root, {"ProcessCTF": True, "ProcessMovement": True, "ProcessPicking": False})
    for name, values in groups.items():
        _params(ET.SubElement(root, name), values)
    _write_xml(path, root)


def write_movie_settings(path: Path, pixel_A: float, extension: str, dose_per_tilt: float, gain: str) -> None:
    """Write the .settings of the frame series; their movies and gain lie in frames/, the gain flipped along x."""
    values: dict[str, object] = {
        "DataFolder": "frames",
        "ProcessingFolder": "warp_frameseries",
        "Extension": extension,
        "DoRecursiveSearch": False,
        "PixelSize": number_text(pixel_A),
        "BinTimes": 0,
        "CorrectGain": True,
        "GainPath": f"frames/{gain}",
        "GainFlipX": True,
        "GainFlipY": False,
        "GainTranspose": False,
        "CorrectDefects": False,
        "DefectsPath": "",
        "DosePerAngstromFrame": number_text(-dose_per_tilt),  # negative: of all frames together
        "EERGroupFrames": 40,
    }
    root = ET.Element("Settings")
    _params(ET.SubElement(root, "Import"), values)
    _write_xml(path, root)


def write_tomostar(path: Path, series: TiltSeries) -> None:
    """Write how a series was collected. Raises SeriesError when it has no image paths."""
    import pandas as pd

    columns = {
        "wrpMovieName": _movies(series),
        "wrpAngleTilt": series.angle_deg,
        "wrpAxisAngle": series.axis_angle_deg,
        "wrpDose": series.dose,
        "wrpAverageIntensity": np.ones(series.n_tilts),
        "wrpMaskedFraction": np.zeros(series.n_tilts),
    }
    write_table(path, {"": pd.DataFrame(columns)})


def write_skeleton(path: Path, series: TiltSeries, pixel_A: float, *, is_foreign: bool = False) -> None:
    """Write a tilt-series XML from nothing: every element that Warp itself writes, but for fitting curves.

    Numbers are the shortest text of a float32, as in Warp. A foreign series has its images where another program put
    them: MoviePath names them, and a list of our own says so. Raises SeriesError when the series has no image paths.
    """
    attributes = _attributes(series)
    movies = [str(path) for path in series.image_paths] if is_foreign else _movies(series)
    if is_foreign:
        attributes["DataDirectory"] = ""
    root = ET.Element("TiltSeries", attributes)
    lists: dict[str, Sequence[str]] = {
        "Angles": _texts(series.angle_deg),
        "Dose": _texts(series.dose),
        "UseTilt": [str(bool(use)) for use in series.use_tilt],
        "AxisAngle": _texts(series.axis_angle_deg),
        "AxisOffsetX": _texts(series.axis_offset_A[:, 0]),
        "AxisOffsetY": _texts(series.axis_offset_A[:, 1]),
        "MoviePath": movies,
        **({IMAGE_PATHS: movies} if is_foreign else {}),
        "FOVFraction": ["1"] * series.n_tilts,
    }
    for tag, lines in lists.items():
        ET.SubElement(root, tag).text = "\n".join(lines)
    _params(ET.SubElement(root, "OptionsCTF"), _options(series.optics, pixel_A))
    _params(ET.SubElement(root, "CTF"), _ctf(series.optics, pixel_A))
    _write_grids(WarpFile(path, root, SeriesError), series)
    _write_xml(path, root)


def _attributes(series: TiltSeries) -> dict[str, str]:
    w, columns = series.weights, series.optics.magnification.T.ravel()
    rigid = {"MprRigidStage": "True"} if series.is_stage_rigid else {}
    return {
        "DataDirectory": "../tomostar",
        "AreAnglesInverted": str(series.are_angles_inverted),
        "PlaneNormal": "0, 0, 1",
        "LevelAngleX": number_text(series.level_angle_deg[0]),
        "LevelAngleY": number_text(series.level_angle_deg[1]),
        "Bfactor": number_text(w.series_bfactor),
        "Weight": number_text(w.series_weight),
        "MagnificationCorrection": ", ".join(_texts(columns)),
        "ImageDimensionsAngstrom": ", ".join(_texts(series.image_size_A)),
        "VolumeDimensionsAngstrom": ", ".join(_texts(series.volume_size_A)),
        "UnselectFilter": "False",
        "UnselectManual": "",
        "CTFResolutionEstimate": "0",
        **rigid,
    }


def _options(o: Optics, pixel_A: float) -> dict[str, object]:
    return {
        "Window": 512,
        "RangeMin": number_text(2 * pixel_A / 30),
        "RangeMax": 1,
        "Voltage": number_text(o.voltage_kV),
        "Cs": number_text(o.cs_mm),
        "Cc": 2.7,
        "Amplitude": number_text(o.amplitude),
        "DoPhase": False,
        "ZMin": 0,
        "ZMax": 8,
        "GridDims": "1, 1, 1",
        "PixelSize": number_text(pixel_A),
        "BinTimes": 0,
    }


def _ctf(o: Optics, pixel_A: float) -> dict[str, object]:
    return {
        "PixelSize": number_text(pixel_A),
        "PixelSizeDeltaPercent": 0,
        "PixelSizeAngle": 0,
        "Distortion": "1, 0, 0, 1",
        "Cs": number_text(o.cs_mm),
        "Cc": 2.7,
        "Voltage": number_text(o.voltage_kV),
        "Defocus": number_text(float(o.defocus_um.values.mean())),
        "DefocusDelta": number_text(float(o.defocus_delta_um.values.flat[0])),
        "DefocusAngle": number_text(float(o.defocus_angle_deg.values.flat[0])),
        "Amplitude": number_text(o.amplitude),
        "Bfactor": 0,
        "BfactorDelta": 0,
        "BfactorAngle": 0,
        "Scale": 1,
        "PhaseShift": number_text(float(o.phase_shift_pi.values.flat[0])),
        "BeamTilt": "0,0",
        "BeamTilt2": "1,0,1",
        "ZernikeCoeffsOdd": ";".join(number_text(v) for v in o.zernike_odd),
        "ZernikeCoeffsEven": ";".join(number_text(v) for v in o.zernike_even),
        "Thickness": 0,
    }


def _write_grids(file: WarpFile, series: TiltSeries) -> None:
    o, w, stage, warp = series.optics, series.weights, series.stage_angles, series.image_warp
    grids = {
        "GridCTF": o.defocus_um,
        "GridCTFDefocusDelta": o.defocus_delta_um,
        "GridCTFDefocusAngle": o.defocus_angle_deg,
        "GridCTFPhase": o.phase_shift_pi,
        "GridMovementX": warp.x,
        "GridMovementY": warp.y,
        "GridAngleX": stage.x,
        "GridAngleY": stage.y,
        "GridAngleZ": stage.z,
        "GridDoseBfacs": w.bfactor,
        "GridDoseBfacsDelta": w.bfactor_delta,
        "GridDoseBfacsAngle": w.bfactor_angle,
        "GridDoseWeights": w.weight,
        "GridLocationBfacs": w.location_bfactor,
        "GridLocationWeights": w.location_weight,
    }
    for tag, grid in grids.items():
        write_nodes(file, tag, "XYZ", grid.values, grid.margins)
    for axis, volume in zip("XYZ", (series.volume_warp.x, series.volume_warp.y, series.volume_warp.z), strict=True):
        write_nodes(file, f"GridVolumeWarp{axis}", "XYZW", volume.values, None)


def _movies(series: TiltSeries) -> list[str]:
    """Movies that the averages would belong to, relative to the folder of the .tomostar."""
    if not series.image_paths:
        raise SeriesError(f"series {series.name}: has no image paths, which its files must name")
    return [f"../warp_frameseries/{path.stem}.tif" for path in series.image_paths]


def _texts(values: F64) -> list[str]:
    return [number_text(float(value)) for value in values]


def _params(group: ET.Element, values: Mapping[str, object]) -> None:
    for name, value in values.items():
        ET.SubElement(group, "Param", {"Name": name, "Value": str(value)})


def _write_xml(path: Path, root: ET.Element) -> None:
    ET.indent(root, "\t")
    write_atomically(path, serialise(root))


def write_average(path: Path, image: F32, pixel_A: float) -> None:
    """Write one image (height, width) as Warp writes averages: MRC mode 12 (float16), space group 0.

    Raises InputError for images that are not 2D or leave the range of a float16.
    """
    data = np.ascontiguousarray(image, dtype="<f2")
    if data.ndim != 2 or not np.isfinite(data).all():
        raise InputError(f"{path}: an average is one finite 2D image in the range of float16; it was not written")
    header = np.zeros((), HEADER_DTYPE.newbyteorder("<"))
    for axis, n in zip("xyz", (data.shape[1], data.shape[0], 1), strict=True):
        header[f"n{axis}"] = header[f"m{axis}"] = n
        header["cella"][axis] = n * pixel_A
    header["mode"], header["nversion"] = 12, 20140
    header["cellb"]["alpha"] = header["cellb"]["beta"] = header["cellb"]["gamma"] = 90.0
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    wide = data.astype(np.float64)
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = wide.min(), wide.max(), wide.mean(), wide.std()
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    header["nlabl"], header["label"][0] = 1, _LABEL
    write_atomically(path, [header.tobytes(), data.tobytes()])


def write_mask(path: Path, dirt: np.ndarray) -> None:
    """Write the mask of one image (height, width), 1 where there is no specimen, as an 8-bit TIFF; makes its folder.

    As in every TIFF of Warp, the last row of the image comes first, and the tag of orientation says so.

    Raises InputError when it cannot be written.
    """
    import tifffile

    buffer = BytesIO()
    rows = np.ascontiguousarray(np.asarray(dirt, np.uint8)[::-1])
    orientation = (274, "H", 1, 4, True)  # bottom left
    tifffile.imwrite(buffer, rows, photometric="minisblack", metadata=None, extratags=[orientation])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made ({error.strerror}); choose another") from error
    write_atomically(path, [buffer.getvalue()])


def write_run_data(
    path: Path,
    particles: Mapping[str, Particles],
    optics: Optics,
    coordinate_pixel_A: float,
    origin_A: Mapping[str, F64],
    box_px: int,
) -> None:
    """Write a RELION-3.1 table (optics and particles) of particles by series name, in the given order.

    Coordinates are in pixels of ``coordinate_pixel_A`` (rlnImagePixelSize); origin_A (particles, 3) is by how much they
    lie off: position = coordinate - origin.
    """
    import pandas as pd

    table = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnSphericalAberration": [float(optics.cs_mm)],
        "rlnVoltage": [float(optics.voltage_kV)],
        "rlnAmplitudeContrast": [float(optics.amplitude)],
        "rlnImagePixelSize": [float(coordinate_pixel_A)],
        "rlnImageSize": [box_px],
        "rlnImageDimensionality": [3],
    }
    frames = [_rows(name, p, origin_A[name], coordinate_pixel_A) for name, p in particles.items()]
    write_table(path, {"optics": pd.DataFrame(table), "particles": pd.concat(frames, ignore_index=True)})


def _rows(name: str, particles: Particles, origin_A: F64, pixel_A: float):  # type: ignore[no-untyped-def]
    import pandas as pd

    # six decimals are what RELION writes: 1e-6 px and 1e-6 degrees
    coordinate = np.round((particles.position_A[:, 0] + origin_A) / pixel_A, 6)
    columns: dict[str, object] = {f"rlnCoordinate{axis}": coordinate[:, i] for i, axis in enumerate("XYZ")}
    columns |= {
        f"rlnAngle{what}": np.round(particles.angles_deg[:, 0, i], 6) for i, what in enumerate(("Rot", "Tilt", "Psi"))
    }
    columns |= {"rlnMicrographName": [f"{name}.tomostar"] * len(particles), "rlnOpticsGroup": 1}
    columns |= {f"rlnOrigin{axis}Angst": np.round(origin_A[:, i], 6) for i, axis in enumerate("XYZ")}
    return pd.DataFrame(columns | {"rlnRandomSubset": particles.half.astype(int)})
