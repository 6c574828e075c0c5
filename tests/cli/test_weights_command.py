"""mpr-dist weights on the simulated fixture: a new iteration in which nothing but weights has changed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks
from mpr_dist.storage.warp_xml import read_tilt_series


def _series(pop, iteration):
    return read_tilt_series(load_population(pop).files(iteration).series("TS_01").xml, volume_size_A=None)


def test_by_tilt_then_by_position_then_maps(project, mpr, add_source, add_species, tmp_path, digests):
    pop = tmp_path / "pop"
    assert add_source(project.files.root).code == 0
    assert add_species(project.files.root).code == 0
    before = digests(project.files.root)
    by_tilt = mpr("weights", pop, "--by", "tilt", "--anisotropic", "--engine", "inline")
    assert by_tilt.code == 0, by_tilt.err
    files = load_population(pop).files(1)
    first = digests(files.root)
    found, came = _series(pop, 1), _series(pop, 0)
    grids = (found.weights.bfactor, found.weights.weight, found.weights.bfactor_delta, found.weights.bfactor_angle)
    assert {grid.values.shape for grid in grids} == {(7, 1, 1)}
    assert not np.allclose(found.weights.bfactor.values.ravel(), -4 * found.dose)
    np.testing.assert_array_equal(found.image_warp.x.values, came.image_warp.x.values)
    np.testing.assert_array_equal(found.optics.defocus_um.values, came.optics.defocus_um.values)
    tables = read_blocks(files.series("TS_01").sigma)
    for name in ("bfactor", "log_scale", "bfactor_anisotropy"):
        sigma = tables[name]["mprSigma"].to_numpy(float)
        assert (sigma > 0).all(), name
    np.testing.assert_allclose(
        tables["bfactor"]["mprValue"].to_numpy(float), found.weights.bfactor.values.ravel(), atol=0.01
    )

    by_position = mpr("weights", pop, "--by", "position", "--location-grid", "2x2", "--engine", "inline")
    assert by_position.code == 0, by_position.err
    located = _series(pop, 2).weights
    assert located.location_weight.values.shape == located.location_bfactor.values.shape == (1, 2, 2)
    assert not np.allclose(located.location_weight.values, 1)
    assert len(read_blocks(load_population(pop).files(2).series("TS_01").sigma)["location_weights"]) == 4

    by_series = mpr("weights", pop, "--by", "series", "--engine", "inline")
    assert by_series.code == 0, by_series.err
    assert "is missing" not in by_series.out + by_series.err  # the report
    alone = _series(pop, 3).weights
    np.testing.assert_array_equal(alone.bfactor.values, located.bfactor.values)
    np.testing.assert_allclose(alone.weight.values, located.weight.values, rtol=1e-6)
    assert alone.series_weight != located.series_weight
    assert len(read_blocks(load_population(pop).files(3).series("TS_01").sigma)["series_weights"]) == 2

    numbers = json.loads(load_population(pop).files(1).series("TS_01").summary.read_text("utf-8"))["numbers"]
    assert 0.3 < numbers["details"]["weights_misfit"] < 3  # what is left is about the noise

    assert mpr("reconstruct", pop, "--engine", "inline").code == 0
    kept = _series(pop, 4).weights
    np.testing.assert_array_equal(kept.location_weight.values, located.location_weight.values)
    np.testing.assert_array_equal(kept.bfactor.values, located.bfactor.values)
    assert (kept.series_weight, kept.series_bfactor) == (alone.series_weight, alone.series_bfactor)
    maps = [load_population(pop).files(n).species("phantom").half1.read_bytes() for n in (3, 4)]
    assert maps[0] == maps[1]  # the same weights, applied in the same way
    assert digests(files.root) == first, "a finished iteration stays as it is"
    assert digests(project.files.root) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--by", "frame"), "by series, tilt or position, or none, got 'frame'"),
        (("--by", "series", "--anisotropic"), "fit weights by tilt"),
        (("--by", "position", "--location-grid", "3"), "WIDTHxHEIGHT, such as 3x3; got '3'"),
        (("--by", "position", "--location-grid", "0x2"), "at least 1 x 1 nodes"),
    ],
)
def test_what_makes_no_sense_is_refused(mpr, tmp_path, options, words):
    assert mpr("population", "create", tmp_path / "pop", "--name", "test").code == 0
    result = mpr("weights", tmp_path / "pop", *options)
    assert result.code == 2
    assert result.is_one_line()
    assert words in result.err
