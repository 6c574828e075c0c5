"""Movies of a simulated project: frames that move and fade, behind a gain, and averages as Warp makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import fft

from mpr_dist.imaging.movies import DAMAGE_A2, average_frames
from mpr_dist.imaging.phantom import Atoms
from mpr_dist.imaging.simulate import Exposure, tilt_contrasts
from mpr_dist.imaging.spoiled import Spoiled
from mpr_dist.maths.splines import natural_weights
from mpr_dist.model.movie import Motion
from mpr_dist.model.pose import Particles
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.model.warp import CubicGrid
from mpr_dist.storage.movies import open_movie, read_gain, read_movie_source, write_motion, write_movie
from mpr_dist.storage.mrc import write_volume
from mpr_dist.storage.warp_project import WarpProject, write_movie_settings
from mpr_dist.units import F32, F64
from mpr_dist.workflow.simulation.random_branches import DECIMALS, FRAMES, MOVIES, random_branch
from mpr_dist.workflow.simulation.simulate_settings import SimulateSettings

_NODES = 4
_GAIN_RMS = 0.1


def write_frame_settings(files: WarpProject, s: SimulateSettings) -> None:
    """The .settings of the frame series and the gain reference, which lies turned as the settings say."""
    files.gain.parent.mkdir(parents=True, exist_ok=True)
    width, height = s.image_px
    gain = 1 + _GAIN_RMS * np.clip(random_branch(s, 0, MOVIES).standard_normal((height, width)), -3, 3)
    gain /= gain.mean()
    write_volume(files.gain, np.asarray(gain[:, ::-1][None], np.float32), s.pixel_A)
    write_movie_settings(files.frame_settings, s.pixel_A, f"*.{s.movie_format}", s.dose_per_tilt, files.gain.name)


def true_motion(s: SimulateSettings, index: int, tilt: int) -> Motion:
    """A smooth way, the same everywhere, whose mean over the frames is zero."""
    return _smooth(s, index, 2 * tilt, s.plant.frame_motion_A)


def known_motion(s: SimulateSettings, index: int, tilt: int) -> Motion:
    """What the project takes it for."""
    return true_motion(s, index, tilt).plus(_smooth(s, index, 2 * tilt + 1, s.plant.frame_track_A))


def _smooth(s: SimulateSettings, index: int, part: int, rms_A: float) -> Motion:
    """A random walk over a few nodes, rms_A per axis from the first to the last."""
    steps = random_branch(s, index, MOVIES, part + 1).standard_normal((2, _NODES)) * rms_A / np.sqrt(_NODES - 1)
    walk = np.cumsum(np.where(np.arange(_NODES) > 0, steps, 0.0), axis=1)
    walk -= (walk @ natural_weights(_NODES, np.linspace(0, 1, s.frames)).T).mean(axis=1, keepdims=True)
    x, y = (CubicGrid.per_tilt(np.round(axis, DECIMALS)) for axis in walk)
    return Motion(((x, y),))


def averages_of_movies(
    files: WarpProject,
    name: str,
    s: SimulateSettings,
    series: TiltSeries,
    content: Sequence[tuple[Particles, Atoms]],
    exposure: Exposure,
    seed: int,
    index: int,
    wrong: Spoiled,
) -> Iterator[F32]:
    """Write the movie of every tilt and the XML with what is known of its motion; yields averages along that."""
    source = read_movie_source(files.frame_settings)
    gain, doses = read_gain(source), source.frame_doses(s.frames)
    assert gain is not None
    for t, contrast in enumerate(tilt_contrasts(series, content, exposure, seed, index, wrong)):
        path, motion = files.movie(name, t, s.movie_format), known_motion(s, index, t)
        frames = _frames(
            contrast, true_motion(s, index, t), doses, exposure, gain, random_branch(s, index, FRAMES, t + 1)
        )
        write_movie(path, frames, s.pixel_A)
        write_motion(files.movie_xml(name, t), None, motion)
        # Warp's averages are plain ones
        yield average_frames(open_movie(path).frames(gain), motion, np.zeros(s.frames), s.pixel_A)


def _frames(
    contrast: F64, motion: Motion, doses: F64, exposure: Exposure, gain: F32, rng: np.random.Generator
) -> np.ndarray:
    """(frames, height, width) uint8: electrons that were counted, before the gain."""
    n, (height, width) = len(doses), contrast.shape
    qy, qx = fft.fftfreq(height, exposure.pixel_A)[:, None], fft.rfftfreq(width, exposure.pixel_A)[None]
    transform, shifts = fft.rfft2(contrast), motion.at(np.full((1, 2), 0.5), n)[:, 0]
    out = np.empty((n, height, width), np.uint8)
    for f, (x, y) in enumerate(shifts):
        # what stands at u stands at u - motion in a frame
        moved = transform * np.exp(2j * np.pi * (qx * x + qy * y)) * np.exp(-DAMAGE_A2 / 4 * doses[f] * (qx**2 + qy**2))
        expected = exposure.electrons / n * np.maximum(1 - fft.irfft2(moved, s=(height, width)), 0) / gain
        out[f] = np.minimum(rng.poisson(expected), 255)
    return out
