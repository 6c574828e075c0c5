"""Particle tables of a RELION-5 project: our columns set, optics in a table of their own, all else passed through."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.imaging.relion_export import ParticlesForRelion
from mpr_dist.maths.zernike import of_mapped_frequencies
from mpr_dist.model.optics import Optics
from mpr_dist.model.population import Source
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage import relion as names
from mpr_dist.storage.particle_columns import Columns
from mpr_dist.storage.relion_aberrations import (
    BEAM_TILT,
    EVEN,
    FLOAT32,
    MAGNIFICATION,
    ODD,
    aberrations_of,
    same_numbers,
)
from mpr_dist.storage.relion_tomograms import NAME
from mpr_dist.workflow.exporting.export_relion_tables import OPTICS, visible_frames

if TYPE_CHECKING:
    import pandas as pd

IMAGE = "rlnImageName"
PARTICLE, GROUP, VISIBLE = "rlnTomoParticleName", "rlnOpticsGroup", "rlnTomoVisibleFrames"
GROUP_NAME = "rlnOpticsGroupName"
STACKS_2D = "rlnTomoSubTomosAre2DStacks"
# what tables that are not of this RELION project say of images and pixels would contradict what takes its place
_OLD: tuple[str, ...] = (
    "rlnMagnification",
    "rlnDetectorPixelSize",
    "rlnPixelSize",
    "rlnMicrographName",
    "rlnCtfImage",
    IMAGE,
)
_OLD += ("rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality", "rlnTomoSubtomogramBinning", VISIBLE)
_OLD += ("rlnCtfDataAreCtfPremultiplied",)


def particle_rows(
    table: pd.DataFrame,
    particles: Particles,
    made: ParticlesForRelion,
    series: TiltSeries,
    source: Source,
    tomogram: str,
    species: Species,
    has_matrix: bool,
) -> pd.DataFrame:
    """The particles of one series, with the columns of their optics groups in every row.

    Args:
        table: what the imported table says of these particles.
        has_matrix: the series came with an rlnMagMat, and leaves with one.
    """
    frame = table.reset_index(drop=True)
    is_native = source.is_relion and NAME in frame and not frame[NAME].astype(str).str.endswith(".tomostar").any()
    foreign = [name for name in frame if str(name).startswith(("wrp", "mpr")) or (name in _OLD and not is_native)]
    frame = frame.drop(columns=foreign)
    frame[NAME] = tomogram
    if PARTICLE not in frame or frame[PARTICLE].duplicated().any():
        frame[PARTICLE] = [f"{tomogram}/{number}" for number in range(1, len(frame) + 1)]
    columns: dict[str, Any] = dict(zip(names.CENTRED, made.centred_A.T, strict=True))
    columns |= dict(zip(names.ANGLES, made.angles_deg.T, strict=True))
    columns |= {name: np.zeros(len(frame)) for name in names.ORIGIN_A}
    columns["rlnRandomSubset"] = particles.half.astype(np.int64)
    for name, values in columns.items():
        frame[name] = values
    if VISIBLE in frame:
        flags = [visible_frames(str(text), np.asarray(series.active)) for text in frame[VISIBLE]]
        frame = frame.drop(columns=[VISIBLE])
        if all(each is not None for each in flags):
            frame[VISIBLE] = flags
    return _with_aberrations(_with_optics(frame, series.optics, source, species), series.optics, has_matrix)


def _with_optics(frame: pd.DataFrame, optics: Optics, source: Source, species: Species) -> pd.DataFrame:
    given = {
        GROUP_NAME: source.name,
        "rlnVoltage": float(optics.voltage_kV),
        "rlnSphericalAberration": float(optics.cs_mm),
        "rlnAmplitudeContrast": float(optics.amplitude),
        names.TILT_SERIES_PIXEL: float(source.pixel_size_A),
        "rlnCtfDataAreCtfPremultiplied": 1,
        "rlnImageDimensionality": 2,
        "rlnTomoSubtomogramBinning": species.pixel_size_A / source.pixel_size_A,
        names.IMAGE_PIXEL: species.pixel_size_A,
        "rlnImageSize": species.box_px,
    }
    for name, value in given.items():
        if name not in frame or name == names.TILT_SERIES_PIXEL:
            frame[name] = value
        elif name == "rlnSphericalAberration" and not np.allclose(frame[name].astype(float), optics.cs_mm, rtol=1e-6):
            frame[name] = value  # refined
    if GROUP not in frame:
        frame[GROUP] = 1
    return frame


def _with_aberrations(frame: pd.DataFrame, optics: Optics, has_matrix: bool) -> pd.DataFrame:
    """What the table says of aberrations, beam tilt and magnification stays as long as it says what is in force.

    Refined phases take the beam tilt with them, which becomes 0: programs of RELION that know no beam tilt see them,
    too. Without a matrix in the table the magnification is not written, for not all programs of RELION would use it.
    """
    (said,) = aberrations_of(Columns(Path(frame[NAME].iloc[0]), frame.iloc[:1]))
    matrix = optics.magnification if has_matrix else said.matrix
    same_matrix = np.allclose(said.matrix, matrix, rtol=0, atol=FLOAT32)
    if not same_matrix:
        for name, value in zip(MAGNIFICATION, matrix.ravel().tolist(), strict=True):
            frame[name] = value
    back = np.linalg.inv(np.asarray(matrix, np.float64))
    if any(optics.zernike_odd) and not (same_matrix and same_numbers(said.odd, optics.zernike_odd)):
        # the phases are of opposite sign
        frame[ODD] = _list(-np.array(of_mapped_frequencies(optics.zernike_odd, 1, back)))
        for name in BEAM_TILT:
            if name in frame:
                frame[name] = 0.0
    if any(optics.zernike_even) and not (same_matrix and same_numbers(said.even, optics.zernike_even)):
        # RELION's list begins with the constant term
        frame[EVEN] = _list(np.array([0.0, *of_mapped_frequencies(optics.zernike_even, 0, back)]))
    return frame


def _told_apart(numbers: list[int], names: list[str]) -> tuple[list[int], list[str]]:
    """Numbers and names of groups with none twice: the first that has one keeps it, the others get one like it."""
    used_numbers: set[int] = set()
    used_names: set[str] = set()
    free, out = max(numbers, default=0) + 1, []
    for number, name in zip(numbers, names, strict=True):
        if number in used_numbers:
            number, free = free, free + 1
        variants = (name, *(f"{name}_{k}" for k in range(2, len(names) + 2)))
        called = next(each for each in variants if each not in used_names and (each == name or each not in names))
        used_numbers.add(number)
        used_names.add(called)
        out.append((number, called))
    return [number for number, _ in out], [name for _, name in out]


def _list(values: np.ndarray) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in values) + "]"


def split_optics(frames: list[pd.DataFrame]) -> tuple[dict[str, int], pd.DataFrame, pd.DataFrame]:
    """(general, optics, particles) of the particles of all series; groups keep numbers and names as far as they can.

    Rows are sorted by the index of the frames.
    """
    import pandas as pd

    together = pd.concat(frames).sort_index(kind="stable").reset_index(drop=True)
    nothing = dict.fromkeys((ODD, EVEN), "[0]") | dict.fromkeys(BEAM_TILT, 0.0)
    nothing |= dict(zip(MAGNIFICATION, (1.0, 0.0, 0.0, 1.0), strict=True))
    for name, value in nothing.items():
        if name in together:
            together[name] = together[name].fillna(value)
    shared = [name for name in OPTICS if name in together]
    optics = together[shared].drop_duplicates(ignore_index=True)
    if optics[GROUP].duplicated().any():
        # one number stands for different optics: series differ in what was refined, or tables were joined
        place = together.groupby([name for name in shared if name != GROUP], sort=False, dropna=False).ngroup()
        first = together.loc[~place.duplicated(), [GROUP, GROUP_NAME]]
        numbers, names = _told_apart(first[GROUP].astype(int).tolist(), first[GROUP_NAME].astype(str).tolist())
        together[GROUP] = np.array(numbers, np.int64)[place]
        together[GROUP_NAME] = [names[group] for group in place]
        optics = together[shared].drop_duplicates(ignore_index=True)
    particles = together.drop(columns=[name for name in shared if name != GROUP])
    is_2d = bool((optics["rlnImageDimensionality"] == 2).all())
    if particles.isna().any().any():
        particles = particles.fillna("None")
    return {STACKS_2D: int(is_2d)}, optics, particles
