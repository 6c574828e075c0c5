"""How well everything is known: the tables of a refinement of all classes, and what is made of them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import starfile

sys.path.insert(0, str(Path(__file__).parent))
from small_population import build_population

from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.imaging.ctf import tilt_scales
from mpr_dist.model.population import Population
from mpr_dist.model.settings import Priors, RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.classes.ctf import AstigmatismClass, CsClass, DefocusClass
from mpr_dist.refinement.layout import Layout, classes_of
from mpr_dist.refinement.spread import independent
from mpr_dist.refinement.state import State
from mpr_dist.refinement.uncertainty import Sigmas
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.publish import Disk, using_disk
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.reporting.iteration_report import report_data
from mpr_dist.workflow.reporting.report import render_report
from mpr_dist.workflow.reporting.status import status
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.series.uncertainty_table import directions_over_all, over_all, verdict
from mpr_dist.workflow.simulation.demo import everything_settings
from mpr_dist.workflow.simulation.simulate import SimulateSettings, simulate_project
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.series_io import SeriesState, write_sigmas

SAMPLES = 2
ALL = replace(
    everything_settings(1),
    image_warp=(2, 2),
    volume_warp=(2, 2, 1, 3),
    temporal_samples=SAMPLES,
    phase_shift=True,
    aberrations=(2, 3, 4, 5),
)
CLASSES = classes_of(ALL)
UNITS = {
    "image_warp_x": "A", "image_warp_y": "A", "volume_warp": "A", "stage_angles": "deg", "defocus": "A",
    "astigmatism": "A", "phase_shift": "pi", "cs": "mm", "aberrations_even": "rad", "aberrations_odd": "rad",
    "magnification": "%", "bfactor": "A^2", "log_scale": "1", "position": "A", "orientation": "deg",
}  # fmt: skip
# a number is told with six digits
DIGITS = 5e-6


class Recorder(Disk):
    """Remembers the order in which files get their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.names.append(target.name)


@dataclass(frozen=True)
class Refined:
    """One iteration of all classes in two series, a tilt of each not in use; only ever read."""

    population: Population
    published: list[str]

    def sigma(self, name: str = "TS_01"):
        return read_blocks(self.population.files(1).series(name).sigma)

    def series(self, iteration: int = 1, name: str = "TS_01") -> TiltSeries:
        active = next(entry.active for _, entry in self.population.series if entry.name == name)
        xml = self.population.files(iteration).series(name).xml
        return replace(read_tilt_series(xml, volume_size_A=(832.0, 768.0, 352.0)), active=np.array(active))

    def values(self, each, iteration: int = 1, name: str = "TS_01"):
        """Of a class, as the XML of an iteration holds them."""
        series = self.series(iteration, name)
        state = State(series, (), np.log(np.maximum(tilt_scales(series), 1e-12)))
        return np.asarray(each.values(each.shaped(state)), np.float64)


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Refined:
    root = tmp_path_factory.mktemp("uncertainty")
    base = SimulateSettings.fixture()
    plant = replace(base.plant, temporal_samples=SAMPLES, deselected_tilts=1, astigmatism_A=200.0, magnification=0.005)
    made = simulate_project(root / "sim", replace(base, n_series=2, plant=plant))
    population = build_population(root / "pop", made)
    recorder = Recorder()
    with using_disk(recorder):
        run(population.path, Physics(), RunSettings(ALL), InlineExecutor())
    return Refined(load_population(population.path), recorder.names)


# ------------------------------------------------------------------------------------------------- tables of a series


def test_every_refined_class_has_a_table_of_values_sigmas_and_units(refined: Refined) -> None:
    blocks = refined.sigma()
    assert list(blocks) == ["tilts", *(each.name for each in CLASSES), "poses"]
    for each in CLASSES:
        table = blocks[each.name]
        assert len(table) == each.size(7)
        assert (table["mprSigma"] > 0).all()
        assert {str(unit) for unit in table["mprUnit"]} == {UNITS[each.name]}
        for label, column in each.labels(7).items():
            assert list(table[label]) == list(column)


@pytest.mark.parametrize("each", CLASSES, ids=[each.name for each in CLASSES])
def test_values_are_those_of_the_xml(refined: Refined, each) -> None:
    """To the float32 that the XML keeps: 1e-7 of a magnification is 1e-5 %. Tilts not in use have no scale."""
    table, expected = refined.sigma()[each.name], refined.values(each)
    used = each.seen(refined.series()) if each.is_amplitude else np.ones(len(expected), bool)
    np.testing.assert_allclose(table["mprValue"][used], expected[used], rtol=1e-6, atol=1.5e-5)
    assert np.abs(expected[used]).max() > 0


def test_tilts_that_are_not_in_use_have_the_sigma_of_their_prior(refined: Refined) -> None:
    out = ~refined.series().active
    sigma = refined.sigma()["defocus"]["mprSigma"].to_numpy()
    assert out.sum() == 1
    assert (sigma[~out] < ALL.priors.defocus_A).all()
    # what an imperfect reference adds is told from the neighbours
    assert sigma[out] >= 0.999 * ALL.priors.defocus_A


def test_poses_have_a_row_for_every_sample(refined: Refined) -> None:
    table = refined.sigma("TS_02")["poses"]
    poses = read_poses(refined.population.files(1).series("TS_02").poses)["phantom"]
    assert poses.n_samples == SAMPLES
    assert list(table["mprParticleRow"]) == list(np.repeat(poses.row, SAMPLES))
    assert list(table["mprSample"]) == [1, 2] * len(poses)
    assert set(table["mprSpeciesName"]) == {"phantom"}
    columns = ["mprSigmaXAngst", "mprSigmaYAngst", "mprSigmaZAngst"]
    columns += ["mprSigmaRotationXDeg", "mprSigmaRotationYDeg", "mprSigmaRotationZDeg"]
    assert list(table)[3:] == columns
    assert (table[columns] > 0).all(axis=None)


@pytest.mark.parametrize("name", ["series/TS_01.sigma.star", "uncertainty.star"])
def test_another_program_reads_the_tables(refined: Refined, name: str) -> None:
    path = refined.population.files(1).root / name
    ours, theirs = read_blocks(path), starfile.read(path, always_dict=True)
    assert list(ours) == list(theirs)
    for block, table in ours.items():
        assert list(table) == list(theirs[block])
        for column in table:
            assert list(table[column]) == list(theirs[block][column])


def test_unknown_sigmas_are_minus_one_and_the_rest_comes_back(tmp_path: Path, refined: Refined) -> None:
    series = refined.series()
    layout = Layout.with_classes((DefocusClass(), CsClass()), series, poses=False)
    sigma = np.array([1.5, np.nan, 2.0, 1 / 3, np.inf, 4.0, 5.0])
    known = {"defocus": sigma, "cs": np.array([0.1])}
    empty = np.zeros((0, 0))
    write_sigmas(
        tmp_path / "a.star", SeriesState(series, {}), Sigmas(layout, known, (), empty, empty, {}, {}), ("phantom",)
    )
    blocks = read_blocks(tmp_path / "a.star")
    assert list(blocks["defocus"]["mprSigma"]) == [1.5, -1, 2.0, 1 / 3, -1, 4.0, 5.0]
    assert list(blocks["cs"]["mprValue"]) == [series.optics.cs_mm]
    assert list(blocks) == ["tilts", "defocus", "cs"]
    write_sigmas(tmp_path / "b.star", SeriesState(series, {}), None, ())
    assert list(read_blocks(tmp_path / "b.star")) == ["tilts"]


# -------------------------------------------------------------------------------------------- the table of an iteration


def test_the_table_of_an_iteration_holds_every_series_and_class(refined: Refined) -> None:
    table = read_blocks(refined.population.files(1).uncertainty)["series"]
    expected = [(series, name, unit) for series in ("TS_01", "TS_02") for name, unit in UNITS.items()]
    found = zip(table["mprSeriesName"], table["mprClass"], table["mprUnit"], strict=True)
    assert list(found) == expected
    assert ((table["mprDetermined"] >= 0) & (table["mprDetermined"] <= 1)).all()
    assert (table["mprSigma"] > 0).all()


@pytest.mark.parametrize("each", CLASSES, ids=[each.name for each in CLASSES])
def test_its_numbers_agree_with_the_files_of_the_series(refined: Refined, each) -> None:
    """Change from the imported to the refined XML, and sigmas of sigma.star, over the tilts in use."""
    table = read_blocks(refined.population.files(1).uncertainty)["series"]
    row = table[(table["mprSeriesName"] == "TS_01") & (table["mprClass"] == each.name)].iloc[0]
    seen = each.seen(refined.series())
    assert row["mprParameters"] == seen.sum() == each.size(7) - getattr(each, "width", 0)
    change = (refined.values(each) - refined.values(each, 0))[seen]
    sigma = refined.sigma()[each.name]["mprSigma"].to_numpy()[seen]
    # the XML keeps less of small numbers than the summary
    assert row["mprChange"] == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-4, abs=1e-7)
    assert row["mprSigma"] == pytest.approx(np.sqrt(np.mean(sigma**2)), rel=DIGITS)
    if each.is_amplitude:
        assert row["mprPriorSigma"] == row["mprChangeToPrior"] == -1


def test_its_priors_are_those_of_the_settings(refined: Refined) -> None:
    table = read_blocks(refined.population.files(1).uncertainty)["series"].set_index(["mprSeriesName", "mprClass"])
    p = Priors()
    expected = {
        "image_warp_x": p.image_warp_A, "stage_angles": p.stage_angle_deg, "defocus": p.defocus_A,
        "astigmatism": p.astigmatism_A, "phase_shift": p.phase_shift_pi, "cs": p.cs_mm,
        "aberrations_odd": p.aberration_rad, "magnification": p.magnification_percent,
        # half of the samples also walk
        "position": np.hypot(p.position_A, p.trajectory_A / np.sqrt(2)),
        "orientation": np.hypot(p.orientation_deg, p.trajectory_deg / np.sqrt(2)),
    }  # fmt: skip
    for name, prior in expected.items():
        row = table.loc[("TS_02", name)]
        assert row["mprPriorSigma"] == pytest.approx(prior, rel=DIGITS), name
        if name not in ("position", "orientation"):  # those have two kinds of samples
            assert row["mprChangeToPrior"] == pytest.approx(row["mprChange"] / prior, rel=2 * DIGITS)
            spread = np.hypot(row["mprChange"], row["mprSigma"]) / prior
            assert row["mprSpreadToPrior"] == pytest.approx(spread, rel=2 * DIGITS)


def test_poses_changed_as_the_pose_files_say(refined: Refined) -> None:
    table = read_blocks(refined.population.files(1).uncertainty)["series"].set_index(["mprSeriesName", "mprClass"])
    before, after = (read_poses(refined.population.files(i).series("TS_01").poses)["phantom"] for i in (0, 1))
    change = after.position_A - before.resampled(SAMPLES).position_A
    row = table.loc[("TS_01", "position")]
    assert row["mprParameters"] == change.size == 8 * SAMPLES * 3
    assert row["mprChange"] == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-4)


def test_it_is_published_before_the_iteration_counts_as_done(refined: Refined) -> None:
    names = refined.published
    assert names.index("TS_02.summary.json") < names.index("uncertainty.star") < names.index("DONE")


def test_directions_that_only_the_priors_decide_are_named(refined: Refined) -> None:
    table = read_blocks(refined.population.files(1).uncertainty)["directions"].set_index("mprDirection")
    for name in (
        "all_positions_along_x_against_image_warp",
        "all_orientations_about_z_against_stage_angles",
        "phase_shift_of_all_tilts_against_Zernikes,_even",
        "volume_warp,_all_along_y,_against_image_warp",
    ):
        assert table.loc[name]["mprSeriesWeak"] == table.loc[name]["mprSeriesCount"] == 2
        assert table.loc[name]["mprDeterminedMedian"] < 0.05


def test_status_holds_the_classes_of_the_last_iteration(refined: Refined) -> None:
    record = status(refined.population)
    last = json.loads(json.dumps(record))["iterations"][-1]
    assert list(last["classes"]) == list(UNITS)
    table = read_blocks(refined.population.files(1).uncertainty)["classes"].set_index("mprClass")
    for name, numbers in last["classes"].items():
        assert numbers["series"] == table.loc[name]["mprSeriesCount"] == 2
        assert numbers["change"] == table.loc[name]["mprChange"]
        assert numbers["sigma"] == table.loc[name]["mprSigma"]
        assert numbers["determined"] == table.loc[name]["mprDetermined"]
    assert last["directions"]["all positions along x against image warp"]["weak"] == 2
    assert len(json.dumps([last["classes"], last["directions"]])) < 10_000


def test_the_report_shows_every_class_and_direction(refined: Refined) -> None:
    data = report_data(refined.population, refined.population.files(1))
    html = render_report(replace(data, widths={}))
    for each in CLASSES:
        assert html.count(f"<td>{each.words}</td>") == 1 + len(data.series)
    assert "Only the prior decides" in html
    assert "The maps do not depend on it" in html
    assert "all positions along x against image warp" in html
    for chart in ("TS_01: stage angles", "TS_02: astigmatism", "TS_01: phase shift", "Cs", "anisotropic magnification"):
        assert f'aria-label="{chart}"' in html
    assert "nan" not in html.split("</style>")[1]


def test_without_refinement_there_is_no_table(tmp_path: Path) -> None:
    made = simulate_project(tmp_path / "sim", SimulateSettings.fixture())
    population = build_population(tmp_path / "pop", made)
    run(population.path, Physics(), RunSettings(RefineSettings(iterations=1)), InlineExecutor())
    files = population.files(1)
    assert files.is_finished
    assert not files.uncertainty.exists()
    assert status(load_population(population.path))["iterations"][-1]["classes"] == {}
    assert "How well it is known" not in files.report.read_text()


# --------------------------------------------------------------------------------------------------------- arithmetic


def one(change, sigma, prior=2.0):
    """Numbers of a class from its parameters, as a summary has them."""
    change, sigma = np.asarray(change, float), np.asarray(sigma, float)
    rms = lambda v: float(np.sqrt(np.mean(v**2)))  # noqa: E731
    return {
        "words": "defocus", "unit": "A", "parameters": change.size, "change": rms(change), "sigma": rms(sigma),
        "prior": prior, "change_to_prior": rms(change / prior), "spread_to_prior": rms(np.hypot(change, sigma) / prior),
        "independent": float(change.size), "determined": 0.5, "reference_share": 0.1,
    }  # fmt: skip


def test_series_together_are_as_one_series_with_all_their_parameters():
    rng = np.random.default_rng(0)
    parts = [(rng.standard_normal(n), rng.uniform(0.1, 1, n)) for n in (3, 40, 7)]
    together = one(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    found = over_all({str(i): {"classes": {"defocus": one(*part)}} for i, part in enumerate(parts)})["defocus"]
    assert found.pop("series") == 3
    assert found == {name: pytest.approx(v, rel=1e-5) if not isinstance(v, str) else v for name, v in together.items()}


def test_what_is_not_known_of_a_series_does_not_count():
    unknown = one([1.0], [1.0]) | {"sigma": None}
    found = over_all(
        {"a": {"classes": {"defocus": unknown}}, "b": {"classes": {"defocus": one([3.0], [2.0])}}, "c": {}}
    )
    assert found["defocus"]["sigma"] == 2.0
    assert found["defocus"]["change"] == pytest.approx(np.sqrt(5), rel=1e-5)


def test_directions_are_counted_where_they_exist():
    found = directions_over_all({"a": {"directions": {"x": 0.1, "y": 0.9}}, "b": {"directions": {"x": 0.7}}, "c": {}})
    assert found["x"] == {"series": 2, "weak": 1, "lowest": 0.1, "median": pytest.approx(0.4)}
    assert found["y"]["weak"] == 0


@pytest.mark.parametrize("informed", [0.05, 0.5, 0.99])
@pytest.mark.parametrize(("factor", "expected"), [(1.0, ""), (6.0, "too tight"), (0.1, "too loose")])
def test_a_prior_is_judged_by_what_the_images_told(informed: float, factor: float, expected: str) -> None:
    """Truth drawn with ``factor`` times the prior's sigma, estimated with the prior; silent if the images are."""
    rng = np.random.default_rng(7)
    n, prior = 4000, 2.0
    truth = factor * prior * rng.standard_normal(n)
    noise = prior * np.sqrt(1 / informed - 1)
    estimate = informed * (truth + noise * rng.standard_normal(n))
    sigma = np.full(n, prior * np.sqrt(1 - informed))
    said = verdict(one(estimate, sigma, prior))
    assert said in ("", expected)
    if informed > 0.9:
        assert said == expected


def test_a_right_prior_is_not_blamed_by_chance() -> None:
    """Eight exactly known numbers drawn from their prior: chi-square says 1.2 in a thousand, so 20 in 10000 is rare."""
    draws = 2.0 * np.random.default_rng(1).standard_normal((10_000, 8))
    assert sum(verdict(one(draw, np.zeros(8))) != "" for draw in draws) <= 20
    assert verdict(one(np.zeros(7), np.zeros(7))) == ""


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_independent_numbers_scatter_like_correlated_ones(share: float) -> None:
    """var(mean square) = 2 / independent, over draws."""
    covariance = 9.0 * (share * np.ones((12, 12)) + (1 - share) * np.eye(12))
    draws = np.random.default_rng(2).multivariate_normal(np.zeros(12), covariance, 40_000) / 3.0
    assert np.var((draws**2).mean(1)) == pytest.approx(2 / independent(covariance), rel=0.05)
    assert independent(np.eye(5)) == 5


def test_astigmatism_of_all_tilts_is_hardly_more_than_two_numbers() -> None:
    series = TiltSeries(
        name="x", angle_deg=np.zeros(41), dose=np.arange(41.0), axis_angle_deg=np.zeros(41),
        axis_offset_A=np.zeros((41, 2)), use_tilt=np.ones(41, bool), active=np.ones(41, bool),
        image_size_A=np.ones(2), volume_size_A=np.ones(3),
    )  # fmt: skip
    assert 2 < independent(AstigmatismClass().covariance(series, Priors())) < 4
    assert independent(DefocusClass().covariance(series, Priors())) == pytest.approx(41)


def test_parameters_of_tilts_not_in_use_are_not_seen(refined: Refined) -> None:
    series = refined.series()
    for each in CLASSES:
        seen = each.seen(series)
        tilts = each.labels(7).get("mprTilt")
        assert (seen == (True if tilts is None else series.active[tilts])).all()
    nothing = replace(series, active=np.zeros(7, bool))
    assert not DefocusClass().seen(nothing).any()
