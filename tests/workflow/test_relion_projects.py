"""Projects of RELION come in and go out: the same predictions, and columns that are not ours survive."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest

from mpr_dist.cli.app import run
from mpr_dist.errors import InputError, PopulationError
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.geometry import project, views
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.population import Population
from mpr_dist.model.warp import CubicGrid, ImageWarp, LinearGrid4, StageAngles, VolumeWarp
from mpr_dist.storage.mrc import read_image, read_volume
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses, write_poses
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.storage.warp_xml import write_tilt_series
from mpr_dist.workflow.changing.remove import remove_source
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, SourceSummary, add_warp_source
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.simulation.simulate import SimulatedProject
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest

SAME_A, SAME_DEG, SAME_DEFOCUS_A = 1e-3, 1e-4, 0.1


def seen(population: Population, iteration: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """By series: positions in A, views, defocus in A, as predicted for the only species."""
    out = {}
    for source, entry in population.series:
        files = population.files(iteration).series(entry.name)
        series = load_series(source, entry, files.xml)
        particles = read_poses(files.poses)[population.species[0].name]
        found = project(series, particles)
        out[entry.name] = {
            "xy": found.xy_A,
            "view": views(series, particles),
            "defocus": 1e4 * found.defocus_um,
            "half": particles.half,
        }
    return out


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert np.abs(a[name]["xy"] - b[name]["xy"]).max() < SAME_A
        assert np.abs(a[name]["defocus"] - b[name]["defocus"]).max() < SAME_DEFOCUS_A
        angle = np.rad2deg(np.linalg.norm(a[name]["view"] - b[name]["view"], axis=(-2, -1)) / np.sqrt(2))
        assert angle.max() < SAME_DEG
        assert np.array_equal(a[name]["half"], b[name]["half"])


def add_relion(
    path: Path, tomograms: Path, particles: Path, maps: tuple[Path, Path, Path], **request: Any
) -> SourceSummary:
    """A population with the series and particles of a RELION project."""
    create_population(path, "relion")
    summary = add_relion_source(path, SourceRequest("grid", tomograms, **request))
    half1, half2, mask = maps
    add_species(path, SpeciesRequest("apo", half1, half2, mask, particles, 130.0, "O"))
    return summary


@pytest.fixture(scope="session")
def simulated(project: SimulatedProject, tmp_path_factory: pytest.TempPathFactory) -> Population:
    """The simulated fixture as a population, from its Warp project."""
    path = tmp_path_factory.mktemp("relion") / "population"
    import_simulated(path, project, "simulated")
    return load_population(path)


@pytest.fixture(scope="session")
def deformed(simulated: Population, project: SimulatedProject, tmp_path_factory: pytest.TempPathFactory) -> Population:
    """The same, as if everything had been refined: all that moves a particle is at work in iteration 000."""
    path = tmp_path_factory.mktemp("deformed") / "population"
    import_simulated(path, project, "deformed")
    population = load_population(path)
    rng = np.random.default_rng(4)
    for source, entry in population.series:
        files = population.files(0).series(entry.name)
        series, n = load_series(source, entry, files.xml), len(entry.active)
        series = replace(
            series,
            image_warp=ImageWarp(*(CubicGrid(rng.normal(0, 4, (n, 3, 4))) for _ in range(2))),
            volume_warp=VolumeWarp(*(LinearGrid4(rng.normal(0, 2, (3, 1, 2, 2))) for _ in range(3))),
            stage_angles=StageAngles(*(CubicGrid(rng.normal(0, 0.7, (n, 1, 1))) for _ in range(3))),
            optics=replace(series.optics, magnification=np.array([[1.01, 0.0], [0.0, 1.0]])),
        )
        write_tilt_series(files.xml, files.xml, series)
        poses = {name: each.resampled(3) for name, each in read_poses(files.poses).items()}
        moved = {
            name: replace(each, position_A=each.position_A + rng.normal(0, 2, each.position_A.shape))
            for name, each in poses.items()
        }
        write_poses(files.poses, moved)
    return population


def maps_of(population: Population) -> tuple[Path, Path, Path]:
    species = population.species[0]
    files = population.files(0).species(species.name)
    assert species.mask is not None
    return files.half1, files.half2, species.mask


def round_trip(population: Population, folder: Path) -> tuple[Population, Path]:
    """The population, exported to RELION 5 and taken in again."""
    out = folder / "project"
    export(ExportRequest(population.path, out), "relion5")
    species = population.species[0].species
    create_population(folder / "back", "back")
    add_relion_source(folder / "back", SourceRequest("grid", out / "tomograms.star"))
    request = SpeciesRequest(
        species.name, *maps_of(population), out / "optimisation_set.star", species.diameter_A, species.symmetry
    )
    add_species(folder / "back", request)
    return load_population(folder / "back"), out


def test_a_project_of_warp_and_of_relion_predict_the_same(shared: Path, tmp_path: Path) -> None:
    """The example data in both forms: images, positions, views, defocus."""
    folder = shared / "data/apoferritin"
    maps = (folder / "relion/half1.mrc", folder / "relion/half2.mrc", folder / "relion/mask.mrc")
    assert run(["population", "create", str(tmp_path / "warp"), "--name", "warp"]) == 0
    command = ["source", "add", str(tmp_path / "warp"), "--name", "grid"]
    assert run([*command, "--warp-settings", str(folder / "warp_tiltseries.settings")]) == 0
    add_species(tmp_path / "warp", SpeciesRequest("apo", *maps, folder / "relion/run_data.star", 130.0, "O"))
    add_relion(tmp_path / "relion", folder / "relion/tomograms.star", folder / "relion/optimisation_set.star", maps)
    warp, relion = load_population(tmp_path / "warp"), load_population(tmp_path / "relion")
    assert_same(seen(warp), seen(relion))
    for (source, entry), (other, same) in zip(warp.series, relion.series, strict=True):
        a = load_series(source, entry, warp.files(0).series(entry.name).xml)
        b = load_series(other, same, relion.files(0).series(same.name).xml)
        assert [p.resolve() for p in a.image_paths] == [p.resolve() for p in b.image_paths]
        assert (source.pixel_size_A, source.image_size_px, source.volume_size_px) == (
            other.pixel_size_A, other.image_size_px, other.volume_size_px,
        )  # fmt: skip


@pytest.mark.long
def test_example_data_refine_alike_in_both_forms(shared: Path, tmp_path: Path) -> None:
    """Tables of six decimals differ by 4e-5 A in positions; refined from both, the half-maps are the same map.

    Reconstructed as they came they differ by 2e-8. The slope of a trilinear reference jumps from cell to cell, so that
    any difference between two starts becomes hundredths of a degree in a few steps (``refinement/braking.py``). That
    shows in half-maps of noise, as those of the first iteration are beyond 6 A, and must not show in the end, in any
    shell below Nyquist and without a mask. The shell of Nyquist itself, which maps fill by half, is left out. The same
    numbers give the same bits (``test_both_forms_refine_to_the_same_bits``).
    """
    folder = shared / "data/apoferritin"
    maps = (folder / "relion/half1.mrc", folder / "relion/half2.mrc", folder / "relion/mask.mrc")
    create_population(tmp_path / "warp", "warp")
    add_warp_source(tmp_path / "warp", SourceRequest("grid", folder / "warp_tiltseries.settings"))
    add_species(tmp_path / "warp", SpeciesRequest("apo", *maps, folder / "relion/run_data.star", 130.0, "O"))
    add_relion(tmp_path / "relion", folder / "relion/tomograms.star", folder / "relion/particles.star", maps)
    for name in ("warp", "relion"):
        options = ["--image-warp", "6x4", "--particles", "--stage-angles", "--defocus", "--workers", "2"]
        assert run(["refine", str(tmp_path / name), *options]) == 0
    results = [tmp_path / name / "iterations/004/species/apo" for name in ("warp", "relion")]
    for half in ("half1.mrc", "half2.mrc"):
        one, other = (np.asarray(read_volume(result / half)[0], np.float32) for result in results)
        curve = fsc(one, other)
        print(half, np.round(curve, 5).tolist())
        assert curve[1:-1].min() > 0.999


def test_relion_to_ours_to_relion(shared: Path, tmp_path: Path) -> None:
    """Positions, angles and defocus stay, and every column that is not ours is as it was."""
    folder = shared / "data/apoferritin"
    maps = (folder / "relion/half1.mrc", folder / "relion/half2.mrc", folder / "relion/mask.mrc")
    mine = tmp_path / "in"
    tomograms, particles = read_blocks(folder / "relion/tomograms.star"), read_blocks(folder / "relion/particles.star")
    rows, table = tomograms["global"], particles["particles"]
    rows["rlnTomoTomogramBinning"] = 7.407407
    rows["rlnEtomoDirectiveFile"] = "AlignTiltSeries/job005/external/TS_01/TS_01.edf"
    rows["rlnTomoTiltSeriesStarFile"] = [f"tilts/{name}.star" for name in rows["rlnTomoName"]]
    # names, ids with gaps and a column nobody knows
    table["rlnOpticsGroup"] = 7
    particles["optics"]["rlnOpticsGroup"] = 7
    table["rlnLogLikeliContribution"] = np.linspace(1e5, 2e5, len(table))
    table["myColumn"] = [f"x{i}" for i in range(len(table))]
    table["rlnTomoVisibleFrames"] = "[" + ",".join(["1", "0"] * 20 + ["1"]) + "]"
    # part of the orientation and of the shift in RELION's subtomogram frame
    outer = np.tile([20.0, 40.0, 60.0], (len(table), 1))
    angle_names = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    whole = euler_to_matrix(table[angle_names].to_numpy())
    inner = euler_to_matrix(outer).transpose(0, 2, 1) @ whole
    from scipy.spatial.transform import Rotation

    table[angle_names] = Rotation.from_matrix(inner).inv().as_euler("ZYZ", degrees=True)
    for i, angle in enumerate(("Rot", "Tilt", "Psi")):
        table[f"rlnTomoSubtomogram{angle}"] = outer[:, i]
    for name in rows["rlnTomoName"]:
        tilts = read_blocks(folder / f"relion/tilt_series/{name}.star")[name]
        tilts["rlnMicrographName"] = [str(folder / each) for each in tilts["rlnMicrographName"]]
        tilts["rlnCtfFigureOfMerit"] = np.linspace(0, 1, len(tilts))
        (mine / "tilts").mkdir(parents=True, exist_ok=True)
        write_table(mine / f"tilts/{name}.star", {name: tilts})
    write_table(mine / "tomograms.star", {"global": rows})
    write_table(mine / "particles.star", particles)
    add_relion(tmp_path / "population", mine / "tomograms.star", mine / "particles.star", maps)
    population = load_population(tmp_path / "population")
    back, out = round_trip(population, tmp_path)
    assert_same(seen(population), seen(back))
    new, optics = read_blocks(out / "particles.star")["particles"], read_blocks(out / "particles.star")["optics"]
    pd.testing.assert_frame_equal(optics[list(particles["optics"])], particles["optics"])
    ours = {*angle_names, *(f"rlnTomoSubtomogram{a}" for a in ("Rot", "Tilt", "Psi"))}
    ours |= {f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"} | {f"rlnOrigin{a}Angst" for a in "XYZ"}
    kept = [name for name in table if name not in ours]
    pd.testing.assert_frame_equal(new[kept], table[kept])
    assert not any(name.startswith("rlnTomoSubtomogram") for name in new)
    assert np.abs(euler_to_matrix(new[angle_names].to_numpy()) - whole).max() < 1e-6
    shown = read_blocks(out / "tomograms.star")["global"]
    others = [name for name in rows if name != "rlnTomoTiltSeriesStarFile"]
    pd.testing.assert_frame_equal(shown[others], rows[others])
    for name in rows["rlnTomoName"]:
        before, after = (read_blocks(f / f"{name}.star")[name] for f in (mine / "tilts", out / "tilt_series"))
        pd.testing.assert_frame_equal(after[list(before)], before)  # nothing was refined


def test_images_are_found_from_the_new_project(simulated: Population, tmp_path: Path) -> None:
    """Names relative to the project that they came from stay, and lead through a link: RELION runs in the new one."""
    old = tmp_path / "old"
    export(ExportRequest(simulated.path, old), "relion5")
    (file,) = (old / "tilt_series").iterdir()
    ((name, frame),) = read_blocks(file).items()
    images = [Path(each) for each in frame["rlnMicrographName"]]
    (old / "frames").symlink_to(images[0].parent)
    frame["rlnMicrographName"] = [f"frames/{each.name}" for each in images]
    write_table(file, {name: frame})
    add_relion(tmp_path / "p", old / "tomograms.star", old / "particles.star", maps_of(simulated))
    out = tmp_path / "new"
    export(ExportRequest(tmp_path / "p", out), "relion5")
    (written,) = (out / "tilt_series").iterdir()
    assert read_blocks(written)[name]["rlnMicrographName"].tolist() == frame["rlnMicrographName"].tolist()
    assert all((out / each).samefile(image) for each, image in zip(frame["rlnMicrographName"], images, strict=True))
    # a name that means something else in the new project becomes absolute
    taken = tmp_path / "taken"
    frame["rlnMicrographName"] = [f"tilt_series/{each.name}" for each in images]
    for image in images:
        (old / "tilt_series" / image.name).symlink_to(image)
    write_table(file, {name: frame})
    add_relion(tmp_path / "q", old / "tomograms.star", old / "particles.star", maps_of(simulated))
    export(ExportRequest(tmp_path / "q", taken), "relion5")
    absolute = read_blocks(taken / "tilt_series" / file.name)[name]["rlnMicrographName"]
    assert all(Path(each).is_absolute() and Path(each).samefile(i) for each, i in zip(absolute, images, strict=True))


def test_warp_to_relion_to_ours(simulated: Population, tmp_path: Path) -> None:
    """The fixture is a Warp project; RELION's form of it predicts the same, and needs no trajectories."""
    back, out = round_trip(simulated, tmp_path)
    assert_same(seen(simulated), seen(back))
    assert not (out / "motion.star").exists()


def test_both_forms_refine_to_the_same_bits(simulated: Population, tmp_path: Path) -> None:
    """The same numbers, read from Warp's XML and from RELION's tables, refine to the same half-maps."""
    warp = tmp_path / "warp"
    copytree(simulated.path, warp)
    back, _ = round_trip(simulated, tmp_path)
    for path in (warp, back.path):
        options = ["--iterations", "1", "--image-warp", "1x1", "--particles", "--engine", "inline"]
        assert run(["refine", str(path), *options]) == 0
    for half in ("half1.mrc", "half2.mrc"):
        one, other = (
            read_volume(path / "iterations/001/species" / simulated.species[0].name / half)[0]
            for path in (warp, back.path)
        )
        assert np.array_equal(one, other)
        assert one.std() > 0


def test_what_relion_cannot_hold_goes_into_trajectories(deformed: Population, tmp_path: Path) -> None:
    """Image warp, volume warp, stage angles and motion: back again, particles are where they were in every tilt.

    Natural splines come back through RELION's Hermite patches node for node; displacements are sampled at the doses of
    the tilts, which are equally spaced, so that even those come back to rounding.
    """
    back, out = round_trip(deformed, tmp_path)
    before, after = seen(deformed), seen(back)
    for name in before:
        error = np.linalg.norm(before[name]["xy"] - after[name]["xy"], axis=-1)
        assert np.sqrt((error**2).mean()) < 0.1  # what samples of a motion may miss
        angle = np.rad2deg(np.linalg.norm(before[name]["view"] - after[name]["view"], axis=(-2, -1)) / np.sqrt(2))
        assert angle.max() < 1e-3
    tilts = read_blocks(out / "tomograms.star")["global"]
    assert tilts["rlnTomoDeformationType"].tolist() == ["spline"] * len(tilts)
    done = export(ExportRequest(deformed.path, tmp_path / "again"), "relion5")
    (species,) = done.table["species"]
    assert species["error_A"]["most"] < 1e-3
    assert species["error_A"]["rms_without_motion"] > 1
    assert "remaining error" in done.lines[1]
    # one hundredth of the radius
    assert species["magnification_error_A"] == pytest.approx(0.005 * deformed.species[0].species.diameter_A, rel=1e-6)


def test_both_hands(simulated: Population, tmp_path: Path) -> None:
    """rlnTomoHand is the sign of the depth in the defocus: predicted with both values, and written as it came."""
    out = tmp_path / "project"
    export(ExportRequest(simulated.path, out), "relion5")
    defocus = {}
    for hand in (1.0, -1.0):
        blocks = read_blocks(out / "tomograms.star")
        blocks["global"]["rlnTomoHand"] = hand
        write_table(out / "tomograms.star", blocks)
        folder = tmp_path / f"hand{hand:g}"
        species = simulated.species[0].species
        create_population(folder, "hand")
        add_relion_source(folder, SourceRequest("grid", out / "tomograms.star"))
        add_species(
            folder,
            SpeciesRequest("one", *maps_of(simulated), out / "particles.star", species.diameter_A, species.symmetry),
        )
        population = load_population(folder)
        (name,) = seen(population)
        defocus[hand] = seen(population)[name]["defocus"]
        export(ExportRequest(folder, tmp_path / f"out{hand:g}"), "relion5")
        assert set(read_blocks(tmp_path / f"out{hand:g}" / "tomograms.star")["global"]["rlnTomoHand"]) == {hand}
    source, entry = population.series[0]
    centre = (
        1e4 * load_series(source, entry, population.files(0).series(entry.name).xml).optics.defocus_um.values[:, 0, 0]
    )
    plus, minus = defocus[1.0] - centre, defocus[-1.0] - centre
    assert np.abs(plus).max() > 100
    assert np.abs(plus + minus).max() < 1e-2


@pytest.fixture
def project_star(simulated: Population, tmp_path: Path) -> Callable[..., Path]:
    """tomograms.star of the fixture's RELION form, with the table of its one series changed."""
    out = tmp_path / "relion"
    export(ExportRequest(simulated.path, out), "relion5")

    def changed(tilts: Callable[[pd.DataFrame], pd.DataFrame] | None = None, **columns: Any) -> Path:
        blocks = read_blocks(out / "tomograms.star")
        for name, value in columns.items():
            blocks["global"][name] = value
        write_table(out / "tomograms.star", blocks)
        if tilts is not None:
            (file,) = (out / "tilt_series").iterdir()
            ((name, frame),) = read_blocks(file).items()
            write_table(file, {name: tilts(frame)})
        return out / "tomograms.star"

    return changed


def test_images_in_stacks(simulated: Population, project_star: Callable[..., Path], tmp_path: Path) -> None:
    """ "3@stack.mrc", and RELION-4's one stack per series, give the same images as single files."""
    path = project_star()
    source, entry = simulated.series[0]
    images = load_series(source, entry, simulated.files(0).series(entry.name).xml).image_paths
    stack = np.stack([read_image(image) for image in images])
    with mrcfile.new(path.parent / "stack.st") as file:
        file.set_data(stack)

    def with_at(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(rlnMicrographName=[f"{i}@stack.st:mrc" for i in range(1, len(frame) + 1)])

    project_star(with_at)
    create_population(tmp_path / "a", "a")
    add_relion_source(tmp_path / "a", SourceRequest("grid", path))
    project_star(lambda frame: frame.drop(columns=["rlnMicrographName"]), rlnTomoTiltSeriesName="stack.st")
    create_population(tmp_path / "b", "b")
    add_relion_source(tmp_path / "b", SourceRequest("grid", path))
    for folder in ("a", "b"):
        population = load_population(tmp_path / folder)
        source, entry = population.series[0]
        series = load_series(source, entry, population.files(0).series(entry.name).xml)
        assert series.image_paths[2].name == "000003@stack.st"
        for image, expected in zip(series.image_paths, stack, strict=True):
            assert np.array_equal(read_image(image), expected)


@pytest.mark.parametrize(
    ("tilts", "columns", "words"),
    [
        (lambda f: f.drop(columns=["rlnTomoYTilt"]), {}, ["rlnTomoYTilt", "align"]),
        (lambda f: f.drop(columns=["rlnDefocusU"]), {}, ["rlnDefocusU", "missing"]),
        (lambda f: f.drop(columns=["rlnMicrographPreExposure"]), {}, ["rlnMicrographPreExposure"]),
        (lambda f: f.assign(rlnMicrographName="nowhere.mrc"), {}, ["nowhere.mrc", "missing"]),
        (lambda f: f.drop(columns=["rlnMicrographName"]), {}, ["rlnMicrographName"]),
        (lambda f: f.assign(rlnDefocusU="bad"), {}, ["rlnDefocusU", "bad", "row 1"]),
        (None, {"rlnTomoHand": 0}, ["rlnTomoHand", "1 or -1"]),
        (None, {"rlnTomoDefocusSlope": 0.9}, ["rlnTomoDefocusSlope"]),
        (None, {"rlnTomoTiltSeriesStarFile": "gone.star"}, ["gone.star"]),
        (
            lambda f: f.assign(rlnTomoDeformationCoefficients="[1,2]"),
            {"rlnTomoDeformationGridSizeX": 3, "rlnTomoDeformationGridSizeY": 3, "rlnTomoDeformationType": "spline"},
            ["rlnTomoDeformationCoefficients", "72"],
        ),
        (
            lambda f: f.assign(rlnTomoDeformationCoefficients="[1,2]"),
            {"rlnTomoDeformationGridSizeX": 3, "rlnTomoDeformationGridSizeY": 3, "rlnTomoDeformationType": "cubic"},
            ["cubic", "spline"],
        ),
    ],
)
def test_bad_projects_are_refused_in_words(
    project_star: Callable[..., Path], tmp_path: Path, tilts: Any, columns: dict[str, Any], words: list[str]
) -> None:
    path = project_star(tilts, **columns)
    create_population(tmp_path / "p", "p")
    with pytest.raises(InputError) as error:
        add_relion_source(tmp_path / "p", SourceRequest("grid", path))
    for word in words:
        assert word in str(error.value)
    assert not load_population(tmp_path / "p").sources


def test_the_paragraph_and_its_json(
    project_star: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Deselected tilts, a limit, and what was made of XTilt are told; JSON says the same."""
    path = project_star(lambda f: f.assign(rlnCtfScalefactor=[0.0] + [0.5] * (len(f) - 1)))
    base = ["--name", "grid", "--relion-tomograms", str(path), "--max-tilts", "5"]
    for folder, options in (("a", []), ("b", ["--json"])):
        assert run(["population", "create", str(tmp_path / folder), "--name", "a"]) == 0
        capsys.readouterr()
        assert run(["source", "add", str(tmp_path / folder), *base, *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reading"]["dropped"][0] == {"what": "tilts", "count": 1, "reason": "deselected"}
    assert "rlnTomoHand is 1" in told["reading"]["names"]
    assert any("rlnCtfScalefactor" in note for note in told["reading"]["notes"])
    (series,) = told["series"].values()
    assert series["tilts"] == 5
    assert run(["source", "add", str(tmp_path / "a"), "--name", "x"]) == 2


def test_only_active_tilts_leave(project_star: Callable[..., Path], tmp_path: Path) -> None:
    path = project_star()
    create_population(tmp_path / "p", "p")
    add_relion_source(tmp_path / "p", SourceRequest("grid", path, max_tilts=4))
    (tmp_path / "p/iterations/000/DONE").write_text("imported\n")
    export(ExportRequest(tmp_path / "p", tmp_path / "out"), "relion5")
    (file,) = (tmp_path / "out/tilt_series").iterdir()
    (frame,) = read_blocks(file).values()
    (whole,) = read_blocks(next((path.parent / "tilt_series").iterdir())).values()
    assert sorted(frame["rlnMicrographPreExposure"]) == sorted(whole["rlnMicrographPreExposure"])[:4]


def test_a_removed_source_comes_in_again(project_star: Callable[..., Path], tmp_path: Path) -> None:
    """Under another name, with another limit of tilts; tables that say something else are refused with advice."""
    path = project_star()
    create_population(tmp_path / "p", "p")
    add_relion_source(tmp_path / "p", SourceRequest("grid", path))
    (before,) = (tmp_path / "p/iterations/000/series").glob("*.xml")
    kept = before.read_bytes()
    remove_source(tmp_path / "p", "grid")
    add_relion_source(tmp_path / "p", SourceRequest("again", path, max_tilts=4))
    ((source, entry),) = load_population(tmp_path / "p").series
    assert source.name == "again"
    assert sum(entry.active) == 4
    assert before.read_bytes() == kept
    remove_source(tmp_path / "p", "again")
    project_star(lambda frame: frame.assign(rlnTomoYTilt=frame["rlnTomoYTilt"] + 1.0))
    with pytest.raises(PopulationError, match="mpr-dist source restore"):
        add_relion_source(tmp_path / "p", SourceRequest("third", path))
    assert before.read_bytes() == kept
