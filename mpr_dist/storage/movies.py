"""Movies of tilts on the disk: frames in MRC, TIFF and EER, gain references, and the XML of their motion."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from mpr_dist.errors import InputError, SeriesError
from mpr_dist.maths.defects import repaired
from mpr_dist.model.movie import Motion, MovieSource
from mpr_dist.model.warp import CubicGrid
from mpr_dist.storage.atomic import write_atomically
from mpr_dist.storage.image_file import in_stack
from mpr_dist.storage.mrc import read_header, read_image, stack_bytes
from mpr_dist.storage.warp_values import WarpFile, append, read_nodes, serialise, write_nodes
from mpr_dist.units import F32, Bool

MRC_SUFFIXES, TIFF_SUFFIXES, _EER = (".mrc", ".mrcs", ".st"), (".tif", ".tiff"), (".eer",)
_GLOBAL, _LOCAL, _PYRAMID = "GridMovement", "GridLocalMovement", "PyramidShift"


def read_movie_source(path: Path) -> MovieSource:
    """What a .settings file of frame series says; the movies need not be there.

    Raises:
        InputError: missing, no settings file, those of tilt series, no pixel size, or movies that cannot be read.
    """
    path = Path(path)
    file = WarpFile.parse(path, InputError, ("Settings",))
    group = file.find("Import")

    def text(name: str, default: str = "") -> str:
        return file.param_text(group, name) or default

    pattern = text("Extension").replace("*", "")
    if pattern == ".tomostar":
        raise file.fail("<Import> Extension", "is *.tomostar; give the settings of the frame series, not of the tilts")
    if pattern.lower() not in (*MRC_SUFFIXES, *TIFF_SUFFIXES, *_EER):
        raise file.fail(
            "<Import> Extension",
            f"movies *{pattern} cannot be read, only {', '.join((*MRC_SUFFIXES, *TIFF_SUFFIXES, *_EER))}; convert them",
        )
    group_size = int(file.number(text("EERGroupFrames", "1"), "<Import> EERGroupFrames"))
    if pattern.lower() in _EER and group_size == 0:
        raise file.fail("<Import> EERGroupFrames", "is 0; it says how many frames are added up to one")
    pixel = file.number(text("PixelSize", "0"), "<Import> PixelSize")
    if pixel <= 0:
        raise file.fail("<Import> PixelSize", f"expected a positive pixel size in A, got {pixel:g}")
    flags = {
        name: file.truth(text(f"Gain{words}", "False"), f"<Import> Gain{words}")
        for name, words in (("flip_x", "FlipX"), ("flip_y", "FlipY"), ("transpose", "Transpose"))
    }
    is_corrected = file.truth(text("CorrectGain", str(bool(text("GainPath")))), "<Import> CorrectGain")
    gain = path.parent / text("GainPath").replace("\\", "/") if is_corrected and text("GainPath") else None
    has_defects = file.truth(text("CorrectDefects", str(bool(text("DefectsPath")))), "<Import> CorrectDefects")
    defects = path.parent / text("DefectsPath").replace("\\", "/") if has_defects and text("DefectsPath") else None
    return MovieSource(
        settings=path,
        folder=path.parent / text("DataFolder").replace("\\", "/"),
        suffix=pattern,
        is_recursive=file.truth(text("DoRecursiveSearch", "False"), "<Import> DoRecursiveSearch"),
        pixel_A=pixel,
        eer_group=group_size,
        gain=gain,
        defects=defects,
        dose_per_frame=file.number(text("DosePerAngstromFrame", "0"), "<Import> DosePerAngstromFrame"),
        **flags,
    )


def find_movie(source: MovieSource, name: str) -> Path | None:
    """The movie whose average is ``name``.mrc, or None where it is not there."""
    path = source.folder / f"{name}{source.suffix}"
    if path.is_file():
        return path
    found = sorted(source.folder.rglob(path.name)) if source.is_recursive else []
    return found[0] if found else None


@dataclass(frozen=True)
class Movie:
    """A movie that can be read: its file, and (frames, height, width).

    Attributes:
        group: pages of the file that are added up to a frame; first: page of the file with the first of them.
        is_flipped: rows are turned upside down, as Warp does with TIFF.
    """

    path: Path
    shape: tuple[int, int, int]
    group: int = 1
    first: int = 0
    is_flipped: bool = False

    def frames(self, gain: F32 | None, defects: Bool | None = None) -> Iterator[F32]:
        """Frame after frame, (height, width) float32, times the gain, with bad pixels repaired; both (height, width).

        Raises:
            SeriesError: damaged, or the gain is of another size.
        """
        if gain is not None and gain.shape != self.shape[1:]:
            raise SeriesError(
                f"{self.path}: frames of {self.shape[2]} x {self.shape[1]} px, and a gain reference of "
                f"{gain.shape[1]} x {gain.shape[0]} px; is GainTranspose right?"
            )
        for f in range(self.shape[0]):
            frame = self._frame(f)
            frame = frame if gain is None else frame * gain
            yield frame if defects is None else repaired(frame, defects)

    def _frame(self, f: int) -> F32:
        if self.path.suffix.lower() in MRC_SUFFIXES:
            return read_image(in_stack(self.path, f + 1))
        frame = read_pages(self.path, range(self.first + f * self.group, self.first + (f + 1) * self.group))
        return np.ascontiguousarray(frame[::-1]) if self.is_flipped else frame


def open_movie(path: Path, eer_group: int = 1) -> Movie:
    """
    Args:
        eer_group: as ``MovieSource`` has it; raw frames left over at the end are not used.

    Raises:
        SeriesError: missing, neither MRC, TIFF nor EER, or no stack of images.
    """
    if path.suffix.lower() in MRC_SUFFIXES:
        try:
            nx, ny, nz, _ = read_header(path)
        except InputError as error:
            raise SeriesError(str(error)) from error
        return Movie(path, (nz, ny, nx))
    first, n, height, width = _tiff_shape(path)
    if path.suffix.lower() not in _EER:
        return Movie(path, (n, height, width), is_flipped=True)
    group = eer_group if eer_group > 0 else n // -eer_group
    if not 0 < group <= n:
        raise SeriesError(f"{path}: has {n} frames, too few for groups of {eer_group} (EERGroupFrames)")
    return Movie(path, (n // group, height, width), group, first)


def _tiff_shape(path: Path) -> tuple[int, int, int, int]:
    """First page and number of pages with frames, height and width."""

    def shape(file: Any) -> tuple[int, int, int, int]:
        # EER may begin with the sum of all frames, as a plain image
        first = int(path.suffix.lower() in _EER and len(file.pages) > 1 and file.pages[0].compression == 1)
        page = file.pages[first]
        if len(page.shape) != 2:
            raise SeriesError(f"{path}: expected grey frames, got pages of shape {page.shape}")
        return first, len(file.pages) - first, int(page.shape[0]), int(page.shape[1])

    found: tuple[int, int, int, int] = _with_tiff(path, shape)
    return found


def read_pages(path: Path, pages: Iterable[int]) -> F32:
    """The sum of some pages (height, width) float32, with rows as they stand in the file.

    Raises:
        SeriesError: missing, damaged, or values that are not finite.
    """

    def added(file: Any) -> Any:
        return sum(np.asarray(file.pages[i].asarray(), np.float32) for i in pages)

    values = np.asarray(_with_tiff(path, added), np.float32)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise SeriesError(f"{path}: a frame is not a grey image of finite values; make the file again")
    return values


def _with_tiff(path: Path, use: Any) -> Any:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return use(file)
    except OSError as error:
        raise SeriesError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, RuntimeError, LookupError, ArithmeticError, TypeError, struct.error) as error:
        raise SeriesError(f"{path}: is no TIFF stack, or is damaged ({error}); make it again") from error


def read_gain(source: MovieSource) -> F32 | None:
    """The gain reference (height, width) that frames are multiplied by, as Warp prepares it; None without one.

    Divided by its mean, 1 where it is 0, then flipped along x, flipped along y, transposed. EER is divided by it: then
    it is turned over.

    Raises:
        InputError: cannot be read.
    """
    if source.gain is None:
        return None
    try:
        is_mrc = source.gain.suffix.lower() in MRC_SUFFIXES
        gain = read_image(source.gain) if is_mrc else read_pages(source.gain, (0,))[::-1]
    except SeriesError as error:
        raise InputError(f"gain reference: {error}") from error
    gain = np.where(gain == 0, 1.0, gain / gain.mean(dtype=np.float64)).astype(np.float32)
    gain = np.float32(1) / gain if source.suffix.lower() in _EER else gain
    prepared: F32 = turned(gain, source)
    return prepared


def turned(image: Any, source: MovieSource) -> Any:
    """What was measured on a detector (height, width), turned into the order of the frames as the source says."""
    image = image[:, ::-1] if source.flip_x else image
    image = image[::-1] if source.flip_y else image
    return np.ascontiguousarray(image.T if source.transpose else image)


def read_motion(path: Path) -> Motion:
    """The motion that an XML of a frame series holds: global, local, and every level of the pyramid.

    Raises:
        SeriesError: missing, not the XML of a movie, or not understood.
    """
    file = WarpFile.parse(path, SeriesError, ("Movie",))
    pairs = []
    for tag in (_GLOBAL, _LOCAL, _PYRAMID):
        of_axis = [[_grid(file, element) for element in file.root.iter(f"{tag}{axis}")] for axis in "XY"]
        if len(of_axis[0]) != len(of_axis[1]):
            raise file.fail(f"<{tag}X>", f"occurs {len(of_axis[0])} times, <{tag}Y> {len(of_axis[1])} times")
        pairs += list(zip(*of_axis, strict=True))
    return Motion(tuple(pairs))


def _grid(file: WarpFile, element: ET.Element) -> CubicGrid:
    alone = ET.Element("Movie")
    alone.append(element)
    found = read_nodes(WarpFile(file.path, alone, file.error), element.tag, "XYZ")
    return CubicGrid(*found) if found is not None else CubicGrid.constant(0.0)


def write_motion(path_out: Path, template: Path | None, motion: Motion) -> None:
    """Write a copy of an XML of a frame series (or a bare one) with this motion in it, atomically.

    The first pair is Warp's global motion, a second one its local motion, others levels of the pyramid.
    """
    root = ET.Element("Movie") if template is None else WarpFile.parse(template, SeriesError, ("Movie",)).root
    root.text = root.text or "\n\t"
    for tag in (_GLOBAL, _LOCAL, _PYRAMID):
        for axis in "XY":
            for element in root.findall(f"{tag}{axis}"):
                root.remove(element)
    for i, pair in enumerate(motion.grids):
        for axis, grid in zip("XY", pair, strict=True):
            tag = f"{(_GLOBAL, _LOCAL)[i] if i < 2 else _PYRAMID}{axis}"
            alone = ET.Element("Movie")
            alone.text = root.text
            write_nodes(WarpFile(path_out, alone, SeriesError), tag, "XYZ", grid.values, grid.margins)
            append(root, tag).extend(alone[0])
            root[-1].attrib.update(alone[0].attrib)
            root[-1].text = alone[0].text
    write_atomically(path_out, serialise(root))


def write_movie(path: Path, frames: np.ndarray[Any, Any], pixel_A: float) -> None:
    """Write frames (frames, height, width) uint8 as an LZW TIFF, upside down as Warp expects, or as MRC (16 bit).

    Raises:
        InputError: the folder is not there, or cannot be written to.
    """
    if path.suffix.lower() in MRC_SUFFIXES:
        write_atomically(path, stack_bytes(np.asarray(frames, np.int16), pixel_A))
        return
    import tifffile

    buffer = BytesIO()
    tifffile.imwrite(
        buffer, frames[:, ::-1], photometric="minisblack", compression="lzw", metadata=None, software="mpr_dist"
    )
    write_atomically(path, [buffer.getvalue()])
