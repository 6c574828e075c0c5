"""Cases met in the wild that no file at hand shows, built from the formats: recognised, and told in the paragraph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from mpr_dist.imaging.geometry import project as project_particles
from mpr_dist.imaging.geometry import tilt_matrices
from mpr_dist.maths.rotations import euler_to_matrix
from mpr_dist.model.population import Population
from mpr_dist.storage.population import load_population
from mpr_dist.storage.poses import read_poses
from mpr_dist.storage.relion import read_particles
from mpr_dist.storage.star import read_blocks, write_table
from mpr_dist.storage.warp_xml import read_tilt_series
from mpr_dist.workflow.exporting.export import export
from mpr_dist.workflow.importing.import_relion import add_relion_source
from mpr_dist.workflow.importing.import_species import SpeciesRequest, add_species
from mpr_dist.workflow.importing.import_warp import SourceRequest, add_warp_source
from mpr_dist.workflow.simulation.import_simulated import import_simulated
from mpr_dist.workflow.simulation.recovery import load_series
from mpr_dist.workflow.state.create import create_population
from mpr_dist.workflow.state.export_request import ExportRequest

NAME = "TS_01"
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


def edit(path: Path, pattern: str, text: str) -> None:
    found, count = re.subn(pattern, text, path.read_text("utf-8-sig"), count=1, flags=re.DOTALL)
    assert count == 1
    path.write_text(found, "utf-8")


def test_warp_1_in_utf16_with_a_volume_warp(own_project, project, tmp_path):
    """Three numbers of magnification, nodes in any order, what Warp 2 does not know; the warp moves every particle."""
    xml = own_project / "warp_tiltseries" / f"{NAME}.xml"
    warp_A = {"X": 12.0, "Y": -5.0, "Z": 8.0}
    for axis, value in warp_A.items():
        places = [(x, y, w) for w in (2, 0, 1) for y in (1, 0) for x in (1, 0)]
        nodes = "".join(f'<Node X="{x}" Y="{y}" Z="0" W="{w}" Value="{value * w}" />' for x, y, w in places)
        grid = f'<GridVolumeWarp{axis} Width="2" Height="2" Depth="1" Duration="3">{nodes}</GridVolumeWarp{axis}>'
        edit(xml, f"<GridVolumeWarp{axis}.*?</GridVolumeWarp{axis}>", grid)
    edit(xml, r'MagnificationCorrection="[^"]*"', 'MagnificationCorrection="1.01, 0.99, 30"')
    edit(xml, '<Param Name="Thickness"', '<Param Name="IceOffset" Value="0" /><Param Name="Thickness"')
    text = xml.read_text("utf-8").replace('encoding="utf-8"', 'encoding="utf-16"')
    xml.write_bytes(text.encode("utf-16"))
    pop = create_population(tmp_path / "pop", "test").path
    add_warp_source(pop, SourceRequest("a", own_project / "warp_tiltseries.settings"))
    before = read_tilt_series(project.files.xml(NAME), volume_size_A=project.series[NAME].volume_size_A)
    after = read_tilt_series(load_population(pop).files(0).series(NAME).xml, volume_size_A=before.volume_size_A)
    moved = (
        project_particles(after, project.particles[NAME]).xy_A - project_particles(before, project.particles[NAME]).xy_A
    )
    # nodes are 0, 1 and 2 times the last along the dose: linear in it
    along = 2 * after.dose_position[:, None] * np.array(list(warp_A.values()))
    np.testing.assert_allclose(
        moved, np.einsum("tij,tj->ti", tilt_matrices(before), along)[None, :, :2] + 0 * moved, atol=1e-6
    )
    axes = Rotation.from_euler("z", -30, degrees=True).as_matrix()[:2, :2]
    np.testing.assert_allclose(after.optics.magnification, axes @ np.diag([1.01, 0.99]) @ axes.T, atol=1e-7)


def test_angles_multiplied_by_57_3(project, tmp_path):
    """As some versions of Warp exported them: divided again, and said in capitals."""
    blocks = read_blocks(project.files.run_data)
    table = blocks["particles"]
    right = table[list(ANGLES)].to_numpy()
    assert np.abs(right[:, 1]).max() > 20
    write_table(
        tmp_path / "x.star", blocks | {"particles": table.assign(**dict(zip(ANGLES, np.rad2deg(right).T, strict=True)))}
    )
    found = read_particles(tmp_path / "x.star")
    np.testing.assert_allclose(euler_to_matrix(found.angles_deg), euler_to_matrix(right), atol=1e-6)
    assert "were DIVIDED by 57.2958" in found.reading.angles
    turned = right + np.array([1440, 0, 0])  # whole turns are no such thing
    write_table(tmp_path / "y.star", blocks | {"particles": table.assign(**dict(zip(ANGLES, turned.T, strict=True)))})
    found = read_particles(tmp_path / "y.star")
    np.testing.assert_allclose(found.angles_deg, turned)
    assert "taken as they are" in found.reading.angles


def test_gaps_in_optics_groups(tmp_path):
    """Groups 6, 9 and 16 in any order, each with its own pixel."""
    optics = pd.DataFrame({"rlnOpticsGroup": [16, 6, 9], "rlnImagePixelSize": [1.0, 2.0, 3.0]})
    particles = pd.DataFrame({"rlnMicrographName": [NAME] * 4, "rlnOpticsGroup": [9, 16, 6, 9]})
    particles = particles.assign(**{f"rlnCoordinate{axis}": [10.0] * 4 for axis in "XYZ"})
    particles = particles.assign(**{name: [0.0] * 4 for name in ANGLES})
    write_table(tmp_path / "x.star", {"optics": optics, "particles": particles})
    found = read_particles(tmp_path / "x.star")
    assert found.position_A[:, 0].tolist() == [30.0, 10.0, 20.0, 30.0]
    assert "1 to 3 A (rlnImagePixelSize)" in found.reading.positions


@pytest.fixture
def relion_project(project, tmp_path) -> tuple[Population, Path]:
    """The simulated project as one of RELION 5."""
    import_simulated(tmp_path / "warp", project, "small")
    export(ExportRequest(tmp_path / "warp", tmp_path / "relion"), "relion5")
    return load_population(tmp_path / "warp"), tmp_path / "relion"


def test_transposed_rotations(relion_project, project, tmp_path):
    """XTilt carries the stage tilt: told, and turned back to the same predictions."""
    before, root = relion_project
    path = next((root / "tilt_series").glob("*.star"))
    (name, table), *_ = read_blocks(path).items()
    columns = ["rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot"]
    whole = Rotation.from_euler("xyz", table[columns].to_numpy(), degrees=True)
    wrong = whole.inv().as_euler("xyz", degrees=True)
    write_table(path, {name: table.assign(**dict(zip(columns, wrong.T, strict=True)))})
    pop = create_population(tmp_path / "pop", "test").path
    summary = add_relion_source(pop, SourceRequest("a", root / "tomograms.star"))
    assert "ROTATIONS of 1 series (TS_01) were TRANSPOSED" in " ".join(summary.lines)
    seen = []
    for population in (before, load_population(pop)):
        ((source, entry),) = population.series
        series = load_series(source, entry, population.files(0).series(NAME).xml)
        seen.append(project_particles(series, project.particles[NAME]).xy_A)
    assert np.abs(seen[0] - seen[1]).max() < 1e-3


def test_odd_sizes_of_tomograms(relion_project, own_project, project, tmp_path):
    """Centred coordinates of RELION in a Warp project of odd size: counted from n / 2, and said."""
    _, root = relion_project
    settings = own_project / "warp_tiltseries.settings"
    size = np.rint(project.series[NAME].volume_size_A / project.settings.pixel_A).astype(int)
    edit(settings, 'Name="DimensionsX" Value="[^"]*"', f'Name="DimensionsX" Value="{size[0] + 1}"')
    pop = create_population(tmp_path / "pop", "test").path
    add_warp_source(pop, SourceRequest("a", settings))
    relion = project.files.root / "relion"
    maps = (relion / "half1.mrc", relion / "half2.mrc", relion / "mask.mrc")
    table = next(root.glob("*particles.star"))
    summary = add_species(pop, SpeciesRequest("phantom", *maps, table, 128.0, "O"))
    assert f"NOTE: odd sizes of tomograms (a: x {size[0] + 1} px)" in " ".join(summary.lines)
    poses = read_poses(load_population(pop).files(0).series(NAME).poses)["phantom"]
    centred = read_particles(table).position_A
    half = (size + np.array([1, 0, 0])) * project.settings.pixel_A / 2
    np.testing.assert_allclose(poses.position_A.reshape(-1, 3), centred.reshape(-1, 3) + half, atol=1e-4)
