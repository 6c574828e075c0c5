"""The main job on data simulated by somebody else's code: what is planted is found, with honest error bars."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2, spearmanr

from mpr_dist.imaging.ctf import tilt_bfactors_A2, tilt_scales
from mpr_dist.imaging.geometry import tilt_matrices
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.imaging.reference import prepare_reference
from mpr_dist.maths.rotations import euler_to_matrix, matrix_to_euler
from mpr_dist.maths.symmetry import rotations
from mpr_dist.model.pose import Particles
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.tilt_series import TiltSeries
from mpr_dist.refinement.objective import evaluate
from mpr_dist.refinement.priors import holding_amplitudes, precision
from mpr_dist.refinement.products import SpeciesData
from mpr_dist.refinement.state import pose_offsets
from mpr_dist.refinement.step import SeriesResult, refine_series
from mpr_dist.refinement.weighing import weigh
from mpr_dist.refinement.weights import TiltWeights
from mpr_dist.storage.mrc import read_volume
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.running.launch import EngineChoice, Outcome, refine_population
from mpr_dist.workflow.simulation.recovery import load_series, parameter_errors
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.series_io import tilt_reader

pytestmark = pytest.mark.slow

SETTINGS = RefineSettings(iterations=3, image_warp=(6, 4), particles=True, stage_angles=True, defocus=True)
SPECIES = "apoferritin"


@dataclass(frozen=True)
class Refined:
    data: Path
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class OnceMore:
    """Attributes:
    result: of one more iteration; weights: fitted to the opposite half-map after it, scales and B-factors by tilt.
    """

    result: SeriesResult
    imported: TiltSeries
    true_series: TiltSeries
    true_particles: Particles
    weights: TiltWeights


@pytest.fixture(scope="module")
def refined(shared, tmp_path_factory) -> Refined:
    data, path = shared / "data" / "apoferritin", tmp_path_factory.mktemp("apoferritin") / "population"
    create_population(path, "apoferritin")
    add_warp_source(path, SourceRequest("grid", data / "warp_tiltseries.settings"))
    relion = data / "relion"
    add_species(
        path,
        SpeciesRequest(
            SPECIES,
            relion / "half1.mrc",
            relion / "half2.mrc",
            relion / "mask.mrc",
            relion / "run_data.star",
            130.0,
            "O",
        ),
    )
    return Refined(data, refine_population(path, SETTINGS, EngineChoice("local", workers=2)))


def test_half_maps_reach_the_quality_of_the_data(refined):
    """From 12.4 A and a mean truth FSC of 0.407 to Nyquist and at least 0.92 (ceiling given with the data: 0.935)."""
    files = refined.outcome.population.files(refined.outcome.population.iteration).species(SPECIES)
    tool = refined.data.parents[1] / "tools" / "score.py"
    command = [sys.executable, str(tool), str(files.half1), str(files.half2)]
    command += [str(refined.data / "truth" / "density.mrc"), "--json"]
    score = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert score["mean_truth_fsc"] >= 0.92
    assert score["half_fsc_0.143_A"] == pytest.approx(4.8, abs=0.01)


def test_parameters_come_back(refined):
    """Positions, views and defocus are found as well as the data allow, and no third of the tilts gets worse."""
    population = refined.outcome.population
    start = parameter_errors(population, 0, refined.data / "truth", SPECIES)
    end = parameter_errors(population, population.iteration, refined.data / "truth", SPECIES)
    assert end.position_A[0] <= 0.6
    assert end.position_A[3] <= 1.5
    assert end.defocus_A[0] <= 110
    assert end.view_deg[0] <= 0.9
    for after, before in zip(end.defocus_A[:3], start.defocus_A[:3], strict=True):
        assert after <= 1.1 * before


def test_every_iteration_agrees_better_with_the_other_half(refined):
    """At equal reference and shells the cross-half score of every series rises, within 40 passes over its images."""
    population, seen = refined.outcome.population, 0
    for iteration in range(1, population.iteration + 1):
        for _, entry in population.series:
            details = json.loads(population.files(iteration).series(entry.name).summary.read_text("utf-8"))["numbers"]
            assert details["passes"] <= 40
            before, after = details["details"]["cross_half"]
            assert after > before
            seen += 1
    assert seen == 3 * SETTINGS.iterations


@pytest.fixture(scope="module")
def once_more(refined) -> list[OnceMore]:
    """One more iteration in memory, for the covariances and weights of every series."""
    population = refined.outcome.population
    files = next(each for each in population.species if each.name == SPECIES)
    result = population.files(population.iteration).species(SPECIES)
    halves = [read_volume(path)[0] for path in (result.half1, result.half2)]
    reference, _ = prepare_reference(*halves, read_volume(files.mask)[0], files.species)
    out = []
    for source, entry in population.series:
        states = [population.files(i).series(entry.name) for i in (0, population.iteration)]
        imported, series = (load_series(source, entry, each.xml) for each in states)
        first, particles = (read_poses(each.poses)[SPECIES] for each in states)
        reader = tilt_reader(series, source.pixel_size_A)
        images = load_particle_images(series, files.species, particles, reader, reference.q_max, 0.05)
        data = (SpeciesData(files.species, images, reference),)
        refined_once = refine_series(series, (particles,), imported, (first,), data, SETTINGS)
        weights = _weigh(refined_once, imported, first, data)
        out.append(OnceMore(refined_once, imported, *_truth(refined.data / "truth", entry.name, particles), weights))
    return out


def _weigh(result: SeriesResult, imported: TiltSeries, first: Particles, data: tuple[SpeciesData, ...]) -> TiltWeights:
    """What ``mpr-dist weights --by tilt`` finds after that iteration."""
    layout, state = result.sigmas.layout, result.state
    origin = replace(layout.shaped(replace(state, series=imported, particles=(first,))), log_scale=state.log_scale)
    origin = origin.with_series(weights=replace(origin.series.weights, bfactor=state.series.weights.bfactor))
    prior = holding_amplitudes(precision(layout, imported, (first,), SETTINGS.priors), layout)
    evaluation = evaluate(state, origin, layout, prior, data, None)
    _, weights = weigh(state, evaluation, layout, data, imported, replace(SETTINGS, weights="tilt", only_weights=True))
    return weights.tilts


def _truth(folder: Path, name: str, particles: Particles) -> tuple[TiltSeries, Particles]:
    """The true series, and the true poses in the symmetric copy nearest to the poses found."""
    series = read_tilt_series(folder / f"{name}.xml", volume_size_A=None)
    table = next(iter(read_blocks(folder / f"{name}_particles.star").values()))
    true = euler_to_matrix(table[["rot", "tilt", "psi"]].to_numpy(float))
    copies = true[:, None] @ rotations("O")
    nearest = np.einsum("pij,psij->ps", euler_to_matrix(particles.angles_deg[:, 0]), copies).argmax(1)
    angles = matrix_to_euler(copies[np.arange(len(copies)), nearest])
    position = table[["x_A", "y_A", "z_A"]].to_numpy(float)
    return series, replace(particles, position_A=position, angles_deg=angles)


def _chi_square(error: np.ndarray, covariance: np.ndarray, gauge: np.ndarray) -> tuple[float, int]:
    """Error in units of its covariance with the gauge directions (columns) fitted out, and its degrees of freedom."""
    weight = np.linalg.inv(covariance)
    normal = gauge.T @ weight @ gauge
    along = gauge.T @ weight @ error
    value = error @ weight @ error - along @ np.linalg.pinv(normal, rcond=1e-6) @ along
    rank = np.linalg.matrix_rank(normal, tol=1e-6 * np.linalg.norm(normal))
    return float(value), len(error) - int(rank)


def _series_errors(result: SeriesResult, truth: TiltSeries) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Class -> error, covariance, gauge: turning or moving all particles together is undone by stage and warp."""
    found, layout = result.state.series, result.sigmas.layout
    turn = tilt_matrices(found)
    stage = zip(
        (found.stage_angles.x, found.stage_angles.y, found.stage_angles.z),
        (truth.stage_angles.x, truth.stage_angles.y, truth.stage_angles.z),
        strict=True,
    )
    nodes = SETTINGS.image_warp[0] * SETTINGS.image_warp[1]
    defocus = 1e4 * (found.optics.defocus_um.values - truth.optics.defocus_um.values).ravel()
    errors = {
        "defocus": (defocus, turn[:, 2]),
        "stage_angles": (np.stack([(a.values - b.values).ravel() for a, b in stage], 1).ravel(), turn.reshape(-1, 3)),
    }
    for i, (axis, a, b) in enumerate(
        (("x", found.image_warp.x, truth.image_warp.x), ("y", found.image_warp.y, truth.image_warp.y))
    ):
        errors[f"image_warp_{axis}"] = ((a.values - b.values).ravel(), np.repeat(turn[:, i], nodes, axis=0))
    covariance = result.sigmas.series_covariance
    return {n: (e, covariance[layout.slices[n], layout.slices[n]], g) for n, (e, g) in errors.items()}


def _pose_errors(result: SeriesResult, truth: Particles) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    from scipy.linalg import block_diag

    offset = pose_offsets(result.state.particles[0], truth)
    gauge = np.tile(np.eye(3), (len(offset), 1))
    parts = {"position": slice(0, 3), "orientation": slice(3, 6)}
    covariance = result.sigmas.pose_covariance
    return {n: (offset[:, s].ravel(), block_diag(*covariance[:, s, s]), gauge) for n, s in parts.items()}


@pytest.mark.parametrize("kind", ["image_warp_x", "image_warp_y", "stage_angles", "defocus", "position", "orientation"])
def test_errors_agree_with_the_standard_deviations(once_more, kind):
    """The error of every class over its reported covariance, gauge out, passes a chi-square test at p > 0.001."""
    total, freedom = 0.0, 0
    for one in once_more:
        errors = _series_errors(one.result, one.true_series) | _pose_errors(one.result, one.true_particles)
        value, dof = _chi_square(*errors[kind])
        total, freedom = total + value, freedom + dof
    assert chi2.sf(total, freedom) > 1e-3, f"{kind}: chi-square {total:.1f} for {freedom} degrees of freedom"


def test_fitted_scales_rank_as_the_true_ones(once_more):
    """Of all tilts of each series, by Spearman's correlation."""
    for one in once_more:
        assert spearmanr(one.weights.log_scale, tilt_scales(one.true_series)).statistic > 0.98


def test_fitted_bfactors_agree_with_their_standard_deviations(once_more):
    """Of the tilts whose sigma is below 60 A^2, an offset common to them removed: rms error over sigma below 1.5."""
    for one in once_more:
        n = one.true_series.n_tilts
        sigma = np.sqrt(np.diag(one.weights.covariance)[n : 2 * n])
        known = sigma < 60
        assert known.sum() >= 12
        error = (one.weights.bfactor - tilt_bfactors_A2(one.true_series))[known]
        assert np.sqrt(np.mean(((error - error.mean()) / sigma[known]) ** 2)) < 1.5


def test_fitted_envelopes_halve_the_error_of_the_default(once_more):
    """scale exp(B q^2 / 4) at 8 A, up to a common factor, which belongs to the map; the default is cos(tilt), -4 dose.

    The signal of the most damaged tilts is a tenth of the first at 8 A, so this is about what they weigh.
    """
    for one in once_more:
        true = _envelope(tilt_scales(one.true_series), tilt_bfactors_A2(one.true_series))
        fitted = _envelope(np.exp(one.weights.log_scale), one.weights.bfactor)
        default = _envelope(tilt_scales(one.imported), tilt_bfactors_A2(one.imported))
        errors = [np.sqrt(np.mean((e * (e @ true) / (e @ e) - true) ** 2)) for e in (fitted, default)]
        assert errors[0] <= 0.5 * errors[1]


def _envelope(scale: np.ndarray, bfactor_A2: np.ndarray) -> np.ndarray:
    return scale * np.exp(bfactor_A2 / (4 * 8.0**2))
