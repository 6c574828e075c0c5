"""Alignments of tilt series by IMOD (.xf, .tlt, .xtilt, tilt.com) and AreTomo (.aln), in words that both share.

A tomogram of theirs is x, y, z with z along the beam at 0 degrees, as trimvol -rx leaves it. A point of it is turned
about x by the x tilt, about y by the tilt, then by the angle of the tilt axis, and moved by the shift of its image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpr_dist.errors import SeriesError
from mpr_dist.model.patch_shifts import PatchShifts
from mpr_dist.units import F64, I64, Bool

GOOD_PATCH = 0.9  # less, in the last column, and AreTomo does not use the patch
MAGNIFIED = 0.01  # |determinant - 1| of a transform beyond which something is said


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the images of a stack lie. Tilts are those that were aligned, in the order of the file.

    Attributes:
        path: the file that was read first.
        image: (tilts,) place of each in the stack, from 0; n_images: of the stack.
        axis_deg, tilt_deg, x_tilt_deg: (tilts,) angle of the axis in the image, tilt and x tilt of the specimen.
        shift_px: (tilts, 2) from the middle of an image to where the middle of the tomogram lies, in its pixels.
        use: (tilts,) False for tilts that were excluded from the tomogram.
        stage_deg: (tilts,) angle of the stage as it was recorded, to link exposures.
        tomogram_px: x, y, z in pixels of the stack, or None where the files do not say.
        notes: sentences that the user should read.
        patches, local_file: local alignments of AreTomo, or the file of those of IMOD, if there are any.
    """

    path: Path
    image: I64
    n_images: int
    axis_deg: F64
    tilt_deg: F64
    x_tilt_deg: F64
    shift_px: F64
    use: Bool
    stage_deg: F64
    tomogram_px: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    patches: PatchShifts | None = None
    local_file: Path | None = None


def read_numbers(path: Path, columns: int) -> F64:
    """(lines, columns) of a file of numbers: .xf has 6, .tlt, .rawtlt and .xtilt have 1.

    Raises:
        SeriesError: unreadable, no numbers, or a line with more or fewer.
    """
    rows = []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            row = [float(field) for field in fields]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            raise SeriesError(f"{path}, line {number}: expected {columns} numbers, got '{line.strip()[:60]}'")
        rows.append(row)
    if not rows:
        raise SeriesError(f"{path}: holds no numbers")
    return np.array(rows)


def read_com(path: Path) -> dict[str, str]:
    """Options of a command file of IMOD (tilt.com, newst.com) by upper-case name; lists of several lines are joined.

    Raises:
        SeriesError: unreadable, or without options.
    """
    options: dict[str, str] = {}
    for line in _lines(path):
        name, _, value = line.strip().replace("\t", " ").partition(" ")
        if name and name[0] not in "$#":
            name = name.upper()
            options[name] = f"{options[name]},{value.strip()}" if name in options else value.strip()
    if not options:
        raise SeriesError(f"{path}: holds no options of a program of IMOD")
    return options


def read_edf(path: Path) -> dict[str, str]:
    """Settings of etomo by name. Raises SeriesError when it is something else."""
    pairs = [line.partition("=") for line in _lines(path) if "=" in line and not line.startswith("#")]
    if not any(name.startswith("Setup.") for name, _, _ in pairs):
        raise SeriesError(f"{path}: is not a file of etomo (.edf)")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _lines(path: Path) -> list[str]:
    try:
        return Path(path).read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise SeriesError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise SeriesError(f"{path}: is not text") from error


@dataclass(frozen=True)
class ImodFiles:
    """What etomo left of one series; ``xf`` and ``tlt`` are needed."""

    xf: Path
    tlt: Path
    x_tilt: Path | None = None
    raw_tilt: Path | None = None
    cut: Path | None = None
    tilt_com: Path | None = None
    newst_com: Path | None = None


def find_imod(folder: Path, root: str) -> ImodFiles:
    """Files of a series in the folder, or in one below it that is named after the series.

    Raises:
        SeriesError: there is no .xf, or no .tlt beside it.
    """
    places = [folder, *(folder / f"{root}{end}" for end in ("", "_Imod", "_aligned_Imod", "_st_Imod"))]
    for place in places:
        for stem in (root, f"{root}_st", f"{root}_aligned"):
            xf, tlt = place / f"{stem}.xf", place / f"{stem}.tlt"
            if xf.is_file():
                if not tlt.is_file():
                    raise SeriesError(f"{xf}: there is no {tlt.name} beside it, which has the tilt angles")
                names = (f"{stem}.xtilt", f"{stem}.rawtlt", f"{stem}_cutviews0.rawtlt", "tilt.com", "newst.com")
                found = [place / name if (place / name).is_file() else None for name in names]
                return ImodFiles(xf, tlt, *found)
    raise SeriesError(f"{folder}: has neither {root}.xf nor {root}_st.xf, nor have {root}/ and {root}_Imod/ in it")


def read_imod(files: ImodFiles, n_images: int) -> Alignment:
    """An alignment as tilt.com would use it: angles of .tlt and its OFFSET; ``n_images``: of the stack.

    Raises:
        SeriesError: files contradict one another or the stack, or a transform is none.
    """
    transforms, tilt = read_numbers(files.xf, 6), read_numbers(files.tlt, 1)[:, 0]
    n = len(transforms)
    if len(tilt) != n:
        raise SeriesError(f"{files.tlt}: {len(tilt)} angles, but {files.xf.name} has {n} transforms")
    x_tilt = np.zeros(n) if files.x_tilt is None else read_numbers(files.x_tilt, 1)[:, 0]
    if len(x_tilt) != n:
        raise SeriesError(f"{files.x_tilt}: {len(x_tilt)} angles, but {files.xf.name} has {n} transforms")
    options = {} if files.tilt_com is None else read_com(files.tilt_com)
    image, cut_note = _images(files, n, n_images)
    matrix, moved = transforms[:, :4].reshape(-1, 2, 2), transforms[:, 4:]
    axis, notes = _axis(files.xf, matrix)
    use = np.ones(n, bool)
    excluded = [*_views(files, options, "EXCLUDELIST"), *_views(files, options, "EXCLUDELIST2")]
    use[np.isin(image, np.array(excluded, np.int64) - 1)] = False
    offset, x_offset = (_option(files, options, name) for name in ("OFFSET", "XAXISTILT"))
    notes += _left_aside(files, options)
    return Alignment(
        path=files.xf,
        image=image,
        n_images=n_images,
        axis_deg=axis,
        tilt_deg=tilt + offset,
        x_tilt_deg=x_tilt - x_offset,  # XAXISTILT turns the tomogram, x tilts say how it lies
        shift_px=-np.einsum("tji,tj->ti", matrix, moved),
        use=use,
        stage_deg=tilt if files.raw_tilt is None else _raw_angles(files, tilt),
        tomogram_px=_tomogram(files, options),
        notes=(*notes, *cut_note),
        local_file=_beside(files, options, "LOCALFILE"),
    )


def _beside(files: ImodFiles, options: Mapping[str, str], name: str) -> Path | None:
    """The file that tilt.com names, in its own folder."""
    named = options.get(name, "").strip()
    return files.tilt_com.parent / named if named and files.tilt_com is not None else None


def _left_aside(files: ImodFiles, options: Mapping[str, str]) -> list[str]:
    """What the command files ask for besides, and is not taken over."""
    notes, name = [], files.xf.stem
    shift = options.get("SHIFT", "0")
    if shift.replace("0", "").replace(".", "").strip(" ,-"):
        notes.append(f"{name}: tilt.com moves the tomogram (SHIFT {shift}), NOT APPLIED.")
    if options.get("ZFACTORFILE"):
        notes.append(f"{name}: z factors ({options['ZFACTORFILE']}) are NOT APPLIED.")
    aligned = {} if files.newst_com is None else read_com(files.newst_com)
    size = aligned.get("SIZETOOUTPUTINXANDY", "").replace(",", " ").split()
    start = options.get("SUBSETSTART", "0 0").replace(",", " ").split()
    full = _tomogram(files, options)
    if full is not None and len(size) == 2 and len(start) == 2:
        bin_by = int(float(aligned.get("BINBYFACTOR", "1")))
        middle = [(int(n) * bin_by - whole) / 2 for n, whole in zip(size, full, strict=False)]
        if any(abs(float(at) + half) > bin_by for at, half in zip(start, middle, strict=True)):
            notes.append(
                f"{name}: the tomogram is of a part of the images (SUBSETSTART {' '.join(start)}), NOT APPLIED."
            )
    return notes


def _raw_angles(files: ImodFiles, tilt: F64) -> F64:
    assert files.raw_tilt is not None
    raw = read_numbers(files.raw_tilt, 1)[:, 0]
    if len(raw) != len(tilt):
        raise SeriesError(f"{files.raw_tilt}: {len(raw)} angles, but {files.tlt.name} has {len(tilt)}")
    return np.asarray(raw)


def _axis(path: Path, matrix: F64) -> tuple[F64, list[str]]:
    """Angle of the axis from the rotation nearest to every transform."""
    determinant = np.linalg.det(matrix)
    if (determinant <= 0).any():
        raise SeriesError(f"{path}, line {int(np.argmax(determinant <= 0)) + 1}: the transform mirrors the image")
    u, _, v = np.linalg.svd(matrix)
    rotation = u @ v
    notes = []
    if np.abs(determinant - 1).max() > MAGNIFIED:
        notes.append(
            f"{path.stem}: transforms change the magnification by up to {100 * np.abs(determinant - 1).max() / 2:.1f} %"
            ", which is NOT APPLIED; only rotations are."
        )
    return np.rad2deg(np.arctan2(-rotation[:, 1, 0], rotation[:, 1, 1])), notes


def _images(files: ImodFiles, n: int, n_images: int) -> tuple[I64, list[str]]:
    """Place of every transform in the stack; views may have been cut out of what was aligned."""
    if n == n_images:
        return np.arange(n), []
    if files.cut is None or files.raw_tilt is None:
        raise SeriesError(
            f"{files.xf}: has {n} transforms, but the stack has {n_images} images; give the stack that was aligned"
        )
    cut, kept = read_numbers(files.cut, 1)[:, 0], read_numbers(files.raw_tilt, 1)[:, 0]
    if len(cut) + n != n_images or len(kept) != n:
        raise SeriesError(
            f"{files.cut}: {len(cut)} views were cut out and {n} are left, but the stack has {n_images} images"
        )
    everything = np.concatenate([kept, cut])
    order = np.argsort(everything if kept[-1] >= kept[0] else -everything, kind="stable")
    place = np.empty(n_images, np.int64)
    place[order] = np.arange(n_images)
    return place[:n], [f"{files.xf.stem}: {len(cut)} views were cut out of the stack in etomo."]


def _views(files: ImodFiles, options: Mapping[str, str], name: str) -> list[int]:
    """Numbers from 1 in a list such as "1,4-6"."""
    views: list[int] = []
    for part in filter(None, options.get(name, "").replace(" ", ",").split(",")):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise SeriesError(f"{files.tilt_com}: {name}: expected views such as 1,4-6, got '{options[name]}'")
        views += range(int(first), int(last or first) + 1)
    return views


def _option(files: ImodFiles, options: Mapping[str, str], name: str) -> float:
    text = options.get(name, "0").split(",")[-1].split()
    try:
        return float(text[0]) if text else 0.0
    except ValueError:
        raise SeriesError(f"{files.tilt_com}: {name}: expected a number, got '{options[name]}'") from None


def _tomogram(files: ImodFiles, options: Mapping[str, str]) -> tuple[int, int, int] | None:
    full = options.get("FULLIMAGE", "").replace(",", " ").split()
    if len(full) != 2 or "THICKNESS" not in options:
        return None
    try:
        return int(full[0]), int(full[1]), int(float(options["THICKNESS"].split()[0]))
    except (ValueError, IndexError):
        raise SeriesError(f"{files.tilt_com}: FULLIMAGE and THICKNESS: expected whole numbers") from None


def read_aln(path: Path) -> Alignment:
    """An alignment of AreTomo, 2 or 3; frames it found dark are not among its tilts.

    Raises:
        SeriesError: unreadable, not of AreTomo, or cut off: rows and dark frames must be as many as the images.
    """
    header, dark, rows, local = _aln_parts(path)
    n_images = int(header["RawSize"][2])
    if len(rows) + len(dark) != n_images:
        raise SeriesError(
            f"{path}: {len(rows)} tilts and {len(dark)} dark frames, but the stack has {n_images} images; is the file "
            "cut off?"
        )
    alpha = header.get("AlphaOffset", [0.0])[0]
    try:
        image, note = _sections(rows, dark, n_images, alpha)
    except SeriesError as error:
        raise SeriesError(f"{path}: {error}") from error
    notes = [f"{path.stem}: {note}"] if note else []
    beta, magnification = header.get("BetaOffset", [0.0])[0], float(np.abs(rows[:, 2] - 1).max())
    if beta or magnification > MAGNIFIED:
        notes.append(f"{path.stem}: BetaOffset {beta:g}, GMAG up to {magnification:.3f} from 1, are NOT APPLIED.")
    patches = _patches(header, local, len(rows))
    if len(local) and patches is None:
        count = int(header.get("NumPatches", [0.0])[0])
        notes.append(
            f"{path.stem}: local alignments are NOT APPLIED: expected a line for each of {count} patches in each of "
            f"{len(rows)} tilts; got {len(local)} lines. The image warp begins at zero."
        )
    return Alignment(
        path=path,
        image=image,
        n_images=n_images,
        axis_deg=rows[:, 1],
        tilt_deg=rows[:, 9],
        x_tilt_deg=np.zeros(len(rows)),
        shift_px=rows[:, 3:5],
        use=np.ones(len(rows), bool),
        stage_deg=rows[:, 9] - alpha,
        notes=tuple(notes),
        patches=patches,
    )


def _patches(header: Mapping[str, list[float]], local: F64, n_tilts: int) -> PatchShifts | None:
    """Every patch in every tilt, tilts in the order of the rows, counted from 0 or 1; None when lines are missing."""
    count = int(header.get("NumPatches", [0.0])[0])
    if not count or len(local) != count * n_tilts:
        return None
    tilt, patch = local[:, 0].astype(np.int64), local[:, 1].astype(np.int64)
    tilt = tilt - int(tilt.min() == 1)
    order = np.lexsort((patch, tilt))
    expected = np.repeat(np.arange(n_tilts), count), np.tile(np.arange(count), n_tilts)
    if not (np.array_equal(tilt[order], expected[0]) and np.array_equal(patch[order], expected[1])):
        return None
    table = local[order].reshape(n_tilts, count, 7)
    image_px = np.array(header["RawSize"][:2])
    return PatchShifts(table[..., 2:4], table[..., 4:6], table[..., 6] >= GOOD_PATCH, image_px)


def _aln_parts(path: Path) -> tuple[dict[str, list[float]], F64, F64, F64]:
    """Header, dark frames (index by tilt, index in the file, angle), rows, local alignments."""
    header: dict[str, list[float]] = {}
    dark: list[list[float]] = []
    rows: list[list[float]] = []
    local: list[list[float]] = []
    is_local = False
    for number, line in enumerate(_lines(path), 1):
        try:
            if line.startswith("#"):
                name, is_pair, value = line[1:].partition("=")
                is_local = is_local or "Local Alignment" in line
                if is_pair and name.strip() == "DarkFrame":
                    dark.append([float(v) for v in value.split()])
                elif is_pair:
                    header[name.strip()] = [float(v) for v in value.split()]
            elif line.strip():
                (local if is_local else rows).append([float(v) for v in line.split()])
        except ValueError:
            raise SeriesError(f"{path}, line {number}: expected numbers, got '{line.strip()[:60]}'") from None
    if len(header.get("RawSize", ())) != 3 or not rows or any(len(row) != 10 for row in rows):
        raise SeriesError(f"{path}: is not an alignment of AreTomo: needs RawSize, and tilts of 10 numbers")
    if any(len(row) != 7 for row in local):
        raise SeriesError(f"{path}: local alignments have 7 numbers in a line; is the file cut off?")
    return header, np.array(dark).reshape(-1, 3), np.array(rows), np.array(local).reshape(-1, 7)


def _sections(rows: F64, dark: F64, n: int, alpha: float) -> tuple[I64, str]:
    """Place in the stack of every row. SEC counts from 0 or 1, and with or without dark frames: in a stack that is
    sorted by angle the angles of all images say more."""
    section = rows[:, 0].astype(np.int64)
    steps = np.diff(rows[np.argsort(section, kind="stable"), 9])
    for sign in (1, -1):
        if (sign * steps > 0).all():
            angles = sign * np.concatenate([rows[:, 9] - alpha, dark[:, 2]])
            place = np.empty(n, np.int64)
            place[np.argsort(angles, kind="stable")] = np.arange(n)
            found = place[: len(rows)]
            is_plain = np.array_equal(found - found[0], section - section[0])
            return found, "" if is_plain else f"SEC passes over {len(dark)} dark frames; tilts are placed by angle."
    for first in (0, 1):
        if set(section.tolist()) | {int(d) for d in dark[:, 1]} == set(range(first, n + first)):
            return section - first, "the stack is not sorted by angle; tilts are placed by SEC."
    raise SeriesError(
        f"SEC of {len(rows)} tilts and {len(dark)} dark frames do not make up the {n} images of the stack"
    )
