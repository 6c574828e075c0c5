"""Stacks that IMOD or AreTomo aligned: the options of source add for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpr_dist.errors import InputError

if TYPE_CHECKING:
    from mpr_dist.workflow.importing.import_alignments import AlignmentRequest


# these options stand together in the help
_option = partial(typer.Option, rich_help_panel="Stacks that IMOD or AreTomo aligned")


def aligned_stacks(
    imod: Annotated[
        Path | None, _option(help="Folder with what etomo left: NAME.xf, NAME.tlt, tilt.com, or NAME/ with these.")
    ] = None,
    aretomo: Annotated[
        list[str] | None, _option(help="NAME.aln of AreTomo, a folder of them, or a quoted pattern; repeatable.")
    ] = None,
    stacks: Annotated[
        list[str] | None,
        _option(help="The stack that was aligned, a folder of .st and .mrc, or a quoted pattern; repeatable."),
    ] = None,
    ctf: Annotated[
        Path | None,
        _option(
            help="Defocus of every tilt: text of CTFFIND or AreTomo, IMOD's .defocus, a STAR table (Gctf, RELION), a "
            "CSV table with defocus_u, defocus_v, angle, phase_shift, dose, series, image (A, degrees, e/A^2); or a "
            "folder with NAME_CTF.txt, NAME.defocus, NAME.star, NAME.csv."
        ),
    ] = None,
    mdoc: Annotated[Path | None, _option(help="An .mdoc, or a folder of them: order and dose of tilts.")] = None,
    dose_per_tilt: Annotated[
        float | None, _option(help="In e/A^2, where no file says it; without .mdoc with --order.")
    ] = None,
    order: Annotated[
        str | None, _option(help="In which tilts were exposed: symmetric, ascending, descending, stack.")
    ] = None,
    tomogram: Annotated[
        str | None,
        _option(metavar="XxYxZ", help="Size of tomograms in pixels of the stack [default: tilt.com's]."),
    ] = None,
    stack_pixel: Annotated[
        float | None, _option(help="Pixel of the stacks in A [default: their headers say it].")
    ] = None,
    alignment_pixel: Annotated[
        float | None, _option(help="Pixel of the stack that was aligned, if that was a binned one.")
    ] = None,
    hand: Annotated[
        int,
        _option(help="1: greater z is more underfocus; -1: less. As rlnTomoHand; population verify --hand tests it."),
    ] = -1,
    voltage: Annotated[float, _option(help="In kV.")] = 300.0,
    cs: Annotated[float, _option(help="In mm.")] = 2.7,
    amplitude: Annotated[float, _option(help="Amplitude contrast.")] = 0.07,
) -> None:
    """The parameters are the options; nothing else happens here."""


def alignment_request(
    options: Mapping[str, Any], name: str, max_tilts: int | None, use_excluded: bool, names: tuple[str, ...] | None
) -> AlignmentRequest:
    """From ``context.params``. Raises InputError when one is missing or makes no sense."""
    from mpr_dist.workflow.importing.import_alignments import AlignmentRequest
    from mpr_dist.workflow.state.exposures import Exposures

    if options["imod"] is not None and not options["imod"].is_dir():
        raise InputError(f"--imod: {options['imod']}: no such folder")
    if options["ctf"] is None:
        raise InputError("--ctf: give a table with the defocus of every tilt")
    return AlignmentRequest(
        name=name,
        stacks=_files("--stacks", options["stacks"], (".st", ".mrc", ".mrcs", ".ali")),
        ctf=options["ctf"],
        exposures=Exposures(options["mdoc"], options["dose_per_tilt"], options["order"]),
        imod=options["imod"],
        aretomo=_files("--aretomo", options["aretomo"], (".aln",)) if options["aretomo"] else (),
        pixel_A=options["stack_pixel"],
        alignment_pixel_A=options["alignment_pixel"],
        tomogram_px=_size(options["tomogram"]),
        hand=options["hand"],
        voltage_kV=options["voltage"],
        cs_mm=options["cs"],
        amplitude=options["amplitude"],
        max_tilts=max_tilts,
        use_excluded=use_excluded,
        files=names,
    )


def _files(option: str, given: list[str] | None, ends: tuple[str, ...]) -> tuple[Path, ...]:
    """Files of names, folders and patterns, each once."""
    found: list[Path] = []
    for text in given or ():
        path = Path(text)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if file.suffix.lower() in ends)
        elif any(sign in text for sign in "*?["):
            matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        else:
            matches = [path] if path.is_file() else []
        if not matches:
            what = f"a folder without any file *{', *'.join(ends)}" if path.is_dir() else "no such file"
            raise InputError(f"{option}: {text}: {what}")
        found += matches
    return tuple(dict.fromkeys(found))


def _size(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip().lower())
    if match is None or "0" in match.groups():
        raise InputError(f"--tomogram: expected three sizes such as 4000x4000x1200, got {text!r}")
    return int(match[1]), int(match[2]), int(match[3])
