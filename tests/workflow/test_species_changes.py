"""Species turned, moved, expanded, merged, split, selected: the density stays where it is, and nothing old changes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

from mpr_dist.cli.app import run as command
from mpr_dist.engine.inline import InlineExecutor
from mpr_dist.errors import InputError, PopulationError
from mpr_dist.imaging.fsc import fsc
from mpr_dist.imaging.helical import helical_map
from mpr_dist.imaging.moved_maps import recentre_map, turn_map
from mpr_dist.imaging.particle_images import load_particle_images
from mpr_dist.imaging.reconstruct import accumulator_shape, backproject, fourier_sums, solve_map
from mpr_dist.imaging.reference import use_mask
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.maths.symmetry import cosets
from mpr_dist.model.population import Population
from mpr_dist.model.pose import Particles
from mpr_dist.model.pose_changes import expanded
from mpr_dist.model.settings import RefineSettings
from mpr_dist.model.species import Helix
from mpr_dist.storage.mrc import read_volume, write_volume
from mpr_dist.storage.population import advance, load_population
from mpr_dist.storage.star import read_blocks
from mpr_dist.workflow.changing.remove import remove_source, remove_species, restore_source, restore_species
from mpr_dist.workflow.changing.species_changes import (
    ChangeRequest,
    expand_symmetry,
    publish_changed,
    resample_trajectories,
    rotate_species,
    shift_species,
)
from mpr_dist.workflow.changing.species_selection import Selection, merge_species, select_particles, split_species
from mpr_dist.workflow.changing.update_mask import MaskRequest, update_mask
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.running.change import Change, change
from mpr_dist.workflow.running.run import run
from mpr_dist.workflow.series.physics import Physics
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.simulate import SimulatedProject, SimulateSettings, simulate_project
from mpr_dist.workflow.state.run_settings import RunSettings
from mpr_dist.workflow.state.series_io import tilt_reader
from mpr_dist.workflow.state.species_state import read_species


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimulatedProject:
    """Two series of eight octahedral particles."""
    return simulate_project(tmp_path_factory.mktemp("two") / "p", replace(SimulateSettings.fixture(), n_series=2))


@pytest.fixture(scope="module")
def reconstructed(made, tmp_path_factory) -> Path:
    """A population with half-maps made of its particles, in iteration 001; tests copy it."""
    path = tmp_path_factory.mktemp("one") / "pop"
    import_simulated(path, made, "small")
    _reconstruct(path)
    return path


@pytest.fixture
def pop(reconstructed, tmp_path) -> Path:
    return Path(shutil.copytree(reconstructed, tmp_path / "pop"))


def _reconstruct(path: Path) -> Population:
    return run(path, Physics(), RunSettings(RefineSettings(iterations=1)), InlineExecutor())


def _state(path: Path, name: str):
    return read_species(load_population(path), name)


def _to_resolution(population: Population, name: str, expected: tuple[np.ndarray, np.ndarray], least: float) -> None:
    """Both half-maps agree with what is expected, under the mask, in all shells up to the resolution."""
    state = read_species(population, name)
    mask = use_mask(state.mask, state.species.pixel_size_A)
    table = read_blocks(population.files(population.iteration).species(name).fsc)
    resolution = float(table["general"]["rlnFinalResolution"])
    last = int(state.species.box_px * state.species.pixel_size_A / resolution)
    assert last > 10, "so far the maps agree; a comparison of the first shells would say little"
    for half, other in zip((state.half1, state.half2), expected, strict=True):
        assert fsc(half * mask, other * mask)[:last].min() > least


@pytest.mark.parametrize("group", ["C4", "D2", "D5", "T", "O", "I1"])
def test_expanded_particles_give_the_same_map(made, group):
    """Whatever the particles look like: the symmetrised sums of some are the plain sums of all their copies."""
    series, particles = made.true_series["TS_01"], made.true_particles["TS_01"]
    species = replace(made.species, symmetry=group)
    read = tilt_reader(series, made.settings.pixel_A)
    images = load_particle_images(series, species, particles, read, 0.1, 0.05)
    copies = cosets(group, "C1")
    many = expanded(particles, copies)
    repeated = np.repeat(np.arange(len(particles)), len(copies))
    of_many = replace(
        images, values=images.values[repeated], active=images.active[repeated], xy_A=images.xy_A[repeated]
    )
    maps = []
    for symmetry, poses, values in ((group, particles, images), ("C1", many, of_many)):
        sums = np.zeros(accumulator_shape(species), np.int64)
        backproject(sums, series, species, poses, values)
        maps.append(solve_map(fourier_sums(sums[0], symmetry), species))
    agreement = fsc(maps[0], maps[1])[: int(0.1 * species.box_px * species.pixel_size_A)]
    # where rotations permute the axes both are the same sums; elsewhere the trilinear interpolation of sums of four
    # particles costs up to 0.03 in shells that hold little
    assert agreement.min() > (0.9999 if group in ("C4", "D2", "O") else 0.96)
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.99


def test_expanded_turned_and_moved_species(pop, digests):
    """Through the population: the half-maps made of their particles are the old ones, moved; nothing old is changed."""
    select_particles(ChangeRequest(pop, "phantom", "few"), Selection(series=("TS_01",)))
    before, few = digests(pop), _state(pop, "few")
    done = expand_symmetry(ChangeRequest(pop, "few", "one", keep=True))
    assert done.species["one"]["particles"] == 24 * len(few.names) == 24 * 8
    after = digests(pop)
    changed = {name for name in before if after[name] != before[name]}
    # where species are named, and the imported poses, which hold one species more
    assert changed == {"population.toml", "iterations/000/series/TS_01.poses.star"}
    angles, centre = (33.0, 50.0, 71.0), np.array([13.0, -5.0, 9.0])
    rotate_species(ChangeRequest(pop, "one", "turned", keep=True), angles)
    shift_species(ChangeRequest(pop, "turned", "moved"), centre)
    population = _reconstruct(pop)
    assert [files.name for files in population.species] == ["few", "one", "moved"]
    old = read_species(population, "few")
    _to_resolution(population, "one", (old.half1, old.half2), 0.999)
    rotation, px = euler_to_matrix(np.array(angles)), centre / old.species.pixel_size_A
    first, second = (recentre_map(turn_map(half, rotation), px) for half in (old.half1, old.half2))
    # insertion on other places of a grid of twice the box, splines, another cut of the noise at the rim of the box
    _to_resolution(population, "moved", (first, second), 0.98)
    reached = [
        float(read_blocks(population.files(2).species(name).fsc)["general"]["rlnFinalResolution"])
        for name in ("few", "one", "moved")
    ]
    assert np.ptp(reached) < 0.02 * reached[0], reached
    new = read_species(population, "one")
    np.testing.assert_array_equal(new.particles.half, np.repeat(old.particles.half, 24))
    np.testing.assert_array_equal(new.columns["mprParentRow"], np.repeat(np.arange(8), 24))


def test_symmetry_forbids_what_would_break_it(pop):
    with pytest.raises(InputError, match="expand-symmetry"):
        rotate_species(ChangeRequest(pop, "phantom"), (10.0, 0.0, 0.0))
    with pytest.raises(InputError, match="only the centre in place; expand it first"):
        shift_species(ChangeRequest(pop, "phantom"), (0.0, 0.0, 5.0))
    with pytest.raises(InputError, match="not contained in O"):
        expand_symmetry(ChangeRequest(pop, "phantom"), "C5")
    with pytest.raises(InputError, match="nothing to expand"):
        expand_symmetry(ChangeRequest(pop, "phantom"), "O")
    assert [files.name for files in load_population(pop).species] == ["phantom"]


def test_trajectories(made, tmp_path):
    """Samples asked for when a species is added, and changed later, describe the same motion."""
    path = tmp_path / "pop"
    import_simulated(path, made, "small")
    files = made.half_maps[0], made.half_maps[1], made.mask, made.files.run_data
    request = SpeciesRequest("moving", *files, made.species.diameter_A, "O", temporal_samples=3)
    assert "3 temporal samples" in " ".join(add_species(path, request).lines)
    state = _state(path, "moving")
    assert state.particles.n_samples == 3
    bent = state.particles.position_A + np.array([0.0, 2.0, 7.0])[None, :, None]
    own = replace(state.species, name="bent")
    with_motion = replace(state, species=own, particles=replace(state.particles, position_A=bent))
    publish_changed(load_population(path), (with_motion,), (), ())
    resample_trajectories(ChangeRequest(path, "bent", "two"), 2)
    two = _state(path, "two").particles
    np.testing.assert_allclose(two.position_A, bent[:, ::2], atol=1e-4)  # STAR files hold 1e-5 A
    with pytest.raises(InputError, match="1 to 20"):
        resample_trajectories(ChangeRequest(path, "two"), 0)


def test_split_and_merged_again(pop):
    old = _state(pop, "phantom")
    done = split_species(ChangeRequest(pop, "phantom"), "series")
    assert {name: one["particles"] for name, one in done.species.items()} == {"phantom-TS_01": 8, "phantom-TS_02": 8}
    merged = merge_species(ChangeRequest(pop, "phantom-TS_01", "again"), ["phantom-TS_02"])
    assert not [note for note in merged.notes if "WARNING" in note]
    new = _state(pop, "again")
    assert sorted(new.names) == sorted(old.names)
    order = np.lexsort((old.particles.position_A[:, 0, 0], old.names))
    again = np.lexsort((new.particles.position_A[:, 0, 0], new.names))
    np.testing.assert_allclose(new.particles.position_A[again], old.particles.position_A[order], atol=1e-4)
    np.testing.assert_array_equal(new.particles.half[again], old.particles.half[order])
    # both parts had the maps of all, so their average is that again
    np.testing.assert_allclose(new.half1, old.half1, atol=1e-5 * np.abs(old.half1).max())
    assert [files.name for files in load_population(pop).species] == ["again"]


def test_merging_tells_of_particles_that_count_twice(pop):
    rotate_species(ChangeRequest(pop, "phantom", "other", keep=True), (90.0, 0.0, 0.0))
    told = merge_species(ChangeRequest(pop, "phantom", "both", keep=True), ["other"])
    assert "WARNING: 16 particles are nearer" in " ".join(told.notes)
    clean = merge_species(ChangeRequest(pop, "phantom", "clean", keep=True), ["other"], min_distance_A=20.0)
    assert clean.species["clean"]["particles"] == 16
    with pytest.raises(InputError, match="two or more different species"):
        merge_species(ChangeRequest(pop, "phantom"), ["phantom"])


def test_selection_by_place_series_and_column(pop, digests):
    old = _state(pop, "phantom")
    x = old.particles.position_A[:, 0, 0]
    middle = float(np.median(x))
    before = digests(pop)
    asked = Selection(series=("TS_01",), regions=(f"x={middle:.3f}:",), conditions=("rlnRandomSubset2=1",))
    with pytest.raises(InputError, match="no column rlnRandomSubset2"):
        select_particles(ChangeRequest(pop, "phantom", dry_run=True), asked)
    told = select_particles(ChangeRequest(pop, "phantom", dry_run=True), Selection(series=("TS_01",)))
    assert "8 of 16 particles stay" in told.notes[0]
    assert digests(pop) == before
    expected = (np.array(old.names) == "TS_02") | (x < middle)
    where = Selection(series=("TS_01",), regions=(f"x={middle:.3f}:",), invert=True)
    select_particles(ChangeRequest(pop, "phantom", "some", keep=True), where)
    new = _state(pop, "some")
    np.testing.assert_allclose(new.particles.position_A, old.particles.position_A[expected], atol=1e-4)
    half = select_particles(
        ChangeRequest(pop, "phantom", dry_run=True), Selection(conditions=("wrpRandomSubset>=1", "wrpAngleTilt1>60"))
    )
    assert f"{int((old.particles.angles_deg[:, 0, 1] > 60).sum())} of 16" in half.notes[0]
    with pytest.raises(InputError, match="half-sets"):
        select_particles(ChangeRequest(pop, "phantom"), Selection(conditions=("wrpRandomSubset=1",)))
    for wrong in ("q=1:2", "x=1", "x=a:b"):
        with pytest.raises(InputError, match="--region"):
            select_particles(ChangeRequest(pop, "phantom", dry_run=True), Selection(regions=(wrong,)))


def test_selection_by_score_finds_the_particles_that_are_none(pop):
    """Four particles are put where nothing is: of the true ones none scores lower."""
    state = _state(pop, "phantom")
    wrong = np.array([1, 6, 9, 14])
    place = state.particles.position_A.copy()
    place[wrong] += np.array([70.0, -60.0, 0.0])
    spoiled = replace(
        state, species=replace(state.species, name="spoiled"), particles=replace(state.particles, position_A=place)
    )
    publish_changed(load_population(pop), (spoiled,), ("phantom",), ())
    done = select_particles(ChangeRequest(pop, "spoiled", "good"), Selection(best=0.75))
    assert done.species["good"]["particles"] == 12
    kept = _state(pop, "good")
    np.testing.assert_allclose(
        np.sort(kept.particles.position_A[:, 0, 0]),
        np.sort(np.delete(state.particles.position_A[:, 0, 0], wrong)),
        atol=1e-3,
    )
    score, sigma = (kept.columns[name].to_numpy() for name in ("mprScore", "mprScoreSigma"))
    assert score.min() > 3 * np.median(sigma)


def test_removed_and_restored(pop, digests):
    """Nothing is deleted; names stay taken; what was done without a species does not pass for its own."""
    rotate_species(ChangeRequest(pop, "phantom", "turned"), (90.0, 0.0, 0.0))
    assert [files.name for files in load_population(pop).species] == ["turned"]
    state = digests(pop)
    restore_species(pop, "phantom")
    remove_species(pop, "turned")
    assert {k: v for k, v in digests(pop).items() if k != "population.toml"} == {
        k: v for k, v in state.items() if k != "population.toml"
    }
    with pytest.raises(PopulationError, match="species restore"):
        rotate_species(ChangeRequest(pop, "phantom", "turned"), (90.0, 0.0, 0.0))
    with pytest.raises(PopulationError, match="it was removed"):
        remove_species(pop, "turned")
    with pytest.raises(PopulationError, match="no species 'nothing' was removed"):
        restore_species(pop, "nothing")
    restore_species(pop, "turned")
    remove_species(pop, "phantom")
    # an iteration without it
    shutil.copytree(pop / "iterations/001", pop / "iterations/002")
    (pop / "iterations/002/species/phantom").rename(pop / "iterations/002/species/turned")
    advance(load_population(pop), 2)
    told = restore_species(pop, "phantom")
    assert "phantom-restored" in told[0]
    assert "iteration 001" in " ".join(told)


def test_an_iteration_that_was_begun_forgets_the_species(pop):
    """Else its maps would pass for those of an iteration that is finished without it."""
    begun = load_population(pop).files(2)
    begun.species("phantom").directory.mkdir(parents=True)
    begun.settings.write_text("format_version = 1\n")
    shutil.copy(load_population(pop).files(1).species("phantom").half1, begun.species("phantom").half1)
    done = rotate_species(ChangeRequest(pop, "phantom", "turned"), (90.0, 0.0, 0.0))
    assert "Iteration 002 was begun with other species" in " ".join(done.notes)
    assert not begun.species("phantom").directory.exists()
    assert begun.settings.exists()
    restore_species(pop, "phantom")
    assert [files.name for files in load_population(pop).species] == ["turned", "phantom"]


def test_removed_source(pop):
    population = load_population(pop)
    table = pop / "sources" / "simulated" / "source.toml"
    # the second series becomes a source of its own
    text = table.read_text()
    import tomllib

    import tomli_w

    whole = tomllib.loads(text)
    for name, part in (("simulated", whole["series"][:1]), ("second", whole["series"][1:])):
        target = pop / "sources" / name / "source.toml"
        target.parent.mkdir(exist_ok=True)
        target.write_text(tomli_w.dumps(whole | {"name": name, "series": part}))
    top = pop / "population.toml"
    top.write_text(tomli_w.dumps(tomllib.loads(top.read_text()) | {"sources": ["simulated", "second"]}))
    assert load_population(pop).species[0] == population.species[0]

    lines = remove_source(pop, "second")
    assert "8 particles" in lines[0]
    left = load_population(pop)
    assert (len(left.series), left.species[0].particles) == (1, (("TS_01", 8),))
    with pytest.raises(InputError, match="removed sources"):
        change(pop, Physics(), Change(without=("TS_01",)), InlineExecutor())
    assert len(_state(pop, "phantom").names) == 8
    restore_source(pop, "second")
    assert load_population(pop).species[0].particles == population.species[0].particles
    assert len(_state(pop, "phantom").names) == 16
    with pytest.raises(PopulationError, match="no source 'third'"):
        remove_source(pop, "third")


def test_another_mask(pop, tmp_path):
    state = _state(pop, "phantom")
    smaller = tmp_path / "mask.mrc"
    n = len(state.mask)
    ball = np.linalg.norm(np.indices((n,) * 3) - n // 2, axis=0) < n / 5
    write_volume(smaller, ball.astype(np.float32), state.species.pixel_size_A)
    lines = update_mask(MaskRequest(pop, "phantom", mask=smaller))
    assert "mask-002.mrc" in lines[0]
    np.testing.assert_array_equal(_state(pop, "phantom").mask, ball)
    top = float(np.quantile(read_volume(load_population(pop).files(1).species("phantom").map)[0], 0.98))
    update_mask(MaskRequest(pop, "phantom", threshold=top, extend_px=2.0))
    assert load_population(pop).species[0].mask.name == "mask-003.mrc"
    assert (pop / "species" / "phantom" / "mask.mrc").exists()
    with pytest.raises(InputError, match="either --mask, or --threshold"):
        MaskRequest(pop, "phantom")
    write_volume(smaller, np.full((n,) * 3, 0.5, np.float32), state.species.pixel_size_A)
    with pytest.raises(InputError, match="only 0 and 1"):
        update_mask(MaskRequest(pop, "phantom", mask=smaller))
    with pytest.raises(PopulationError, match="has no species 'gag'"):
        update_mask(MaskRequest(pop, "gag", threshold=1.0))


def test_an_unlikely_name_and_a_removed_species_are_refused(pop):
    with pytest.raises(InputError, match="cannot be the name"):
        rotate_species(ChangeRequest(pop, "phantom", "a/b"), (90.0, 0.0, 0.0))
    with pytest.raises(PopulationError, match="already"):
        rotate_species(ChangeRequest(pop, "phantom", "phantom"), (90.0, 0.0, 0.0))
    assert isinstance(_state(pop, "phantom").particles, Particles)


def test_the_name_of_a_removed_species_that_has_results_stays_taken(made, pop, digests):
    files = made.half_maps[0], made.half_maps[1], made.mask, made.files.run_data
    remove_species(pop, "phantom")
    before = digests(pop)
    with pytest.raises(PopulationError, match=r"species restore \S+ phantom, or take another name, such as phantom-2$"):
        add_species(pop, SpeciesRequest("phantom", *files, made.species.diameter_A, "O"))
    assert digests(pop) == before


def test_a_helix(made, tmp_path):
    """Stored, reconstructed with its symmetry, expanded unit by unit; only the axis is free."""
    path, helix = tmp_path / "pop", Helix(20.0, 35.0, 3)
    import_simulated(path, made, "small")
    files = made.half_maps[0], made.half_maps[1], made.mask, made.files.run_data
    added = add_species(path, SpeciesRequest("tube", *files, made.species.diameter_A, "C2", helix=helix))
    assert "helix of 20 A and 35 degrees, 3 units" in added.headline
    remove_species(path, "phantom")
    assert load_population(path).species[0].species.helix == helix
    population = _reconstruct(path)
    state = read_species(population, "tube")
    again = helical_map(state.half1, state.species)
    # the middle was continued to the ends before, so it is what it was; splines of a noisy map cost a few percent
    assert np.corrcoef(again.ravel(), state.half1.ravel())[0, 1] > 0.95
    other = helical_map(state.half1, replace(state.species, helix=Helix(20.0, -35.0, 3)))
    assert np.corrcoef(other.ravel(), state.half1.ravel())[0, 1] < 0.8
    with pytest.raises(InputError, match="z axis in place"):
        shift_species(ChangeRequest(path, "tube"), (0.0, 3.0, 0.0))
    with pytest.raises(InputError, match="expand it first"):
        rotate_species(ChangeRequest(path, "tube"), (0.0, 90.0, 0.0))
    done = expand_symmetry(ChangeRequest(path, "tube"))
    assert done.species["tube-C1"]["particles"] == 3 * 2 * 16
    expanded_poses = _state(path, "tube-C1").particles
    axis = euler_to_matrix(state.particles.angles_deg[0, 0])[:, 2]
    ups = np.repeat([-1, 0, 1], 2)[:, None] * 20.0 * axis
    np.testing.assert_allclose(expanded_poses.position_A[:6, 0], state.particles.position_A[0] + ups, atol=1e-3)


def test_maps_for_viewers(pop, tmp_path, capsys):
    """Every finished iteration has its maps as OME-Zarr, and export writes them, in the older version too."""
    files = load_population(pop).files(1).species("phantom")
    yaozarrs.validate_zarr_store(str(files.ome_zarr))
    for target, version in (("ome-zarr", "0.5"), ("ome-zarr-0.4", "0.4")):
        assert command(["export", str(pop), str(tmp_path / version), "--to", target]) == 0
        assert f"OME-Zarr {version}" in capsys.readouterr().out
        path = tmp_path / version / "phantom.zarr"
        yaozarrs.validate_zarr_store(str(path))
        for channel, of in enumerate((files.map, files.half1, files.half2)):
            np.testing.assert_array_equal(zarr.open_group(str(path), mode="r")["0"][channel], read_volume(of)[0])
