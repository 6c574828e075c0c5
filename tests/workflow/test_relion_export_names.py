"""What a RELION project calls its optics groups, and which angles it gives as those of the stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mpr_dist.model.population import Population
from mpr_dist.model.warp import CubicGrid, StageAngles
from mpr_dist.storage.population import load_population
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.storage.warp_xml import write_tilt_series
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.exporting.export_relion_particles import split_optics
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest


def rows(number: int, name: str, cs: float, count: int) -> pd.DataFrame:
    one = {"rlnOpticsGroup": number, "rlnOpticsGroupName": name, "rlnSphericalAberration": cs}
    return pd.DataFrame([one | {"rlnImageDimensionality": 2, "rlnTomoName": f"{name}{i}"} for i in range(count)])


def groups(*frames: pd.DataFrame) -> list[tuple[int, str, float]]:
    placed = [frame.set_index(1000 * i + np.arange(len(frame))) for i, frame in enumerate(frames)]
    _, optics, particles = split_optics(placed)
    assert set(particles["rlnOpticsGroup"]) == set(optics["rlnOpticsGroup"])
    found = optics[["rlnOpticsGroup", "rlnOpticsGroupName", "rlnSphericalAberration"]]
    return [(int(n), str(name), float(cs)) for n, name, cs in found.itertuples(index=False)]


def test_groups_keep_numbers_and_names() -> None:
    """Gaps stay; two sources without groups of their own are called after themselves."""
    assert groups(rows(7, "glacios", 2.7, 3), rows(2, "krios", 2.7, 2)) == [(7, "glacios", 2.7), (2, "krios", 2.7)]
    assert groups(rows(1, "grid1", 2.7, 3), rows(1, "grid2", 2.7, 2)) == [(1, "grid1", 2.7), (2, "grid2", 2.7)]


def test_only_groups_that_had_to_be_split_get_new_names() -> None:
    """Cs was refined in two of the series of one group: the first keeps its name, and so do the other groups."""
    frames = (
        rows(3, "krios", 2.7, 2),
        rows(3, "krios", 2.71, 1),
        rows(5, "krios_2", 2.7, 2),
        rows(3, "krios", 2.72, 1),
    )
    assert groups(*frames) == [
        (3, "krios", 2.7),
        (6, "krios_3", 2.71),
        (5, "krios_2", 2.7),
        (7, "krios_4", 2.72),
    ]


@pytest.fixture
def population(own_project: Path, tmp_path: Path) -> Population:
    """The simulated project with stage angles as if they had been refined."""
    create_population(tmp_path / "pop", "stage")
    add_warp_source(tmp_path / "pop", SourceRequest("a", own_project / "warp_tiltseries.settings"))
    relion = own_project / "relion"
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    add_species(tmp_path / "pop", SpeciesRequest("phantom", *maps, relion / "run_data.star", 128.0, "O"))
    population = load_population(tmp_path / "pop")
    source, entry = population.series[0]
    xml = population.files(0).series(entry.name).xml
    series = load_series(source, entry, xml)
    angles = (CubicGrid.per_tilt(np.linspace(-0.8, 0.7, series.n_tilts)) for _ in range(3))
    write_tilt_series(xml, xml, replace(series, stage_angles=StageAngles(*angles)))
    return population


def exported(population: Population, out: Path) -> pd.DataFrame:
    export(ExportRequest(population.path, out), "relion5")
    (file,) = (out / "tilt_series").iterdir()
    ((_, frame),) = read_blocks(file).items()
    return frame


def test_nominal_angles_are_not_the_refined_ones(population: Population, own_project: Path, tmp_path: Path) -> None:
    """The .tomostar's, whatever its order and whatever an alignment made of the XML; without it the XML's."""
    source, entry = population.series[0]
    series = load_series(source, entry, population.files(0).series(entry.name).xml)
    tomostar = own_project / "tomostar" / f"{entry.name}.tomostar"
    ((name, table),) = read_blocks(tomostar).items()
    plain = exported(population, tmp_path / "plain")
    nominal = plain["rlnTomoNominalStageTiltAngle"].to_numpy(np.float64)
    np.testing.assert_allclose(nominal, -table["wrpAngleTilt"].to_numpy(np.float64), atol=1e-5)
    assert np.abs(plain["rlnTomoYTilt"].to_numpy(np.float64) - nominal).max() > 0.3
    table["wrpAngleTilt"] += 1.5
    write_table(tomostar, {name: table.iloc[::-1].reset_index(drop=True)})
    moved = exported(population, tmp_path / "moved")
    np.testing.assert_allclose(moved["rlnTomoNominalStageTiltAngle"], nominal - 1.5, atol=1e-5)
    pd.testing.assert_frame_equal(
        moved.drop(columns="rlnTomoNominalStageTiltAngle"), plain.drop(columns="rlnTomoNominalStageTiltAngle")
    )
    tomostar.unlink()
    gone = exported(population, tmp_path / "gone")
    np.testing.assert_allclose(gone["rlnTomoNominalStageTiltAngle"], -series.angle_deg, atol=1e-5)
