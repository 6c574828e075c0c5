"""Motion within tilts: planted in movies, known badly, found again; and averages that are better for it."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError, MprError
from mpr_dist.imaging.image_store import ImageRoom
from mpr_dist.imaging.movies import average_frames, frame_images
from mpr_dist.imaging.reference import prepare_reference
from mpr_dist.imaging.simulate import Exposure, tilt_contrasts
from mpr_dist.model.movie import Motion
from mpr_dist.model.population import Population
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.warp import CubicGrid
from mpr_dist.refinement.movies import FrameData, _Frames, _Problem, refine_motion
from mpr_dist.storage.movies import open_movie, read_gain, read_motion, read_movie_source, write_movie
from mpr_dist.storage.mrc import read_image, read_volume, write_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.warp_project import WarpProject
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.reporting.iteration_report import report_data
from mpr_dist.workflow.running.plan import conditions, plan
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.movies import Detector, _as_average
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import load_series, map_quality
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.simulation.simulate_movies import known_motion, true_motion
from mpr_dist.workflow.state.footprint import movie_bytes
from mpr_dist.workflow.state.run_settings import RunSettings

SERIES = "TS_01"
FIXTURE = SimulateSettings.fixture()
# one tilt has a gold bead, and its mask
SETTINGS = replace(
    FIXTURE, particles_per_series=16, image_px=(256, 256), frames=8, plant=replace(FIXTURE.plant, bead_tilts=1)
)
GEOMETRY = RefineSettings(1, image_warp=(2, 2), particles=True, stage_angles=True, defocus=True)
CENTRE = np.full((1, 2), 0.5)


@pytest.fixture(scope="module")
def movies(tmp_path_factory) -> SimulatedProject:
    """One series whose tilts are LZW TIFF movies of eight frames, behind a gain that lies flipped."""
    return simulate_project(tmp_path_factory.mktemp("movies") / "project", SETTINGS)


def refine(path: Path, settings: RefineSettings) -> Population:
    return run(path, Physics(), RunSettings(settings), InlineExecutor())


@pytest.fixture(scope="module")
def refined(movies, tmp_path_factory) -> Population:
    """Geometry first, then geometry with movies, then a reconstruction."""
    path = tmp_path_factory.mktemp("refined") / "pop"
    import_simulated(path, movies, "movies")
    refine(path, GEOMETRY)
    refine(path, replace(GEOMETRY, tilt_movies=True))
    return refine(path, RefineSettings(1))


def errors(found, index: int = 0) -> np.ndarray:
    """(tilts,) A rms per axis of the motion at the centre, its mean over the frames removed."""
    out = []
    for t in range(SETTINGS.n_tilts):
        apart = found(t).at(CENTRE, SETTINGS.frames) - true_motion(SETTINGS, index, t).at(CENTRE, SETTINGS.frames)
        out.append(np.sqrt(np.mean((apart - apart.mean(0)) ** 2)))
    return np.array(out)


def xml_of(population: Population, tilt: int) -> Path:
    return population.files(2).root / "movies" / SERIES / f"{SERIES}_{tilt:03d}.xml"


def test_the_report_tells(refined):
    facts = dict(report_data(refined, refined.files(2)).facts)
    assert facts["tilt movies"] == "averages of 7 tilts were made again; motion was refined in 7 of them"
    assert "tilt movies" not in dict(report_data(refined, refined.files(1)).facts)


def test_planted_motion_is_found(refined):
    """The project knows it to 1 A; it is found to better than 0.2 A in every tilt. The images say 0.05 to 0.1 A."""
    assert errors(lambda t: known_motion(SETTINGS, 0, t)).mean() > 0.8
    assert errors(lambda t: read_motion(xml_of(refined, t))).max() < 0.2


def test_new_averages_are_better_than_the_old_ones(movies, refined):
    """Correlation with the image without noise rises in all tilts; the maps made from them are better; masks come
    along."""
    series = movies.true_series[SERIES]
    content = [(movies.true_particles[SERIES], movies.atoms)]
    exposure = Exposure(SETTINGS.pixel_A, SETTINGS.dose_per_tilt, SETTINGS.contrast)
    gains, masked = [], 0
    for t, contrast in enumerate(tilt_contrasts(series, content, exposure, SETTINGS.seed)):
        new = xml_of(refined, t).parent / "average" / f"{SERIES}_{t:03d}.mrc"
        old, new = (read_image(path) for path in (movies.files.average(SERIES, t), new))
        mask = movies.files.mask(SERIES, t)
        if mask.exists():
            masked += 1
            assert mask.read_bytes() == (xml_of(refined, t).parent / "mask" / mask.name).read_bytes()
            continue  # the bead is in both
        assert new.shape == old.shape
        assert new.mean() == pytest.approx(old.mean(), rel=0.01)
        agreement = [np.corrcoef(-contrast.ravel(), image.ravel())[0, 1] for image in (new, old)]
        gains.append(agreement[0] / agreement[1])
    assert masked == 1
    assert min(gains) > 1.0
    # errors of s A blur by exp(-2 pi^2 s^2 q^2): for 1 A that is 5 % at 20 A and 18 % at 10 A
    assert np.mean(gains) > 1.03
    truth = movies.truth / "density.mrc"
    before, after = (map_quality(refined, i, truth, "phantom").mean_truth_fsc for i in (1, 2))
    assert after > before + 0.005


def test_later_iterations_use_the_new_averages_wherever_the_population_is(movies, refined, tmp_path):
    """The XML of the series names them; a population that was moved finds its own. The project is as it was."""
    source, entry = refined.series[0]
    images = load_series(source, entry, refined.files(3).series(SERIES).xml).image_paths
    assert images[0] == xml_of(refined, 0).parent / "average" / f"{SERIES}_000.mrc"
    moved = tmp_path / "elsewhere"
    shutil.copytree(refined.path, moved)
    aside = refined.path.with_name("aside")
    refined.path.rename(aside)
    try:
        end = refine(moved, RefineSettings(1))
    finally:
        aside.rename(refined.path)
    halves = [read_volume(each.species("phantom").half1)[0] for each in (refined.files(3), end.files(4))]
    np.testing.assert_array_equal(*halves)
    assert not list(movies.files.root.rglob("*.tmp*"))
    assert len(list((movies.files.root / "warp_frameseries" / "average").iterdir())) == SETTINGS.n_tilts


def test_averages_again_without_refining_motion(movies, tmp_path):
    """reconstruct --tilt-movies: along the motion that is known, so only weights by dose differ from the old ones."""
    path = tmp_path / "pop"
    import_simulated(path, movies, "movies")
    end = refine(path, RefineSettings(1, tilt_movies=True, movie_motion=None))
    new = read_image(end.files(1).root / "movies" / SERIES / "average" / f"{SERIES}_003.mrc")
    old = read_image(movies.files.average(SERIES, 3))
    assert np.corrcoef(new.ravel(), old.ravel())[0, 1] > 0.99
    assert not np.array_equal(new, old)
    motion = read_motion(end.files(1).root / "movies" / SERIES / f"{SERIES}_003.xml")
    np.testing.assert_allclose(
        motion.at(CENTRE, 8), read_motion(movies.files.movie_xml(SERIES, 3)).at(CENTRE, 8), atol=1e-5
    )


def frame_data(movies, room: ImageRoom | None = None) -> FrameData:
    """The frames of one tilt with the reference of the half-maps that the project starts from."""
    species, particles = movies.species, movies.particles[SERIES]
    halves = [read_volume(path)[0] for path in movies.half_maps]
    reference, _ = prepare_reference(*halves, read_volume(movies.mask)[0], species)
    source = read_movie_source(movies.files.frame_settings)
    frames = open_movie(movies.files.movie(SERIES, 3, "tif")).frames(read_gain(source))
    motion = read_motion(movies.files.movie_xml(SERIES, 3))
    wanted = [(species, particles, reference.q_max)]
    doses = source.frame_doses(8)
    (cut,) = frame_images(movies.series[SERIES], 3, wanted, frames, motion, doses, 4.0, 0.05, room)
    return FrameData(species, particles, reference, cut)


def test_gradient_of_motion_is_the_finite_difference(movies):
    """For a grid over the image and time; the scale, which fits best everywhere, adds nothing to the slope."""
    shape = (2, 1, 3)
    problem = _Problem((_Frames.of(movies.series[SERIES], 3, frame_data(movies), shape),), shape)
    rng = np.random.default_rng(0)
    values, step = rng.standard_normal((2, 12))
    _, gradient, _ = problem.evaluate(values)
    h = 0.05  # five points: float32 leaves 1e-7 of sums of 1e4 in the objective
    total = sum(w * problem.evaluate(values + i * h * step)[0] for i, w in ((-2, 1), (-1, -8), (1, 8), (2, -1)))
    assert gradient @ step == pytest.approx(total / (12 * h), rel=5e-3)


def test_frames_that_exceed_the_memory_are_streamed_to_the_same_bits(movies, tmp_path):
    """With a grid over the image, too, the other half-map agrees better with what was found."""
    found = []
    for room in (None, ImageRoom(0, tmp_path)):
        data = frame_data(movies, room)
        assert isinstance(data.frames.images.values, np.ndarray) == (room is None)
        found.append(refine_motion(movies.series[SERIES], 3, (data,), (2, 2, 4)))
    one, other = found
    assert one.motion is not None
    assert other.motion is not None
    for a, b in zip(one.motion.grids[0], other.motion.grids[0], strict=True):
        np.testing.assert_array_equal(a.values, b.values)
    assert one.cross_half[1] > one.cross_half[0]


def test_what_cannot_be_is_refused(movies, tmp_path):
    """Movies that are not there, and tilts of a source without movies, are told in words."""
    settings = movies.files.frame_settings
    missing = tmp_path / "warp_frameseries.settings"
    missing.write_text(settings.read_text("utf-8").replace('"GainPath" Value="frames/gain.mrc"', '"GainPath" Value=""'))
    path = tmp_path / "pop"
    import_simulated(path, movies, "movies")
    with pytest.raises(InputError, match="no movie of any tilt"):
        add_warp_source(path, SourceRequest("again", movies.files.settings, movies=missing))
    source = load_population(path).sources[0]
    assert source.movies == settings


def test_movies_that_do_not_belong_to_their_averages_are_refused(movies, tmp_path):
    """A gain that lies otherwise, or frames of another tilt: the first frame and the average share no noise."""
    project = tmp_path / "project"
    shutil.copytree(movies.files.root, project)
    for t in range(SETTINGS.n_tilts):
        path = project / "frames" / f"{SERIES}_{t:03d}.tif"
        path.write_bytes(movies.files.movie(SERIES, (t + 1) % SETTINGS.n_tilts, "tif").read_bytes())
    path = tmp_path / "pop"
    import_simulated(path, replace(movies, files=WarpProject(project)), "movies")
    with pytest.raises(MprError, match="its first frame has a correlation"):
        refine(path, RefineSettings(1, tilt_movies=True, movie_motion=None))
    # a file turned upside down is noticed, and turned back
    flipped = project / "frames" / f"{SERIES}_000.tif"
    write_movie(flipped, np.stack(list(open_movie(movies.files.movie(SERIES, 0, "tif")).frames(None)))[:, ::-1], 4.0)
    source, motion = read_movie_source(project / "warp_frameseries.settings"), known_motion(SETTINGS, 0, 0)
    found = _as_average(
        open_movie(flipped), replace(source, gain=None), Detector(), motion, movies.files.average(SERIES, 0)
    )
    assert not found.is_flipped


def test_the_plan_counts_movies(movies, refined):
    """Frames and their size from a header, the bytes of new averages, and what a worker holds meanwhile."""
    settings = replace(GEOMETRY, tilt_movies=True)
    planned = plan(refined, Physics(conditions=conditions(refined)), settings, 1)
    files = list((refined.files(2).root / "movies").rglob("*.*"))
    averages = [path for path in files if path.parent.name == "average"]
    # but for headers of 1 KiB
    assert planned.average_bytes == sum(path.stat().st_size - 1024 for path in averages)
    assert "movies       7 tilts, 8 frames of 256 x 256 px; new averages take 896 KiB per iteration" in str(planned)
    without = plan(refined, Physics(conditions=conditions(refined)), GEOMETRY, 1)
    # one mask comes along
    assert planned.files_per_iteration - without.files_per_iteration == len([p for p in files if p.is_file()]) - 1
    assert without.average_bytes == 0


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_movie_takes_no_more_memory_than_planned(tmp_path, nodes):
    """Global and local motion, gain and defects, and no less than half of that."""
    shape, rng = (512, 384), np.random.default_rng(0)
    write_movie(tmp_path / "a.tif", rng.poisson(3.0, (3, *shape)).astype(np.uint8), 1.0)
    movie, bad = open_movie(tmp_path / "a.tif"), np.zeros(shape, bool)
    bad[:, 7] = True
    pair = [CubicGrid(rng.normal(size=(3, nodes, nodes))) for _ in "xy"]
    motion, doses = Motion(((pair[0], pair[1]),)), np.arange(3.0)
    average_frames(movie.frames(None, bad), motion, doses, 1.0)  # whatever is made once
    tracemalloc.start()
    average_frames(movie.frames(np.ones(shape, np.float32), bad), motion, doses, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 * movie_bytes(shape) < peak < movie_bytes(shape)


def test_hot_pixels_leave_no_trace(movies, tmp_path):
    """Planted in every frame and named by a map, they are repaired before averaging: no spot is left."""
    project = tmp_path / "project"
    shutil.copytree(movies.files.root, project)
    rng = np.random.default_rng(0)
    hot = np.zeros((256, 256), bool)
    hot[rng.integers(0, 256, 60), rng.integers(0, 256, 60)] = True
    hot[:, 100] = True
    for t in range(SETTINGS.n_tilts):
        path = project / "frames" / f"{SERIES}_{t:03d}.tif"
        frames = np.stack(list(open_movie(path).frames(None))).astype(np.uint8)
        frames[:, hot] = 250
        write_movie(path, frames, 4.0)
    # as the gain, the map lies flipped along x
    write_volume(project / "frames" / "bad.mrc", np.asarray(hot[:, ::-1][None], np.float32), 4.0)
    settings = project / "warp_frameseries.settings"
    text = settings.read_text("utf-8-sig").replace('"DefectsPath" Value=""', '"DefectsPath" Value="frames/bad.mrc"')
    settings.write_text(text.replace('"CorrectDefects" Value="False"', '"CorrectDefects" Value="True"'))
    spoiled = import_simulated(tmp_path / "pop", replace(movies, files=WarpProject(project)), "movies")
    assert any(f"{hot.sum()} bad pixels of bad.mrc to be repaired" in line for line in spoiled)
    import_simulated(tmp_path / "clean", movies, "movies")
    asked = RefineSettings(1, tilt_movies=True, movie_motion=None)
    new, clean = (
        refine(tmp_path / name, asked).files(1).root / "movies" / SERIES / "average" for name in ("pop", "clean")
    )
    for t in range(SETTINGS.n_tilts):
        repaired, right = (read_image(folder / f"{SERIES}_{t:03d}.mrc") for folder in (new, clean))
        # left alone, a hot pixel would stand out by far more than the noise of the average
        assert np.abs(repaired - right).max() < 6 * right.std()
        assert np.corrcoef(repaired.ravel(), right.ravel())[0, 1] > 0.98
