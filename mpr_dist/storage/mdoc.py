"""SerialEM's .mdoc: what the microscope recorded with every image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PureWindowsPath

from mpr_dist.errors import SeriesError

_SECTION = re.compile(r"\[(ZValue|FrameSet|MontSection)\s*=\s*(\d+)\]")
_TITLE = re.compile(r"\[?T\s*=\s*(.*?)\]?$")
_AXIS = re.compile(r"tilt\s*axis\s*angle\s*=\s*(-?[\d.]+)", re.IGNORECASE)
_TIMES = ("%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S")


@dataclass(frozen=True)
class MdocImage:
    """One image. ``dose`` in e/A^2, 0 where it was not recorded; ``time`` None where it was not."""

    number: int
    angle_deg: float
    dose: float
    time: datetime | None
    movie: str


@dataclass(frozen=True)
class Mdoc:
    """A file. ``axis_deg``: of the tilt axis as a title has it, which is known to be wrong in some."""

    path: Path
    images: tuple[MdocImage, ...]
    pixel_A: float | None
    axis_deg: float | None


def read_mdoc(path: Path) -> Mdoc:
    """Read an .mdoc of a tilt series (a section per image) or of one movie (a section [FrameSet = 0]).

    Raises:
        SeriesError: unreadable, no section of an image, or a section without its tilt angle.
    """
    header: dict[str, str] = {}
    sections: list[tuple[str, int, dict[str, str]]] = []
    titles = []
    for line in _lines(path):
        section, title = _SECTION.fullmatch(line), _TITLE.match(line)
        if section:
            sections.append((section[1], int(section[2]), {}))
        elif title:
            titles.append(title[1])
        elif "=" in line:
            name, _, value = line.partition("=")
            (sections[-1][2] if sections else header)[name.strip()] = value.strip()
    kinds = {kind for kind, _, _ in sections}
    kind = "FrameSet" if "FrameSet" in kinds else "ZValue"  # sections below a frame set are parts of one movie
    images = tuple(_image(path, number, values) for k, number, values in sections if k == kind)
    if not images:
        raise SeriesError(f"{path}: holds no section of an image ([ZValue = 0] or [FrameSet = 0]); is it an .mdoc?")
    axis = next((found for title in titles if (found := _AXIS.search(title))), None)
    pixel = header.get("PixelSpacing") or next((v["PixelSpacing"] for _, _, v in sections if "PixelSpacing" in v), None)
    return Mdoc(path, images, _number(path, "PixelSpacing", pixel), float(axis[1]) if axis else None)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in Path(path).read_text("utf-8-sig").splitlines()]
    except OSError as error:
        raise SeriesError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise SeriesError(f"{path}: is not text, as an .mdoc is") from error


def _image(path: Path, number: int, values: dict[str, str]) -> MdocImage:
    angle = _number(path, "TiltAngle", values.get("TiltAngle"))
    if angle is None:
        raise SeriesError(f"{path}: image {number} has no TiltAngle")
    dose = _number(path, "ExposureDose", values.get("ExposureDose")) or 0.0
    movie = PureWindowsPath(values.get("SubFramePath", "")).name  # takes / as well
    return MdocImage(number, angle, dose, _time(path, values.get("DateTime")), movie)


def _number(path: Path, name: str, text: str | None) -> float | None:
    if text is None or not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise SeriesError(f"{path}: {name}: expected a number, got '{text[:40]}'") from None


def _time(path: Path, text: str | None) -> datetime | None:
    if not text:
        return None
    for form in _TIMES:
        try:
            return datetime.strptime(" ".join(text.split()), form)
        except ValueError:
            continue
    raise SeriesError(f"{path}: DateTime '{text}' is not understood; expected such as 30-Nov-15  15:21:38")
