"""Particle tables of a RELION-5 project: our columns set, optics in a table of their own, all else passed through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mpr_dist.imaging.relion_export import ParticlesForRelion
from mpr_dist.model.optics import Optics
from mpr_dist.model.population import Source
from mpr_dist.model.pose import Particles
from mpr_dist.model.species import Species
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.storage import relion as names
from mpr_dist.storage.relion_aberrations import EVEN, ODD
from mpr_dist.storage.relion_tomograms import NAME
from mpr_dist.workflow.exporting.export_relion_tables import OPTICS, visible_frames

if TYPE_CHECKING:
    import pandas as pd

IMAGE = "rlnImageName"
PARTICLE, GROUP, VISIBLE = "rlnTomoParticleName", "rlnOpticsGroup", "rlnTomoVisibleFrames"
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
) -> pd.DataFrame:
    """The particles of one series, with the columns of their optics groups in every row.

    Args:
        table: what the imported table says of these particles.
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
    return _with_optics(frame, series.optics, source, species)


def _with_optics(frame: pd.DataFrame, optics: Optics, source: Source, species: Species) -> pd.DataFrame:
    given = {
        "rlnOpticsGroupName": source.name,
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
    # the phases are of opposite sign, and RELION's even list begins with the constant term
    for name, values in ((ODD, [-c for c in optics.zernike_odd]), (EVEN, [0.0, *optics.zernike_even])):
        if any(values) and not (name in frame and _is_list(str(frame[name].iloc[0]), values)):
            frame[name] = _list(np.array(values))
    return frame


def _is_list(text: str, values: list[float]) -> bool:
    """Whether a text lists these numbers, to the digits of a float32; the first even one means nothing."""
    parts = text.strip().strip("[]").split(",")
    if len(parts) != len(values) or not all(part.strip() for part in parts):
        return False
    there = np.array(parts, np.float64)
    first = 1 if values[0] == 0 else 0
    return bool(np.allclose(there[first:], values[first:], rtol=1e-6, atol=0.0))


def _list(values: np.ndarray) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in values) + "]"


def split_optics(frames: list[pd.DataFrame]) -> tuple[dict[str, int], pd.DataFrame, pd.DataFrame]:
    """(general, optics, particles) of the particles of all series; groups keep their numbers where these tell all.

    Rows are sorted by the index of the frames.
    """
    import pandas as pd

    together = pd.concat(frames).sort_index(kind="stable").reset_index(drop=True)
    for name in (ODD, EVEN):
        if name in together:
            together[name] = together[name].fillna("[0]")
    shared = [name for name in OPTICS if name in together]
    optics = together[shared].drop_duplicates(ignore_index=True)
    if optics[GROUP].duplicated().any():
        # one number stands for different optics: series differ in what was refined, or tables were joined
        number = together.groupby([name for name in shared if name != GROUP], sort=False, dropna=False).ngroup() + 1
        together[GROUP] = number.astype(np.int64)
        together["rlnOpticsGroupName"] = [f"opticsGroup{n}" for n in number]
        optics = together[shared].drop_duplicates(ignore_index=True)
    particles = together.drop(columns=[name for name in shared if name != GROUP])
    is_2d = bool((optics["rlnImageDimensionality"] == 2).all())
    if particles.isna().any().any():
        particles = particles.fillna("None")
    return {STACKS_2D: int(is_2d)}, optics, particles
